//! `direction_patching.csv`: everything that the suite has measured of a model, a value a row, with every setting in a
//! column of its own. The tables named as [`super::SuiteName`] says have the same values in the paper's layout.

use super::ReportError;
use super::error::{read_csv, write_csv};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a column of texts says where there is nothing to say: tools take an empty cell for a value that is missing.
pub const NOTHING: &str = "none";

/// One value with everything that tells it from others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuiteRow {
    /// The model's name.
    pub model: String,
    /// What found the direction: a fitting method, or the name, without its layer, of one that was found elsewhere.
    pub method: String,
    /// Dataset of the fit.
    pub train_set: String,
    /// Placeholder of the fit.
    pub train_position: String,
    /// Layer of the direction: `l < n_layers` is `blocks.{l}.hook_resid_pre`, `n_layers` the last `hook_resid_post`.
    pub layer: usize,
    /// Seed of the fit; none where nothing says so.
    pub seed: Option<u64>,
    /// Dataset that was patched.
    pub eval_set: String,
    /// Text around the Treebank's sentences.
    pub scaffold: String,
    /// Position that was patched.
    pub position: String,
    /// What was patched, as [`super::SuiteSite`] is written: `resid`, `attn_result` (the paper's heads),
    /// `attn_result_9.2-10.1`.
    pub site: String,
    /// `own` for the direction's own layer, `all` for every block.
    pub patched_layers: String,
    /// Which part of the direction was patched: `para` or `ortho`.
    pub projection: String,
    /// Ways of the paper's code that were followed, joined by spaces.
    pub compat: String,
    /// Number format of the matrix products.
    pub dtype: String,
    /// Rewrites of the weights, joined by spaces.
    pub weight_processing: String,
    /// Is a token of its own in front of every text? None where nothing says so.
    pub bos: Option<bool>,
    /// What was measured.
    pub metric: String,
    /// The value in percent; none where the metric is undefined.
    pub percent: Option<f64>,
}

impl SuiteRow {
    /// The file in a model's folder.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join("direction_patching.csv")
    }

    /// Reads the file of a model's folder.
    ///
    /// # Errors
    /// [`ReportError`] for a file that is not there, or has other rows.
    pub fn read(folder: &Path) -> Result<Vec<Self>, ReportError> {
        read_csv(&Self::path(folder), "a row of the suite's values")
    }

    /// Writes the file of a model's folder, its cells guarded against spreadsheets or not.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(rows: &[Self], folder: &Path, guard: bool) -> Result<(), ReportError> {
        write_csv(&Self::path(folder), rows, guard)
    }
}
