//! A metric against the layer, one line per method, one facet per model.

use super::{Column, FitOf, Measured, Method, ResultFile, fit_of, fitted_on};
use crate::report::ReportError;
use crate::report::figure::{Axis, Facet, Figure, Plot, Series};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Writes `<result file>_<dataset>_<POSITION>_facet_plot` for every metric and evaluation, with a facet for every model
/// that has it. Random directions are the dashed baseline.
///
/// # Errors
/// Those of [`Figure::write`].
pub fn layer_figures(models: &[(String, Vec<ResultFile>)], folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let mut plots: BTreeMap<(&Measured, &Column), Vec<(&str, &ResultFile)>> = BTreeMap::new();
    for (model, files) in models {
        for file in files {
            for column in file.columns() {
                plots.entry((&file.measured, column)).or_default().push((model, file));
            }
        }
    }
    let mut written = Vec::new();
    for ((measured, column), models) in plots {
        let fits: BTreeSet<FitOf> =
            models.iter().flat_map(|(_, file)| file.cells.keys().map(|(name, _)| fit_of(name))).collect();
        let sets: BTreeSet<_> = fits.iter().filter_map(|fit| fit.1.as_ref()).collect();
        let facets = models.iter().map(|(model, file)| facet(model, file, column, sets.len() > 1)).collect();
        let note = measured.note();
        let note = if note.is_empty() { note } else { format!(" ({note})") };
        let mut figure = Figure::new(format!("Patching {} at {}{note}", column.0, column.1), facets);
        if let [(set, position)] = &sets.into_iter().collect::<Vec<_>>()[..] {
            figure.caption = format!("Directions fitted on {set} at {position}.");
        }
        figure.share_y();
        let stem = format!("{}_{}_{}_facet_plot", measured.stem(), column.0, column.1);
        written.extend(figure.write(folder, &stem)?);
    }
    Ok(written)
}

fn facet(model: &str, file: &ResultFile, column: &Column, several_sets: bool) -> Facet {
    let mut lines: BTreeMap<FitOf, Vec<(f64, f64)>> = BTreeMap::new();
    for ((name, at), &percent) in &file.cells {
        if at == column {
            lines.entry(fit_of(name)).or_default().push((name.layer() as f64, percent));
        }
    }
    let series = lines.into_iter().map(|(fit, mut points)| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let baseline = fit.0 == Method::RandomDirection;
        let name = if several_sets && !baseline { format!("{} {}", fit.0, fitted_on(&fit)) } else { fit.0.to_string() };
        Series { name, points, baseline }
    });
    Facet {
        title: model.into(),
        x: Axis::whole("layer"),
        y: Axis::new(file.measured.measure()),
        plot: Plot::Lines(series.collect()),
    }
}
