//! Options of every command that reads a corpus.

use crate::studies::Corpus;
use std::path::PathBuf;

/// The corpus: a file, or texts on the command line.
#[derive(Debug, Clone, clap::Args)]
pub struct CorpusArgs {
    /// A file of texts, one a line; .jsonl with {"text": …} or {"tokens": […]} a line; or .npy, an array (rows, tokens)
    /// of token ids.
    #[arg(long, required_unless_present = "text", conflicts_with = "text")]
    corpus: Option<PathBuf>,
    /// A text; may be given again.
    #[arg(long)]
    text: Vec<String>,
    /// Name of the files; that of the corpus, or `text`, without it.
    #[arg(long)]
    name: Option<String>,
    /// Most tokens of a row, BOS included; longer texts are cut.
    #[arg(long, default_value_t = Corpus::default().row_tokens, value_parser = clap::value_parser!(u32).range(2..))]
    row_tokens: u32,
}

impl From<CorpusArgs> for Corpus {
    fn from(CorpusArgs { corpus, text, name, row_tokens }: CorpusArgs) -> Self {
        Corpus { corpus, text, name, row_tokens }
    }
}
