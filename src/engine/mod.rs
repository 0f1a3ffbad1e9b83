//! The transformer, written once over a [`Backend`]: forward, backward, captures and interventions.
//!
//! A [`Run`] is one pass over a ragged batch: [`Engine::run`] starts from tokens and captures activations,
//! [`Engine::resume`] starts rows in the middle of the stack, from the captured residual of an earlier run, patches
//! them in place and goes on to the answer logits. [`Engine::begin_texts`] and [`Engine::extend_texts`] let texts grow by a
//! token at a time.

mod backward;
mod continuation;
mod flops;
mod forward;
mod frozen;
mod intervention;
mod layout;
pub mod metrics;
mod mlp;
mod paired;
mod pass;
mod plan;
mod readout;
mod rotary;
mod run;
mod site;

pub use backward::Tape;
pub use continuation::Texts;
pub use flops::Flops;
pub use forward::{Output, Resume};
pub use intervention::{Intervention, Op, Part, Patch, Source};
pub use layout::Layout;
pub use metrics::{Baselines, Metric, Mode, Scores};
pub use paired::{PairedRun, Pairs, PatchPositions, PatchedRow};
pub use plan::{Cell, Change, Edit, Needs, Places, Plan, Step, Values};
pub use readout::{FrozenNorm, ReadDirections, norm_scale};
pub use run::{Logits, Run};
pub use site::Site;

use crate::backend::{Backend, BackendError, Heads, Norm};
use crate::model::{LayerWeights, LinearWeights, Model, ModelConfig, ModelError, NormWeights};
use crate::types::Activation;
use bytesize::ByteSize;
use rotary::RotaryTable;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The memory budget where the device does not say what is free, in bytes.
pub const MEMORY_BUDGET: usize = 2 << 30;

/// What can go wrong between a model and its logits.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model's weights could not be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// A hook name that does not exist, in general or in this model.
    #[error("site {site:?}: {reason}")]
    NoSuchSite {
        /// The hook name.
        site: String,
        /// Why it is not there.
        reason: String,
    },
    /// Prompts of which more has to be kept than the memory budget allows.
    #[error("{what} need {} for what is kept of them, found a budget of {}", ByteSize(*needed as u64), ByteSize(*budget as u64))]
    Memory {
        /// Dataset and prompts.
        what: String,
        /// Bytes.
        needed: usize,
        /// Bytes.
        budget: usize,
    },
    /// An intervention that would change nothing: its position or layer is not part of the pass.
    #[error("intervention at {site} never fires: {reason}")]
    NeverFires {
        /// The hook name.
        site: String,
        /// Which row, position or layer is not computed.
        reason: String,
    },
    /// A site was asked of a run that did not capture it.
    #[error("{site} was not captured in this run")]
    NotCaptured {
        /// The hook name.
        site: String,
    },
    /// A sequence that the model cannot run.
    #[error("sequence {index}: {reason}")]
    Sequence {
        /// Which one.
        index: usize,
        /// Empty, too long, or a token outside the vocabulary.
        reason: String,
    },
    /// A head, neuron, layer or shape that does not fit.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What is off.
        what: String,
        /// What would fit.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A number that is not finite came out.
    #[error("{what} of row {row} is {value}: the weights or a patch hold values that are not finite, or overflow")]
    NotFinite {
        /// Which output.
        what: &'static str,
        /// Row of the batch.
        row: usize,
        /// NaN or an infinity.
        value: f32,
    },
}

/// One block's weights on the device.
struct Layer<B: Backend> {
    ln1: Norm<B::Tensor>,
    query: B::Weight,
    key_value: B::Weight,
    /// Of every head's query and key, `d_head` wide, in models that have them.
    query_norm: Option<Norm<B::Tensor>>,
    key_norm: Option<Norm<B::Tensor>>,
    attn_out: B::Weight,
    /// Bias of `attn_out` alone: head results come without it.
    attn_out_bias: B::Tensor,
    ln2: Norm<B::Tensor>,
    mlp_gate: Option<B::Weight>,
    mlp_in: B::Weight,
    mlp_out: B::Weight,
}

/// A model on a device.
pub struct Engine<B: Backend> {
    backend: B,
    model: Arc<Model>,
    layers: Vec<Layer<B>>,
    final_norm: Norm<B::Tensor>,
    /// `(n_ctx, d_model)`, with learned positions.
    position_embedding: Option<B::Tensor>,
    rotary: Option<RotaryTable<B>>,
    unembedding: OnceLock<B::Weight>,
    /// Most tokens of one batch; longer work is cut into several.
    max_tokens: AtomicUsize,
    memory_budget: usize,
    /// The same model on further devices.
    peers: Vec<Engine<B>>,
}

/// Columns of the unembedding for the tokens that answers need, on the device.
pub struct AnswerColumns<B: Backend> {
    tokens: Vec<u32>,
    columns: B::Tensor,
    bias: B::Tensor,
}

