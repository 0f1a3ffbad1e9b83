//! Layer norm and RMS norm and their gradient to the input, one row per step.

use super::simd::{Isa, multiversion};
use crate::backend::{Norm, NormKind};
use rayon::prelude::*;
use std::ops::Deref;

/// Rows per parallel task.
const ROWS: usize = 16;

/// A norm with its gain and bias as slices.
#[derive(Clone, Copy)]
struct Rows<'a> {
    kind: NormKind,
    width: usize,
    eps: f32,
    gain: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
}

impl<'a, T: Deref<Target = [f32]>> From<&'a Norm<T>> for Rows<'a> {
    fn from(norm: &'a Norm<T>) -> Self {
        let Norm { kind, width, eps, gain, bias } = norm;
        Self { kind: *kind, width: *width, eps: *eps, gain: gain.as_deref(), bias: bias.as_deref() }
    }
}

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

/// What a row is centred by, and the reciprocal of what it is divided by.
#[inline(always)]
fn moments(row: &[f32], kind: NormKind, eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = match kind {
        NormKind::Layer => lane_sum(row, |_, v| v) / n,
        NormKind::Rms => 0.0,
    };
    let variance = lane_sum(row, |_, v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

#[inline(always)]
fn affine_row(y: &mut [f32], gain: Option<&[f32]>, bias: Option<&[f32]>) {
    if let Some(gain) = gain {
        y.iter_mut().zip(gain).for_each(|(y, &g)| *y *= g);
    }
    if let Some(bias) = bias {
        y.iter_mut().zip(bias).for_each(|(y, &b)| *y += b);
    }
}

#[inline(always)]
fn forward_body<const FMA: bool>(x: &[f32], norm: Rows<'_>, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(norm.width).zip(y.chunks_exact_mut(norm.width)) {
        let (mean, scale) = moments(x, norm.kind, norm.eps);
        for (y, &v) in y.iter_mut().zip(x) {
            *y = (v - mean) * scale;
        }
        affine_row(y, norm.gain, norm.bias);
    }
}

multiversion! {
    fn forward_rows(x: &[f32], norm: Rows<'_>, y: &mut [f32]) forward_body
}

/// `dx += (g - mean(g) - x̂ mean(g x̂)) / σ` with `g = gain * dy` and `x̂` the normalised row; an RMS norm centres
/// nothing, so the mean of `g` drops out.
#[inline(always)]
fn backward_body<const FMA: bool>(dy: &[f32], x: &[f32], norm: Rows<'_>, dx: &mut [f32]) {
    let (width, n) = (norm.width, norm.width as f32);
    let mut g = vec![0.0f32; width];
    for ((dy, x), dx) in dy.chunks_exact(width).zip(x.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
        let (mean, scale) = moments(x, norm.kind, norm.eps);
        g.copy_from_slice(dy);
        affine_row(&mut g, norm.gain, None);
        let mean_g = match norm.kind {
            NormKind::Layer => lane_sum(&g, |_, v| v) / n,
            NormKind::Rms => 0.0,
        };
        let mean_gx = lane_sum(&g, |i, v| v * (x[i] - mean) * scale) / n;
        for ((dx, &v), &g) in dx.iter_mut().zip(x).zip(&g) {
            *dx += (g - mean_g - (v - mean) * scale * mean_gx) * scale;
        }
    }
}

multiversion! {
    fn backward_rows(dy: &[f32], x: &[f32], norm: Rows<'_>, dx: &mut [f32]) backward_body
}

/// `y = norm(x)`.
pub fn layer_norm<T: Deref<Target = [f32]>>(isa: Isa, x: &[f32], norm: &Norm<T>, y: &mut [f32]) {
    let norm = Rows::from(norm);
    let chunk = ROWS * norm.width;
    y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| forward_rows(isa, x, norm, y));
}

/// `x := x * gain + bias`, row by row.
pub fn gain_and_bias<T: Deref<Target = [f32]>>(x: &mut [f32], norm: &Norm<T>) {
    for row in x.chunks_exact_mut(norm.width) {
        affine_row(row, norm.gain.as_deref(), norm.bias.as_deref());
    }
}

/// `dx += ∂norm/∂x · dy`.
pub fn layer_norm_backward<T: Deref<Target = [f32]>>(isa: Isa, dy: &[f32], x: &[f32], norm: &Norm<T>, dx: &mut [f32]) {
    let norm = Rows::from(norm);
    let chunk = ROWS * norm.width;
    dx.par_chunks_mut(chunk)
        .zip(dy.par_chunks(chunk).zip(x.par_chunks(chunk)))
        .for_each(|(dx, (dy, x))| backward_rows(isa, dy, x, norm, dx));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::test_support::{isas, random};

    fn exact(x: &[f32], norm: &Norm<Vec<f32>>) -> Vec<f64> {
        let n = x.len() as f64;
        let centre = if norm.kind == NormKind::Layer { 1.0 } else { 0.0 };
        let mean = centre * x.iter().map(|&v| v as f64).sum::<f64>() / n;
        let variance = x.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>() / n;
        let at = |list: &Option<Vec<f32>>, i: usize, default: f64| list.as_ref().map_or(default, |l| l[i] as f64);
        let scaled = |v: f32| (v as f64 - mean) / (variance + norm.eps as f64).sqrt();
        x.iter().enumerate().map(|(i, &v)| scaled(v) * at(&norm.gain, i, 1.0) + at(&norm.bias, i, 0.0)).collect()
    }

    #[test]
    fn forward_and_backward_match_the_definition() {
        for isa in isas() {
            for width in [1, 7, 16, 80, 129] {
                for kind in [NormKind::Layer, NormKind::Rms] {
                    let (gain, bias) = (Some(random(width, 2)), Some(random(width, 3)));
                    check(isa, &Norm { kind, width, eps: 1e-2, gain: None, bias: None });
                    check(isa, &Norm { kind, width, eps: 1e-2, gain: gain.clone(), bias: None });
                    check(isa, &Norm { kind, width, eps: 1e-2, gain, bias });
                }
            }
        }
    }

    fn check(isa: Isa, norm: &Norm<Vec<f32>>) {
        let (rows, width) = (19, norm.width);
        let (x, dy) = (random(rows * width, 1), random(rows * width, 4));
        let mut y = vec![0.0; rows * width];
        layer_norm(isa, &x, norm, &mut y);
        let plain = Norm { kind: norm.kind, width, eps: norm.eps, gain: None, bias: None };
        let mut halves = vec![0.0; rows * width];
        layer_norm::<Vec<f32>>(isa, &x, &plain, &mut halves);
        gain_and_bias(&mut halves, norm);
        let mut dx = vec![1.0; rows * width];
        layer_norm_backward(isa, &dy, &x, norm, &mut dx);
        for r in 0..rows {
            let row = &x[r * width..(r + 1) * width];
            let expected = exact(row, norm);
            for i in 0..width {
                // 1e-5: rounding of values of order 1 divided by a deviation of at least 0.1.
                assert!((y[r * width + i] as f64 - expected[i]).abs() < 1e-5);
                assert!((halves[r * width + i] as f64 - expected[i]).abs() < 1e-5);
                let shifted = |by: f32| {
                    let mut moved = row.to_vec();
                    moved[i] += by;
                    exact(&moved, norm).iter().zip(&dy[r * width..]).map(|(o, &d)| o * d as f64).sum::<f64>()
                };
                let quotient = (shifted(1e-3) - shifted(-1e-3)) / 2e-3;
                // 2e-3 relative: the difference quotient of f32 steps of 1e-3.
                let found = dx[r * width + i] as f64 - 1.0;
                assert!((found - quotient).abs() < 2e-3 * (1.0 + quotient.abs()), "{found} {quotient}");
            }
        }
    }
}
