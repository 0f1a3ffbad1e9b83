//! What can be wrong with the Treebank's files or their download.

use crate::model::ModelError;
use std::path::PathBuf;

/// Every variant names the file or address, and for a broken line its number and field.
#[derive(Debug, thiserror::Error)]
pub enum TreebankError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Files are missing.
    #[error(
        "{}: {} missing; they are in {address}: unpack it there, or name the folder that has them{}",
        root.display(),
        missing.join(", "),
        reason.as_ref().map_or(String::new(), |reason| format!(" ({reason})"))
    )]
    Missing {
        /// The folder.
        root: PathBuf,
        /// The files, each with its alternative name.
        missing: Vec<String>,
        /// Where the archive with all of them is.
        address: String,
        /// Why they were not downloaded.
        reason: Option<String>,
    },
    /// A line that is not what its file holds.
    #[error("{path}, line {line}: {field}: expected {expected}, found {found:?}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// The field.
        field: &'static str,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A download that ended early; what has come is kept for the next attempt.
    #[error("{url}: {found} of {expected} bytes came; run the command again to continue ({reason})")]
    Incomplete {
        /// The address.
        url: String,
        /// The announced size.
        expected: u64,
        /// What is there.
        found: u64,
        /// How it ended.
        reason: String,
    },
    /// An answer of the server that cannot be used.
    #[error("{url}: expected {expected}, found {found}")]
    Answer {
        /// The address.
        url: String,
        /// What would fit.
        expected: String,
        /// What came.
        found: String,
    },
    /// An archive that is damaged or lacks a file.
    #[error("{path}: expected {expected}, found {found}; remove it to have it downloaded again")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// No pair could be made.
    #[error(
        "{dataset}: no positive and negative sentence have the same number of tokens ({positive} positive, {negative} negative)"
    )]
    NoPairs {
        /// The split's dataset.
        dataset: String,
        /// Positive sentences.
        positive: usize,
        /// Negative sentences.
        negative: usize,
    },
    /// An answer is not one token.
    #[error("scaffold {scaffold}: the answer {answer:?} must be one token of its own, but is {found} in {}", tokenizer.display())]
    AnswerTokens {
        /// The scaffold.
        scaffold: &'static str,
        /// The answer.
        answer: &'static str,
        /// Its tokens.
        found: usize,
        /// The tokenizer's file.
        tokenizer: PathBuf,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] ModelError),
}
