//! Where a model's tensors come from: files, or a seed.

use super::ModelError;
use super::random::RandomTensors;
use super::tensors::TensorFiles;
use crate::types::Matrix;
use std::borrow::Cow;

/// Tensors by the family's names, unprocessed, as f32. Nothing is kept: every call reads or draws again.
#[derive(Debug)]
pub(crate) enum WeightSource {
    /// Memory-mapped or embedded `.safetensors`.
    Files(TensorFiles),
    /// Drawn from a seed.
    Random(RandomTensors),
}

impl WeightSource {
    /// All values of a tensor, in the checkpoint's layout.
    pub fn tensor(&self, name: &str) -> Result<Cow<'_, [f32]>, ModelError> {
        match self {
            Self::Files(files) => files.tensor(name),
            Self::Random(random) => random.tensor(name).map(Cow::Owned),
        }
    }

    /// The rows `rows` of a two-dimensional tensor. The caller has checked that they exist.
    pub fn rows(&self, name: &str, rows: &[u32]) -> Result<Matrix, ModelError> {
        match self {
            Self::Files(files) => files.rows(name, rows),
            Self::Random(random) => random.rows(name, rows),
        }
    }
}
