//! One file per family of transformers: how its `config.json` and its tensors become ours.
//!
//! A family is added by one file that implements [`Architecture`] and one line in [`read`].

mod gpt2;
mod gpt_neox;
mod layout;
mod llama;
mod rotary;

pub(crate) use gpt_neox::GptNeox;
pub(crate) use gpt2::Gpt2;
pub(crate) use layout::transposed;
pub(crate) use llama::{Kind as LlamaKind, Llama};

use super::config::ConfigFile;
use super::source::WeightSource;
use super::{LayerWeights, LinearWeights, ModelConfig, ModelError, NormWeights};
use std::borrow::Cow;
use std::fmt::Debug;

/// What a tensor is for: decides how a random model draws it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// An embedding, or a product's matrix.
    Weight,
    /// A matrix that writes to the residual stream.
    OutputProjection,
    /// Added after a product or a norm.
    Bias,
    /// Multiplies a normalised value.
    Gain,
}

/// A tensor that the checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    /// Name without the family's prefix.
    pub name: String,
    /// Another name that some versions of the library write.
    pub also: Option<&'static str>,
    /// Shape in the file.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
}

impl TensorSpec {
    fn new(name: impl Into<String>, shape: &[usize], role: Role) -> Self {
        Self { name: name.into(), also: None, shape: shape.to_vec(), role }
    }
}

/// Names of the tensors outside the blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OuterNames {
    /// `W_E`, (d_vocab, d_model).
    pub embed: &'static str,
    /// `W_pos`, (n_ctx, d_model), where positions are learned.
    pub position: Option<&'static str>,
    /// Gain of the last norm.
    pub final_gain: &'static str,
    /// Bias of the last norm, if it has one.
    pub final_bias: Option<&'static str>,
    /// `W_U` transposed, (d_vocab, d_model).
    pub unembed: &'static str,
    /// What the names of a block's tensors start with, before the block's number.
    pub blocks: &'static str,
}

/// A family with the shape of one of its members.
pub(crate) trait Architecture: Debug + Send + Sync {
    /// The shape.
    fn config(&self) -> &ModelConfig;
    /// What tensor names, but not the head's, start with when the checkpoint was saved with a language-model head.
    fn prefix(&self) -> &'static str;
    /// The field of `config.json` that tells the number of blocks.
    fn depth_field(&self) -> &'static str {
        "num_hidden_layers"
    }
    /// Is the head the embedding, so that a checkpoint may hold it under either name?
    fn tied(&self) -> bool;
    /// Do models of this family see a beginning-of-sequence token in front of a text, as TransformerLens has them? If not,
    /// only those whose tokenizer puts one there.
    fn prepends_bos(&self) -> bool {
        true
    }
    /// Every tensor the model needs, the head's too when it is tied.
    fn tensors(&self) -> Vec<TensorSpec>;
    /// Where the tensors outside the blocks are.
    fn outer(&self) -> OuterNames;
    /// Block `layer`'s weights, not processed.
    fn layer(&self, source: &WeightSource, layer: usize) -> Result<LayerWeights, ModelError>;
}

/// Values of `model_type` that [`read`] knows.
const SUPPORTED: &str = "gpt2, gpt_neox, llama, mistral, qwen2, qwen3";

/// Finds the family that `config.json` names and reads its shape.
pub(crate) fn read(file: &ConfigFile) -> Result<Box<dyn Architecture>, ModelError> {
    if let Some(quantised) = file.object("quantization_config")? {
        let method = quantised.get("quant_method").map_or_else(|| "unnamed".to_owned(), ToString::to_string);
        let what = format!("field `quantization_config`, method {method}");
        return Err(ModelError::Quantised { path: file.path().into(), what });
    }
    match file.text("model_type")? {
        Some("gpt2") => Ok(Box::new(Gpt2::read(file)?)),
        Some("gpt_neox") => Ok(Box::new(GptNeox::read(file)?)),
        Some("llama") => Ok(Box::new(Llama::read(file, LlamaKind::Llama)?)),
        Some("mistral") => Ok(Box::new(Llama::read(file, LlamaKind::Mistral)?)),
        Some("qwen2") => Ok(Box::new(Llama::read(file, LlamaKind::Qwen2)?)),
        Some("qwen3") => Ok(Box::new(Llama::read(file, LlamaKind::Qwen3)?)),
        other => Err(ModelError::Architecture {
            path: file.path().into(),
            found: other.map_or_else(|| "nothing".to_owned(), |name| format!("`{name}`")),
            supported: SUPPORTED.to_owned(),
        }),
    }
}

/// A norm's gain, and its bias if it has one.
pub(crate) fn norm(source: &WeightSource, gain: &str, bias: Option<&str>) -> Result<NormWeights, ModelError> {
    let bias = bias.map(|name| source.tensor(name)).transpose()?.map(Cow::into_owned);
    Ok(NormWeights { gain: source.tensor(gain)?.into_owned(), bias })
}

/// A product whose (in, out) matrix has the checkpoint's rows `rows`, each `width` wide, as its columns; zeros for a
/// bias that the checkpoint does not have.
fn linear(
    source: &WeightSource,
    name: &str,
    width: usize,
    rows: &[u32],
    biased: bool,
) -> Result<LinearWeights, ModelError> {
    let weight_name = format!("{name}.weight");
    let weight = transposed(width, rows, |rows, values| source.read_rows(&weight_name, rows, values))?;
    let bias = if biased {
        let values = source.tensor(&format!("{name}.bias"))?;
        rows.iter().map(|row| values[*row as usize]).collect()
    } else {
        vec![0.0; rows.len()]
    };
    Ok(LinearWeights { weight, bias })
}
