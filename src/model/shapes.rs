//! Shapes of published models, for random weights without a download.

use super::ModelConfig;
use super::families::{Architecture, Gpt2, GptNeox, Llama, LlamaKind};
use crate::types::{Activation, NormKind, Positions, RotaryScaling};

/// Alias, n_layers, d_model, n_heads.
const GPT2: [(&str, usize, usize, usize); 4] = [
    ("gpt2-small", 12, 768, 12),
    ("gpt2-medium", 24, 1024, 16),
    ("gpt2-large", 36, 1280, 20),
    ("gpt2-xl", 48, 1600, 25),
];

/// Alias, n_layers, d_model, n_heads, d_vocab (padded to a different multiple in each size), n_ctx.
const NEOX: [(&str, usize, usize, usize, usize, usize); 12] = [
    ("pythia-14m", 6, 128, 4, 50_304, 2048),
    ("pythia-31m", 6, 256, 8, 50_304, 2048),
    ("pythia-70m", 6, 512, 8, 50_304, 2048),
    ("pythia-160m", 12, 768, 12, 50_304, 2048),
    ("pythia-410m", 24, 1024, 16, 50_304, 2048),
    ("pythia-1b", 16, 2048, 8, 50_304, 2048),
    ("pythia-1.4b", 24, 2048, 16, 50_304, 2048),
    ("pythia-2.8b", 32, 2560, 32, 50_304, 2048),
    ("pythia-6.9b", 32, 4096, 32, 50_432, 2048),
    ("pythia-12b", 36, 5120, 40, 50_688, 2048),
    ("stablelm-base-alpha-3b", 16, 4096, 32, 50_688, 4096),
    ("stablelm-base-alpha-7b", 16, 6144, 48, 50_432, 4096),
];

/// A published model of Llama's family.
struct LlamaShape {
    alias: &'static str,
    kind: LlamaKind,
    n_layers: usize,
    d_model: usize,
    n_heads: usize,
    n_kv_heads: usize,
    d_head: usize,
    d_mlp: usize,
    n_ctx: usize,
    d_vocab: usize,
    norm_eps: f32,
    base: f32,
    window: Option<usize>,
    tied: bool,
}

const LLAMA: [LlamaShape; 4] = [
    LlamaShape {
        alias: "mistral-7b",
        kind: LlamaKind::Mistral,
        n_layers: 32,
        d_model: 4096,
        n_heads: 32,
        n_kv_heads: 8,
        d_head: 128,
        d_mlp: 14_336,
        n_ctx: 32_768,
        d_vocab: 32_000,
        norm_eps: 1e-5,
        base: 10_000.0,
        window: Some(4096),
        tied: false,
    },
    LlamaShape {
        alias: "llama-3-8b",
        kind: LlamaKind::Llama,
        n_layers: 32,
        d_model: 4096,
        n_heads: 32,
        n_kv_heads: 8,
        d_head: 128,
        d_mlp: 14_336,
        n_ctx: 8192,
        d_vocab: 128_256,
        norm_eps: 1e-5,
        base: 500_000.0,
        window: None,
        tied: false,
    },
    LlamaShape {
        alias: "qwen2.5-0.5b",
        kind: LlamaKind::Qwen2,
        n_layers: 24,
        d_model: 896,
        n_heads: 14,
        n_kv_heads: 2,
        d_head: 64,
        d_mlp: 4864,
        n_ctx: 32_768,
        d_vocab: 151_936,
        norm_eps: 1e-6,
        base: 1_000_000.0,
        window: None,
        tied: true,
    },
    LlamaShape {
        alias: "qwen3-0.6b",
        kind: LlamaKind::Qwen3,
        n_layers: 28,
        d_model: 1024,
        n_heads: 16,
        n_kv_heads: 8,
        d_head: 128,
        d_mlp: 3072,
        n_ctx: 32_768,
        d_vocab: 151_936,
        norm_eps: 1e-6,
        base: 1_000_000.0,
        window: None,
        tied: true,
    },
];

