//! Templates and word lists become [`PairedPrompts`]: clean and corrupted prompts, answers and positions.
//!
//! A [`Catalogue`] holds the datasets of `data/datasets.toml` (whose head describes the format), the word lists of
//! `data/words.toml`, and a user's own; [`Catalogue::build`] makes one of them for a tokenizer.

mod assemble;
mod build;
mod catalogue;
mod error;
mod explicit;
mod file;
#[cfg(test)]
mod pair_tests;
mod pairs;
mod rows;
mod template;
#[cfg(test)]
mod tests;
pub mod treebank;

pub use crate::types::{AnswerPair, PairedPrompts};
pub use build::BuildOptions;
pub use catalogue::{Catalogue, Checked};
pub use error::{DatasetError, Place};
pub use template::END;
