//! Ways of the research code of arXiv 2310.15154 that results here leave on purpose, and that a run can ask for where its
//! numbers need them. What each item is about: `docs/fidelity.md`.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One of them, by its name on the command line and in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compat {
    /// Two spaces before the words whose template put one before a word that has its own (D1).
    DoubleSpaces,
    /// The positive infinitives that were pasted over `negative_top_adjectives` (D2).
    PastedAdjectives,
    /// The prompts used with Mistral: a space at their end, and answers without one.
    TrailingSpace,
    /// Directions are patched under another weight processing than they were fitted with (K5).
    UnprocessedFits,
}

impl Compat {
    /// The name on the command line, in records and in file names.
    pub fn name(self) -> &'static str {
        match self {
            Compat::DoubleSpaces => "double-spaces",
            Compat::PastedAdjectives => "pasted-adjectives",
            Compat::TrailingSpace => "trailing-space",
            Compat::UnprocessedFits => "unprocessed-fits",
        }
    }

    /// Does it change prompts (and so what is fitted), or only how directions are used?
    pub fn changes_prompts(self) -> bool {
        self != Compat::UnprocessedFits
    }
}

impl fmt::Display for Compat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}
