//! The first columns of `exp(A)` by a Chebyshev series, their exact adjoint, and Lanczos steps.

use super::triangle::Triangle;
use crate::backend::rotation::EXHAUSTED;
use crate::backend::{ChebyshevSeries, packed_side};

/// `β₁ … βₙ` of the Lanczos recurrence of a skew matrix, whose projection has a zero diagonal.
pub fn lanczos(triangle: &[f32], start: &[f32], steps: usize) -> Vec<f64> {
    let d = start.len();
    let triangle = Triangle::new(d, triangle);
    let (mut before, mut current, mut next) = (vec![0.0; d], start.to_vec(), vec![0.0; d]);
    let mut scratch = Vec::new();
    let mut betas: Vec<f64> = Vec::with_capacity(steps);
    for _ in 0..steps.min(d) {
        triangle.skew_product(1, &current, &mut next, &mut scratch);
        let last = betas.last().copied().unwrap_or(0.0) as f32;
        next.iter_mut().zip(&before).for_each(|(next, before)| *next += last * before);
        let beta = next.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        betas.push(beta);
        if beta <= EXHAUSTED * betas[0] {
            break;
        }
        next.iter_mut().for_each(|value| *value = (f64::from(*value) * (1.0 / beta)) as f32);
        std::mem::swap(&mut before, &mut current);
        std::mem::swap(&mut current, &mut next);
    }
    betas
}

/// `φ₀ … φₘ` for the first `k` unit vectors.
pub fn basis(triangle: &[f32], k: usize, series: &ChebyshevSeries, basis: &mut [f32]) {
    let (degree, radius) = (series.degree(), series.radius);
    let size = basis.len() / (degree + 1);
    let d = size / k;
    let triangle = Triangle::new(d, triangle);
    basis[..size].fill(0.0);
    for column in 0..k {
        basis[column * d + column] = 1.0;
    }
    let mut scratch = Vec::new();
    for j in 1..=degree {
        let (done, next) = basis.split_at_mut(j * size);
        let next = &mut next[..size];
        triangle.skew_product(k, &done[(j - 1) * size..], next, &mut scratch);
        if j == 1 {
            next.iter_mut().for_each(|value| *value *= (1.0 / radius) as f32);
        } else {
            let before = &done[(j - 2) * size..(j - 1) * size];
            next.iter_mut().zip(before).for_each(|(value, before)| *value = *value * (2.0 / radius) as f32 + before);
        }
    }
}

/// `Σ cⱼ φⱼ`, summed in f64 from the last term on.
pub fn columns(basis: &[f32], series: &ChebyshevSeries, columns: &mut [f32]) {
    let mut sums = vec![0.0f64; columns.len()];
    for (terms, coefficient) in basis.chunks(columns.len()).zip(&series.coefficients).rev() {
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum += coefficient * f64::from(*term);
        }
    }
    columns.iter_mut().zip(sums).for_each(|(column, sum)| *column = sum as f32);
}

/// `αⱼ λⱼ₊₁ / ρ` for every `j`.
pub fn adjoint(triangle: &[f32], series: &ChebyshevSeries, gradient: &[f32], adjoints: &mut [f32]) {
    let (degree, size, d) = (series.degree(), gradient.len(), packed_side(triangle.len()));
    let triangle = Triangle::new(d, triangle);
    let mut scratch = Vec::new();
    for j in (1..=degree).rev() {
        let (current, later) = adjoints[(j - 1) * size..].split_at_mut(size);
        if j < degree {
            triangle.skew_product(size / d, &later[..size], current, &mut scratch);
        } else {
            current.fill(0.0);
        }
        let (scale, coefficient) = ((-2.0 / series.radius) as f32, series.coefficients[j] as f32);
        for (index, value) in current.iter_mut().enumerate() {
            let after = if j + 2 <= degree { later[size + index] } else { 0.0 };
            *value = coefficient * gradient[index] + scale * *value + after;
        }
    }
    for (j, adjoint) in adjoints.chunks_mut(size).enumerate() {
        let scale = (if j == 0 { 1.0 } else { 2.0 } / series.radius) as f32;
        adjoint.iter_mut().for_each(|value| *value *= scale);
    }
}