/// The architecture of the published model `alias`.
pub(crate) fn architecture(alias: &str) -> Option<Box<dyn Architecture>> {
    if let Some(&(_, n_layers, d_model, n_heads)) = GPT2.iter().find(|shape| shape.0 == alias) {
        return Some(Box::new(Gpt2::new(ModelConfig {
            n_ctx: 1024,
            d_vocab: 50_257,
            positions: Positions::Learned,
            activation: Activation::GeluTanh,
            ..plain(n_layers, d_model, n_heads)
        })));
    }
    if let Some(&(_, n_layers, d_model, n_heads, d_vocab, n_ctx)) = NEOX.iter().find(|shape| shape.0 == alias) {
        let config = plain(n_layers, d_model, n_heads);
        let positions = rotary(config.d_head / 4, 10_000.0);
        return Some(Box::new(GptNeox::new(ModelConfig {
            n_ctx,
            d_vocab,
            positions,
            parallel_residual: true,
            ..config
        })));
    }
    LLAMA.iter().find(|shape| shape.alias == alias).map(|shape| Box::new(llama(shape)) as Box<dyn Architecture>)
}

/// What GPT-2 and GPT-NeoX share.
fn plain(n_layers: usize, d_model: usize, n_heads: usize) -> ModelConfig {
    ModelConfig {
        n_layers,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        d_head: d_model / n_heads,
        d_mlp: 4 * d_model,
        n_ctx: 0,
        d_vocab: 0,
        norm: NormKind::Layer,
        norm_eps: 1e-5,
        positions: Positions::Learned,
        attention_window: None,
        full_attention: Vec::new(),
        scores_by_width: true,
        scores_by_depth: false,
        qk_norm: false,
        activation: Activation::Gelu,
        gated_mlp: false,
        parallel_residual: false,
    }
}

fn rotary(dims: usize, base: f32) -> Positions {
    Positions::Rotary { dims, base, scaling: RotaryScaling::None }
}

fn llama(shape: &LlamaShape) -> Llama {
    let config = ModelConfig {
        n_kv_heads: shape.n_kv_heads,
        d_head: shape.d_head,
        d_mlp: shape.d_mlp,
        n_ctx: shape.n_ctx,
        d_vocab: shape.d_vocab,
        norm: NormKind::Rms,
        norm_eps: shape.norm_eps,
        positions: rotary(shape.d_head, shape.base),
        attention_window: shape.window,
        qk_norm: shape.kind == LlamaKind::Qwen3,
        activation: Activation::Silu,
        gated_mlp: true,
        ..plain(shape.n_layers, shape.d_model, shape.n_heads)
    };
    Llama::new(config, shape.kind, shape.tied)
}

