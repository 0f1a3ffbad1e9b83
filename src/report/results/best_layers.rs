//! `direction_patching_results.csv`: the best layer of every method on every evaluation column, for all models.

use super::{Best, ResultFile};
use crate::report::error::write_csv;
use crate::report::{ReportError, Table};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
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
            metric: file.name.metric.to_string(),
            site: file.name.site.to_string(),
            scaffold: file.name.scaffold.to_string(),
            variant: file.name.variant.clone(),
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

    /// Writes the table into a folder, its cells guarded against spreadsheets or not.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, folder: &Path, guard: bool) -> Result<PathBuf, ReportError> {
        let path = folder.join("direction_patching_results.csv");
        write_csv(&path, &self.rows, guard)?;
        Ok(path)
    }
}

/// One row per method and fit, one column per evaluation: the percentage at the best layer, and that layer.
pub fn best_layers_table(bests: &[Best]) -> Table {
    let columns: BTreeSet<&str> = bests.iter().map(|best| best.patched.as_str()).collect();
    let mut rows: BTreeMap<(String, &str), BTreeMap<&str, String>> = BTreeMap::new();
    for best in bests {
        let cell = format!("{:.1} ({})", best.percent, best.layer);
        rows.entry((best.method.to_string(), &best.fitted_on)).or_default().insert(&best.patched, cell);
    }
    let mut table = Table::new(["method", "fitted on"].into_iter().chain(columns.iter().copied()));
    for ((method, fitted_on), cells) in rows {
        let values = columns.iter().map(|column| cells.get(column).cloned().unwrap_or_default());
        table.push([method, fitted_on.to_owned()].into_iter().chain(values));
    }
    table
}
