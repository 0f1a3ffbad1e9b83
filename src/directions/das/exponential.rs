//! The first `k` columns of `exp(A)`, `A = T - Tᵀ`, and the exact adjoint, by products of `A` with `k` vectors only.
//!
//! Al-Mohy and Higham (2011) sum a scaled Taylor series. `A` is skew-symmetric here: its spectrum lies on the imaginary
//! segment `[-iρ, iρ]`, where the Chebyshev series (Tal-Ezer and Kosloff 1984)
//! `exp(A) v = J₀(ρ) v + 2 Σ Jⱼ(ρ) φⱼ`, `φ₀ = v`, `φ₁ = B v`, `φⱼ₊₁ = 2 B φⱼ + φⱼ₋₁`, `B = A / ρ`,
//! is the better polynomial: no vector of the recurrence is longer than `v`, so f32 loses nothing however large `ρ`
//! becomes (Adam moves every entry of `T` by about its rate, which adds up to `ρ ≈ rate · d` a step), and about
//! `ρ + 10` products are enough, where Taylor's series needs some 11 per unit of `ρ`.

use super::bound::spectral_radius;
use super::transposed;
use crate::backend::{Backend, ChebyshevSeries, LowRank, packed_side};
use crate::directions::DirectionError;
use crate::types::Matrix;

/// What the truncated series may leave out, relative to the vector: below f32's rounding of 6e-8.
const TAIL: f64 = 1e-8;

/// Departure from orthonormality beyond which the bound of the spectrum must have been too small.
const ORTHONORMAL: f64 = 1e-4;

/// Largest spectral radius that is still a rotation anyone fits: training stays below a few hundred.
const LARGEST_RADIUS: f64 = 1e4;

/// `R`, the first `k` columns of `exp(A)`, with what its adjoint needs.
#[derive(Debug)]
pub struct Action<B: Backend> {
    columns: Matrix,
    series: ChebyshevSeries,
    /// `Rᵀ` on the device, `(k, d)`.
    rows: B::Tensor,
    /// `φ₀ … φₘ`, `(m + 1, k, d)`.
    basis: B::Tensor,
}

impl<B: Backend> Action<B> {
    /// Acts with `exp(A)` on the first `k` unit vectors.
    ///
    /// # Errors
    /// [`DirectionError::Diverged`] when `A` is so large (or not finite) that no series of bearable length sums.
    pub(super) fn new(backend: &B, triangle: &B::Tensor, k: usize) -> Result<Self, DirectionError> {
        let estimate = spectral_radius(backend, triangle)?;
        let mut radius = estimate;
        while radius <= LARGEST_RADIUS {
            let action = Self::with_radius(backend, triangle, k, radius)?;
            // exp(A) is orthogonal: a spectrum beyond the estimated radius shows at once, as growth.
            if action.orthonormality_error() < ORTHONORMAL {
                return Ok(action);
            }
            radius *= 1.5;
        }
        Err(DirectionError::Diverged { radius: estimate, limit: LARGEST_RADIUS })
    }

    fn with_radius(backend: &B, triangle: &B::Tensor, k: usize, radius: f64) -> Result<Self, DirectionError> {
        let series = ChebyshevSeries { radius, coefficients: chebyshev_coefficients(radius) };
        let d = packed_side(backend.len(triangle));
        let mut basis = backend.tensor((series.degree() + 1) * k * d)?;
        backend.rotation_basis(triangle, k, &series, &mut basis)?;
        let mut rows = backend.tensor(k * d)?;
        backend.rotation_columns(&basis, &series, &mut rows)?;
        let columns = Matrix::new(d, k, transposed(&backend.download(&rows)?, k, d));
        Ok(Self { columns, series, rows, basis })
    }

    /// `R`, `(d, k)`, orthonormal columns.
    pub fn columns(&self) -> &Matrix {
        &self.columns
    }

    /// `Rᵀ` on the device, `(k, d)`.
    pub fn rows(&self) -> &B::Tensor {
        &self.rows
    }

