//! Conversions.

use crate::values::{Bits32, Form, form};
use half::{bf16, f16};

pub fn form(name: &str) -> Option<Form> {
    Some(match name {
        "cvt.s64.s32" => form!(|a: i32| -> i64 { i64::from(a) }),
        "cvt.u64.u32" => form!(|a: u32| -> u64 { u64::from(a) }),
        "cvt.u32.u64" => form!(|a: u64| -> u32 { a as u32 }),
        "cvt.rn.f32.s32" => form!(|a: i32| -> f32 { a as f32 }),
        "cvt.f64.f32" => form!(|a: f32| -> f64 { f64::from(a) }),
        "cvt.rn.f32.f64" => form!(|a: f64| -> f32 { a as f32 }),
        // NaN becomes 0.
        "cvt.sat.f32.f32" => form!(|a: f32| -> f32 { if a > 0.0 { a.min(1.0) } else { 0.0 } }),
        "cvt.rna.tf32.f32" => form!(|a: f32| -> Bits32 { Bits32(to_tf32(a)) }),
        // The first source is the upper half.
        "cvt.rn.bf16x2.f32" => form!(|high: f32, low: f32| -> Bits32 { Bits32(pair(to_bf16(low), to_bf16(high))) }),
        "cvt.rn.f16x2.f32" => form!(|high: f32, low: f32| -> Bits32 { Bits32(pair(to_f16(low), to_f16(high))) }),
        _ => return None,
    })
}

/// To nearest, ties away from zero.
fn to_tf32(value: f32) -> u32 {
    match value.is_finite() {
        true => (value.to_bits() + 0x1000) & !0x1fff,
        false => value.to_bits(),
    }
}

/// NaN has one pattern here, whatever it was.
const NAN_16: u16 = 0x7fff;

fn to_bf16(value: f32) -> u16 {
    if value.is_nan() { NAN_16 } else { bf16::from_f32(value).to_bits() }
}

fn to_f16(value: f32) -> u16 {
    if value.is_nan() { NAN_16 } else { f16::from_f32(value).to_bits() }
}

fn pair(low: u16, high: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}
