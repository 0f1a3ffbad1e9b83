//! Absolute cosines between directions (figure 2 of arXiv 2310.15154): between methods, and between layers.

use super::{Fit, Named, ResultsError, fitted_on, spread};
use crate::directions::{Direction, DirectionName, cosine};
use crate::report::figure::{Axis, Facet, Figure, HeatMap, Plot, Scale};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Facets of the figure of methods.
const LAYERS: usize = 4;

/// `cosine_similarity_cross_dataset`: every fit against every fit, a facet per layer (at most four);
/// `cosine_similarity_layers`: every layer against every layer, a facet per fit. Directions of one dimension only: for
/// planes there is no single cosine.
///
/// # Errors
/// A direction that cannot be read, or one of another width than the rest.
pub fn similarities(model: &str, folder: &Path, names: &[DirectionName]) -> Result<Vec<Named>, ResultsError> {
    let mut vectors: BTreeMap<Fit, BTreeMap<usize, Vec<f32>>> = BTreeMap::new();
    let mut width = None;
    for name in names.iter().filter(|name| name.dimensions().unwrap_or(1) == 1) {
        let failed = |source| ResultsError::Direction { path: folder.into(), source };
        let columns = match width {
            None => Direction::read_any_width(folder, name).map_err(failed)?.columns,
            Some(width) => Direction::read(folder, name, width).map_err(failed)?.columns,
        };
        width = Some(columns.rows);
        if columns.cols > 1 {
            continue;
        }
        vectors.entry((name.found_by().clone(), fitted_on(name))).or_default().insert(name.layer(), columns.data);
    }
    let figures = [between_methods(model, &vectors), between_layers(model, &vectors)];
    Ok(figures.into_iter().flatten().collect())
}

fn label((found_by, fit): &Fit) -> String {
    fit.as_ref().map_or(found_by.to_string(), |fit| format!("{found_by} {fit}"))
}

fn between_methods(model: &str, vectors: &BTreeMap<Fit, BTreeMap<usize, Vec<f32>>>) -> Option<Named> {
    let layers: BTreeSet<usize> = vectors.values().flat_map(|layers| layers.keys().copied()).collect();
    let mut facets = Vec::new();
    for layer in spread(&layers, LAYERS) {
        let at = vectors.iter().filter_map(|(fit, layers)| Some((label(fit), layers.get(&layer)?.as_slice())));
        let at: Vec<(String, &[f32])> = at.collect();
        if at.len() > 1 {
            facets.push(facet(format!("layer {layer}"), "direction", &at));
        }
    }
    named(facets, "cosine_similarity_cross_dataset", format!("{model}: |cosine| of directions"))
}

fn between_layers(model: &str, vectors: &BTreeMap<Fit, BTreeMap<usize, Vec<f32>>>) -> Option<Named> {
    let mut facets = Vec::new();
    for (fit, layers) in vectors.iter().filter(|(_, layers)| layers.len() > 1) {
        let at: Vec<(String, &[f32])> =
            layers.iter().map(|(layer, vector)| (layer.to_string(), vector.as_slice())).collect();
        facets.push(facet(label(fit), "layer", &at));
    }
    named(facets, "cosine_similarity_layers", format!("{model}: |cosine| of one method's directions between layers"))
}

fn named(facets: Vec<Facet>, stem: &str, title: String) -> Option<Named> {
    let figure = Figure::new(title, facets);
    (!figure.facets.is_empty()).then(|| Named { stem: stem.into(), figure })
}

fn facet(title: String, axis: &str, vectors: &[(String, &[f32])]) -> Facet {
    let labels: Vec<String> = vectors.iter().map(|(label, _)| label.clone()).collect();
    let pairs = vectors.iter().flat_map(|(_, a)| vectors.iter().map(move |(_, b)| cosine(a, b).abs()));
    let map = HeatMap {
        rows: labels.clone(),
        columns: labels,
        values: pairs.map(Some).collect(),
        scale: Scale::Reds { low: 0.0, high: 1.0 },
        measure: "|cosine|".into(),
        decimals: Some(2),
    };
    Facet { title, x: Axis::new(axis), y: Axis::new(axis), plot: Plot::HeatMap(map) }
}
