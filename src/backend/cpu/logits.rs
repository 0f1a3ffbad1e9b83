//! Answer logits, their gradient, and the log of a sum of exponentials over the vocabulary.

use super::layer_norm::lane_sum;
use super::simd::{Isa, exp, multiversion};
use rayon::prelude::*;

/// `y = x Cᵀ + b` for the few columns that answers need.
pub fn answer_logits(x: &[f32], columns: &[f32], bias: &[f32], width: usize, y: &mut [f32]) {
    y.par_chunks_mut(bias.len()).zip(x.par_chunks(width)).for_each(|(y, x)| {
        for ((y, c), &b) in y.iter_mut().zip(columns.chunks_exact(width)).zip(bias) {
            *y = b + lane_sum(c, |j, c| c * x[j]);
        }
    });
}

/// `dx = dy C`.
pub fn answer_logits_backward(dy: &[f32], columns: &[f32], n: usize, width: usize, dx: &mut [f32]) {
    dx.par_chunks_mut(width).zip(dy.par_chunks(n)).for_each(|(dx, dy)| {
        dx.fill(0.0);
        for (&d, c) in dy.iter().zip(columns.chunks_exact(width)) {
            for (x, &c) in dx.iter_mut().zip(c) {
                *x += d * c;
            }
        }
    });
}

#[inline(always)]
fn log_sum_exp_body<const FMA: bool>(x: &[f32], out: &mut f32) {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    *out = largest + lane_sum(x, |_, v| exp::<FMA>(v - largest)).ln();
}

multiversion! {
    fn log_sum_exp_row(x: &[f32], out: &mut f32) log_sum_exp_body
}

/// `y[t] = log Σ exp x[t, :]`.
pub fn log_sum_exp(isa: Isa, x: &[f32], width: usize, y: &mut [f32]) {
    y.par_iter_mut().zip(x.par_chunks(width)).for_each(|(y, x)| log_sum_exp_row(isa, x, y));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::test_support::{isas, random};

    #[test]
    fn logits_and_gradient_are_plain_products() {
        let (width, n, rows) = (37, 3, 5);
        let (x, c, b) = (random(rows * width, 1), random(n * width, 2), random(n, 3));
        let mut y = vec![0.0; rows * n];
        answer_logits(&x, &c, &b, width, &mut y);
        let dy = random(rows * n, 4);
        let mut dx = vec![f32::NAN; rows * width];
        answer_logits_backward(&dy, &c, n, width, &mut dx);
        for r in 0..rows {
            for a in 0..n {
                let sum: f64 = (0..width).map(|j| x[r * width + j] as f64 * c[a * width + j] as f64).sum();
                assert!((y[r * n + a] as f64 - sum - b[a] as f64).abs() < 1e-5);
            }
            for j in 0..width {
                let sum: f64 = (0..n).map(|a| dy[r * n + a] as f64 * c[a * width + j] as f64).sum();
                assert!((dx[r * width + j] as f64 - sum).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn log_sum_exp_survives_large_values() {
        for isa in isas() {
            let x: Vec<f32> = random(1000, 1).iter().map(|v| 400.0 + 10.0 * v).collect();
            let mut y = [0.0];
            log_sum_exp(isa, &x, 1000, &mut y);
            let expected = x.iter().map(|&v| (v as f64 - 400.0).exp()).sum::<f64>().ln() + 400.0;
            // 1e-4: half a unit in the last place at 400 is 1.5e-5.
            assert!((y[0] as f64 - expected).abs() < 1e-4);
        }
    }
}
