//! Llama and its relatives (Mistral, Qwen2, Qwen3): RMS norms, gated MLPs, heads that share keys and values, rotary
//! positions over whole heads, products stored as (out, in).
//!
//! The members differ in biases, in norms of queries and keys, in the attention window, and in what their configuration
//! leaves unsaid.

use super::rotary::{self, RotaryFields};
use super::{Architecture, OuterNames, Role, TensorSpec, linear, norm};
use crate::model::config::ConfigFile;
use crate::model::source::WeightSource;
use crate::model::{LayerWeights, LinearWeights, ModelConfig, ModelError, NormWeights};
use crate::types::{Activation, Matrix, NormKind};
use serde_json::Value;

/// Which member of the family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `llama`: biases where the configuration asks for them.
    Llama,
    /// `mistral`: no biases, a sliding window in every block unless switched off.
    Mistral,
    /// `qwen2` (Qwen2.5 too): biases on queries, keys and values.
    Qwen2,
    /// `qwen3`: norms of queries and keys, no biases.
    Qwen3,
}

/// A member of the family of some size.
#[derive(Debug, Clone)]
pub(crate) struct Llama {
    config: ModelConfig,
    kind: Kind,
    tied: bool,
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
}

impl Llama {
    /// A published model of this kind, with the biases that its kind usually has.
    pub fn new(config: ModelConfig, kind: Kind, tied: bool) -> Self {
        Self { config, kind, tied, qkv_bias: kind == Kind::Qwen2, output_bias: false, mlp_bias: false }
    }

    /// Reads `config.json`.
    pub fn read(file: &ConfigFile, kind: Kind) -> Result<Self, ModelError> {
        let defaults = kind.defaults();
        let (d_model, n_heads) = (file.count("hidden_size", 4096)?, file.count("num_attention_heads", 32)?);
        let n_layers = file.depth("num_hidden_layers", 32)?;
        let d_head = head_width(file, kind, d_model, n_heads)?;
        let rotary = RotaryFields {
            base: "rope_theta",
            share: "partial_rotary_factor",
            default_share: 1.0,
            partial: false,
            default_n_ctx: defaults.n_ctx,
        };
        let (attention_window, full_attention) = windows(file, kind, n_layers)?;
        let config = ModelConfig {
            n_layers,
            d_model,
            n_heads,
            n_kv_heads: key_value_heads(file, defaults.n_kv_heads, n_heads)?,
            d_head,
            d_mlp: file.count("intermediate_size", defaults.d_mlp)?,
            n_ctx: file.context("max_position_embeddings", defaults.n_ctx)?,
            d_vocab: file.count("vocab_size", defaults.d_vocab)?,
            norm: NormKind::Rms,
            norm_eps: file.epsilon("rms_norm_eps", 1e-6)?,
            positions: rotary::read(file, d_head, rotary)?,
            attention_window,
            full_attention,
            scores_by_width: true,
            scores_by_depth: false,
            qk_norm: kind == Kind::Qwen3,
            activation: file.activation("hidden_act", Activation::Silu)?,
            gated_mlp: true,
            parallel_residual: false,
        };
        let optional_bias = matches!(kind, Kind::Llama | Kind::Qwen3) && file.flag("attention_bias", false)?;
        Ok(Self {
            config,
            kind,
            tied: file.flag("tie_word_embeddings", false)?,
            qkv_bias: kind == Kind::Qwen2 || optional_bias,
            output_bias: optional_bias,
            mlp_bias: kind == Kind::Llama && file.flag("mlp_bias", false)?,
        })
    }
}

/// What a member of the family has where its file does not say.
struct Defaults {
    d_mlp: usize,
    /// `None`: as many as query heads.
    n_kv_heads: Option<usize>,
    n_ctx: usize,
    d_vocab: usize,
}

impl Kind {
    fn defaults(self) -> Defaults {
        match self {
            Self::Llama => Defaults { d_mlp: 11_008, n_kv_heads: None, n_ctx: 2048, d_vocab: 32_000 },
            Self::Mistral => Defaults { d_mlp: 14_336, n_kv_heads: Some(8), n_ctx: 131_072, d_vocab: 32_000 },
            Self::Qwen2 | Self::Qwen3 => {
                Defaults { d_mlp: 22_016, n_kv_heads: Some(32), n_ctx: 32_768, d_vocab: 151_936 }
            }
        }
    }
}

