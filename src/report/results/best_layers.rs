//! `direction_patching_results.csv`: the best layer of every method on every evaluation column, for all models.

use super::{Best, ResultFile};
use crate::report::ReportError;
use crate::report::error::write_csv;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The table's rows.
#[derive(Debug, Clone, PartialEq)]
pub struct BestLayers {
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    model: String,
    metric: String,
    site: String,
    scaffold: String,
    variant: String,
    method: String,
    fitted_on: String,
    patched: String,
    percent: f64,
    layer: usize,
    /// The random direction's, at its own best layer; empty without it.
    random_direction_percent: Option<f64>,
}

impl BestLayers {
    /// The table of some result files.
    pub fn of(files: &[ResultFile]) -> Self {
        let row = |file: &ResultFile, best: Best| Row {
            model: file.model.clone(),
            metric: file.metric.to_string(),
            site: file.site.clone(),
            scaffold: file.scaffold.to_string(),
            variant: file.variant.clone(),
            method: best.method.to_string(),
            fitted_on: best.fitted_on,
            patched: best.patched,
            percent: best.percent,
            layer: best.layer,
            random_direction_percent: best.random,
        };
        let rows = files.iter().flat_map(|file| file.best_layers().into_iter().map(move |best| row(file, best)));
        Self { rows: rows.collect() }
    }

    /// Writes the table into a folder.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, folder: &Path) -> Result<PathBuf, ReportError> {
        let path = folder.join("direction_patching_results.csv");
        write_csv(&path, &self.rows)?;
        Ok(path)
    }
}
