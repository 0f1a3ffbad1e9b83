//! Models: a Hugging Face folder becomes a [`ModelConfig`], processed weights and a tokenizer.
//!
//! A name ([`Model::load`]) leads to a folder, to the Hub, to the demo model or to random weights; `families` knows
//! each architecture's configuration and tensors; weights stay in the memory-mapped file and are converted and
//! processed a layer at a time.

mod config;
mod error;
mod families;
pub mod hub;
mod load;
mod names;
mod process;
mod provenance;
mod random;
mod shapes;
mod source;
mod tensors;
pub mod tokenizer;
mod weights;

pub use error::ModelError;
pub use hub::{HubError, HubSettings};
pub use load::LoadOptions;
pub use process::WeightProcessing;
pub use provenance::{FileRecord, Provenance, Source};
pub use tokenizer::Tokenizer;
pub use weights::Model;

use crate::types::{Activation, Matrix, Positions};

/// The shape of a transformer, whatever its family. Names are the field's own.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention heads per block.
    pub n_heads: usize,
    /// Width of one head.
    pub d_head: usize,
    /// Width of the MLP's hidden layer.
    pub d_mlp: usize,
    /// Longest sequence the positions allow.
    pub n_ctx: usize,
    /// Rows of the embedding.
    pub d_vocab: usize,
    /// Added to the variance in every layer norm.
    pub norm_eps: f32,
    /// Learned or rotary positions.
    pub positions: Positions,
    /// Function between the MLP's products.
    pub activation: Activation,
    /// Attention and MLP both read `hook_resid_pre` (GPT-NeoX); there is no `hook_resid_mid` then.
    pub parallel_residual: bool,
}

/// Gain and bias of a layer norm that was not folded into the product behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// Multiplies the normalised value, `d_model` values.
    pub gain: Vec<f32>,
    /// Added after the gain, `d_model` values.
    pub bias: Vec<f32>,
}

/// An affine map `y = x W + b` with `W` of shape (in, out).
#[derive(Debug, Clone, PartialEq)]
pub struct LinearWeights {
    /// `(in, out)`.
    pub weight: Matrix,
    /// `out` values.
    pub bias: Vec<f32>,
}

/// One block's weights, processed, in f32, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights {
    /// Norm before attention; `None` when folded (the norm then only centres and scales).
    pub ln1: Option<NormWeights>,
    /// `(d_model, n_heads * d_head)`; head `h` owns columns `h * d_head ..`.
    pub query: LinearWeights,
    /// `(d_model, 2 * n_heads * d_head)`: all heads' keys, then all heads' values.
    pub key_value: LinearWeights,
    /// `(n_heads * d_head, d_model)`.
    pub attn_out: LinearWeights,
    /// Norm before the MLP; `None` when folded.
    pub ln2: Option<NormWeights>,
    /// `(d_model, d_mlp)`.
    pub mlp_in: LinearWeights,
    /// `(d_mlp, d_model)`.
    pub mlp_out: LinearWeights,
}