/// `head_dim`; where the file does not say, the residual stream shared out among the heads, or Qwen3's 128.
fn head_width(file: &ConfigFile, kind: Kind, d_model: usize, n_heads: usize) -> Result<usize, ModelError> {
    let shared = match kind {
        Kind::Llama => file.equal_shares("hidden_size", d_model, "num_attention_heads", n_heads)?,
        Kind::Qwen3 => 128,
        Kind::Mistral | Kind::Qwen2 => d_model / n_heads,
    };
    let optional = matches!(kind, Kind::Llama | Kind::Mistral);
    match file.get("head_dim") {
        None if optional && shared > 0 => Ok(shared),
        _ => file.count("head_dim", shared).and_then(|width| match width {
            0 => {
                Err(file.wrong("num_attention_heads", format!("at most hidden_size = {d_model}"), n_heads.to_string()))
            }
            width => Ok(width),
        }),
    }
}

/// Number of heads with keys and values of their own; `null` means as many as query heads.
fn key_value_heads(file: &ConfigFile, default: Option<usize>, n_heads: usize) -> Result<usize, ModelError> {
    let field = "num_key_value_heads";
    let count = match file.mentions(field) {
        true => file.optional_count(field)?.unwrap_or(n_heads),
        false => default.unwrap_or(n_heads),
    };
    if n_heads.is_multiple_of(count) {
        return Ok(count);
    }
    Err(file.wrong(field, format!("a divisor of num_attention_heads = {n_heads}"), count.to_string()))
}

/// The attention window, and the blocks that have none all the same.
fn windows(file: &ConfigFile, kind: Kind, n_layers: usize) -> Result<(Option<usize>, Vec<usize>), ModelError> {
    const FIELD: &str = "sliding_window";
    // `null` switches the window off.
    let window = || match file.mentions(FIELD) && file.get(FIELD).is_none() {
        true => Ok(None),
        false => file.count(FIELD, 4096).map(Some),
    };
    // The first block that has a window where nobody names the blocks' types.
    let (window, first, switch) = match kind {
        Kind::Llama => return Ok((None, Vec::new())),
        Kind::Mistral => (window()?, 0, None),
        Kind::Qwen2 | Kind::Qwen3 => {
            let used = file.flag("use_sliding_window", false)?;
            let first = file.whole("max_window_layers", 28)?;
            (if used { window()? } else { None }, first, (!used).then_some("use_sliding_window"))
        }
    };
    let sliding = match file.get("layer_types") {
        Some(types) => sliding_layers(file, types, n_layers)?,
        None => (0..n_layers).map(|layer| window.is_some() && layer as i64 >= first).collect(),
    };
    if !sliding.contains(&true) {
        return Ok((None, Vec::new()));
    }
    if window.is_none() {
        return Err(
            file.error(switch.unwrap_or(FIELD), "a window for the blocks that `layer_types` calls `sliding_attention`")
        );
    }
    Ok((window, (0..n_layers).filter(|layer| !sliding[*layer]).collect()))
}

