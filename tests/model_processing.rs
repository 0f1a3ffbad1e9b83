//! Each rewrite of the weights alone: what it must change, what it must not, and that it leaves predictions alone.
//! (All together are compared with TransformerLens in model_parity.rs.)

mod support;

use actpatch::model::{LayerWeights, LinearWeights, Model, NormWeights, WeightProcessing};
use support::{fixture, load};

const NONE: WeightProcessing = WeightProcessing::none();

/// Sums of up to 60 products of f32 values of order 1.
const TOLERANCE: f32 = 2e-5;

fn models(processing: WeightProcessing) -> Vec<(Model, Model)> {
    let pair = |name: &str| (load(&fixture(name), NONE).unwrap(), load(&fixture(name), processing).unwrap());
    ["gpt2-tiny", "neox-sequential"].map(pair).into()
}

fn near(left: &[f32], right: &[f32], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    let worst = left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= TOLERANCE, "{what}: off by {worst}");
}

fn mean(values: &[f32]) -> f32 {
    values.iter().sum::<f32>() / values.len() as f32
}

fn centred(values: &[f32]) -> Vec<f32> {
    let mean = mean(values);
    values.iter().map(|value| value - mean).collect()
}

/// `x W + b`.
fn product(x: &[f32], linear: &LinearWeights) -> Vec<f32> {
    let mut out = linear.bias.clone();
    for (row, value) in x.iter().enumerate() {
        out.iter_mut().zip(linear.weight.row(row)).for_each(|(out, weight)| *out += value * weight);
    }
    out
}

fn normed(x: &[f32], norm: &NormWeights) -> Vec<f32> {
    x.iter().zip(&norm.gain).zip(norm.bias.as_ref().unwrap()).map(|((x, gain), bias)| x * gain + bias).collect()
}

/// What a layer norm hands on before gain and bias: mean 0.
fn standardised(d_model: usize) -> Vec<f32> {
    centred(&(0..d_model).map(|i| ((i * 37 + 11) % 60) as f32 / 20.0).collect::<Vec<_>>())
}

#[test]
fn folding_norms_keeps_every_product() {
    for (plain, folded) in models(WeightProcessing { fold_ln: true, ..NONE }) {
        let x = standardised(60);
        let (before, after) = (plain.layer(1).unwrap(), folded.layer(1).unwrap());
        assert!(after.ln1.is_none() && after.ln2.is_none() && folded.final_norm().unwrap().is_none());
        let (ln1, ln2) = (before.ln1.as_ref().unwrap(), before.ln2.as_ref().unwrap());
        for (old, new, norm) in [
            (&before.query, &after.query, ln1),
            (&before.key_value, &after.key_value, ln1),
            (&before.mlp_in, &after.mlp_in, ln2),
        ] {
            near(&product(&normed(&x, norm), old), &product(&x, new), "folded product");
            // A constant added to the input is gone: the columns have mean 0.
            let shifted: Vec<f32> = x.iter().map(|value| value + 1.0).collect();
            near(&product(&shifted, new), &product(&x, new), "centred columns");
        }
        assert_eq!((before.attn_out, before.mlp_out), (after.attn_out, after.mlp_out));
        let norm = plain.final_norm().unwrap().unwrap();
        let logits = product(&normed(&x, &norm), &plain.unembedding().unwrap());
        near(&logits, &product(&x, &folded.unembedding().unwrap()), "logits");
        assert_eq!(plain.embed(&[4]).unwrap(), folded.embed(&[4]).unwrap());
    }
}

#[test]
fn centring_what_is_written_removes_the_mean_only() {
    for (plain, processed) in models(WeightProcessing { center_writing_weights: true, ..NONE }) {
        let (before, after) = (plain.layer(0).unwrap(), processed.layer(0).unwrap());
        let input: Vec<f32> = standardised(60);
        for (old, new) in [(&before.attn_out, &after.attn_out), (&before.mlp_out, &after.mlp_out)] {
            let x = &input[..old.weight.rows];
            near(&centred(&product(x, old)), &product(x, new), "written");
        }
        let untouched = |layer: LayerWeights| (layer.ln1, layer.query, layer.key_value, layer.ln2, layer.mlp_in);
        assert_eq!(untouched(before), untouched(after));
        near(&centred(&plain.embed(&[9]).unwrap().data), &processed.embed(&[9]).unwrap().data, "W_E");
        if let Some(positions) = plain.position_embedding().unwrap() {
            near(&centred(positions.row(7)), processed.position_embedding().unwrap().unwrap().row(7), "W_pos");
        }
        assert_eq!(plain.unembedding().unwrap(), processed.unembedding().unwrap());
    }
}

#[test]
fn centring_the_unembedding_moves_all_logits_alike() {
    for (plain, processed) in models(WeightProcessing { center_unembed: true, ..NONE }) {
        let x = standardised(60);
        let logits = product(&x, &plain.unembedding().unwrap());
        near(&centred(&logits), &product(&x, &processed.unembedding().unwrap()), "logits");
        assert_eq!(plain.layer(0).unwrap(), processed.layer(0).unwrap());
        assert_eq!(plain.final_norm().unwrap(), processed.final_norm().unwrap());
        assert_eq!(plain.embed(&[9]).unwrap(), processed.embed(&[9]).unwrap());
    }
}

#[test]
fn folding_value_biases_moves_them_behind_attention() {
    for (plain, processed) in models(WeightProcessing { fold_value_biases: true, ..NONE }) {
        let (before, mut after) = (plain.layer(1).unwrap(), processed.layer(1).unwrap());
        // Rows of a pattern sum to 1, so a value's bias passes attention unchanged.
        near(&product(&before.key_value.bias[60..], &before.attn_out), &after.attn_out.bias, "b_O");
        assert_eq!(after.key_value.bias[60..], [0.0; 60]);
        after.key_value.bias[60..].copy_from_slice(&before.key_value.bias[60..]);
        after.attn_out.bias.clone_from(&before.attn_out.bias);
        assert_eq!(before, after);
    }
}
