//! Layer norm and its gradient to the input, one row per step.

use super::simd::{Isa, multiversion};
use rayon::prelude::*;

/// Rows per parallel task.
const ROWS: usize = 16;

/// Gain and bias of a norm.
pub type Affine<'a> = Option<(&'a [f32], &'a [f32])>;

/// Sum over a row in 16 independent lanes: fast, and the same whatever the instruction set.
#[inline(always)]
pub(super) fn lane_sum(row: &[f32], term: impl Fn(usize, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let chunks = row.chunks_exact(16);
    let tail = chunks.remainder();
    let start = row.len() - tail.len();
    for (c, chunk) in chunks.enumerate() {
        for (lane, (sum, &v)) in lanes.iter_mut().zip(chunk).enumerate() {
            *sum += term(c * 16 + lane, v);
        }
    }
    let mut sum = lanes.iter().sum::<f32>();
    for (i, &v) in tail.iter().enumerate() {
        sum += term(start + i, v);
    }
    sum
}

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = lane_sum(row, |_, v| v) / n;
    let variance = lane_sum(row, |_, v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[inline(always)]
fn forward_body<const FMA: bool>(x: &[f32], width: usize, eps: f32, affine: Affine<'_>, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let (mean, scale) = moments(x, eps);
        match affine {
            Some((gain, bias)) => {
                for (((y, &v), &g), &b) in y.iter_mut().zip(x).zip(gain).zip(bias) {
                    *y = (v - mean) * scale * g + b;
                }
            }
            None => {
                for (y, &v) in y.iter_mut().zip(x) {
                    *y = (v - mean) * scale;
                }
            }
        }
    }
}

multiversion! {
    fn forward_rows(x: &[f32], width: usize, eps: f32, affine: Affine<'_>, y: &mut [f32]) forward_body
}

/// `dx += (g - mean(g) - x̂ mean(g x̂)) / σ` with `g = gain * dy` and `x̂` the normalised row.
#[inline(always)]
fn backward_body<const FMA: bool>(dy: &[f32], x: &[f32], width: usize, eps: f32, affine: Affine<'_>, dx: &mut [f32]) {
    let n = width as f32;
    let mut g = vec![0.0f32; width];
    for ((dy, x), dx) in dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
        let (mean, scale) = moments(x, eps);
        match affine {
            Some((gain, _)) => g.iter_mut().zip(dy).zip(gain).for_each(|((g, &d), &w)| *g = d * w),
            None => g.copy_from_slice(dy),
        }
        let mean_g = lane_sum(&g, |_, v| v) / n;
        let mean_gx = lane_sum(&g, |i, v| v * (x[i] - mean) * scale) / n;
        for ((dx, &v), &g) in dx.iter_mut().zip(x).zip(&g) {
            *dx += (g - mean_g - (v - mean) * scale * mean_gx) * scale;
        }
    }
}

multiversion! {
    fn backward_rows(dy: &[f32], x: &[f32], width: usize, eps: f32, affine: Affine<'_>, dx: &mut [f32]) backward_body
}

/// `y = norm(x)`.
pub fn layer_norm(isa: Isa, x: &[f32], width: usize, eps: f32, affine: Affine<'_>, y: &mut [f32]) {
    y.par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .for_each(|(y, x)| forward_rows(isa, x, width, eps, affine, y));
}

/// `x := x * gain + bias`, row by row.
pub fn gain_and_bias(x: &mut [f32], gain: &[f32], bias: &[f32]) {
    for row in x.chunks_exact_mut(gain.len()) {
        for ((x, &g), &b) in row.iter_mut().zip(gain).zip(bias) {
            *x = *x * g + b;
        }
    }
}

/// `dx += ∂norm/∂x · dy`.
pub fn layer_norm_backward(
    isa: Isa,
    dy: &[f32],
    x: &[f32],
    width: usize,
    eps: f32,
    affine: Affine<'_>,
    dx: &mut [f32],
) {
    dx.par_chunks_mut(ROWS * width)
        .zip(dy.par_chunks(ROWS * width).zip(x.par_chunks(ROWS * width)))
        .for_each(|(dx, (dy, x))| backward_rows(isa, dy, x, width, eps, affine, dx));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::test_support::{isas, random};

    fn exact(x: &[f32], eps: f64, gain: &[f32], bias: &[f32]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().map(|&v| v as f64).sum::<f64>() / n;
        let variance = x.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n;
        x.iter()
            .zip(gain.iter().zip(bias))
            .map(|(&v, (&g, &b))| (v as f64 - mean) / (variance + eps).sqrt() * g as f64 + b as f64)
            .collect()
    }

    #[test]
    fn forward_and_backward_match_the_definition() {
        for isa in isas() {
            for width in [1, 7, 16, 80, 129] {
                let rows = 19;
                let x = random(rows * width, 1);
                let (gain, bias) = (random(width, 2), random(width, 3));
                let dy = random(rows * width, 4);
                let affine = Some((&gain[..], &bias[..]));
                let mut y = vec![0.0; rows * width];
                layer_norm(isa, &x, width, 1e-2, affine, &mut y);
                let mut dx = vec![1.0; rows * width];
                layer_norm_backward(isa, &dy, &x, width, 1e-2, affine, &mut dx);
                let mut folded = vec![0.0; rows * width];
                layer_norm(isa, &x, width, 1e-2, None, &mut folded);
                let mut halves = folded.clone();
                gain_and_bias(&mut halves, &gain, &bias);
                for r in 0..rows {
                    let row = &x[r * width..(r + 1) * width];
                    let expected = exact(row, 1e-2, &gain, &bias);
                    let plain = exact(row, 1e-2, &vec![1.0; width], &vec![0.0; width]);
                    for i in 0..width {
                        // 1e-5: rounding of values of order 1 divided by a deviation of at least 0.1.
                        assert!((y[r * width + i] as f64 - expected[i]).abs() < 1e-5);
                        assert!((halves[r * width + i] as f64 - expected[i]).abs() < 1e-5);
                        assert!((folded[r * width + i] as f64 - plain[i]).abs() < 1e-5);
                        let shifted = |by: f32| {
                            let mut moved = row.to_vec();
                            moved[i] += by;
                            let out = exact(&moved, 1e-2, &gain, &bias);
                            out.iter().zip(&dy[r * width..]).map(|(o, &d)| o * d as f64).sum::<f64>()
                        };
                        let quotient = (shifted(1e-3) - shifted(-1e-3)) / 2e-3;
                        // 2e-3 relative: the difference quotient of f32 steps of 1e-3.
                        let found = dx[r * width + i] as f64 - 1.0;
                        assert!((found - quotient).abs() < 2e-3 * (1.0 + quotient.abs()), "{found} {quotient}");
                    }
                }
            }
        }
    }
}