/// Per block: is it called `sliding_attention`?
fn sliding_layers(file: &ConfigFile, types: &Value, n_layers: usize) -> Result<Vec<bool>, ModelError> {
    let sliding = |name: &Value| match name.as_str()? {
        "sliding_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    };
    let list = types.as_array().filter(|list| list.len() == n_layers);
    let layers: Option<Vec<bool>> = list.and_then(|list| list.iter().map(sliding).collect());
    layers.ok_or_else(|| {
        let expected = format!("`full_attention` or `sliding_attention` for each of num_hidden_layers = {n_layers}");
        file.error("layer_types", expected)
    })
}

impl Architecture for Llama {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn tied(&self) -> bool {
        self.tied
    }

    fn prepends_bos(&self) -> bool {
        matches!(self.kind, Kind::Llama | Kind::Mistral)
    }

    fn outer(&self) -> OuterNames {
        OuterNames {
            embed: "embed_tokens.weight",
            position: None,
            final_gain: "norm.weight",
            final_bias: None,
            unembed: "lm_head.weight",
            blocks: "layers.",
        }
    }

    fn tensors(&self) -> Vec<TensorSpec> {
        let ModelConfig { d_model: d, d_mlp, d_vocab, d_head, .. } = self.config;
        let (d_attn, d_kv) = (self.config.d_attn(), self.config.d_kv());
        let mut specs = vec![
            TensorSpec::new("embed_tokens.weight", &[d_vocab, d], Role::Weight),
            TensorSpec::new("norm.weight", &[d], Role::Gain),
            TensorSpec::new("lm_head.weight", &[d_vocab, d], Role::Weight),
        ];
        for layer in 0..self.config.n_layers {
            let mut add = |name: &str, shape: &[usize], role| {
                specs.push(TensorSpec::new(format!("layers.{layer}.{name}"), shape, role));
            };
            add("input_layernorm.weight", &[d], Role::Gain);
            add("post_attention_layernorm.weight", &[d], Role::Gain);
            for (name, width) in [("q", d_attn), ("k", d_kv), ("v", d_kv)] {
                add(&format!("self_attn.{name}_proj.weight"), &[width, d], Role::Weight);
                if self.qkv_bias {
                    add(&format!("self_attn.{name}_proj.bias"), &[width], Role::Bias);
                }
            }
            add("self_attn.o_proj.weight", &[d, d_attn], Role::OutputProjection);
            if self.output_bias {
                add("self_attn.o_proj.bias", &[d], Role::Bias);
            }
            if self.config.qk_norm {
                add("self_attn.q_norm.weight", &[d_head], Role::Gain);
                add("self_attn.k_norm.weight", &[d_head], Role::Gain);
            }
            add("mlp.gate_proj.weight", &[d_mlp, d], Role::Weight);
            add("mlp.up_proj.weight", &[d_mlp, d], Role::Weight);
            add("mlp.down_proj.weight", &[d, d_mlp], Role::OutputProjection);
            if self.mlp_bias {
                add("mlp.gate_proj.bias", &[d_mlp], Role::Bias);
                add("mlp.up_proj.bias", &[d_mlp], Role::Bias);
                add("mlp.down_proj.bias", &[d], Role::Bias);
            }
        }
        specs
    }

    fn layer(&self, source: &WeightSource, layer: usize) -> Result<LayerWeights, ModelError> {
        let ModelConfig { d_model: d, d_mlp, .. } = self.config;
        let (d_attn, d_kv) = (self.config.d_attn(), self.config.d_kv());
        let name = |part: &str| format!("layers.{layer}.{part}");
        let product = |part: &str, width, count: usize, biased| {
            linear(source, &name(part), width, &(0..count as u32).collect::<Vec<_>>(), biased)
        };
        let gain = |part: &str| norm(source, &name(&format!("{part}.weight")), None);
        let head_norm = |part: &str| -> Result<Option<NormWeights>, ModelError> {
            self.config.qk_norm.then(|| gain(part)).transpose()
        };
        let keys = product("self_attn.k_proj", d, d_kv, self.qkv_bias)?;
        let values = product("self_attn.v_proj", d, d_kv, self.qkv_bias)?;
        Ok(LayerWeights {
            ln1: Some(gain("input_layernorm")?),
            query: product("self_attn.q_proj", d, d_attn, self.qkv_bias)?,
            key_value: side_by_side(&keys, &values),
            query_norm: head_norm("self_attn.q_norm")?,
            key_norm: head_norm("self_attn.k_norm")?,
            attn_out: product("self_attn.o_proj", d_attn, d, self.output_bias)?,
            ln2: Some(gain("post_attention_layernorm")?),
            mlp_gate: Some(product("mlp.gate_proj", d, d_mlp, self.mlp_bias)?),
            mlp_in: product("mlp.up_proj", d, d_mlp, self.mlp_bias)?,
            mlp_out: product("mlp.down_proj", d_mlp, d, self.mlp_bias)?,
        })
    }
}

/// Two products of one input as one.
fn side_by_side(left: &LinearWeights, right: &LinearWeights) -> LinearWeights {
    let cols = left.weight.cols + right.weight.cols;
    let mut data = Vec::with_capacity(left.weight.rows * cols);
    for row in 0..left.weight.rows {
        data.extend_from_slice(left.weight.row(row));
        data.extend_from_slice(right.weight.row(row));
    }
    let weight = Matrix::new(left.weight.rows, cols, data);
    LinearWeights { weight, bias: [left.bias.as_slice(), right.bias.as_slice()].concat() }
}
