//! The tables of `neuroscope`: one row type each.

use super::ReportError;
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
        let wrong = |error: csv::Error| ReportError::Content {
            path: path.into(),
            field: error.position().map_or("header".into(), |place| format!("line {}", place.line())),
            expected: "a row of a neuroscope summary".into(),
            found: error.to_string(),
        };
        let mut reader = csv::Reader::from_path(path)
            .map_err(|error| ReportError::Io { path: path.into(), source: error.into() })?;
        reader.deserialize().collect::<Result<_, _>>().map_err(wrong)
    }
}

/// A row of `_top.csv`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopRow {
    /// The direction's name.
    pub direction: String,
    /// Where residuals were read.
    pub layer: usize,
    /// `largest` or `smallest`.
    pub end: &'static str,
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
}

/// A row of `_samples.csv`.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
}

/// A row of `_token_means.csv`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenMeanRow {
    /// The direction's name.
    pub direction: String,
    /// Where residuals were read.
    pub layer: usize,
    /// `largest_mean`, `smallest_mean`, `largest_std` or `smallest_std`.
    pub list: &'static str,
    /// From 1, the outermost.
    pub rank: usize,
    /// The token.
    pub token: String,
    /// Its id.
    #[serde(skip)]
    pub id: u32,
    /// How often it occurred.
    pub count: u64,
    /// Mean of its values.
    pub mean: f64,
    /// Their standard deviation (divided by the count).
    pub std: f64,
}
