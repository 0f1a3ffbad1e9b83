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
use crate::types::{Matrix, NormKind};
use serde_json::Value;

/// What the library calls the rotary settings, and their defaults.
const ROTARY: RotaryFields = RotaryFields { base: "rope_theta", share: "partial_rotary_factor", default_share: 1.0 };

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
    tied: bool,
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
}

impl Llama {
    /// A published model of this kind, with the biases that its kind usually has.
    pub fn new(config: ModelConfig, kind: Kind, tied: bool) -> Self {
        Self { config, tied, qkv_bias: kind == Kind::Qwen2, output_bias: false, mlp_bias: false }
    }

    /// Reads `config.json`.
    pub fn read(file: &ConfigFile, kind: Kind) -> Result<Self, ModelError> {
        let (n_heads, n_layers) = (file.count("num_attention_heads")?, file.depth("num_hidden_layers")?);
        let d_head = head_width(file, kind)?;
        let config = ModelConfig {
            n_layers,
            d_model: file.count("hidden_size")?,
            n_heads,
            n_kv_heads: key_value_heads(file, kind, n_heads)?,
            d_head,
            d_mlp: file.count("intermediate_size")?,
            n_ctx: file.count("max_position_embeddings")?,
            d_vocab: file.count("vocab_size")?,
            norm: NormKind::Rms,
            norm_eps: file.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            positions: rotary::read(file, d_head, ROTARY)?,
            attention_window: window(file, kind, n_layers)?,
            qk_norm: kind == Kind::Qwen3,
            activation: file.activation("hidden_act", "silu")?,
            gated_mlp: true,
            parallel_residual: false,
        };
        let optional_bias = matches!(kind, Kind::Llama | Kind::Qwen3) && file.flag("attention_bias", false)?;
        Ok(Self {
            config,
            tied: file.flag("tie_word_embeddings", false)?,
            qkv_bias: kind == Kind::Qwen2 || optional_bias,
            output_bias: optional_bias,
            mlp_bias: kind == Kind::Llama && file.flag("mlp_bias", false)?,
        })
    }
}

/// `head_dim`; where the file does not say, the residual stream shared out among the heads, or Qwen3's 128.
fn head_width(file: &ConfigFile, kind: Kind) -> Result<usize, ModelError> {
    match file.optional_count("head_dim")? {
        Some(width) => Ok(width),
        None if kind == Kind::Qwen3 => Ok(128),
        None => file.head_width("hidden_size", "num_attention_heads"),
    }
}

/// Number of heads with keys and values of their own. Only old Llama files leave it out: there are no groups then.
fn key_value_heads(file: &ConfigFile, kind: Kind, n_heads: usize) -> Result<usize, ModelError> {
    let field = "num_key_value_heads";
    let count = match file.optional_count(field)? {
        Some(count) => count,
        None if kind == Kind::Llama => n_heads,
        None => return Err(file.error(field, "a whole number")),
    };
    if !n_heads.is_multiple_of(count) {
        return Err(file.error(field, format!("a divisor of num_attention_heads = {n_heads}")));
    }
    Ok(count)
}

/// The attention window, which must be the same in every block.
fn window(file: &ConfigFile, kind: Kind, n_layers: usize) -> Result<Option<usize>, ModelError> {
    let wanted = match kind {
        Kind::Llama => false,
        // The library's default is 4096; `null` (v0.2 and later) switches it off.
        Kind::Mistral if !file.mentions("sliding_window") => return Ok(Some(4096)),
        Kind::Mistral => file.get("sliding_window").is_some(),
        Kind::Qwen2 | Kind::Qwen3 => file.flag("use_sliding_window", false)?,
    };
    if wanted && kind != Kind::Mistral {
        let first = file.count("max_window_layers").or_else(|error| match file.get("max_window_layers") {
            Some(Value::Number(number)) if number.as_u64() == Some(0) => Ok(0),
            _ => Err(error),
        })?;
        if first >= n_layers {
            return Ok(None);
        }
        if first > 0 {
            return Err(file.error("max_window_layers", "0 (a window in some of the blocks only is not supported)"));
        }
    }
    if let Some(Value::Array(types)) = file.get("layer_types") {
        let only = if wanted { "sliding_attention" } else { "full_attention" };
        if types.iter().any(|found| found.as_str() != Some(only)) {
            return Err(file.error("layer_types", format!("`{only}` in every block (mixtures are not supported)")));
        }
    }
    if wanted { file.count("sliding_window").map(Some) } else { Ok(None) }
}

impl Architecture for Llama {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn prefix(&self) -> &'static str {
        "model."
    }

    fn outer(&self) -> OuterNames {
        OuterNames {
            embed: "embed_tokens.weight",
            position: None,
            final_gain: "norm.weight",
            final_bias: None,
            unembed: if self.tied { "embed_tokens.weight" } else { "lm_head.weight" },
        }
    }

    fn tensors(&self) -> Vec<TensorSpec> {
        let ModelConfig { d_model: d, d_mlp, d_vocab, d_head, .. } = self.config;
        let (d_attn, d_kv) = (self.config.d_attn(), self.config.d_kv());
        let mut specs = vec![
            TensorSpec::new("embed_tokens.weight", &[d_vocab, d], Role::Weight),
            TensorSpec::new("norm.weight", &[d], Role::Gain),
        ];
        if !self.tied {
            specs.push(TensorSpec::new("lm_head.weight", &[d_vocab, d], Role::Weight));
        }
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
