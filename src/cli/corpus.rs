//! The corpus that a command reads: a file, or texts on the command line.

use super::common::optional_path;
use crate::experiments::corpus::{CorpusError, RowShape, Rows};
use crate::model::{ModelConfig, Tokenizer};
use anyhow::{Result, bail};
use serde::Serialize;
use std::path::PathBuf;

/// Arguments of every command that reads a corpus.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct CorpusArgs {
    /// A file of texts, one a line; .jsonl with {"text": …} or {"tokens": […]} a line; or .npy, an array (rows, tokens) of
    /// token ids.
    #[arg(long, required_unless_present = "text", conflicts_with = "text")]
    #[serde(serialize_with = "optional_path")]
    pub corpus: Option<PathBuf>,
    /// A text; may be given again.
    #[arg(long)]
    pub text: Vec<String>,
    /// Name of the files; that of the corpus, or `text`, without it.
    #[arg(long)]
    pub name: Option<String>,
    /// Most tokens of a row, BOS included; longer texts are cut.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(2..))]
    pub row_tokens: u32,
}

impl CorpusArgs {
    /// The corpus as rows for a model.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn rows<'a>(&self, tokenizer: &'a Tokenizer, config: &ModelConfig) -> Result<Rows<'a>, CorpusError> {
        let length = config.n_ctx.min(self.row_tokens as usize);
        let shape = RowShape { tokenizer, length, d_vocab: config.d_vocab };
        match &self.corpus {
            Some(path) => Rows::of_file(path, shape),
            None => Ok(Rows::of_texts(self.text.clone(), shape)),
        }
    }

    /// What the files are named after.
    ///
    /// # Errors
    /// A name that is no file name.
    pub fn name(&self) -> Result<String> {
        let of_file = || Some(self.corpus.as_ref()?.file_stem()?.to_string_lossy().into_owned());
        let name = self.name.clone().or_else(of_file).unwrap_or_else(|| "text".into());
        let plain = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
        if name.is_empty() || !name.chars().all(plain) {
            bail!("--name: expected letters, digits, `_`, `-` and `.`, found {name:?}");
        }
        Ok(name)
    }
}
