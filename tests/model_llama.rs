//! Llama's family: what its configurations mean, which are refused, and what weight processing does behind RMS norms.
//! (Against other implementations: engine_parity.rs.)

mod support;

use actpatch::model::{LayerWeights, LinearWeights, LoadOptions, Model, NormWeights, WeightProcessing};
use actpatch::types::{Activation, NormKind, Positions, RotaryScaling};
use serde_json::{Value, json};
use std::path::Path;
use support::{Copy, fixture, load, offline};

const NONE: WeightProcessing = WeightProcessing::none();
const LLAMA: &str = "../engine/llama-tiny";
const MISTRAL: &str = "../engine/mistral-tiny";
const QWEN2: &str = "../engine/qwen2-tiny";
const QWEN3: &str = "../engine/qwen3-tiny";

/// Sums of up to 44 products of f32 values of order 1.
const TOLERANCE: f32 = 1e-5;

fn near(left: &[f32], right: &[f32], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    let worst = left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{what}: off by {worst}");
}

#[test]
fn configurations() {
    let llama = load(&fixture(LLAMA), NONE).unwrap().config;
    assert_eq!((llama.n_heads, llama.n_kv_heads, llama.d_head, llama.d_mlp), (4, 2, 10, 44));
    assert_eq!((llama.norm, llama.norm_eps, llama.activation), (NormKind::Rms, 1e-5, Activation::Silu));
    assert_eq!((llama.gated_mlp, llama.qk_norm, llama.attention_window), (true, false, None));
    let scaling = RotaryScaling::Llama3 {
        factor: 8.0,
        low_frequency_factor: 1.0,
        high_frequency_factor: 2.0,
        original_n_ctx: 16,
    };
    assert_eq!(llama.positions, Positions::Rotary { dims: 10, base: 100.0, scaling });
    let qwen2 = load(&fixture(QWEN2), NONE).unwrap().config;
    let scaling = RotaryScaling::Linear { factor: 2.0 };
    assert_eq!(qwen2.positions, Positions::Rotary { dims: 10, base: 10_000.0, scaling });
    let qwen3 = load(&fixture(QWEN3), NONE).unwrap().config;
    assert_eq!((qwen3.d_head, qwen3.d_attn(), qwen3.d_kv(), qwen3.d_model, qwen3.qk_norm), (14, 56, 28, 36, true));
}

#[test]
fn attention_windows() {
    let window = |name: &str, fields: &[(&str, Value)]| {
        let copy = Copy::of(name);
        for (field, value) in fields {
            copy.config(field, value.clone());
        }
        copy.load().map(|model| model.config.attention_window).map_err(|error| error.to_string())
    };
    assert_eq!(window(MISTRAL, &[]), Ok(Some(5)));
    // Absent means the library's default, `null` means off.
    assert_eq!(window(MISTRAL, &[("sliding_window", Value::Null)]), Ok(Some(4096)));
    let copy = Copy::of(MISTRAL);
    let path = copy.file("config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"sliding_window\": 5", "\"sliding_window\": null");
    std::fs::write(&path, text).unwrap();
    assert_eq!(copy.load().unwrap().config.attention_window, None);
    // Qwen's files name a window and say beside it whether, and from which block on, it is used.
    let full = ("layer_types", Value::Null);
    let using = |first: u32| {
        [
            ("use_sliding_window", json!(true)),
            ("sliding_window", json!(7)),
            full.clone(),
            ("max_window_layers", json!(first)),
        ]
    };
    assert_eq!(window(QWEN2, &[("sliding_window", json!(7))]), Ok(None));
    assert_eq!(window(QWEN2, &using(0)), Ok(Some(7)));
    assert_eq!(window(QWEN2, &using(2)), Ok(None));
    assert!(window(QWEN2, &using(1)).unwrap_err().contains("`max_window_layers`: expected 0"));
    let mixed = json!(["sliding_attention", "full_attention"]);
    assert!(window(QWEN2, &[("layer_types", mixed)]).unwrap_err().contains("`full_attention` in every block"));
}

#[test]
fn configurations_that_cannot_be_honoured_are_refused() {
    let scaling = |fields: Value| ("rope_scaling", fields);
    for (name, (field, value), part) in [
        (
            LLAMA,
            scaling(json!({ "rope_type": "yarn", "factor": 4.0 })),
            "`rope_scaling.rope_type`: expected default, linear or llama3",
        ),
        (
            LLAMA,
            scaling(json!({ "rope_type": "llama3", "factor": 4.0 })),
            "`rope_scaling.low_freq_factor`: expected a number",
        ),
        (
            LLAMA,
            scaling(json!({ "rope_type": "llama3", "low_freq_factor": 4, "high_freq_factor": 4 })),
            "above low_freq_factor",
        ),
        (LLAMA, ("num_key_value_heads", json!(3)), "a divisor of num_attention_heads = 4"),
        (LLAMA, ("num_key_value_heads", json!(4)), "expected shape [40, 40]"),
        (LLAMA, ("head_dim", json!(9)), "which is 9 dimensions"),
        (LLAMA, ("hidden_act", json!("relu2")), "field `hidden_act`"),
        (LLAMA, ("attention_bias", json!(true)), "`layers.0.self_attn.q_proj.bias` of shape [40] is missing"),
        (LLAMA, ("mlp_bias", json!(true)), "`layers.0.mlp.gate_proj.bias` of shape [44] is missing"),
        (LLAMA, ("rms_norm_eps", json!(-1)), "field `rms_norm_eps`"),
        (
            MISTRAL,
            ("num_key_value_heads", Value::Null),
            "`num_key_value_heads`: expected a whole number, found nothing",
        ),
        (QWEN2, ("tie_word_embeddings", json!(false)), "`lm_head.weight` of shape [50, 40] is missing"),
        (QWEN3, ("head_dim", Value::Null), "expected shape [512, 36]"),
    ] {
        let copy = Copy::of(name);
        let message = copy.config(field, value.clone()).complaint();
        assert!(message.contains(part), "{name}: {field} = {value}: {message}");
    }
}

