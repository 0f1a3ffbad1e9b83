//! The start of DAS: the strictly lower triangle of a Haar-random orthogonal matrix.

use crate::strided::{Strided, multiply_add};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rand_distr::StandardNormal;

/// Reflectors that are applied at once.
const BLOCK: usize = 64;

/// A Haar-random orthogonal `d x d` matrix, row-major.
///
/// Stewart (1980): the Householder reflectors of a Gaussian matrix are those of independent Gaussian vectors of
/// decreasing length, so `Q` is their product and nothing has to be factorised; a sign per column makes the triangular
/// factor's diagonal positive (Mezzadri 2007). Reflectors are applied in blocks `I - V S Vᵀ` as matrix products.
pub(super) fn haar_orthogonal(d: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    let mut reflectors = vec![0.0f32; d * d];
    let mut q = vec![0.0f32; d * d];
    for (j, vector) in reflectors.chunks_mut(d.max(1)).enumerate() {
        vector[j..].iter_mut().for_each(|value| *value = random.sample(StandardNormal));
        let length = vector[j..].iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
        let sign = if vector[j] < 0.0 { -1.0 } else { 1.0 };
        // The reflector sends the vector to -sign · length along axis j; the last one has nothing to reflect.
        q[j * d + j] = if j + 1 < d { -sign } else { sign };
        vector[j] += sign * length;
    }
    let starts: Vec<usize> = (0..d.saturating_sub(1)).step_by(BLOCK).collect();
    for &start in starts.iter().rev() {
        let count = BLOCK.min(d - 1 - start);
        apply_block(d, start, &reflectors[start * d..(start + count) * d], &mut q);
    }
    q
}

/// `Q ← (I - V S Vᵀ) Q` on the rows and columns from `start`; `vectors` holds `Vᵀ`, `(count, d)`.
fn apply_block(d: usize, start: usize, vectors: &[f32], q: &mut [f32]) {
    let (count, size) = (vectors.len() / d, d - start);
    let v_transposed = Strided { data: &vectors[start..], rows: count, cols: size, row_stride: d, col_stride: 1 };
    let mut gram = vec![0.0f32; count * count];
    multiply_add(&mut gram, count, 1.0, v_transposed, v_transposed.transposed());
    let s = block_factor(&gram, count);
    let mut projected = vec![0.0f32; count * size];
    let trailing = Strided { data: &q[start * d + start..], rows: size, cols: size, row_stride: d, col_stride: 1 };
    multiply_add(&mut projected, size, 1.0, v_transposed, trailing);
    let mut weighted = vec![0.0f32; count * size];
    multiply_add(&mut weighted, size, 1.0, Strided::new(&s, count, count), Strided::new(&projected, count, size));
    let weighted = Strided::new(&weighted, count, size);
    multiply_add(&mut q[start * d + start..], d, -1.0, v_transposed.transposed(), weighted);
}

/// The upper triangular `S` with `H₁ … Hₙ = I - V S Vᵀ` (Schreiber and Van Loan 1989), from `VᵀV`:
/// `S⁻¹` is the strictly upper part of `VᵀV` plus half its diagonal.
fn block_factor(gram: &[f32], count: usize) -> Vec<f32> {
    let mut s = vec![0.0f32; count * count];
    for j in 0..count {
        let scale = 2.0 / gram[j * count + j];
        for i in 0..j {
            let sum: f32 = (i..j).map(|m| s[i * count + m] * gram[m * count + j]).sum();
            s[i * count + j] = -scale * sum;
        }
        s[j * count + j] = scale;
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_orthonormal() {
        for d in [1, 2, 3, 64, 65, 150] {
            let q = haar_orthogonal(d, 7);
            for a in 0..d {
                for b in 0..=a {
                    let product: f64 = (0..d).map(|i| f64::from(q[i * d + a]) * f64::from(q[i * d + b])).sum();
                    let expected = if a == b { 1.0 } else { 0.0 };
                    // 150 reflections in f32, each with a rounding of a few 6e-8.
                    assert!((product - expected).abs() < 1e-5, "d {d}: columns {a} and {b}: {product}");
                }
            }
        }
    }

    #[test]
    fn entries_have_the_moments_of_the_haar_measure() {
        // Entries have mean 0 and variance 1/d; the trace has mean 0 and variance 1 (Diaconis and Shahshahani 1994).
        let (d, draws) = (20, 400);
        let (mut trace, mut trace_squared, mut corner, mut fourth) = (0.0, 0.0, 0.0, 0.0);
        for seed in 0..draws {
            let q = haar_orthogonal(d, seed);
            let sum: f64 = (0..d).map(|i| f64::from(q[i * d + i])).sum();
            trace += sum;
            trace_squared += sum * sum;
            corner += f64::from(q[0]);
            fourth += f64::from(q[d * d - 1]).powi(2) * d as f64;
        }
        let n = draws as f64;
        // Five standard errors each: 5 / sqrt(400) = 0.25, times sqrt(2) for squares and 1 / sqrt(20) for one entry.
        assert!((trace / n).abs() < 0.25, "{}", trace / n);
        assert!((trace_squared / n - 1.0).abs() < 0.36, "{}", trace_squared / n);
        assert!((corner / n).abs() < 0.06, "{}", corner / n);
        assert!((fourth / n - 1.0).abs() < 0.36, "{}", fourth / n);
    }

    #[test]
    fn seeds_decide_everything() {
        assert_eq!(haar_orthogonal(30, 1), haar_orthogonal(30, 1));
        assert_ne!(haar_orthogonal(30, 1), haar_orthogonal(30, 2));
    }
}
