//! The best layer of every method: the paper's main tables.

use super::table_files::{TableFile, write_tables};
use super::{BEST_LAYER, ResultFile, fitted_on};
use crate::report::ReportError;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The best layer of one method, fitted on one dataset, on one evaluation column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Best {
    /// Fitting method.
    pub method: String,
    /// Dataset and placeholder of the fit.
    pub fitted_on: String,
    /// Dataset and position that were patched.
    pub patched: String,
    /// The metric in percent at the best layer.
    pub percent: f64,
    /// That layer.
    pub layer: usize,
}

/// The best layers of a result file, chosen on the same prompts that are reported, as in the paper's tables.
pub fn best_layers(file: &ResultFile) -> Vec<Best> {
    let bests = file.best().into_iter().map(|((fit, (set, position)), (percent, layer))| Best {
        method: fit.0.to_string(),
        fitted_on: fitted_on(&fit),
        patched: format!("{set} {position}"),
        percent,
        layer,
    });
    bests.collect()
}

/// Writes `direction_patching_<site>_simple<variant>.csv` and `.html`: one row per method and fit, one column per metric
/// and evaluation, all metrics and scaffolds of a site together.
///
/// # Errors
/// [`ReportError::Io`].
pub fn summaries(model: &str, files: &[ResultFile], folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let mut sites: BTreeMap<(&str, &str), Vec<&ResultFile>> = BTreeMap::new();
    for file in files {
        sites.entry((file.measured.site, &file.measured.variant)).or_default().push(file);
    }
    let mut written = Vec::new();
    for ((site, variant), files) in sites {
        let table = TableFile {
            stem: format!("direction_patching_{site}_simple{variant}"),
            title: format!("{model}: best layer of every method, percent ({site}{variant})"),
            caption: format!("{BEST_LAYER} In parentheses: the layer."),
            heads: vec!["method".into(), "fitted on".into()],
            range: (0.0, 100.0),
            ..table_of(&files)
        };
        written.extend(write_tables(&table, folder)?);
    }
    Ok(written)
}

/// Rows and columns of the best values of several files.
fn table_of(files: &[&ResultFile]) -> TableFile {
    let mut rows: BTreeMap<_, BTreeMap<String, (f64, String)>> = BTreeMap::new();
    let mut columns = BTreeSet::new();
    for file in files {
        let note =
            if file.measured.scaffold == "plain" { String::new() } else { format!(" {}", file.measured.scaffold) };
        for ((fit, (set, position)), (percent, layer)) in file.best() {
            let column = format!("{} {set} {position}{note}", file.measured.metric);
            columns.insert(column.clone());
            rows.entry(fit).or_default().insert(column, (percent, format!("{percent:.1} ({layer})")));
        }
    }
    let cells = |row: &BTreeMap<String, (f64, String)>| columns.iter().map(|column| row.get(column).cloned()).collect();
    TableFile {
        rows: rows.iter().map(|(fit, row)| (vec![fit.0.to_string(), fitted_on(fit)], cells(row))).collect(),
        columns: columns.into_iter().collect(),
        ..TableFile::default()
    }
}