    /// Largest entry of `|RᵀR - I|`.
    pub fn orthonormality_error(&self) -> f64 {
        let Matrix { rows, cols, .. } = self.columns;
        let value = |row: usize, col: usize| f64::from(self.columns.data[row * cols + col]);
        let mut worst = 0.0f64;
        for a in 0..cols {
            for b in 0..=a {
                let product: f64 = (0..rows).map(|row| value(row, a) * value(row, b)).sum();
                worst = worst.max((product - if a == b { 1.0 } else { 0.0 }).abs());
            }
        }
        worst
    }

    /// The left factor of the gradient with respect to `T` of a loss whose gradient with respect to `Rᵀ` is `gradient`,
    /// `(k, d)`; see [`Action::low_rank`].
    pub(super) fn backward(
        &self,
        backend: &B,
        triangle: &B::Tensor,
        gradient: &B::Tensor,
    ) -> Result<B::Tensor, DirectionError> {
        let mut left = backend.tensor(self.series.degree() * backend.len(&self.rows))?;
        backend.rotation_adjoint(triangle, &self.series, gradient, &mut left)?;
        Ok(left)
    }

    /// The gradient with respect to `T` that `left` belongs to.
    pub(super) fn low_rank<'a>(&'a self, left: &'a B::Tensor) -> LowRank<'a, B::Tensor> {
        LowRank { rank: self.series.degree() * self.columns.cols, left, right: &self.basis }
    }
}

/// `J₀(ρ), 2 J₁(ρ), … 2 Jₘ(ρ)` with the smallest `m >= 1` whose left-out terms sum to less than [`TAIL`].
fn chebyshev_coefficients(radius: f64) -> Vec<f64> {
    let mut coefficients = bessel(radius);
    coefficients.iter_mut().skip(1).for_each(|value| *value *= 2.0);
    let mut tail = 0.0;
    while coefficients.len() > 2 {
        tail += coefficients[coefficients.len() - 1].abs();
        if tail > TAIL {
            break;
        }
        coefficients.pop();
    }
    coefficients
}

/// Bessel functions `J₀(x), J₁(x), …` up to where they vanish in f64, by Miller's backward recurrence
/// `Jₙ₋₁ = 2n/x Jₙ - Jₙ₊₁`, normalised by `J₀ + 2 Σ J₂ₙ = 1`.
fn bessel(x: f64) -> Vec<f64> {
    if x < 1e-9 {
        return vec![1.0, x / 2.0];
    }
    let top = (x + 12.0 * x.cbrt() + 24.0) as usize;
    let mut values = vec![0.0; top + 2];
    values[top] = 1e-280;
    for n in (1..=top).rev() {
        values[n - 1] = 2.0 * n as f64 / x * values[n] - values[n + 1];
        if values[n - 1].abs() > 1e200 {
            values[n - 1..].iter_mut().for_each(|value| *value *= 1e-200);
        }
    }
    let norm = values[0] + 2.0 * values.iter().skip(2).step_by(2).sum::<f64>();
    values.iter_mut().for_each(|value| *value /= norm);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bessel_functions_match_tables() {
        // Abramowitz and Stegun, tables 9.1 and 9.2; ten decimals as printed.
        let values = bessel(2.0);
        for (n, expected) in [(0, 0.2238907791), (1, 0.5767248078), (2, 0.3528340286), (5, 0.0070396298)] {
            assert!((values[n] - expected).abs() < 1e-10, "J{n}(2) = {}", values[n]);
        }
        assert!((bessel(50.0)[0] - 0.0558123277).abs() < 1e-10);
        // SciPy's jv; the recurrence rescales on its way.
        let values = bessel(400.0);
        assert!((values[0] + 0.03882518153078396).abs() < 1e-10 && (values[390] - 0.06579415284983803).abs() < 1e-10);
        assert!((bessel(1e-3)[0] - (1.0 - 2.5e-7)).abs() < 1e-12);
    }

    #[test]
    fn degree_is_what_the_radius_needs() {
        assert!(chebyshev_coefficients(0.0).len() == 2);
        let degree = |radius| chebyshev_coefficients(radius).len() - 1;
        assert!((11..=14).contains(&degree(2.1)), "{}", degree(2.1));
        assert!(degree(40.0) < 70, "{}", degree(40.0));
    }
}
