//! Adam's settings, and the constants of each of its steps.

use crate::backend::AdamStep;
use serde::{Deserialize, Serialize};

/// Adam (Kingma and Ba 2015) without weight decay, and the largest gradient norm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdamSettings {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f64,
    /// A longer gradient is scaled down to this Euclidean norm.
    pub max_gradient_norm: f64,
}

impl Default for AdamSettings {
    /// The paper's: rate 1e-3, betas 0.9 and 0.999, epsilon 1e-8, norm 1.
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_gradient_norm: 1.0 }
    }
}

impl AdamSettings {
    /// The constants of step `number`, counted from 1, as PyTorch's Adam and `clip_grad_norm_` have them.
    pub(super) fn step(&self, number: i32) -> AdamStep {
        let Self { learning_rate, beta1, beta2, epsilon, max_gradient_norm } = *self;
        AdamStep {
            max_gradient_norm,
            keep_first: beta1 as f32,
            keep_second: beta2 as f32,
            add_first: (1.0 - beta1) as f32,
            add_second: (1.0 - beta2) as f32,
            inverse_correction: (1.0 / (1.0 - beta2.powi(number)).sqrt()) as f32,
            epsilon: epsilon as f32,
            rate: (learning_rate / (1.0 - beta1.powi(number))) as f32,
        }
    }
}
