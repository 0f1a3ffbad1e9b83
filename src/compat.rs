//! Ways of the research code of arXiv 2310.15154 that results here leave on purpose, and that a run can ask for where its
//! numbers need them. What each item is about: `docs/fidelity.md`.

use crate::choice::choices;

choices! {
    /// One of them, by its name on the command line and in records.
    pub enum Compat {
        /// Two spaces before the words whose template put one before a word that has its own (D1).
        DoubleSpaces = "double-spaces",
        /// The positive infinitives that were pasted over `negative_top_adjectives` (D2).
        PastedAdjectives = "pasted-adjectives",
        /// The prompts used with Mistral: a space at their end, and answers without one.
        TrailingSpace = "trailing-space",
        /// Directions are patched under another weight processing than they were fitted with (K5).
        UnprocessedFits = "unprocessed-fits",
        /// Directions of DAS point where their training left them (K4).
        DasSign = "das-sign",
    }
}

impl Compat {
    /// Is it about fits alone? Then it is a part of their records, and of no other results'.
    pub fn is_of_fits(self) -> bool {
        self == Compat::DasSign
    }
}
