//! Distributed alignment search (DAS): a `k`-dimensional subspace found by gradient descent on its effect.
//!
//! The subspace is spanned by the first `k` columns of `exp(T - Tᵀ)`, `T` a strictly lower triangle that Adam moves.
//! This module is the parametrisation and the optimiser, on any backend; the engine evaluates the loss and its gradient
//! with respect to the columns:
//!
//! ```
//! use actpatch::backend::{Backend, CpuBackend, Dtype};
//! use actpatch::directions::das::{AdamSettings, Das, Rotation};
//!
//! let backend = CpuBackend::new(Dtype::F32)?;
//! let mut das = Das::new(&backend, &Rotation::random(16, 1, 0)?, AdamSettings::default())?;
//! for _ in 0..3 {
//!     let columns = backend.download(das.rows())?; // (k, d_model): patch along them, differentiate the loss …
//!     let gradient: Vec<f32> = columns.iter().map(|value| value - 1.0).collect();
//!     das.step(&backend, &backend.upload(&gradient)?)?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod adam;
mod bound;
mod exponential;
mod haar;
mod rotation;
mod train;

pub use adam::AdamSettings;
pub use exponential::Action;
pub use rotation::Rotation;
pub use train::{Batches, TrainError, TrainSettings, Trained, Training, train};

use super::DirectionError;
use crate::backend::{AdamState, Backend};
use crate::types::Matrix;

/// A rotation in training, on a device.
///
/// A step leaves everything on the device but a few numbers: the norm of the gradient, the Lanczos coefficients that say
/// how long the series of the next exponential is, and the new columns, which are checked for orthonormality.
#[derive(Debug)]
pub struct Das<B: Backend> {
    d: usize,
    k: usize,
    settings: AdamSettings,
    steps: i32,
    /// The rotation's packed triangle, and Adam's moments of it.
    triangle: B::Tensor,
    first: B::Tensor,
    second: B::Tensor,
    action: Action<B>,
}

impl<B: Backend> Das<B> {
    /// Starts training `rotation`.
    ///
    /// # Errors
    /// [`DirectionError::Diverged`] as [`Rotation::action`], [`DirectionError::Backend`].
    pub fn new(backend: &B, rotation: &Rotation, settings: AdamSettings) -> Result<Self, DirectionError> {
        let zeros = || -> Result<B::Tensor, DirectionError> {
            let mut moments = backend.tensor(rotation.triangle.len())?;
            backend.zero(&mut moments)?;
            Ok(moments)
        };
        let triangle = backend.upload(&rotation.triangle)?;
        Ok(Self {
            d: rotation.d(),
            k: rotation.k(),
            settings,
            steps: 0,
            first: zeros()?,
            second: zeros()?,
            action: Action::new(backend, &triangle, rotation.k())?,
            triangle,
        })
    }

    /// The subspace's orthonormal basis now, `(d_model, k)`.
    pub fn columns(&self) -> &Matrix {
        self.action.columns()
    }

    /// The same on the device, transposed: `(k, d_model)`.
    pub fn rows(&self) -> &B::Tensor {
        self.action.rows()
    }

    /// One step of Adam against `gradient`, `(k, d_model)`: the loss's derivative by [`Das::rows`]. Returns the norm of
    /// the gradient with respect to the triangle, before clipping; 0 says that the loss cannot be moved.
    ///
    /// # Errors
    /// [`DirectionError::Shape`] and [`DirectionError::NotFinite`] for a gradient that is not one (nothing has moved
    /// then), [`DirectionError::Diverged`] as [`Rotation::action`], [`DirectionError::Backend`].
    pub fn step(&mut self, backend: &B, gradient: &B::Tensor) -> Result<f64, DirectionError> {
        const WHAT: &str = "gradient of the rotation's columns";
        let (d, k) = (self.d, self.k);
        if backend.len(gradient) != d * k {
            let (expected, found) = (format!("({k}, {d})"), format!("{} values", backend.len(gradient)));
            return Err(DirectionError::Shape { what: WHAT, expected, found });
        }
        let left = self.action.backward(backend, &self.triangle, gradient)?;
        let step = self.settings.step(self.steps + 1);
        let state = AdamState { triangle: &mut self.triangle, first: &mut self.first, second: &mut self.second };
        let mut norm = backend.tensor(1)?;
        backend.rotation_step(self.action.low_rank(&left), &step, state, &mut norm)?;
        let norm = backend.download(&norm)?[0];
        if !norm.is_finite() {
            let values = Matrix::new(d, k, transposed(&backend.download(gradient)?, k, d));
            DirectionError::check_finite(WHAT, &values)?;
            return Err(DirectionError::Diverged { radius: f64::from(norm), limit: f64::from(f32::MAX) });
        }
        self.steps += 1;
        self.action = Action::new(backend, &self.triangle, k)?;
        Ok(f64::from(norm))
    }
}

/// The transpose of a row-major `(rows, cols)` matrix.
fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}
