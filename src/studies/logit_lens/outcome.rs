//! What comes of reading predictions.

use crate::report::{PredictedAs, PredictionRow, RunRecord, Table};
use serde::Serialize;
use std::fmt;

/// The predictions of a model.
#[derive(Debug, Clone, Serialize)]
pub struct Predictions {
    /// The model's name.
    pub model: String,
    /// Those of every dataset, or of texts.
    pub sets: Vec<PredictedSet>,
    /// The manifest; none when all tables were there.
    pub manifest: Option<RunRecord>,
}

/// The table of a dataset, or of texts.
#[derive(Debug, Clone, Serialize)]
pub struct PredictedSet {
    /// Name of its files without their ending.
    pub file: String,
    /// Its rows.
    pub rows: Vec<PredictionRow>,
}

/// How many of the likeliest tokens the text shows.
const SHOWN: usize = 3;

impl fmt::Display for Predictions {
    /// Every run at the last layer that was read: how likely its tokens were, and what it predicts behind the last one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.model)?;
        for PredictedSet { file, rows } in &self.sets {
            let head = ["prompt", "run", "layer", "mean log probability", "likeliest behind the last token", "answer"];
            let mut table = Table::new(head);
            for sequence in rows.chunk_by(|a, b| a.sequence() == b.sequence()) {
                table.push(line(sequence));
            }
            writeln!(f, "{file}\n{table}")?;
        }
        Ok(())
    }
}

/// The line of a run of a prompt.
fn line(rows: &[PredictionRow]) -> Vec<String> {
    let Some(last) = rows.last() else { return Vec::new() };
    let at_end: Vec<&PredictionRow> = rows.iter().filter(|row| row.layer == last.layer).collect();
    let next = || at_end.iter().filter(|row| row.role == PredictedAs::Next).map(|row| f64::from(row.log_probability));
    let mean = match next().count() {
        0 => String::new(),
        count => format!("{:.3}", next().sum::<f64>() / count as f64),
    };
    let behind_last = |role| at_end.iter().filter(move |row| row.position == last.position && row.role == role);
    let shown =
        |row: &&PredictionRow| format!("{:?} {:.1} %", row.predicted, 100.0 * f64::from(row.log_probability).exp());
    let likeliest: Vec<String> = behind_last(PredictedAs::Top).take(SHOWN).map(shown).collect();
    let answer = behind_last(PredictedAs::Correct).next();
    vec![
        last.prompt.to_string(),
        last.run_name(),
        last.layer.to_string(),
        mean,
        likeliest.join(", "),
        answer.map_or(String::new(), |row| format!("{:?}, rank {}", row.predicted, row.rank)),
    ]
}
