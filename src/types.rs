//! Plain types that every room may use: host matrices and the choices that define a transformer's shape.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The numbers of `count` things, counted from 0, as messages say them: both ends are meant.
pub fn numbers(count: usize) -> String {
    match count {
        0 => "none".into(),
        1 => "0".into(),
        count => format!("0 to {}", count - 1),
    }
}

/// A dense row-major f32 matrix on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// `rows * cols` values, row after row.
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// Wraps `data`, which holds `rows * cols` values.
    ///
    /// # Panics
    /// When the length does not fit: a bug of the caller, never of a user's input.
    pub fn new(rows: usize, cols: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len(), rows * cols, "a {rows} x {cols} matrix needs {} values", rows * cols);
        Self { rows, cols, data }
    }

    /// Row `index` as a slice.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.cols..(index + 1) * self.cols]
    }

    /// Row `index` as a mutable slice.
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.data[index * self.cols..(index + 1) * self.cols]
    }
}

/// The function between an MLP's two products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x Φ(x)` with the exact error function (Hugging Face `gelu`).
    Gelu,
    /// The tanh form `x σ(2 √(2/π) (x + 0.044715 x³))` (Hugging Face `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x σ(x)`.
    Silu,
}

/// What a norm divides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormKind {
    /// Layer norm: `(x - mean) / sqrt(variance + eps)`.
    Layer,
    /// RMS norm: `x / sqrt(mean of squares + eps)` (Zhang and Sennrich 2019, arXiv 1910.07467).
    Rms,
}

/// How rotary frequencies are stretched for contexts longer than those of the pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RotaryScaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor`: position interpolation (Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's (Hugging Face `llama3`): wavelengths above `original_n_ctx / low_frequency_factor` are stretched by
    /// `factor`, those below `original_n_ctx / high_frequency_factor` stay, the ones between are interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Sets the longest wavelength that is not stretched fully.
        low_frequency_factor: f32,
        /// Sets the longest wavelength that is not stretched at all.
        high_frequency_factor: f32,
        /// Context of the pre-training, in positions.
        original_n_ctx: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): pairs that turn often within the pre-training's context stay, those that
    /// turn rarely are stretched by `factor`, and the ones between are interpolated.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Turns within the pre-training's context from which on a pair stays as it is.
        fast_turns: f64,
        /// Turns up to which a pair is stretched fully.
        slow_turns: f64,
        /// Are the bounds between the three kinds of pairs rounded to whole pairs?
        whole_pairs: bool,
        /// Context of the pre-training, in positions.
        original_n_ctx: usize,
        /// Cosines and sines are multiplied by this.
        magnitude: f32,
    },
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): every pair has a divisor of its own, one for sequences within the
    /// pre-training's context and one for longer ones.
    LongRope {
        /// Divisors in sequences of up to `original_n_ctx` tokens, one per pair.
        short: Vec<f32>,
        /// Divisors in longer sequences, at all of their positions.
        long: Vec<f32>,
        /// Context of the pre-training, in positions.
        original_n_ctx: usize,
        /// Cosines and sines are multiplied by this.
        magnitude: f32,
    },
    /// Only the first pairs turn, the others stand still (Hugging Face `proportional`).
    Proportional {
        /// Number of pairs that turn.
        pairs: usize,
        /// The divisor of their frequencies.
        factor: f32,
    },
}

/// How a model knows where a token stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Positions {
    /// A learned vector per position, added to the embedding (GPT-2).
    Learned,
    /// Rotary embedding of the first `dims` of every head's query and key, pairing dimension `i` with `i + dims / 2`
    /// (the GPT-NeoX convention, which Llama's checkpoints share).
    Rotary {
        /// Number of rotated dimensions of a head, over which the wavelengths spread. Of an odd number one dimension more is
        /// rotated.
        dims: usize,
        /// Base of the geometric progression of wavelengths.
        base: f32,
        /// What is done to the frequencies for long contexts.
        scaling: RotaryScaling,
    },
}

/// A (correct, incorrect) pair of answer tokens.
pub type AnswerPair = (u32, u32);

/// Clean and corrupted prompts of one dataset, tokenised for one model.
///
/// Sequences carry no padding: position 0 is BOS (or the first token without one), whatever the lengths.
/// Equal rows are stored, and later run, once: `clean` and `corrupted` index into `sequences`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairedPrompts {
    /// Dataset name, for example `simple_train`.
    pub name: String,
    /// Prompt texts without BOS, parallel to `sequences`.
    pub texts: Vec<String>,
    /// Distinct token sequences, BOS included.
    pub sequences: Vec<Vec<u32>>,
    /// Per prompt: its clean sequence.
    pub clean: Vec<usize>,
    /// Per prompt: its corrupted sequence.
    pub corrupted: Vec<usize>,
    /// Per prompt: does the clean prompt have the sign of the first one (positive)? So do all where there are no classes.
    pub positive: Vec<bool>,
    /// Do the prompts have classes? Pairs of one's own may come without.
    #[serde(skip_serializing_if = "is_true")]
    pub has_classes: bool,
    /// Per prompt: (correct, incorrect) answer tokens of the clean prompt.
    pub answers: Vec<Vec<AnswerPair>>,
    /// Placeholder name (`ADJ`, `VRB`, …) to the position of its last token, the same in every prompt.
    pub positions: BTreeMap<String, usize>,
}

/// Prompts with classes are written without saying so, as when all had them: a manifest's file of prompts is called after
/// its hash, and stays the same file.
fn is_true(value: &bool) -> bool {
    *value
}

impl PairedPrompts {
    /// The same prompts with one pair of answers for all of them, turned round in negative prompts.
    pub fn with_answers(self, (correct, incorrect): AnswerPair) -> Self {
        let pair = |&positive: &bool| vec![if positive { (correct, incorrect) } else { (incorrect, correct) }];
        Self { answers: self.positive.iter().map(pair).collect(), ..self }
    }

    /// The first position at which the clean and the corrupted sequence of a prompt differ; their length if they do not.
    pub fn first_difference(&self, prompt: usize) -> usize {
        let (clean, corrupted) = (&self.sequences[self.clean[prompt]], &self.sequences[self.corrupted[prompt]]);
        clean.iter().zip(corrupted).take_while(|(a, b)| a == b).count()
    }
}
