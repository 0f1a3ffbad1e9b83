//! Distributed alignment search (DAS): a `k`-dimensional subspace found by gradient descent on its effect.
//!
//! The subspace is spanned by the first `k` columns of `exp(T - Tᵀ)`, `T` a strictly lower triangle that Adam moves.
//! This module is the parametrisation and the optimiser; the engine evaluates the loss and its gradient with respect
//! to the columns:
//!
//! ```
//! use actpatch::directions::das::{AdamSettings, Das, Rotation};
//! use actpatch::types::Matrix;
//!
//! let mut das = Das::new(Rotation::random(16, 1, 0)?, AdamSettings::default())?;
//! for _ in 0..3 {
//!     let columns = das.columns(); // (d_model, k): patch along them, differentiate the loss …
//!     let gradient = Matrix::new(16, 1, columns.data.iter().map(|value| value - 1.0).collect());
//!     das.step(&gradient)?;
//! }
//! # Ok::<(), actpatch::directions::DirectionError>(())
//! ```

mod adam;
mod bound;
mod exponential;
mod haar;
mod rotation;
mod train;
mod triangle;

pub use adam::AdamSettings;
pub use exponential::Action;
pub use rotation::Rotation;
pub use train::{Batches, TrainError, TrainSettings, Trained, Training, train};

use super::DirectionError;
use crate::types::Matrix;
use adam::Adam;

/// A rotation in training.
#[derive(Debug, Clone)]
pub struct Das {
    rotation: Rotation,
    action: Action,
    adam: Adam,
}

impl Das {
    /// Starts training `rotation`.
    ///
    /// # Errors
    /// [`DirectionError::Diverged`] as [`Rotation::action`].
    pub fn new(rotation: Rotation, settings: AdamSettings) -> Result<Self, DirectionError> {
        let adam = Adam::new(settings, rotation.triangle.values.len());
        Ok(Self { action: rotation.action()?, adam, rotation })
    }

    /// The subspace's orthonormal basis now, `(d_model, k)`.
    pub fn columns(&self) -> &Matrix {
        self.action.columns()
    }

    /// The parametrisation now.
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// One step of Adam against `gradient`, `(d_model, k)`: the loss's derivative by [`Das::columns`]. Returns the norm
    /// of the gradient with respect to the triangle, before clipping; 0 says that the loss cannot be moved.
    ///
    /// # Errors
    /// [`DirectionError::Shape`] and [`DirectionError::NotFinite`] for a gradient that is not one (nothing has moved
    /// then), [`DirectionError::Diverged`] as [`Rotation::action`].
    pub fn step(&mut self, gradient: &Matrix) -> Result<f64, DirectionError> {
        let (d, k) = (self.rotation.d(), self.rotation.k());
        DirectionError::check_shape("gradient of the rotation's columns", gradient, d, k)?;
        DirectionError::check_finite("gradient of the rotation's columns", gradient)?;
        let low_rank = self.action.backward(&self.rotation.triangle, gradient);
        let norm = low_rank.norm(d);
        self.adam.step(&mut self.rotation.triangle, &low_rank, norm);
        self.action = self.rotation.action()?;
        Ok(norm)
    }
}
