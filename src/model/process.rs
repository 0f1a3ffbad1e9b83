//! Weight processing: rewrites that change the residual stream's basis but not the model's predictions.
//!
//! The steps and their order are those of TransformerLens' `process_weights` (Nanda and Bloom, 2022; its page
//! "further comments" derives them), so that activations and directions are comparable with published ones.

use super::{LayerWeights, LinearWeights, ModelConfig, NormWeights};
use crate::types::{Matrix, NormKind};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Rows that one task works through.
const ROWS: usize = 64;

/// Which rewrites to do. Directions are only meaningful with the processing they were fitted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightProcessing {
    /// Multiply every norm's gain and bias into the product behind it; for layer norms, then remove the mean over
    /// `d_model` from that product's input (their output has none; an RMS norm's output has one).
    pub fold_ln: bool,
    /// Remove the mean over `d_model` from everything that writes to the residual stream. Only layer norms do not see
    /// that mean: with RMS norms this is never done, see [`WeightProcessing::possible`].
    pub center_writing_weights: bool,
    /// Remove the mean over the vocabulary from the unembedding: moves all logits of a position alike.
    pub center_unembed: bool,
    /// Move the values' biases behind the attention: every row of the pattern sums to 1.
    pub fold_value_biases: bool,
}

impl WeightProcessing {
    /// Everything on, as TransformerLens' `from_pretrained` does by default.
    pub const fn processed() -> Self {
        Self { fold_ln: true, center_writing_weights: true, center_unembed: true, fold_value_biases: true }
    }

    /// The part of these rewrites that leaves the predictions of a model with such norms alone.
    pub fn possible(self, norm: NormKind) -> Self {
        Self { center_writing_weights: self.center_writing_weights && norm == NormKind::Layer, ..self }
    }

    /// Everything off: the checkpoint's own weights.
    pub const fn none() -> Self {
        Self { fold_ln: false, center_writing_weights: false, center_unembed: false, fold_value_biases: false }
    }
}

impl Default for WeightProcessing {
    fn default() -> Self {
        Self::processed()
    }
}

/// Processes one block; `processing` is possible for the model's norms.
pub(crate) fn layer(weights: &mut LayerWeights, config: &ModelConfig, processing: WeightProcessing) {
    if processing.fold_ln {
        if let Some(norm) = weights.ln1.take() {
            fold_norm(&norm, config.norm, &mut weights.query);
            fold_norm(&norm, config.norm, &mut weights.key_value);
        }
        if let Some(norm) = weights.ln2.take() {
            fold_norm(&norm, config.norm, &mut weights.mlp_in);
            if let Some(gate) = &mut weights.mlp_gate {
                fold_norm(&norm, config.norm, gate);
            }
        }
    }
    if processing.center_writing_weights {
        for linear in [&mut weights.attn_out, &mut weights.mlp_out] {
            center_rows(&mut linear.weight);
            center(&mut linear.bias);
        }
    }
    if processing.fold_value_biases {
        fold_value_biases(weights, config);
        if processing.center_writing_weights {
            center(&mut weights.attn_out.bias);
        }
    }
}

/// `b += bias W`, then `W = gain ∘ W`, then, behind a layer norm, every column of `W` loses its mean over the input.
fn fold_norm(norm: &NormWeights, kind: NormKind, linear: &mut LinearWeights) {
    let Matrix { rows, cols, ref mut data } = linear.weight;
    // Sums of a block of rows, added up in order afterwards: the result does not depend on the number of threads.
    let sums: Vec<(Vec<f64>, Vec<f64>)> = data
        .par_chunks_mut(ROWS * cols)
        .enumerate()
        .map(|(block, values)| {
            let (mut moved, mut total) = (vec![0.0; cols], vec![0.0; cols]);
            for (line, row) in values.chunks_exact_mut(cols).enumerate() {
                let gain = norm.gain[block * ROWS + line];
                let bias = norm.bias.as_ref().map_or(0.0, |bias| f64::from(bias[block * ROWS + line]));
                for ((value, moved), total) in row.iter_mut().zip(&mut moved).zip(&mut total) {
                    *moved += f64::from(*value) * bias;
                    *value *= gain;
                    *total += f64::from(*value);
                }
            }
            (moved, total)
        })
        .collect();
    let mut mean = vec![0.0; cols];
    let mut shift = vec![0.0; cols];
    for (moved, total) in &sums {
        mean.iter_mut().zip(total).for_each(|(mean, total)| *mean += total / rows as f64);
        shift.iter_mut().zip(moved).for_each(|(shift, moved)| *shift += moved);
    }
    if kind == NormKind::Layer {
        let mean: Vec<f32> = mean.into_iter().map(|value| value as f32).collect();
        data.par_chunks_mut(cols).for_each(|row| row.iter_mut().zip(&mean).for_each(|(value, mean)| *value -= mean));
    }
    linear.bias.iter_mut().zip(&shift).for_each(|(bias, shift)| *bias = (f64::from(*bias) + shift) as f32);
}

