//! How well fitted directions separate datasets, from `direction_fitting_stats.csv`.

use super::table_files::{TableFile, write_tables};
use crate::report::{FittingStats, ReportError, StatsRow};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Writes `direction_fitting_accuracy` and `direction_fitting_similarity` (`.csv`, `.html`): one row per method, dataset
/// of the fit and dataset of the test, one column per layer. Nothing without statistics.
///
/// # Errors
/// Those of [`FittingStats::read`], [`ReportError::Io`].
pub fn fit_tables(model: &str, model_folder: &Path, folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let stats = FittingStats::read(model_folder)?;
    if stats.rows().is_empty() {
        return Ok(Vec::new());
    }
    let accuracy = TableFile {
        stem: "direction_fitting_accuracy".into(),
        title: format!("{model}: prompts on the right side of the fit, percent"),
        caption: "By layer. A direction's own dataset is the one it was fitted on.".into(),
        ..by_layer(stats.rows(), |row| row.accuracy)
    };
    let similarity = TableFile {
        stem: "direction_fitting_similarity".into(),
        title: format!("{model}: cosine with the direction fitted on the test set, times 100"),
        caption: "By layer; 100 for a direction's own dataset.".into(),
        ..by_layer(stats.rows(), |row| row.similarity)
    };
    Ok([write_tables(&accuracy, folder)?, write_tables(&similarity, folder)?].concat())
}

fn by_layer(stats: &[StatsRow], value: impl Fn(&StatsRow) -> f64) -> TableFile {
    let layers: BTreeSet<usize> = stats.iter().map(|row| row.train_layer).collect();
    let mut rows: BTreeMap<Vec<String>, BTreeMap<usize, f64>> = BTreeMap::new();
    for row in stats {
        let train = format!("{} {}", row.train_set, row.train_pos);
        let test = format!("{} {}", row.test_set, row.test_pos);
        let value = 100.0 * value(row);
        // A test set without a fit of its own has no cosine.
        if value.is_finite() {
            rows.entry(vec![row.method.clone(), train, test]).or_default().insert(row.train_layer, value);
        }
    }
    let cells = |row: &BTreeMap<usize, f64>| {
        let cell = |layer| row.get(layer).map(|&value| (value, format!("{value:.1}")));
        layers.iter().map(cell).collect()
    };
    TableFile {
        heads: vec!["method".into(), "fitted on".into(), "tested on".into()],
        columns: layers.iter().map(|layer| format!("layer {layer}")).collect(),
        rows: rows.iter().map(|(heads, row)| (heads.clone(), cells(row))).collect(),
        range: (0.0, 100.0),
        ..TableFile::default()
    }
}
