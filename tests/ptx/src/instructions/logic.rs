//! Moves, bits, shifts, comparisons, choices.

use crate::values::{Bits32, Bits64, Form, form};

pub fn form(name: &str) -> Option<Form> {
    moves(name).or_else(|| bits(name)).or_else(|| comparisons(name))
}

fn moves(name: &str) -> Option<Form> {
    Some(match name {
        "mov.b32" => form!(|a: Bits32| -> Bits32 { a }),
        "mov.u32" => form!(|a: u32| -> u32 { a }),
        "mov.u64" => form!(|a: u64| -> u64 { a }),
        "mov.f32" => form!(|a: f32| -> f32 { a }),
        "mov.f64" => form!(|a: f64| -> f64 { a }),
        "mov.pred" => form!(|a: bool| -> bool { a }),
        "mov.b64.pair" => {
            form!(|low: Bits32, high: Bits32| -> Bits64 { Bits64(u64::from(high.0) << 32 | u64::from(low.0)) })
        }
        "cvta.to.global.u64" => form!(|a: u64| -> u64 { a }),
        "selp.b32" => form!(|a: Bits32, b: Bits32, p: bool| -> Bits32 { if p { a } else { b } }),
        "selp.b64" => form!(|a: Bits64, b: Bits64, p: bool| -> Bits64 { if p { a } else { b } }),
        "selp.f32" => form!(|a: f32, b: f32, p: bool| -> f32 { if p { a } else { b } }),
        "selp.f64" => form!(|a: f64, b: f64, p: bool| -> f64 { if p { a } else { b } }),
        _ => return None,
    })
}

fn bits(name: &str) -> Option<Form> {
    Some(match name {
        "and.b32" => form!(|a: Bits32, b: Bits32| -> Bits32 { Bits32(a.0 & b.0) }),
        "and.b64" => form!(|a: Bits64, b: Bits64| -> Bits64 { Bits64(a.0 & b.0) }),
        "and.pred" => form!(|a: bool, b: bool| -> bool { a && b }),
        "or.b32" => form!(|a: Bits32, b: Bits32| -> Bits32 { Bits32(a.0 | b.0) }),
        "or.b64" => form!(|a: Bits64, b: Bits64| -> Bits64 { Bits64(a.0 | b.0) }),
        "or.pred" => form!(|a: bool, b: bool| -> bool { a || b }),
        "not.b32" => form!(|a: Bits32| -> Bits32 { Bits32(!a.0) }),
        "not.pred" => form!(|a: bool| -> bool { !a }),
        // Shifts by more than there are bits leave none, or the sign's.
        "shl.b32" => form!(|a: Bits32, n: u32| -> Bits32 { Bits32(a.0.checked_shl(n).unwrap_or(0)) }),
        "shl.b64" => form!(|a: Bits64, n: u32| -> Bits64 { Bits64(a.0.checked_shl(n).unwrap_or(0)) }),
        "shr.u32" => form!(|a: u32, n: u32| -> u32 { a.checked_shr(n).unwrap_or(0) }),
        "shr.u64" => form!(|a: u64, n: u32| -> u64 { a.checked_shr(n).unwrap_or(0) }),
        "shr.s32" => form!(|a: i32, n: u32| -> i32 { a >> n.min(31) }),
        "shr.s64" => form!(|a: i64, n: u32| -> i64 { a >> n.min(63) }),
        "bfi.b32" => form!(|a: Bits32, b: Bits32, start: u32, len: u32| -> Bits32 { inserted(a, b, start, len) }),
        _ => return None,
    })
}

/// `b` with its bits from `start & 255` on, `len & 255` of them, taken from the lowest ones of `a`.
fn inserted(a: Bits32, b: Bits32, start: u32, len: u32) -> Bits32 {
    let ones = 1u64.checked_shl(len & 255).map_or(u64::MAX, |bit| bit - 1);
    let mask = ones.checked_shl(start & 255).unwrap_or(0) as u32;
    let from = u64::from(a.0).checked_shl(start & 255).unwrap_or(0) as u32;
    Bits32(b.0 & !mask | from & mask)
}

/// With `u` behind it, a comparison is also true when either is NaN.
#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn comparisons(name: &str) -> Option<Form> {
    Some(match name {
        "setp.eq.s32" => form!(|a: i32, b: i32| -> bool { a == b }),
        "setp.ne.s32" => form!(|a: i32, b: i32| -> bool { a != b }),
        "setp.lt.s32" => form!(|a: i32, b: i32| -> bool { a < b }),
        "setp.le.s32" => form!(|a: i32, b: i32| -> bool { a <= b }),
        "setp.gt.s32" => form!(|a: i32, b: i32| -> bool { a > b }),
        "setp.ge.s32" => form!(|a: i32, b: i32| -> bool { a >= b }),
        "setp.lt.u32" => form!(|a: u32, b: u32| -> bool { a < b }),
        "setp.gt.u32" => form!(|a: u32, b: u32| -> bool { a > b }),
        "setp.ge.u32" => form!(|a: u32, b: u32| -> bool { a >= b }),
        "setp.eq.s64" => form!(|a: i64, b: i64| -> bool { a == b }),
        "setp.ne.s64" => form!(|a: i64, b: i64| -> bool { a != b }),
        "setp.lt.u64" => form!(|a: u64, b: u64| -> bool { a < b }),
        "setp.ge.u64" => form!(|a: u64, b: u64| -> bool { a >= b }),
        "setp.eq.f32" => form!(|a: f32, b: f32| -> bool { a == b }),
        "setp.lt.f32" => form!(|a: f32, b: f32| -> bool { a < b }),
        "setp.gt.f32" => form!(|a: f32, b: f32| -> bool { a > b }),
        "setp.ge.f32" => form!(|a: f32, b: f32| -> bool { a >= b }),
        "setp.ltu.f32" => form!(|a: f32, b: f32| -> bool { !(a >= b) }),
        "setp.leu.f64" => form!(|a: f64, b: f64| -> bool { !(a > b) }),
        "setp.geu.f64" => form!(|a: f64, b: f64| -> bool { !(a < b) }),
        _ => return None,
    })
}