/// `x W + b`.
fn product(x: &[f32], linear: &LinearWeights) -> Vec<f32> {
    let mut out = linear.bias.clone();
    for (row, value) in x.iter().enumerate() {
        out.iter_mut().zip(linear.weight.row(row)).for_each(|(out, weight)| *out += value * weight);
    }
    out
}

fn gained(x: &[f32], norm: &NormWeights) -> Vec<f32> {
    assert!(norm.bias.is_none());
    x.iter().zip(&norm.gain).map(|(x, gain)| x * gain).collect()
}

#[test]
fn folding_an_rms_norm_keeps_every_product_and_centres_nothing() {
    for name in [LLAMA, QWEN2, QWEN3] {
        let plain = load(&fixture(name), NONE).unwrap();
        let folded = load(&fixture(name), WeightProcessing { fold_ln: true, ..NONE }).unwrap();
        let (before, after) = (plain.layer(1).unwrap(), folded.layer(1).unwrap());
        // An RMS norm's output has a mean, and so has this.
        let x: Vec<f32> = (0..plain.config.d_model).map(|i| (i * 37 % 41) as f32 / 20.0 - 0.3).collect();
        let (ln1, ln2) = (before.ln1.as_ref().unwrap(), before.ln2.as_ref().unwrap());
        let gate = |layer: &LayerWeights| layer.mlp_gate.clone().unwrap();
        for (old, new, norm) in [
            (&before.query, &after.query, ln1),
            (&before.key_value, &after.key_value, ln1),
            (&before.mlp_in, &after.mlp_in, ln2),
            (&gate(&before), &gate(&after), ln2),
        ] {
            near(&product(&gained(&x, norm), old), &product(&x, new), name);
        }
        assert!(after.ln1.is_none() && after.ln2.is_none() && folded.final_norm().unwrap().is_none());
        // Norms of queries and keys have the rotation behind them, no product: they stay.
        assert_eq!((&before.query_norm, &before.key_norm), (&after.query_norm, &after.key_norm));
        assert_eq!(before.query_norm.is_some(), name == QWEN3);
        let logits = product(&gained(&x, &plain.final_norm().unwrap().unwrap()), &plain.unembedding().unwrap());
        near(&logits, &product(&x, &folded.unembedding().unwrap()), name);
    }
}

#[test]
fn what_rms_norms_see_is_not_centred_and_the_model_says_so() {
    let asked = WeightProcessing { center_writing_weights: true, ..NONE };
    let (plain, processed) = (load(&fixture(LLAMA), NONE).unwrap(), load(&fixture(LLAMA), asked).unwrap());
    assert_eq!(processed.processing, NONE);
    assert_eq!(plain.layer(0).unwrap(), processed.layer(0).unwrap());
    assert_eq!(plain.embed(&[7]).unwrap(), processed.embed(&[7]).unwrap());
    assert!(load(&fixture("gpt2-tiny"), asked).unwrap().processing.center_writing_weights);
}

#[test]
fn value_biases_of_a_group_are_folded_once_per_query_head() {
    let plain = load(&fixture(QWEN2), NONE).unwrap();
    let folded = load(&fixture(QWEN2), WeightProcessing { fold_value_biases: true, ..NONE }).unwrap();
    let (before, after) = (plain.layer(1).unwrap(), folded.layer(1).unwrap());
    let values = &before.key_value.bias[20..];
    let shared = [&values[..10], &values[..10], &values[10..], &values[10..]].concat();
    near(&product(&shared, &before.attn_out), &after.attn_out.bias, "b_O");
    assert_eq!(after.key_value.bias[20..], [0.0; 20]);
    assert_eq!(after.key_value.bias[..20], before.key_value.bias[..20]);
    assert!(values.iter().any(|value| value.abs() > 0.1), "the fixture has value biases");
}

#[test]
fn random_shapes_of_every_family_can_be_read() {
    for (alias, d_attn, d_kv, d_mlp) in [
        ("mistral-7b", 4096, 1024, 14_336),
        ("llama-3-8b", 4096, 1024, 14_336),
        ("qwen2.5-0.5b", 896, 128, 4864),
        ("qwen3-0.6b", 2048, 1024, 3072),
        ("stablelm-base-alpha-3b", 4096, 4096, 16_384),
    ] {
        let spec = format!("random:{alias}");
        let model = Model::load_from(&spec, &LoadOptions::default(), &offline(Path::new("nowhere"))).unwrap();
        assert_eq!((model.config.d_attn(), model.config.d_kv(), model.config.d_mlp), (d_attn, d_kv, d_mlp), "{alias}");
        assert_eq!(model.unembed_columns(&[5]).unwrap().0.cols, model.config.d_model);
    }
    // The smallest one whole: a layer's shapes fit each other.
    let model =
        Model::load_from("random:qwen2.5-0.5b", &LoadOptions::default(), &offline(Path::new("nowhere"))).unwrap();
    let layer = model.layer(23).unwrap();
    assert_eq!((layer.key_value.weight.rows, layer.key_value.weight.cols, layer.key_value.bias.len()), (896, 256, 256));
}
