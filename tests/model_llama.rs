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
    let windows = |name: &str, fields: &[(&str, Value)]| {
        let copy = Copy::of(name);
        for (field, value) in fields {
            copy.config(field, value.clone());
        }
        let config = copy.load().map_err(|error| error.to_string())?.config;
        Ok((0..2).map(|layer| config.window(layer)).collect::<Vec<_>>())
    };
    let both = |window| Ok(vec![window; 2]);
    let error = |name: &str, fields: &[(&str, Value)]| -> String { windows(name, fields).unwrap_err() };
    assert_eq!(windows(MISTRAL, &[]), both(Some(5)));
    // Absent means the library's default, `null` means off.
    assert_eq!(windows(MISTRAL, &[("sliding_window", Value::Null)]), both(Some(4096)));
    let copy = Copy::of(MISTRAL);
    let path = copy.file("config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"sliding_window\": 5", "\"sliding_window\": null");
    std::fs::write(&path, text).unwrap();
    assert_eq!(copy.load().unwrap().config.window(0), None);
    // Qwen's files name a window and say beside it whether, and from which block on, it is used.
    let using = |first: Value| {
        [
            ("use_sliding_window", json!(true)),
            ("sliding_window", json!(7)),
            ("layer_types", Value::Null),
            ("max_window_layers", first),
        ]
    };
    assert_eq!(windows(QWEN2, &[("sliding_window", json!(7))]), both(None));
    assert_eq!(windows(QWEN2, &using(json!(0))), both(Some(7)));
    assert_eq!(windows(QWEN2, &using(json!(1))), Ok(vec![None, Some(7)]));
    assert_eq!(windows(QWEN2, &using(json!(2))), both(None));
    assert_eq!(windows(QWEN2, &using(Value::Null)), both(None));
    // Names of the blocks' kinds win over that.
    let types = |first: &str, second: &str| ("layer_types", json!([first, second]));
    let (full, sliding) = ("full_attention", "sliding_attention");
    for (name, kinds, expected) in [
        (QWEN2, types(sliding, full), vec![Some(7), None]),
        (QWEN3, types(full, sliding), vec![None, Some(7)]),
        (QWEN3, types(full, full), vec![None, None]),
        (MISTRAL, types(full, sliding), vec![None, Some(7)]),
    ] {
        let fields = [&using(json!(0))[..], &[kinds]].concat();
        assert_eq!(windows(name, &fields), Ok(expected), "{name}: {fields:?}");
    }
    assert!(error(QWEN2, &[types(sliding, full)]).contains("`use_sliding_window`: expected a window"));
    assert!(error(QWEN2, &[("layer_types", json!([full]))]).contains("for each of num_hidden_layers = 2"));
    assert!(error(QWEN2, &[types(full, "chunked_attention")]).contains("`layer_types`: expected `full_attention`"));
}

#[test]
fn configurations_that_cannot_be_honoured_are_refused() {
    let scaling = |fields: Value| ("rope_scaling", fields);
    for (name, (field, value), part) in [
        (
            LLAMA,
            scaling(json!({ "rope_type": "su" })),
            "`rope_scaling.rope_type`: expected default, linear, dynamic, llama3",
        ),
        (
            LLAMA,
            scaling(json!({ "rope_type": "llama3", "factor": 4.0 })),
            "`rope_scaling.low_freq_factor`: expected a number",
        ),
        (
            LLAMA,
            scaling(json!({ "rope_type": "linear", "factor": 0 })),
            "`rope_scaling.factor`: expected a number above 0",
        ),
        (
            LLAMA,
            scaling(json!({ "rope_type": "linear", "factor": 2, "partial_rotary_factor": 0.5 })),
            "`partial_rotary_factor`: expected 1",
        ),
        (
            LLAMA,
            scaling(json!({ "rope_type": "longrope", "short_factor": [1, 2], "long_factor": [1, 2] })),
            "`rope_scaling.short_factor`: expected a list of 5 numbers",
        ),
        (
            LLAMA,
            scaling(json!({ "rope_type": "yarn", "factor": 2, "rope_theta": 1 })),
            "`rope_theta`: expected a number other than 1",
        ),
        (LLAMA, ("num_key_value_heads", json!(3)), "a divisor of num_attention_heads = 4"),
        (LLAMA, ("num_key_value_heads", json!(4)), "expected shape [40, 40]"),
        (LLAMA, ("head_dim", json!(9)), "`head_dim`: expected an even number of dimensions to rotate, found 9"),
        (LLAMA, ("hidden_act", json!("relu2")), "field `hidden_act`"),
        (LLAMA, ("attention_bias", json!(true)), "`layers.0.self_attn.q_proj.bias` of shape [40] is missing"),
        (LLAMA, ("mlp_bias", json!(true)), "`layers.0.mlp.gate_proj.bias` of shape [44] is missing"),
        (LLAMA, ("rms_norm_eps", json!(-1)), "field `rms_norm_eps`"),
        (
            MISTRAL,
            ("num_key_value_heads", Value::Null),
            "`num_key_value_heads`: expected a divisor of num_attention_heads = 4, found 8",
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