/// `b_O += b_V W_O`, `b_V = 0`; every head of a group adds the bias that it shares.
fn fold_value_biases(weights: &mut LayerWeights, config: &ModelConfig) {
    let LayerWeights { key_value, attn_out, .. } = weights;
    let (_, values) = key_value.bias.split_at_mut(config.d_kv());
    let group = config.n_heads / config.n_kv_heads;
    let mut shift = vec![0.0; attn_out.weight.cols];
    for (index, row) in attn_out.weight.data.chunks_exact(attn_out.weight.cols).enumerate() {
        let (head, column) = (index / config.d_head, index % config.d_head);
        let value = f64::from(values[head / group * config.d_head + column]);
        shift.iter_mut().zip(row).for_each(|(shift, weight)| *shift += value * f64::from(*weight));
    }
    attn_out.bias.iter_mut().zip(&shift).for_each(|(bias, shift)| *bias = (f64::from(*bias) + shift) as f32);
    values.fill(0.0);
}

/// Every row loses its own mean.
pub(crate) fn center_rows(matrix: &mut Matrix) {
    matrix.data.par_chunks_mut(matrix.cols).for_each(center);
}

/// `values` lose their mean.
pub(crate) fn center(values: &mut [f32]) {
    let mean = (values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64) as f32;
    values.iter_mut().for_each(|value| *value -= mean);
}

/// How rows of the stored (d_vocab, d_model) unembedding become columns of the processed one.
#[derive(Debug)]
pub(crate) struct Unembedding {
    /// The last norm, when it is folded.
    norm: Option<NormWeights>,
    kind: NormKind,
    /// Mean over the vocabulary of the processed columns and biases, when it is removed.
    mean: Option<(Vec<f32>, f32)>,
}

impl Unembedding {
    /// `norm` is given when it is to be folded; `mean_row` is the mean of the stored rows over the vocabulary, given
    /// when the unembedding is to be centred. Folding is linear in a row, so the mean of the folded rows is the folded
    /// mean row, and one pass over the stored rows is enough.
    pub fn new(norm: Option<NormWeights>, kind: NormKind, mean_row: Option<Vec<f32>>) -> Self {
        let mut unembedding = Self { norm, kind, mean: None };
        unembedding.mean = mean_row.map(|mut row| {
            let bias = unembedding.apply(&mut row);
            (row, bias)
        });
        unembedding
    }

    /// Processes one stored row in place and returns its token's bias.
    pub fn apply(&self, row: &mut [f32]) -> f32 {
        let mut bias = 0.0;
        if let Some(norm) = &self.norm {
            let shift = norm.bias.iter().flatten().zip(row.iter()).map(|(b, value)| f64::from(*value) * f64::from(*b));
            bias = shift.sum::<f64>() as f32;
            row.iter_mut().zip(&norm.gain).for_each(|(value, gain)| *value *= gain);
            if self.kind == NormKind::Layer {
                center(row);
            }
        }
        if let Some((mean, mean_bias)) = &self.mean {
            row.iter_mut().zip(mean).for_each(|(value, mean)| *value -= mean);
            bias -= mean_bias;
        }
        bias
    }
}
