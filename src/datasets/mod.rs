//! Templates and word lists become [`PairedPrompts`]: clean and corrupted prompts, answers and positions.
//!
//! A [`Catalogue`] holds the datasets of `data/datasets.toml` (whose head describes the format), the word lists of
//! `data/words.toml`, and a user's own; [`Catalogue::build`] makes one of them for a tokenizer.

mod assemble;
mod build;
mod catalogue;
mod error;
mod file;
mod template;
#[cfg(test)]
mod tests;

pub use build::BuildOptions;
pub use catalogue::Catalogue;
pub use error::{DatasetError, Place};
pub use template::END;

use std::collections::BTreeMap;

/// A (correct, incorrect) pair of answer tokens.
pub type AnswerPair = (u32, u32);

/// Clean and corrupted prompts of one dataset, tokenised for one model.
///
/// Sequences carry no padding: position 0 is BOS (or the first token without one), whatever the lengths.
/// Equal rows are stored, and later run, once: `clean` and `corrupted` index into `sequences`.
#[derive(Debug, Clone, PartialEq)]
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
    /// Per prompt: does the clean prompt have the sign of the first one (positive)?
    pub positive: Vec<bool>,
    /// Per prompt: (correct, incorrect) answer tokens of the clean prompt.
    pub answers: Vec<Vec<AnswerPair>>,
    /// Placeholder name (`ADJ`, `VRB`, …) to the position of its last token, the same in every prompt.
    pub positions: BTreeMap<String, usize>,
}
