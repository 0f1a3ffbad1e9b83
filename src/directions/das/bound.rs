//! An estimate from above of the spectral radius of `A = T - Tᵀ`.

use crate::backend::{Backend, BackendError, packed_side};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// Lanczos steps. A random skew matrix has a spectrum with a sharp edge, found to a percent; what is missed is
/// forgiven by the steep decay of the series' coefficients.
const STEPS: usize = 6;

/// `ρ >= ‖A‖₂` up to a few per cent: the largest Ritz value after [`STEPS`] Lanczos steps from a fixed random vector
/// plus its residual (Zhou and Li 2011), and 3 %.
pub(super) fn spectral_radius<B: Backend>(backend: &B, triangle: &B::Tensor) -> Result<f64, BackendError> {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let side = packed_side(backend.len(triangle));
    let mut start: Vec<f32> = (0..side).map(|_| random.sample::<f32, _>(StandardNormal)).collect();
    let length = start.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    start.iter_mut().for_each(|value| *value = (f64::from(*value) * (1.0 / length)) as f32);
    let betas = backend.rotation_lanczos(triangle, &backend.upload(&start)?, STEPS)?;
    // exp(0) = I needs a radius to divide by.
    Ok((1.03 * ritz_bound(&betas)).max(1e-6))
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
    use crate::backend::{CpuBackend, Dtype, packed_row};

    fn radius(values: &[f32]) -> f64 {
        let backend = CpuBackend::new(Dtype::F32).unwrap();
        spectral_radius(&backend, &backend.upload(values).unwrap()).unwrap()
    }

    #[test]
    fn plane_rotation_is_bounded_tightly() {
        // A = θ (e₂e₁ᵀ - e₁e₂ᵀ) has eigenvalues ± iθ.
        for theta in [1e-3, 0.7, 90.0] {
            let radius = radius(&[theta]);
            let theta = f64::from(theta);
            assert!(radius >= theta && radius < 1.5 * theta, "{radius} for {theta}");
        }
        assert!(radius(&[0.0; 10]) > 0.0);
        assert!(radius(&[]) > 0.0);
    }

    #[test]
    fn random_matrix_is_bounded_tightly() {
        let d = 300;
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let deviation = 1.0 / (d as f32).sqrt();
        let values: Vec<f32> =
            (0..packed_row(d)).map(|_| deviation * random.sample::<f32, _>(StandardNormal)).collect();
        // The spectrum fills [-2i, 2i] (Wigner's semicircle); its edge fluctuates by d^(-2/3), a few per cent.
        let radius = radius(&values);
        assert!((1.9..2.5).contains(&radius), "{radius}");
    }
}
