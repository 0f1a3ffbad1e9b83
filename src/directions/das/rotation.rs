//! The rotation that DAS trains: its free parameter and where it starts.

use super::exponential::{Action, LowRank};
use super::haar::haar_orthogonal;
use super::triangle::{Triangle, row_start};
use crate::directions::DirectionError;
use crate::types::Matrix;

/// `R`: the first `k` columns of `exp(T - Tᵀ)`, with `T` strictly lower triangular, `(d, d)`.
#[derive(Debug, Clone)]
pub struct Rotation {
    k: usize,
    pub(super) triangle: Triangle,
}

impl Rotation {
    /// The original's start: `T` is the strictly lower triangle of a Haar-random orthogonal matrix (its parametrisation
    /// takes the sample for `T`, so the first rotation is not the sample itself).
    ///
    /// # Errors
    /// [`DirectionError::Dimensions`] unless `1 <= k <= d`.
    pub fn random(d: usize, k: usize, seed: u64) -> Result<Self, DirectionError> {
        check_dimensions(d, k)?;
        Ok(Self { k, triangle: pack(d, &haar_orthogonal(d, seed)) })
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
        Ok(Self { k, triangle: pack(lower.rows, &lower.data) })
    }

    /// Width of the space, `d_model`.
    pub fn d(&self) -> usize {
        self.triangle.d
    }

    /// Dimensions of the subspace.
    pub fn k(&self) -> usize {
        self.k
    }

    /// `R` together with what its adjoint needs.
    ///
    /// # Errors
    /// [`DirectionError::Diverged`] when `T` is too large to be exponentiated in bearable time.
    pub fn action(&self) -> Result<Action, DirectionError> {
        Action::new(&self.triangle, self.k)
    }

    /// `R`, `(d, k)`.
    ///
    /// # Errors
    /// As [`Rotation::action`].
    pub fn columns(&self) -> Result<Matrix, DirectionError> {
        Ok(self.action()?.columns().clone())
    }

    /// The gradient with respect to `T` of a loss whose gradient with respect to `R` is `gradient`, written out as a
    /// `(d, d)` matrix with zeros on and above the diagonal. `action` must be this rotation's own.
    ///
    /// Training does not come here: [`super::Das::step`] never writes the gradient out.
    ///
    /// # Errors
    /// [`DirectionError::Shape`] unless `gradient` is `(d, k)`.
    pub fn gradient(&self, action: &Action, gradient: &Matrix) -> Result<Matrix, DirectionError> {
        let d = self.d();
        DirectionError::check_shape("gradient of the rotation's columns", gradient, d, self.k)?;
        let LowRank { left, right, .. } = action.backward(&self.triangle, gradient);
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

fn pack(d: usize, square: &[f32]) -> Triangle {
    let mut values = Vec::with_capacity(row_start(d));
    square.chunks(d.max(1)).enumerate().for_each(|(i, row)| values.extend_from_slice(&row[..i]));
    Triangle::new(d, values)
}
