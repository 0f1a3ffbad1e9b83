//! The corpus that a study reads: a file, or texts.

use crate::experiments::corpus::{CorpusError, CorpusFormat, RowShape, Rows};
use crate::files::{sha256, sha256_of_file};
use crate::model::{ModelConfig, Tokenizer};
use crate::session::{OfSetting, wrong};
use crate::studies::fields::{optional_path, texts};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Longest name of a corpus, in bytes: it is a part of file names.
const LONGEST_NAME: usize = 100;

/// What is read: a file, or texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Corpus {
    /// A file of texts, one a line; .jsonl with {"text": …} or {"tokens": […]} a line; or .npy, an array (rows, tokens)
    /// of token ids.
    #[serde(serialize_with = "optional_path")]
    pub corpus: Option<PathBuf>,
    /// Texts, instead of a file.
    #[serde(deserialize_with = "texts")]
    pub text: Vec<String>,
    /// Name of the files; that of the corpus, or `text`, without it.
    pub name: Option<String>,
    /// Most tokens of a row, BOS included; longer texts are cut. At least 2.
    pub row_tokens: u32,
}

/// The same, with errors of the corpus as those of its setting.
pub(super) fn of_corpus<T>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.is::<CorpusError>() => Err(error).of_setting("corpus"),
        result => result,
    }
}

impl Default for Corpus {
    fn default() -> Self {
        Self { corpus: None, text: Vec::new(), name: None, row_tokens: 1024 }
    }
}

impl Corpus {
    /// Checks what needs no file.
    ///
    /// # Errors
    /// A fault of the field.
    pub(in crate::studies) fn validate(&self) -> Result<()> {
        match (&self.corpus, self.text.is_empty()) {
            (None, true) => wrong!("corpus", "expected a file or texts, found neither"),
            (Some(_), false) => wrong!("corpus", "expected a file or texts, found both"),
            (Some(path), true) => drop(CorpusFormat::of(path).of_setting("corpus")?),
            (None, false) if self.text.iter().all(String::is_empty) => wrong!("text", "expected a text, found none"),
            _ => {}
        }
        if self.row_tokens < 2 {
            wrong!("row_tokens", "expected at least 2, found {}", self.row_tokens);
        }
        self.name().map(drop)
    }

    /// What the files are named after.
    ///
    /// # Errors
    /// A name that is no file name.
    pub(in crate::studies) fn name(&self) -> Result<String> {
        let of_file = || Some(self.corpus.as_ref()?.file_stem()?.to_string_lossy().into_owned());
        let name = self.name.clone().or_else(of_file).unwrap_or_else(|| "text".into());
        let plain = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
        if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with('.') || !name.chars().all(plain) {
            let expected = "letters, digits, `_`, `-` and `.`, which does not come first";
            wrong!("name", "expected up to {LONGEST_NAME} bytes of {expected}, found {name:?}");
        }
        Ok(name)
    }

    /// Most tokens of a row of a model.
    pub(super) fn row_length(&self, config: &ModelConfig) -> usize {
        config.n_ctx.min(self.row_tokens as usize)
    }

    /// The corpus as rows for a model.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(super) fn rows<'a>(&self, tokenizer: &'a Tokenizer, config: &ModelConfig) -> Result<Rows<'a>, CorpusError> {
        let shape = RowShape { tokenizer, length: self.row_length(config), d_vocab: config.d_vocab };
        match &self.corpus {
            Some(path) => Rows::of_file(path, shape),
            None => Ok(Rows::of_texts(self.text.clone(), shape)),
        }
    }

    /// The hash of the contents.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(in crate::studies) fn fingerprint(&self) -> Result<String> {
        match &self.corpus {
            Some(path) => sha256_of_file(path).with_context(|| path.display().to_string()),
            None => Ok(sha256(&serde_json::to_vec(&self.text)?)),
        }
    }

    /// How the contents are read: the same bytes in a file of another ending are other texts.
    pub(super) fn format(&self) -> &'static str {
        let Some(path) = &self.corpus else { return "texts" };
        match CorpusFormat::of(path) {
            Ok(CorpusFormat::Array) => "npy",
            Ok(CorpusFormat::JsonLines) => "jsonl",
            // What is neither is refused before it is read.
            Ok(CorpusFormat::Lines) | Err(_) => "lines",
        }
    }
}
