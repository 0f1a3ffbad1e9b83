//! The rotation that DAS trains: its free parameter and where it starts.

use super::exponential::Action;
use super::haar::haar_orthogonal;
use super::transposed;
use crate::backend::{Backend, LowRank, packed_row};
use crate::directions::DirectionError;
use crate::types::Matrix;

/// `R`: the first `k` columns of `exp(T - Tᵀ)`, with `T` strictly lower triangular, `(d, d)`.
#[derive(Debug, Clone)]
pub struct Rotation {
    d: usize,
    k: usize,
    /// `T`, packed row after row.
    pub(super) triangle: Vec<f32>,
}

impl Rotation {
    /// The original's start: `T` is the strictly lower triangle of a Haar-random orthogonal matrix (its parametrisation
    /// takes the sample for `T`, so the first rotation is not the sample itself).
    ///
    /// # Errors
    /// [`DirectionError::Dimensions`] unless `1 <= k <= d`.
    pub fn random(d: usize, k: usize, seed: u64) -> Result<Self, DirectionError> {
        check_dimensions(d, k)?;
        Ok(Self { d, k, triangle: pack(d, &haar_orthogonal(d, seed)) })
    }

    /// Starts from the strictly lower triangle of `lower`, `(d, d)`; its other entries are ignored.
    ///
    /// # Errors
    /// [`DirectionError::Shape`] unless `lower` is square, [`DirectionError::NotFinite`], and
    /// [`DirectionError::Dimensions`] unless `1 <= k <= d`.
    pub fn from_lower(k: usize, lower: &Matrix) -> Result<Self, DirectionError> {
        check_dimensions(lower.rows, k)?;
        DirectionError::check_shape("lower triangle", lower, lower.rows, lower.rows)?;
        DirectionError::check_finite("lower triangle", lower)?;
        Ok(Self { d: lower.rows, k, triangle: pack(lower.rows, &lower.data) })
    }

    /// Width of the space, `d_model`.
    pub fn d(&self) -> usize {
        self.d
    }

    /// Dimensions of the subspace.
    pub fn k(&self) -> usize {
        self.k
    }

    /// `R` together with what its adjoint needs.
    ///
    /// # Errors
    /// [`DirectionError::Diverged`] when `T` is too large to be exponentiated in bearable time.
    pub fn action<B: Backend>(&self, backend: &B) -> Result<Action<B>, DirectionError> {
        Action::new(backend, &backend.upload(&self.triangle)?, self.k)
    }

    /// `R`, `(d, k)`.
    ///
    /// # Errors
    /// As [`Rotation::action`].
    pub fn columns<B: Backend>(&self, backend: &B) -> Result<Matrix, DirectionError> {
        Ok(self.action(backend)?.columns().clone())
    }

    /// The gradient with respect to `T` of a loss whose gradient with respect to `R` is `gradient`, written out as a
    /// `(d, d)` matrix with zeros on and above the diagonal. `action` must be this rotation's own.
    ///
    /// Training does not come here: [`super::Das::step`] never writes the gradient out.
    ///
    /// # Errors
    /// [`DirectionError::Shape`] unless `gradient` is `(d, k)`.
    pub fn gradient<B: Backend>(
        &self,
        backend: &B,
        action: &Action<B>,
        gradient: &Matrix,
    ) -> Result<Matrix, DirectionError> {
        let (d, k) = (self.d, self.k);
        DirectionError::check_shape("gradient of the rotation's columns", gradient, d, k)?;
        let gradient = backend.upload(&transposed(&gradient.data, d, k))?;
        let left = action.backward(backend, &backend.upload(&self.triangle)?, &gradient)?;
        let LowRank { left, right, .. } = action.low_rank(&left);
        let (left, right) = (backend.download(left)?, backend.download(right)?);
        let mut dense = Matrix::zeros(d, d);
        for (left, right) in left.chunks(d).zip(right.chunks(d)) {
            for i in 0..d {
                for (j, value) in dense.row_mut(i)[..i].iter_mut().enumerate() {
                    *value += left[i] * right[j] - right[i] * left[j];
                }
            }
        }
        Ok(dense)
    }
}

fn check_dimensions(d: usize, k: usize) -> Result<(), DirectionError> {
    if k == 0 || k > d { Err(DirectionError::Dimensions { d, k }) } else { Ok(()) }
}

fn pack(d: usize, square: &[f32]) -> Vec<f32> {
    let mut values = Vec::with_capacity(packed_row(d));
    square.chunks(d.max(1)).enumerate().for_each(|(i, row)| values.extend_from_slice(&row[..i]));
    values
}
