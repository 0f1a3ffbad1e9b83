//! GPT-NeoX (Pythia, StableLM alpha): rotary positions on part of every head, products stored as (out, in), queries,
//! keys and values interleaved head by head, attention and MLP usually side by side.

use super::rotary::{self, RotaryFields};
use super::{Architecture, OuterNames, Role, TensorSpec, linear, norm};
use crate::model::config::ConfigFile;
use crate::model::source::WeightSource;
use crate::model::{LayerWeights, ModelConfig, ModelError};
use crate::types::{Activation, NormKind};

/// What the library calls the rotary settings, and their defaults.
const ROTARY: RotaryFields = RotaryFields {
    base: "rotary_emb_base",
    share: "rotary_pct",
    default_share: 0.25,
    partial: true,
    default_n_ctx: 2048,
};

/// A GPT-NeoX of some size.
#[derive(Debug, Clone)]
pub(crate) struct GptNeox {
    config: ModelConfig,
    tied: bool,
    attention_bias: bool,
}

impl GptNeox {
    /// A member of the family with biases everywhere and a head of its own.
    pub fn new(config: ModelConfig) -> Self {
        Self { config, tied: false, attention_bias: true }
    }

    /// Reads `config.json`.
    pub fn read(file: &ConfigFile) -> Result<Self, ModelError> {
        let (d_model, n_heads) = (file.count("hidden_size", 6144)?, file.count("num_attention_heads", 64)?);
        let d_head = file.equal_shares("hidden_size", d_model, "num_attention_heads", n_heads)?;
        let config = ModelConfig {
            n_layers: file.depth("num_hidden_layers", 44)?,
            d_model,
            n_heads,
            n_kv_heads: n_heads,
            d_head,
            d_mlp: file.count("intermediate_size", 24_576)?,
            n_ctx: file.context("max_position_embeddings", ROTARY.default_n_ctx)?,
            d_vocab: file.count("vocab_size", 50_432)?,
            norm: NormKind::Layer,
            norm_eps: file.epsilon("layer_norm_eps", 1e-5)?,
            positions: rotary::read(file, d_head, ROTARY)?,
            attention_window: None,
            full_attention: Vec::new(),
            scores_by_width: true,
            scores_by_depth: false,
            qk_norm: false,
            activation: file.activation("hidden_act", Activation::Gelu)?,
            gated_mlp: false,
            parallel_residual: file.flag("use_parallel_residual", true)?,
        };
        let tied = file.flag("tie_word_embeddings", false)?;
        Ok(Self { config, tied, attention_bias: file.flag("attention_bias", true)? })
    }
}

impl Architecture for GptNeox {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn prefix(&self) -> &'static str {
        "gpt_neox."
    }

    fn tied(&self) -> bool {
        self.tied
    }

    fn outer(&self) -> OuterNames {
        OuterNames {
            embed: "embed_in.weight",
            position: None,
            final_gain: "final_layer_norm.weight",
            final_bias: Some("final_layer_norm.bias"),
            unembed: "embed_out.weight",
            blocks: "layers.",
        }
    }

    fn tensors(&self) -> Vec<TensorSpec> {
        let ModelConfig { d_model: d, d_mlp, d_vocab, .. } = self.config;
        let mut specs = vec![
            TensorSpec::new("embed_in.weight", &[d_vocab, d], Role::Weight),
            TensorSpec::new("final_layer_norm.weight", &[d], Role::Gain),
            TensorSpec::new("final_layer_norm.bias", &[d], Role::Bias),
        ];
        let head = TensorSpec::new("embed_out.weight", &[d_vocab, d], Role::Weight);
        specs.push(TensorSpec { also: Some("lm_head.weight"), ..head });
        for layer in 0..self.config.n_layers {
            let mut add = |name: &str, shape: &[usize], role| {
                specs.push(TensorSpec::new(format!("layers.{layer}.{name}"), shape, role));
            };
            add("input_layernorm.weight", &[d], Role::Gain);
            add("input_layernorm.bias", &[d], Role::Bias);
            add("attention.query_key_value.weight", &[3 * d, d], Role::Weight);
            add("attention.dense.weight", &[d, d], Role::OutputProjection);
            if self.attention_bias {
                add("attention.query_key_value.bias", &[3 * d], Role::Bias);
                add("attention.dense.bias", &[d], Role::Bias);
            }
            add("post_attention_layernorm.weight", &[d], Role::Gain);
            add("post_attention_layernorm.bias", &[d], Role::Bias);
            add("mlp.dense_h_to_4h.weight", &[d_mlp, d], Role::Weight);
            add("mlp.dense_h_to_4h.bias", &[d_mlp], Role::Bias);
            add("mlp.dense_4h_to_h.weight", &[d, d_mlp], Role::OutputProjection);
            add("mlp.dense_4h_to_h.bias", &[d], Role::Bias);
        }
        specs
    }

    fn layer(&self, source: &WeightSource, layer: usize) -> Result<LayerWeights, ModelError> {
        let ModelConfig { d_model: d, d_mlp, d_head, .. } = self.config;
        let name = |part: &str| format!("layers.{layer}.{part}");
        // The checkpoint's rows are (head, q | k | v, d_head); columns of ours are (q | k | v, head, d_head).
        let interleaved =
            |part: usize| (0..d).map(move |column| ((column / d_head * 3 + part) * d_head + column % d_head) as u32);
        let biased = self.attention_bias;
        let attention = name("attention.query_key_value");
        let query: Vec<u32> = interleaved(0).collect();
        let key_value: Vec<u32> = interleaved(1).chain(interleaved(2)).collect();
        let whole = |part: &str, width, count: usize, biased| {
            linear(source, &name(part), width, &(0..count as u32).collect::<Vec<_>>(), biased)
        };
        let norm = |part: &str| norm(source, &name(&format!("{part}.weight")), Some(&name(&format!("{part}.bias"))));
        Ok(LayerWeights {
            ln1: Some(norm("input_layernorm")?),
            query: linear(source, &attention, d, &query, biased)?,
            key_value: linear(source, &attention, d, &key_value, biased)?,
            query_norm: None,
            key_norm: None,
            attn_out: whole("attention.dense", d, d, biased)?,
            ln2: Some(norm("post_attention_layernorm")?),
            mlp_gate: None,
            mlp_in: whole("mlp.dense_h_to_4h", d, d_mlp, true)?,
            mlp_out: whole("mlp.dense_4h_to_h", d_mlp, d, true)?,
        })
    }
}
