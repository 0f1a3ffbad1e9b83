//! GPT-2: learned positions, products stored as (in, out), head tied to the embedding.

use super::layout::columns;
use super::{Architecture, OuterNames, Role, TensorSpec, norm};
use crate::model::config::ConfigFile;
use crate::model::source::WeightSource;
use crate::model::{LayerWeights, LinearWeights, ModelConfig, ModelError};
use crate::types::{Activation, Matrix, NormKind, Positions};

/// A GPT-2 of some size.
#[derive(Debug, Clone)]
pub(crate) struct Gpt2 {
    config: ModelConfig,
    tied: bool,
}

impl Gpt2 {
    /// A member of the family with its head tied to the embedding.
    pub fn new(config: ModelConfig) -> Self {
        Self { config, tied: true }
    }

    /// Reads `config.json`.
    pub fn read(file: &ConfigFile) -> Result<Self, ModelError> {
        // A block that is not there. (`reorder_and_upcast_attn` only changes the rounding.)
        file.require_flag("add_cross_attention", false)?;
        file.flag("reorder_and_upcast_attn", false)?;
        // The library takes the names that other families use as well.
        let name = |own: &'static str, other: &'static str| if file.mentions(other) { other } else { own };
        let (width, heads) = (name("n_embd", "hidden_size"), name("n_head", "num_attention_heads"));
        let (d_model, n_heads) = (file.count(width, 768)?, file.count(heads, 12)?);
        let d_head = file.equal_shares(width, d_model, heads, n_heads)?;
        let config = ModelConfig {
            n_layers: file.depth(name("n_layer", "num_hidden_layers"), 12)?,
            d_model,
            n_heads,
            n_kv_heads: n_heads,
            d_head,
            d_mlp: file.optional_count("n_inner")?.unwrap_or(4 * d_model),
            n_ctx: file.count(name("n_positions", "max_position_embeddings"), 1024)?,
            d_vocab: file.count("vocab_size", 50_257)?,
            norm: NormKind::Layer,
            norm_eps: file.epsilon("layer_norm_epsilon", 1e-5)?,
            positions: Positions::Learned,
            attention_window: None,
            full_attention: Vec::new(),
            scores_by_width: file.flag("scale_attn_weights", true)?,
            scores_by_depth: file.flag("scale_attn_by_inverse_layer_idx", false)?,
            qk_norm: false,
            activation: file.activation("activation_function", Activation::GeluTanh)?,
            gated_mlp: false,
            parallel_residual: false,
        };
        Ok(Self { config, tied: file.flag("tie_word_embeddings", true)? })
    }
}

impl Architecture for Gpt2 {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    fn depth_field(&self) -> &'static str {
        "n_layer"
    }

    fn tied(&self) -> bool {
        self.tied
    }

    fn outer(&self) -> OuterNames {
        OuterNames {
            embed: "wte.weight",
            position: Some("wpe.weight"),
            final_gain: "ln_f.weight",
            final_bias: Some("ln_f.bias"),
            unembed: "lm_head.weight",
            blocks: "h.",
        }
    }

    fn tensors(&self) -> Vec<TensorSpec> {
        let ModelConfig { d_model: d, d_mlp, d_vocab, n_ctx, .. } = self.config;
        let mut specs = vec![
            TensorSpec::new("wte.weight", &[d_vocab, d], Role::Weight),
            TensorSpec::new("wpe.weight", &[n_ctx, d], Role::Weight),
            TensorSpec::new("ln_f.weight", &[d], Role::Gain),
            TensorSpec::new("ln_f.bias", &[d], Role::Bias),
            TensorSpec::new("lm_head.weight", &[d_vocab, d], Role::Weight),
        ];
        for layer in 0..self.config.n_layers {
            let mut add = |name: &str, shape: &[usize], role| {
                specs.push(TensorSpec::new(format!("h.{layer}.{name}"), shape, role));
            };
            add("ln_1.weight", &[d], Role::Gain);
            add("ln_1.bias", &[d], Role::Bias);
            add("attn.c_attn.weight", &[d, 3 * d], Role::Weight);
            add("attn.c_attn.bias", &[3 * d], Role::Bias);
            add("attn.c_proj.weight", &[d, d], Role::OutputProjection);
            add("attn.c_proj.bias", &[d], Role::Bias);
            add("ln_2.weight", &[d], Role::Gain);
            add("ln_2.bias", &[d], Role::Bias);
            add("mlp.c_fc.weight", &[d, d_mlp], Role::Weight);
            add("mlp.c_fc.bias", &[d_mlp], Role::Bias);
            add("mlp.c_proj.weight", &[d_mlp, d], Role::OutputProjection);
            add("mlp.c_proj.bias", &[d], Role::Bias);
        }
        specs
    }

    fn layer(&self, source: &WeightSource, layer: usize) -> Result<LayerWeights, ModelError> {
        let ModelConfig { d_model: d, d_mlp, .. } = self.config;
        let name = |part: &str| format!("h.{layer}.{part}");
        let linear = |part: &str, rows, cols| -> Result<LinearWeights, ModelError> {
            let weight = Matrix::new(rows, cols, source.tensor(&name(&format!("{part}.weight")))?.into_owned());
            Ok(LinearWeights { weight, bias: source.tensor(&name(&format!("{part}.bias")))?.into_owned() })
        };
        let product = source.tensor(&name("attn.c_attn.weight"))?;
        let bias = source.tensor(&name("attn.c_attn.bias"))?;
        let part = |range: std::ops::Range<usize>| LinearWeights {
            bias: bias[range.clone()].to_vec(),
            weight: columns(&product, 3 * d, range),
        };
        Ok(LayerWeights {
            ln1: Some(norm(source, &name("ln_1.weight"), Some(&name("ln_1.bias")))?),
            query: part(0..d),
            key_value: part(d..3 * d),
            query_norm: None,
            key_norm: None,
            attn_out: linear("attn.c_proj", d, d)?,
            ln2: Some(norm(source, &name("ln_2.weight"), Some(&name("ln_2.bias")))?),
            mlp_gate: None,
            mlp_in: linear("mlp.c_fc", d, d_mlp)?,
            mlp_out: linear("mlp.c_proj", d_mlp, d)?,
        })
    }
}