impl<B: Backend> AnswerColumns<B> {
    /// The answer tokens: column `i` of the logits belongs to `tokens()[i]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

fn upload_norm<B: Backend>(
    backend: &B,
    config: &ModelConfig,
    width: usize,
    weights: Option<NormWeights>,
) -> Result<Norm<B::Tensor>, EngineError> {
    let upload = |values: Vec<f32>| backend.upload(&values);
    let (gain, bias) = match weights {
        Some(norm) => (Some(upload(norm.gain)?), norm.bias.map(upload).transpose()?),
        None => (None, None),
    };
    Ok(Norm { kind: config.norm, width, eps: config.norm_eps, gain, bias })
}

fn upload_layer<B: Backend>(backend: &B, config: &ModelConfig, weights: LayerWeights) -> Result<Layer<B>, EngineError> {
    let pack = |linear: &LinearWeights| backend.pack(&linear.weight, &linear.bias);
    let norm = |weights| upload_norm(backend, config, config.d_model, weights);
    let head_norm = |weights: Option<NormWeights>| {
        weights.map(|weights| upload_norm(backend, config, config.d_head, Some(weights))).transpose()
    };
    Ok(Layer {
        ln1: norm(weights.ln1)?,
        query: pack(&weights.query)?,
        key_value: pack(&weights.key_value)?,
        query_norm: head_norm(weights.query_norm)?,
        key_norm: head_norm(weights.key_norm)?,
        attn_out: pack(&weights.attn_out)?,
        attn_out_bias: backend.upload(&weights.attn_out.bias)?,
        ln2: norm(weights.ln2)?,
        mlp_gate: weights.mlp_gate.as_ref().map(pack).transpose()?,
        mlp_in: pack(&weights.mlp_in)?,
        mlp_out: pack(&weights.mlp_out)?,
    })
}

impl<B: Backend> Engine<B> {
    /// Most tokens of one batch unless told otherwise: enough rows for every product to run at full speed.
    pub const DEFAULT_MAX_TOKENS: usize = 4096;

    /// Uploads a model, block by block. Engines on several devices can share one model.
    pub fn new(backend: B, model: impl Into<Arc<Model>>) -> Result<Self, EngineError> {
        let model = model.into();
        let config = &model.config;
        let mut layers = Vec::with_capacity(config.n_layers);
        for layer in 0..config.n_layers {
            layers.push(upload_layer(&backend, config, model.layer(layer)?)?);
        }
        let final_norm = upload_norm(&backend, config, config.d_model, model.final_norm()?)?;
        let position_embedding = model.position_embedding()?.map(|table| backend.upload(&table.data)).transpose()?;
        let rotary = rotary::table(&backend, config)?;
        let memory_budget = backend.free_memory().map_or(MEMORY_BUDGET, |free| free / 4);
        Ok(Self {
            backend,
            layers,
            final_norm,
            position_embedding,
            rotary,
            unembedding: OnceLock::new(),
            max_tokens: AtomicUsize::new(Self::DEFAULT_MAX_TOKENS),
            memory_budget,
            peers: Vec::new(),
            model,
        })
    }

    /// Cuts work into batches of at most `max_tokens` tokens (a single longer row still runs whole).
    pub fn with_max_tokens(self, max_tokens: usize) -> Self {
        self.max_tokens.store(max_tokens, Ordering::Relaxed);
        self
    }

    /// Most tokens of one batch: less than was asked for where the memory budget has no room for them, and once a batch
    /// has found the device's memory full.
    pub fn max_tokens(&self) -> usize {
        let room = self.memory_budget / (4 * self.config().passing_values());
        self.max_tokens.load(Ordering::Relaxed).min(room.max(1))
    }

    /// Keeps at most `bytes` of a dataset's activations at once, and passes batches that need at most as much again.
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        Self { memory_budget: bytes, ..self }
    }

    /// Bytes for what is kept of prompts at once: a quarter of what was free behind the weights, unless told otherwise.
    pub fn memory_budget(&self) -> usize {
        self.memory_budget
    }

    /// Engines of the same model on further devices, which take their share of a sweep's cells and fits.
    pub fn with_peers(mut self, peers: Vec<Engine<B>>) -> Self {
        self.peers = peers;
        self
    }

    /// This engine and its peers.
    pub fn with_its_peers(&self) -> Vec<&Engine<B>> {
        std::iter::once(self).chain(&self.peers).collect()
    }

    /// After `error` in a batch of `tokens` tokens and several rows: was the memory full? Then batches are half as long
    /// from now on, and this one is to be tried again in parts.
    pub(crate) fn halves_batches(&self, error: &EngineError, tokens: usize) -> bool {
        if !matches!(error, EngineError::Backend(BackendError::OutOfMemory { .. })) || tokens < 2 {
            return false;
        }
        self.max_tokens.fetch_min(tokens / 2, Ordering::Relaxed);
        tracing::warn!(tokens, "{error}; going on with batches of at most {} tokens", tokens / 2);
        true
    }

    /// The device.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.model.config
    }

    /// Uploads the unembedding's columns of these tokens.
    pub fn answer_columns(&self, tokens: &[u32]) -> Result<AnswerColumns<B>, EngineError> {
        let (columns, bias) = self.model.unembed_columns(tokens)?;
        Ok(AnswerColumns {
            tokens: tokens.to_vec(),
            columns: self.backend.upload(&columns.data)?,
            bias: self.backend.upload(&bias)?,
        })
    }

    /// The whole unembedding, packed when first asked for.
    fn unembedding(&self) -> Result<&B::Weight, EngineError> {
        if let Some(weight) = self.unembedding.get() {
            return Ok(weight);
        }
        let weights = self.model.unembedding()?;
        let packed = self.backend.pack(&weights.weight, &weights.bias)?;
        Ok(self.unembedding.get_or_init(|| packed))
    }

    /// The attention of block `layer`.
    fn heads(&self, layer: usize) -> Heads {
        let config = self.config();
        Heads {
            count: config.n_heads,
            kv_count: config.n_kv_heads,
            width: config.d_head,
            scale: config.score_scale(layer),
            window: config.window(layer),
        }
    }

    fn activation(&self) -> Activation {
        self.config().activation
    }
}
