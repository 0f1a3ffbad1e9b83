//! Dataset of the fit against dataset of the evaluation, one facet per method.

use super::{BEST_LAYER, Column, FitOf, Method, ResultFile};
use crate::report::ReportError;
use crate::report::figure::{Axis, Facet, Figure, HeatMap, Plot, Scale};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Writes `<result file>_cross_dataset` in the formats of a figure: the best layer of every pair of datasets. A file with
/// random directions only has no matrix.
///
/// # Errors
/// Those of [`Figure::write`].
pub fn cross_dataset(model: &str, file: &ResultFile, folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let bests = file.best();
    let columns: Vec<&Column> = file.columns().into_iter().collect();
    let mut methods: BTreeMap<Method, BTreeSet<(String, String)>> = BTreeMap::new();
    for ((method, fitted), _) in bests.keys() {
        methods.entry(*method).or_default().extend(fitted.clone());
    }
    methods.retain(|_, fits| !fits.is_empty());
    if methods.is_empty() {
        return Ok(Vec::new());
    }
    let value = |fit: &FitOf, column: &Column| bests.get(&(fit.clone(), column.clone())).map(|(percent, _)| *percent);
    let facets = methods.into_iter().map(|(method, fits)| {
        let rows = fits.iter().map(|(set, position)| format!("{set} {position}")).collect();
        let values = fits.iter().flat_map(|fit| columns.iter().map(move |column| (fit.clone(), *column)));
        Facet {
            title: method.to_string(),
            x: Axis::new("patched"),
            y: Axis::new("fitted on"),
            plot: Plot::HeatMap(HeatMap {
                rows,
                columns: columns.iter().map(|(set, position)| format!("{set} {position}")).collect(),
                values: values.map(|(fit, column)| value(&(method, Some(fit)), column)).collect(),
                scale: Scale::Reds { low: 0.0, high: 100.0 },
                measure: file.measured.measure(),
                decimals: Some(0),
            }),
        }
    });
    let note = file.measured.note();
    let title = if note.is_empty() { model.to_owned() } else { format!("{model} ({note})") };
    let mut figure = Figure::new(title, facets.collect());
    figure.caption = format!("Percent at the best layer. {BEST_LAYER}");
    figure.write(folder, &format!("{}_cross_dataset", file.measured.stem()))
}
