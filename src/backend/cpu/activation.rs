//! Activations and their derivatives, element by element.

use super::simd::{Isa, erf, exp, fma, multiversion};
use super::values::CHUNK;
use crate::types::Activation;
use rayon::prelude::*;
use std::f32::consts::{FRAC_1_SQRT_2, PI};

/// `√(8/π)` and `0.044715 √(8/π)`: the tanh form of GELU is `x σ(a x + b x³)`.
const TANH_LINEAR: f32 = 1.595_769;
const TANH_CUBIC: f32 = 0.071_354_81;

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn value<const FMA: bool>(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Gelu => 0.5 * x * (1.0 + erf::<FMA>(x * FRAC_1_SQRT_2)),
        Activation::GeluTanh => x * sigmoid::<FMA>(x * fma::<FMA>(TANH_CUBIC, x * x, TANH_LINEAR)),
        Activation::Relu => x.max(0.0),
        Activation::Silu => x * sigmoid::<FMA>(x),
    }
}

#[inline(always)]
fn derivative<const FMA: bool>(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Gelu => {
            let density = exp::<FMA>(-0.5 * x * x) * (1.0 / (2.0 * PI).sqrt());
            0.5 * (1.0 + erf::<FMA>(x * FRAC_1_SQRT_2)) + x * density
        }
        Activation::GeluTanh => {
            let s = sigmoid::<FMA>(x * fma::<FMA>(TANH_CUBIC, x * x, TANH_LINEAR));
            s + x * s * (1.0 - s) * fma::<FMA>(3.0 * TANH_CUBIC, x * x, TANH_LINEAR)
        }
        Activation::Relu => {
            if x > 0.0 {
                1.0
            } else {
                0.0
            }
        }
        Activation::Silu => {
            let s = sigmoid::<FMA>(x);
            s * fma::<FMA>(x, 1.0 - s, 1.0)
        }
    }
}

/// Runs a loop with a constant activation, so that it is compiled for one function alone. No closure: one that is not inlined
/// is compiled without the instructions of the function around it, and calls a library for every multiply-add.
macro_rules! per_activation {
    ($activation:expr, |$a:ident| $loop:expr) => {
        match $activation {
            Activation::Gelu => per_activation!(@ Gelu, $a, $loop),
            Activation::GeluTanh => per_activation!(@ GeluTanh, $a, $loop),
            Activation::Relu => per_activation!(@ Relu, $a, $loop),
            Activation::Silu => per_activation!(@ Silu, $a, $loop),
        }
    };
    (@ $name:ident, $a:ident, $loop:expr) => {{
        let $a = Activation::$name;
        $loop
    }};
}

#[inline(always)]
fn activate_body<const FMA: bool>(activation: Activation, values: &mut [f32]) {
    per_activation!(activation, |a| for v in values.iter_mut() {
        *v = value::<FMA>(a, *v);
    })
}

multiversion! {
    /// `v := f(v)` in place, on the calling thread.
    pub fn activate_slice(activation: Activation, values: &mut [f32]) activate_body
}

#[inline(always)]
fn backward_body<const FMA: bool>(activation: Activation, x: &[f32], dy: &mut [f32]) {
    per_activation!(activation, |a| for (d, &v) in dy.iter_mut().zip(x) {
        *d *= derivative::<FMA>(a, v);
    })
}

multiversion! {
    fn backward_slice(activation: Activation, x: &[f32], dy: &mut [f32]) backward_body
}

#[inline(always)]
fn gate_body<const FMA: bool>(activation: Activation, gate: &[f32], y: &mut [f32]) {
    per_activation!(activation, |a| for (y, &g) in y.iter_mut().zip(gate) {
        *y *= value::<FMA>(a, g);
    })
}

multiversion! {
    fn gate_slice(activation: Activation, gate: &[f32], y: &mut [f32]) gate_body
}

#[inline(always)]
fn gate_backward_body<const FMA: bool>(a: Activation, gate: &[f32], v: &[f32], dy: &mut [f32], d_gate: &mut [f32]) {
    per_activation!(a, |a| for (((dy, d_gate), &g), &v) in dy.iter_mut().zip(d_gate).zip(gate).zip(v) {
        *d_gate = *dy * v * derivative::<FMA>(a, g);
        *dy *= value::<FMA>(a, g);
    })
}

