//! An estimate from above of the spectral radius of `A = T - Tᵀ`.

use super::triangle::Triangle;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// Lanczos steps. A random skew matrix has a spectrum with a sharp edge, found to a percent; what is missed is
/// forgiven by the steep decay of the series' coefficients.
const STEPS: usize = 6;

/// `ρ >= ‖A‖₂` up to a few per cent: the largest Ritz value after [`STEPS`] Lanczos steps from a fixed random vector
/// plus its residual (Zhou and Li 2011), and 3 %.
///
/// For a skew matrix the recurrence is `A vⱼ = βⱼ vⱼ₊₁ - βⱼ₋₁ vⱼ₋₁`: the projected matrix has a zero diagonal.
pub(super) fn spectral_radius(triangle: &Triangle) -> f64 {
    let d = triangle.d;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut current: Vec<f32> = (0..d).map(|_| random.sample::<f32, _>(StandardNormal)).collect();
    let length = norm(&current);
    scale(&mut current, 1.0 / length);
    let mut before = vec![0.0; d];
    let mut next = vec![0.0; d];
    let mut scratch = Vec::new();
    let mut betas: Vec<f64> = Vec::with_capacity(STEPS);
    for _ in 0..STEPS.min(d) {
        triangle.skew_product(1, &current, &mut next, &mut scratch);
        let last = betas.last().copied().unwrap_or(0.0) as f32;
        next.iter_mut().zip(&before).for_each(|(next, before)| *next += last * before);
        let beta = norm(&next);
        betas.push(beta);
        // An invariant subspace: the Ritz values are eigenvalues and the residual is zero.
        if beta <= 1e-6 * betas[0] {
            break;
        }
        scale(&mut next, 1.0 / beta);
        std::mem::swap(&mut before, &mut current);
        std::mem::swap(&mut current, &mut next);
    }
    // exp(0) = I needs a radius to divide by.
    (1.03 * ritz_bound(&betas)).max(1e-6)
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

fn scale(values: &mut [f32], factor: f64) {
    values.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
}

/// Largest eigenvalue of the symmetric tridiagonal matrix with zero diagonal and off-diagonals `betas[..n - 1]`, plus
/// the residual `betas[n - 1] |last entry of its eigenvector|`.
fn ritz_bound(betas: &[f64]) -> f64 {
    let Some((&residual, inner)) = betas.split_last() else { return 0.0 };
    // Gershgorin above, bisection by the signs of the leading minors' ratios (Sturm) below.
    let mut high = 2.0 * inner.iter().fold(0.0f64, |most, beta| most.max(*beta));
    let mut low = 0.0;
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        let mut pivot = -middle;
        let mut negative = pivot < 0.0;
        for beta in inner {
            pivot = -middle - beta * beta / pivot;
            negative &= pivot < 0.0;
        }
        if negative { high = middle } else { low = middle }
    }
    let mut vector = vec![1.0];
    for (index, beta) in inner.iter().enumerate() {
        let before = if index == 0 { 0.0 } else { inner[index - 1] * vector[index - 1] };
        vector.push((high * vector[index] - before) / beta);
    }
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    high + residual * vector[vector.len() - 1].abs() / length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directions::das::triangle::row_start;

    #[test]
    fn plane_rotation_is_bounded_tightly() {
        // A = θ (e₂e₁ᵀ - e₁e₂ᵀ) has eigenvalues ± iθ.
        for theta in [1e-3, 0.7, 90.0] {
            let radius = spectral_radius(&Triangle::new(2, vec![theta]));
            let theta = f64::from(theta);
            assert!(radius >= theta && radius < 1.5 * theta, "{radius} for {theta}");
        }
        assert!(spectral_radius(&Triangle::new(5, vec![0.0; 10])) > 0.0);
        assert!(spectral_radius(&Triangle::new(1, vec![])) > 0.0);
    }

    #[test]
    fn random_matrix_is_bounded_tightly() {
        let d = 300;
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let deviation = 1.0 / (d as f32).sqrt();
        let values = (0..row_start(d)).map(|_| deviation * random.sample::<f32, _>(StandardNormal)).collect();
        // The spectrum fills [-2i, 2i] (Wigner's semicircle); its edge fluctuates by d^(-2/3), a few per cent.
        let radius = spectral_radius(&Triangle::new(d, values));
        assert!((1.9..2.5).contains(&radius), "{radius}");
    }
}
