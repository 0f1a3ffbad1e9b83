//! Sums, products, quotients, roots.

use crate::values::{Form, Lanes, form};

pub fn form(name: &str) -> Option<Form> {
    integers(name).or_else(|| singles(name)).or_else(|| doubles(name))
}

fn integers(name: &str) -> Option<Form> {
    Some(match name {
        "add.s32" => form!(|a: u32, b: u32| -> u32 { a.wrapping_add(b) }),
        "add.s64" => form!(|a: u64, b: u64| -> u64 { a.wrapping_add(b) }),
        "sub.s32" => form!(|a: u32, b: u32| -> u32 { a.wrapping_sub(b) }),
        "sub.s64" => form!(|a: u64, b: u64| -> u64 { a.wrapping_sub(b) }),
        "neg.s32" => form!(|a: i32| -> i32 { a.wrapping_neg() }),
        "neg.s64" => form!(|a: i64| -> i64 { a.wrapping_neg() }),
        "mul.lo.s32" => form!(|a: u32, b: u32| -> u32 { a.wrapping_mul(b) }),
        "mul.lo.s64" => form!(|a: u64, b: u64| -> u64 { a.wrapping_mul(b) }),
        "mul.wide.s32" => form!(|a: i32, b: i32| -> i64 { i64::from(a) * i64::from(b) }),
        "mul.wide.u32" => form!(|a: u32, b: u32| -> u64 { u64::from(a) * u64::from(b) }),
        "mad.lo.s32" => form!(|a: u32, b: u32, c: u32| -> u32 { a.wrapping_mul(b).wrapping_add(c) }),
        // The executor refuses zeros; other lanes' are of no account.
        "div.s32" => form!(|a: i32, b: i32| -> i32 { a.wrapping_div(if b == 0 { 1 } else { b }) }),
        "div.u32" => form!(|a: u32, b: u32| -> u32 { a / b.max(1) }),
        "div.u64" => form!(|a: u64, b: u64| -> u64 { a / b.max(1) }),
        "rem.u32" => form!(|a: u32, b: u32| -> u32 { a % b.max(1) }),
        "rem.u64" => form!(|a: u64, b: u64| -> u64 { a % b.max(1) }),
        "min.s32" => form!(|a: i32, b: i32| -> i32 { a.min(b) }),
        "max.s32" => form!(|a: i32, b: i32| -> i32 { a.max(b) }),
        _ => return None,
    })
}

fn singles(name: &str) -> Option<Form> {
    Some(match name {
        "add.f32" => form!(|a: f32, b: f32| -> f32 { a + b }),
        "sub.f32" => form!(|a: f32, b: f32| -> f32 { a - b }),
        "mul.f32" => form!(|a: f32, b: f32| -> f32 { a * b }),
        "fma.rn.f32" => form!(|a: f32, b: f32, c: f32| -> f32 { fused(a, b, c) }),
        "fma.rm.f32" => form!(|a: f32, b: f32, c: f32| -> f32 { fused_down(a, b, c) }),
        "div.rn.f32" => form!(|a: f32, b: f32| -> f32 { a / b }),
        "rcp.rn.f32" => form!(|a: f32| -> f32 { 1.0 / a }),
        "sqrt.rn.f32" => form!(|a: f32| -> f32 { a.sqrt() }),
        "ex2.approx.ftz.f32" => form!(|a: f32| -> f32 { flushed(flushed(a).exp2()) }),
        "abs.f32" => form!(|a: f32| -> f32 { a.abs() }),
        "neg.f32" => form!(|a: f32| -> f32 { -a }),
        // The sign of the first, the size of the second.
        "copysign.f32" => form!(|a: f32, b: f32| -> f32 { b.copysign(a) }),
        "max.f32" => form!(|a: f32, b: f32| -> f32 { a.max(b) }),
        _ => return None,
    })
}

fn doubles(name: &str) -> Option<Form> {
    Some(match name {
        "add.f64" => form!(|a: f64, b: f64| -> f64 { a + b }),
        "mul.f64" => form!(|a: f64, b: f64| -> f64 { a * b }),
        "fma.rn.f64" => form!(|a: f64, b: f64, c: f64| -> f64 { a.mul_add(b, c) }),
        "div.rn.f64" => form!(|a: f64, b: f64| -> f64 { a / b }),
        "rcp.rn.f64" => form!(|a: f64| -> f64 { 1.0 / a }),
        "sqrt.rn.f64" => form!(|a: f64| -> f64 { a.sqrt() }),
        "min.f64" => form!(|a: f64, b: f64| -> f64 { a.min(b) }),
        _ => return None,
    })
}

/// The same instruction with its product rounded before the sum, as a compiler that does not fuse the two computes it.
pub fn rounded_twice(name: &str) -> Option<fn(&[&Lanes; 4], &mut Lanes)> {
    Some(match name {
        "fma.rn.f32" => form!(|a: f32, b: f32, c: f32| -> f32 { a * b + c }).run,
        "fma.rn.f64" => form!(|a: f64, b: f64, c: f64| -> f64 { a * b + c }).run,
        _ => return None,
    })
}

/// `a + b` and the exact error of its rounding (Knuth).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

/// `a b + c` rounded once. The product is exact in f64; the sum is rounded to odd there, so that rounding it to f32 is
/// as rounding the exact one (Boldo and Melquiond 2008).
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (sum, error) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    let bits = sum.to_bits();
    let towards_zero = (error < 0.0) == (sum > 0.0);
    let odd = match error != 0.0 && sum.is_finite() && bits & 1 == 0 {
        true if towards_zero => bits - 1,
        true => bits + 1,
        false => bits,
    };
    f64::from_bits(odd) as f32
}

/// `a b + c` rounded down.
fn fused_down(a: f32, b: f32, c: f32) -> f32 {
    let (sum, error) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    let nearest = sum as f32;
    let above = f64::from(nearest) > sum || (f64::from(nearest) == sum && error < 0.0);
    if above { nearest.next_down() } else { nearest }
}

/// Without numbers so small that their exponent has no room.
fn flushed(value: f32) -> f32 {
    if value.is_subnormal() { 0.0f32.copysign(value) } else { value }
}