multiversion! {
    fn gate_backward_slice(a: Activation, gate: &[f32], v: &[f32], dy: &mut [f32], d_gate: &mut [f32]) gate_backward_body
}

/// `y := f(gate) * y`.
pub fn gate(isa: Isa, activation: Activation, gate: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).for_each(|(y, gate)| gate_slice(isa, activation, gate, y));
}

/// `d_gate = f'(gate) value dy`, then `dy := f(gate) dy`.
pub fn gate_backward(
    isa: Isa,
    activation: Activation,
    gate: &[f32],
    value: &[f32],
    dy: &mut [f32],
    d_gate: &mut [f32],
) {
    dy.par_chunks_mut(CHUNK)
        .zip(d_gate.par_chunks_mut(CHUNK))
        .zip(gate.par_chunks(CHUNK).zip(value.par_chunks(CHUNK)))
        .for_each(|((dy, d_gate), (gate, value))| gate_backward_slice(isa, activation, gate, value, dy, d_gate));
}

/// `y = f(x)`.
pub fn activate(isa: Isa, activation: Activation, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        y.copy_from_slice(x);
        activate_slice(isa, activation, y);
    });
}

/// `dy := f'(x) dy`.
pub fn activate_backward(isa: Isa, activation: Activation, x: &[f32], dy: &mut [f32]) {
    dy.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(dy, x)| backward_slice(isa, activation, x, dy));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::test_support::{isas, random};

    const ALL: [Activation; 4] = [Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Silu];

    fn exact(activation: Activation, x: f64) -> f64 {
        // The error function by its Taylor series, which converges fast for |x| <= 4.
        let erf = |z: f64| {
            let (mut term, mut sum) = (z, z);
            for n in 1..200 {
                term *= -z * z / n as f64;
                sum += term / (2 * n + 1) as f64;
            }
            sum * 2.0 / std::f64::consts::PI.sqrt()
        };
        match activation {
            Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
            Activation::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
            }
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
        }
    }

    #[test]
    fn values_and_slopes_match_the_definitions() {
        let x: Vec<f32> = random(4000, 5).iter().map(|v| v * 5.0).collect();
        for isa in isas() {
            for activation in ALL {
                let mut y = vec![0.0; x.len()];
                activate(isa, activation, &x, &mut y);
                let mut slope = vec![1.0; x.len()];
                activate_backward(isa, activation, &x, &mut slope);
                for i in 0..x.len() {
                    let v = x[i] as f64;
                    // 2e-6 on values up to 5 and 1e-5 on slopes: f32 rounding, and the difference quotient's error.
                    assert!((y[i] as f64 - exact(activation, v)).abs() < 2e-6, "{activation:?}({v}) = {}", y[i]);
                    if activation != Activation::Relu {
                        let quotient = (exact(activation, v + 1e-5) - exact(activation, v - 1e-5)) / 2e-5;
                        assert!((slope[i] as f64 - quotient).abs() < 1e-5, "{activation:?}'({v}) = {}", slope[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_gate_is_the_product_and_its_gradient_the_product_rule() {
        let (gated, values, dy) = (random(500, 1), random(500, 2), random(500, 3));
        for isa in isas() {
            for activation in ALL {
                let (mut f, mut slope) = (vec![0.0; 500], vec![1.0; 500]);
                activate(isa, activation, &gated, &mut f);
                activate_backward(isa, activation, &gated, &mut slope);
                let mut y = values.clone();
                gate(isa, activation, &gated, &mut y);
                let (mut d_value, mut d_gate) = (dy.clone(), vec![f32::NAN; 500]);
                gate_backward(isa, activation, &gated, &values, &mut d_value, &mut d_gate);
                for i in 0..500 {
                    // 1e-6: one rounding more or less of values below 1.
                    assert!((y[i] - f[i] * values[i]).abs() < 1e-6);
                    assert!((d_value[i] - f[i] * dy[i]).abs() < 1e-6);
                    assert!((d_gate[i] - slope[i] * values[i] * dy[i]).abs() < 1e-6);
                }
            }
        }
    }
}
