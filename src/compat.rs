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
        /// Every patched activation is made of the two unpatched runs, so that a later layer's undoes an earlier one's (K13).
        UnpatchedRuns = "unpatched-runs",
        /// The main position of a dataset is the first placeholder of its template (D12).
        FirstPlaceholder = "first-placeholder",
    }
}

impl Compat {
    /// Do all results depend on it? Not on what is about fits alone, which is a part of their records, and not on which
    /// position is the main one, which names of directions and columns of tables say.
    pub fn is_of_results(self) -> bool {
        !matches!(self, Compat::DasSign | Compat::FirstPlaceholder)
    }

    /// Is it about patching along directions alone? Then no direction is fitted under it.
    pub fn is_of_patching(self) -> bool {
        matches!(self, Compat::UnprocessedFits | Compat::UnpatchedRuns)
    }
}
