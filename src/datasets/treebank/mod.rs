//! The Stanford Sentiment Treebank (Socher et al. 2013): its files become pairs of a positive and a negative sentence of
//! equal length, one dataset file per model, split and scaffold.
//!
//! The files are joined on the text of whole sentences as in the code of arXiv 2310.15154; what the join loses is
//! counted and listed, see [`Losses`]. Pairs have equal token counts *as the model sees them*, scaffold and BOS
//! included, so that clean and corrupted activations can be exchanged position by position without any padding.

#[cfg(feature = "hub")]
mod download;
mod error;
mod files;
mod join;
mod pair;
#[cfg(not(feature = "hub"))]
mod without_download;
mod write;

#[cfg(feature = "hub")]
pub use download::{Archive, OFFICIAL_ARCHIVE};
pub use error::TreebankError;
pub use files::{FILES, TreebankFiles};
pub use join::{Loss, Losses, Sentence, Treebank};
pub use pair::{Encoded, PairedSentence, answer_tokens, encode, pair};
#[cfg(not(feature = "hub"))]
pub use without_download::{Archive, OFFICIAL_ARCHIVE};
pub use write::{Provenance, dataset_text, table_of_pairs};

use crate::choice::choices;
use std::path::{Path, PathBuf};

choices! {
    /// The part of the Treebank a sentence belongs to.
    pub enum Split {
        /// Label 1 in `datasetSplit.txt`.
        Train = "train",
        /// Label 3.
        Dev = "dev",
        /// Label 2.
        Test = "test",
    }
}

impl Split {
    /// The dataset's name: `treebank_train`, …
    pub fn dataset(self) -> &'static str {
        match self {
            Split::Train => "treebank_train",
            Split::Dev => "treebank_dev",
            Split::Test => "treebank_test",
        }
    }

    /// The split of which `name` is the dataset.
    pub fn of_dataset(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|split| split.dataset() == name)
    }
}

choices! {
    /// The text around a sentence, and with it the question the model is asked.
    pub enum Scaffold {
        /// The text alone.
        Plain = "plain",
        /// `Review Text: {text} Review Sentiment:`, answered by ` Positive` or ` Negative`.
        Classification = "classification",
        /// `{text} Overall the movie was just very`, answered by ` good` or ` bad`.
        Continuation = "continuation",
    }
}

impl Scaffold {
    /// The prompt around `text`, without BOS.
    pub fn apply(self, text: &str) -> String {
        match self {
            Scaffold::Plain => text.to_owned(),
            Scaffold::Classification => format!("Review Text: {text} Review Sentiment:"),
            Scaffold::Continuation => format!("{text} Overall the movie was just very"),
        }
    }

    /// The answers to a positive and to a negative prompt.
    ///
    /// A bare sentence asks nothing, and the paper's code stores two arbitrary token ids for it. Here it gets the
    /// continuation's answers, so that its logit difference at least means something.
    pub fn answers(self) -> (&'static str, &'static str) {
        match self {
            Scaffold::Classification => (" Positive", " Negative"),
            Scaffold::Plain | Scaffold::Continuation => (" good", " bad"),
        }
    }

    /// The dataset file of a split in a model's folder.
    pub fn dataset_file(self, model_folder: &Path, split: Split) -> PathBuf {
        model_folder.join(format!("{}_{self}.toml", split.dataset()))
    }

    /// The same pairs as a table.
    pub fn csv_file(self, model_folder: &Path, split: Split) -> PathBuf {
        self.dataset_file(model_folder, split).with_extension("csv")
    }
}