/// The aliases that have a shape.
pub(crate) fn aliases() -> impl Iterator<Item = &'static str> {
    let llama = LLAMA.iter().map(|shape| shape.alias);
    GPT2.iter().map(|shape| shape.0).chain(NEOX.iter().map(|shape| shape.0)).chain(llama)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::ConfigFile;
    use crate::model::families;
    use serde_json::json;
    use std::path::Path;

    /// The fields of the published `config.json` files that decide a shape.
    fn published(alias: &str) -> serde_json::Value {
        match alias {
            "stablelm-base-alpha-3b" => json!({
                "model_type": "gpt_neox", "hidden_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 32,
                "intermediate_size": 16384, "max_position_embeddings": 4096, "vocab_size": 50688, "hidden_act": "gelu",
                "layer_norm_eps": 1e-05, "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": true,
                "tie_word_embeddings": false
            }),
            "stablelm-base-alpha-7b" => json!({
                "model_type": "gpt_neox", "hidden_size": 6144, "num_hidden_layers": 16, "num_attention_heads": 48,
                "intermediate_size": 24576, "max_position_embeddings": 4096, "vocab_size": 50432, "hidden_act": "gelu",
                "layer_norm_eps": 1e-05, "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": true,
                "tie_word_embeddings": false
            }),
            "mistral-7b" => json!({
                "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 32768,
                "vocab_size": 32000, "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
                "sliding_window": 4096, "tie_word_embeddings": false
            }),
            "llama-3-8b" => json!({
                "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 8192,
                "vocab_size": 128256, "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 500000.0,
                "rope_scaling": null, "attention_bias": false, "pretraining_tp": 1, "tie_word_embeddings": false
            }),
            "qwen2.5-0.5b" => json!({
                "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
                "num_key_value_heads": 2, "intermediate_size": 4864, "max_position_embeddings": 32768,
                "vocab_size": 151936, "hidden_act": "silu", "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
                "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 24, "use_mrope": false,
                "tie_word_embeddings": true
            }),
            "qwen3-0.6b" => json!({
                "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
                "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
                "max_position_embeddings": 32768, "vocab_size": 151936, "hidden_act": "silu", "rms_norm_eps": 1e-06,
                "rope_theta": 1000000, "rope_scaling": null, "use_sliding_window": false, "sliding_window": null,
                "max_window_layers": 28, "attention_bias": false, "tie_word_embeddings": true
            }),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn published_configurations_are_read_as_these_shapes() {
        for alias in aliases().filter(|alias| !alias.starts_with("gpt2") && !alias.starts_with("pythia")) {
            let file = ConfigFile::parse(Path::new("config.json"), published(alias).to_string().as_bytes()).unwrap();
            let (read, shape) = (families::read(&file).unwrap(), architecture(alias).unwrap());
            assert_eq!(read.config(), shape.config(), "{alias}");
            assert_eq!((read.tensors(), read.outer().unembed), (shape.tensors(), shape.outer().unembed), "{alias}");
        }
    }

    /// StableLM alpha's published counts are those of its training, which kept every vector but two products' biases on
    /// each of 4 (3b) or 2 (7b) devices: 6 vectors of width `d_model` in 16
    /// layers, and 2 behind them, once per extra device.
    #[test]
    fn stablelm_counts_are_the_published_ones_without_copies() {
        for (alias, published, copies) in [
            ("stablelm-base-alpha-3b", 3_638_525_952, 3 * 98 * 4096),
            ("stablelm-base-alpha-7b", 7_869_358_080, 98 * 6144),
        ] {
            let tensors = architecture(alias).unwrap().tensors();
            let count: usize = tensors.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
            assert_eq!(count + copies, published, "{alias}");
        }
    }

    /// Parameter counts as published (tied heads counted once; StableLM's: see above), in millions.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        let expected = [
            ("gpt2-small", 124.44),
            ("gpt2-medium", 354.82),
            ("gpt2-large", 774.03),
            ("gpt2-xl", 1557.61),
            ("pythia-14m", 14.07),
            ("pythia-31m", 30.49),
            ("pythia-70m", 70.43),
            ("pythia-160m", 162.32),
            ("pythia-410m", 405.33),
            ("pythia-1b", 1011.78),
            ("pythia-1.4b", 1414.65),
            ("pythia-2.8b", 2775.21),
            ("pythia-6.9b", 6857.30),
            ("pythia-12b", 11846.07),
            ("stablelm-base-alpha-3b", 3637.32),
            ("stablelm-base-alpha-7b", 7868.76),
            ("mistral-7b", 7241.73),
            ("llama-3-8b", 8030.26),
            ("qwen2.5-0.5b", 494.03),
            ("qwen3-0.6b", 596.05),
        ];
        assert_eq!(aliases().collect::<Vec<_>>(), expected.map(|row| row.0));
        for (alias, millions) in expected {
            let architecture = architecture(alias).unwrap();
            let counted = |name: &str| !(architecture.tied() && name == architecture.outer().unembed);
            let tensors = architecture.tensors().into_iter().filter(|spec| counted(&spec.name));
            let count: usize = tensors.map(|spec| spec.shape.iter().product::<usize>()).sum();
            assert!((count as f64 / 1e6 - millions).abs() < 0.01, "{alias}: {count}");
        }
    }
}
