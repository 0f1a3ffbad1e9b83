//! Models: a Hugging Face folder becomes a [`ModelConfig`], processed weights and a tokenizer.
//!
//! A name ([`Model::load`]) leads to a folder, to the Hub, to the demo model or to random weights; `families` knows
//! each architecture's configuration and tensors; weights stay in the memory-mapped file and are converted and
//! processed a layer at a time.

mod config;
mod error;
mod families;
mod gguf;
#[cfg(feature = "hub")]
pub mod hub;
#[cfg(not(feature = "hub"))]
pub mod hub {
    //! Where the Hugging Face Hub and its cache are. To load from there, build with the feature `hub`.

    #[expect(dead_code, reason = "what only a download needs")]
    mod settings;

    pub use settings::{HubSettings, Limits, Observer, Progress, Token};
}
mod load;
mod names;
mod process;
mod provenance;
mod quietly;
mod random;
mod shapes;
mod source;
mod special_tokens;
mod stored_names;
mod tensors;
pub mod tokenizer;
mod tokenizer_files;
mod weights;

pub use error::ModelError;
#[cfg(feature = "hub")]
pub use hub::HubError;
pub use hub::HubSettings;
pub use load::LoadOptions;
pub use process::WeightProcessing;
pub use provenance::{FileRecord, Provenance, Source};
pub use special_tokens::{Bos, BosRecord};
pub use tokenizer::Tokenizer;
pub use weights::Model;

use crate::types::{Activation, Matrix, NormKind, Positions};

/// The shape of a transformer, whatever its family. Names are the field's own.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention (query) heads per block.
    pub n_heads: usize,
    /// Heads that have keys and values of their own, a divisor of `n_heads`: query head `h` reads those of key-value
    /// head `h / (n_heads / n_kv_heads)` (grouped-query attention, Ainslie et al. 2023, arXiv 2305.13245).
    pub n_kv_heads: usize,
    /// Width of one head.
    pub d_head: usize,
    /// Width of the MLP's hidden layer.
    pub d_mlp: usize,
    /// Longest sequence the positions allow.
    pub n_ctx: usize,
    /// Rows of the embedding.
    pub d_vocab: usize,
    /// Layer norm or RMS norm.
    pub norm: NormKind,
    /// Added under the root in every norm.
    pub norm_eps: f32,
    /// Learned or rotary positions.
    pub positions: Positions,
    /// A query sees only its last `attention_window` keys, itself included, in every block but those of
    /// [`ModelConfig::full_attention`].
    pub attention_window: Option<usize>,
    /// Blocks whose queries see all keys before them though the model has a window.
    pub full_attention: Vec<usize>,
    /// Attention scores are divided by the root of `d_head`.
    pub scores_by_width: bool,
    /// Attention scores are divided by the block's number, counted from 1.
    pub scores_by_depth: bool,
    /// Every head's query and key passes an RMS norm of width `d_head` before the rotary embedding (Qwen3).
    pub qk_norm: bool,
    /// Function between the MLP's products.
    pub activation: Activation,
    /// The MLP is `(f(x W_gate) * (x W_in)) W_out` (Shazeer 2020, arXiv 2002.05202), not `f(x W_in) W_out`.
    pub gated_mlp: bool,
    /// Attention and MLP both read `hook_resid_pre` (GPT-NeoX); there is no `hook_resid_mid` then.
    pub parallel_residual: bool,
}

impl ModelConfig {
    /// Width of all query heads together.
    pub fn d_attn(&self) -> usize {
        self.n_heads * self.d_head
    }

    /// Width of all keys together; the values are as wide.
    pub fn d_kv(&self) -> usize {
        self.n_kv_heads * self.d_head
    }

    /// How many keys a query of block `layer` sees, itself included, if not all before it.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.attention_window.filter(|_| !self.full_attention.contains(&layer))
    }

    /// What the attention scores of block `layer` are multiplied by.
    pub fn score_scale(&self, layer: usize) -> f32 {
        let width = if self.scores_by_width { (self.d_head as f32).sqrt() } else { 1.0 };
        let depth = if self.scores_by_depth { layer as f32 + 1.0 } else { 1.0 };
        1.0 / width / depth
    }

    /// Weights of one block's matrix products.
    pub fn block_weights(&self) -> usize {
        let attention = 2 * self.d_model * (self.d_attn() + self.d_kv());
        let matrices = if self.gated_mlp { 3 } else { 2 };
        attention + matrices * self.d_model * self.d_mlp
    }

    /// Values that a token has at any one time on its way through a block.
    pub fn passing_values(&self) -> usize {
        8 * self.d_model + 2 * self.d_mlp
    }
}

/// Gain and bias of a norm that was not folded into the product behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct NormWeights {
    /// Multiplies the normalised value, `d_model` values (`d_head` for queries and keys).
    pub gain: Vec<f32>,
    /// Added after the gain, as many values; RMS norms have none.
    pub bias: Option<Vec<f32>>,
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
    /// `(d_model, 2 * n_kv_heads * d_head)`: all heads' keys, then all heads' values.
    pub key_value: LinearWeights,
    /// Norm of every head's query, before the rotary embedding; never folded.
    pub query_norm: Option<NormWeights>,
    /// Norm of every head's key, before the rotary embedding; never folded.
    pub key_norm: Option<NormWeights>,
    /// `(n_heads * d_head, d_model)`.
    pub attn_out: LinearWeights,
    /// Norm before the MLP; `None` when folded.
    pub ln2: Option<NormWeights>,
    /// `(d_model, d_mlp)`: what the activation acts on in a gated MLP.
    pub mlp_gate: Option<LinearWeights>,
    /// `(d_model, d_mlp)`.
    pub mlp_in: LinearWeights,
    /// `(d_mlp, d_model)`.
    pub mlp_out: LinearWeights,
}
