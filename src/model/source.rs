//! Where a model's tensors come from: files of either format, or a seed.

use super::ModelError;
use super::gguf::GgufTensors;
use super::random::RandomTensors;
use super::tensors::TensorFiles;
use std::borrow::Cow;

/// Tensors by the family's names, unprocessed, as f32. Nothing is kept: every call reads or draws again.
#[derive(Debug)]
pub(crate) enum WeightSource {
    /// Memory-mapped or embedded `.safetensors`.
    Files(TensorFiles),
    /// Memory-mapped GGUF.
    Gguf(GgufTensors),
    /// Drawn from a seed.
    Random(RandomTensors),
}

impl WeightSource {
    /// Gives back the memory of what was read so far.
    pub fn release(&self) {
        match self {
            Self::Files(files) => files.release(),
            Self::Gguf(tensors) => tensors.release(),
            Self::Random(_) => {}
        }
    }

    /// All values of a tensor, in the checkpoint's layout.
    pub fn tensor(&self, name: &str) -> Result<Cow<'_, [f32]>, ModelError> {
        match self {
            Self::Files(files) => files.tensor(name),
            Self::Gguf(tensors) => tensors.tensor(name),
            Self::Random(random) => random.tensor(name).map(Cow::Owned),
        }
    }

    /// Puts the rows `rows` of a two-dimensional tensor into `values`, one after the other. The caller has checked that
    /// they exist and that `values` has room for exactly that many.
    pub fn read_rows(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<(), ModelError> {
        match self {
            Self::Files(files) => files.read_rows(name, rows, values),
            Self::Gguf(tensors) => tensors.read_rows(name, rows, values),
            Self::Random(random) => random.read_rows(name, rows, values),
        }
    }
}
