//! A direction that knows nothing: the baseline next to every result.

use super::projection::orthonormal;
use crate::types::Matrix;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rand_distr::StandardNormal;

/// Seed of the published random directions.
pub const RANDOM_DIRECTION_SEED: u64 = 42;

/// A Gaussian vector scaled to unit length, `(d_model, 1)`. Layers draw from separate streams of the seed's generator:
/// a layer's direction depends on no other layer.
pub fn random_direction(d_model: usize, layer: usize, seed: u64) -> Matrix {
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    random.set_stream(layer as u64);
    let values: Vec<f64> = (0..d_model).map(|_| random.sample(StandardNormal)).collect();
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    Matrix::new(d_model, 1, values.iter().map(|value| (value / length) as f32).collect())
}

/// `k` random directions at right angles, `(d_model, k)`; for `k = 1` that of [`random_direction`].
pub fn random_subspace(d_model: usize, k: usize, layer: usize, seed: u64) -> Matrix {
    let mut columns = Matrix::zeros(d_model, k);
    for column in 0..k {
        // Far from the seeds that callers count up from theirs.
        let vector = random_direction(d_model, layer, seed.wrapping_add((column as u64) << 32));
        vector.data.iter().enumerate().for_each(|(row, value)| columns.data[row * k + column] = *value);
    }
    for (column, vector) in orthonormal(&columns).into_iter().enumerate() {
        vector.into_iter().enumerate().for_each(|(row, value)| columns.data[row * k + column] = value as f32);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_unit_and_independent() {
        let dot = |a: &Matrix, b: &Matrix| a.data.iter().zip(&b.data).map(|(a, b)| a * b).sum::<f32>();
        for d in [1, 7, 768] {
            let direction = random_direction(d, 3, RANDOM_DIRECTION_SEED);
            // Rounding of d values of size 1 / sqrt(d) to f32.
            assert!((dot(&direction, &direction) - 1.0).abs() < 1e-6);
            assert_eq!(direction, random_direction(d, 3, RANDOM_DIRECTION_SEED));
        }
        let (a, b) = (random_direction(768, 0, 42), random_direction(768, 1, 42));
        // Cosines of random directions have standard deviation 1 / sqrt(768) = 0.036.
        assert!(dot(&a, &b).abs() < 0.18);
        assert_ne!(random_direction(768, 0, 43), a);
    }

    #[test]
    fn subspaces_are_orthonormal_and_begin_with_the_direction() {
        let subspace = random_subspace(48, 3, 2, 7);
        for (i, j) in [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)] {
            let product: f32 = (0..48).map(|row| subspace.row(row)[i] * subspace.row(row)[j]).sum();
            // Rounding of 48 values to f32.
            assert!((product - f32::from(u8::from(i == j))).abs() < 1e-6, "{i} {j} {product}");
        }
        let first: Vec<f32> = (0..48).map(|row| subspace.row(row)[0]).collect();
        assert!(first.iter().zip(&random_direction(48, 2, 7).data).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
