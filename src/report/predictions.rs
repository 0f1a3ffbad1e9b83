//! The table of what a model predicts, and the logit lens: one row per token that a prediction is about.

use super::{ReportError, read_csv};
use crate::choice::choices;
use serde::{Deserialize, Serialize};
use std::path::Path;

choices! {
    /// Whose prediction it is.
    pub enum PredictedBy {
        /// The clean prompt's run, or that of a plain text.
        Clean = "clean",
        /// The corrupted prompt's run.
        Corrupted = "corrupted",
        /// The corrupted prompt's run with a patch from the clean one.
        Patched = "patched",
    }
}

choices! {
    /// Why a token is in the table.
    pub enum PredictedAs {
        /// It is one of the likeliest.
        Top = "top",
        /// It comes next.
        Next = "next",
        /// It answers the clean prompt rightly.
        Correct = "correct",
        /// It answers the clean prompt wrongly.
        Incorrect = "incorrect",
    }
}

/// A token that a prediction is about. Rows stand in the order of the first columns, those of one prediction by their rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictionRow {
    /// Number of the prompt in its dataset, or of the text.
    pub prompt: usize,
    /// Whose prediction it is.
    pub run: PredictedBy,
    /// What was patched: a direction, or a hook name for the residual as a whole; [`super::NOTHING`] in other runs.
    pub patched: String,
    /// The positions that were patched, by name; [`super::NOTHING`] in other runs.
    pub patched_positions: String,
    /// Position of the token behind which something is predicted, BOS counted.
    pub position: usize,
    /// That token.
    pub token: String,
    /// Where the residual stream is read: `l < n_layers` in front of block `l`, `n_layers` at the end.
    pub layer: usize,
    /// Why the predicted token is here; it may be so twice.
    pub role: PredictedAs,
    /// Its place among all tokens, 1 for the likeliest.
    pub rank: usize,
    /// The predicted token.
    pub predicted: String,
    /// Its log probability in nats, over the whole vocabulary.
    pub log_probability: f32,
    /// Id of the predicted token.
    pub predicted_id: u32,
    /// Id of the token behind which it is predicted.
    pub token_id: u32,
}

impl PredictionRow {
    /// Reads a table.
    ///
    /// # Errors
    /// [`ReportError`] for a file that is not there, or has other rows.
    pub fn read(path: &Path) -> Result<Vec<Self>, ReportError> {
        read_csv(path, "a row of predictions")
    }

    /// The run's name: what was patched and where, or that nothing was.
    pub fn run_name(&self) -> String {
        match self.run {
            PredictedBy::Patched => format!("{} at {}", self.patched, self.patched_positions),
            run => run.to_string(),
        }
    }

    /// The prompt and the run: what rows of one sequence of predictions share.
    pub fn sequence(&self) -> (usize, PredictedBy, &str, &str) {
        (self.prompt, self.run, &self.patched, &self.patched_positions)
    }
}
