//! Sums of activations on their way to a mean.

use crate::types::Matrix;
use std::sync::Arc;

/// A sum of vectors.
#[derive(Clone)]
pub(super) struct Sum {
    values: Vec<f64>,
    count: usize,
}

impl Sum {
    /// Nothing yet.
    pub(super) fn new(width: usize) -> Self {
        Self { values: vec![0.0; width], count: 0 }
    }

    /// Adds one vector.
    pub(super) fn add(&mut self, values: &[f32]) {
        self.values.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
        self.count += 1;
    }

    /// Was nothing added?
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The mean, `(1, width)`.
    pub(super) fn mean(self) -> Arc<Matrix> {
        let mean: Vec<f32> = self.values.iter().map(|sum| (sum / self.count.max(1) as f64) as f32).collect();
        Arc::new(Matrix::new(1, mean.len(), mean))
    }
}
