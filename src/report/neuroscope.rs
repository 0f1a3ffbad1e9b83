//! The tables of `neuroscope`: one row type each.

use super::{ReportError, read_csv};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A row of `_summary.csv`: all values of a direction at a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelSummary {
    /// The direction's name.
    pub direction: String,
    /// Where residuals were read.
    pub layer: usize,
    /// How many tokens there were.
    pub tokens: u64,
    /// Mean of their values.
    pub mean: f64,
    /// Standard deviation (divided by the count).
    pub std: f64,
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// The quantile that the tail's share of the tokens lies below; none when values are no cosines.
    pub lower: Option<f64>,
    /// The quantile that the tail's share lies above.
    pub upper: Option<f64>,
}

impl ChannelSummary {
    /// Reads a summary.
    ///
    /// # Errors
    /// [`ReportError`] for a file that cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Vec<Self>, ReportError> {
        read_csv(path, "a row of a neuroscope summary")
    }
}

/// A row of `_top.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopRow {
    /// The direction's name.
    pub direction: String,
    /// Where residuals were read.
    pub layer: usize,
    /// `largest` or `smallest`.
    pub end: String,
    /// From 1, the outermost.
    pub rank: usize,
    /// The token's value.
    pub value: f32,
    /// Number of its document, from 0.
    pub document: usize,
    /// Position in the document, from 0, BOS not counted.
    pub position: usize,
    /// The token.
    pub token: String,
    /// It and its neighbours.
    pub text: String,
    /// The token's id: others may be spelled like it.
    pub token_id: u32,
}

/// A row of `_samples.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    /// The direction's name.
    pub direction: String,
    /// Where residuals were read.
    pub layer: usize,
    /// Lower end of the bin.
    pub lower: f64,
    /// Its upper end.
    pub upper: f64,
    /// How many tokens lie in it.
    pub count: u64,
    /// The token's value.
    pub value: f32,
    /// Number of its document, from 0.
    pub document: usize,
    /// Position in the document, from 0, BOS not counted.
    pub position: usize,
    /// The token.
    pub token: String,
    /// It and its neighbours.
    pub text: String,
    /// The token's id: others may be spelled like it.
    pub token_id: u32,
}

impl SampleRow {
    /// The columns of the table.
    pub const COLUMNS: [&str; 11] =
        ["direction", "layer", "lower", "upper", "count", "value", "document", "position", "token", "text", "token_id"];
}

/// A row of `_token_means.csv`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenMeanRow {
    /// The direction's name.
    pub direction: String,
    /// Where residuals were read.
    pub layer: usize,
    /// `largest_mean`, `smallest_mean`, `largest_std` or `smallest_std`.
    pub list: String,
    /// From 1, the outermost.
    pub rank: usize,
    /// The token.
    pub token: String,
    /// How often it occurred.
    pub count: u64,
    /// Mean of its values.
    pub mean: f64,
    /// Their standard deviation (divided by the count).
    pub std: f64,
    /// The token's id: others may be spelled like it.
    pub token_id: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_have_the_columns_that_they_are_known_by() {
        let row = SampleRow {
            direction: "das".into(),
            layer: 1,
            lower: 0.1,
            upper: 0.2,
            count: 3,
            value: 0.15,
            document: 0,
            position: 4,
            token: " a".into(),
            text: "b a".into(),
            token_id: 7,
        };
        let text = String::from_utf8(crate::files::csv_bytes([row], false).unwrap()).unwrap();
        assert_eq!(text.lines().next().unwrap(), SampleRow::COLUMNS.join(","));
    }
}
