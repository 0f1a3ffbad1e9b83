//! Scatter plots of prompts in the plane of a PCA or SVD fit, in and out of sample.

use super::{Named, Place, ResultsError, fitted_on, spread};
use crate::directions::{DirectionName, Method};
use crate::report::figure::{Axis, Class, Facet, Figure, Plot, Point};
use crate::report::{ProjectedPrompt, Projections};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Facets of one figure: layers from the first to the last.
const LAYERS: usize = 6;

/// One figure per method, dataset of the fit and dataset of the prompts, a facet per layer (at most six).
///
/// # Errors
/// Those of [`Projections::read`].
pub fn projections(model: &str, folder: &Path, names: &[DirectionName]) -> Result<Vec<Named>, ResultsError> {
    let mut fits: BTreeMap<(Method, Place), BTreeSet<usize>> = BTreeMap::new();
    let of_planes = |name: &DirectionName| name.method().filter(|method| matches!(method, Method::Pca | Method::Svd));
    for (name, method) in names.iter().filter_map(|name| Some((name, of_planes(name)?))) {
        if let Some(place) = fitted_on(name).filter(|_| Projections::path(folder, name).exists()) {
            fits.entry((method, place)).or_default().insert(name.layer());
        }
    }
    let several = |fit: &Place| fits.keys().any(|(_, other)| other.set == fit.set && other.position != fit.position);
    let mut figures = Vec::new();
    for ((method, fit), layers) in &fits {
        let mut sets: BTreeMap<String, Vec<Facet>> = BTreeMap::new();
        for layer in spread(layers, LAYERS) {
            let Ok(name) = DirectionName::fitted(*method, &fit.set, &fit.position, layer) else { continue };
            let prompts = Projections::read(folder, &name)?.unwrap_or_default().prompts;
            let mut of: BTreeMap<&str, Vec<&ProjectedPrompt>> = BTreeMap::new();
            prompts.iter().for_each(|prompt| of.entry(&prompt.set).or_default().push(prompt));
            for (set, prompts) in of {
                sets.entry(set.into()).or_default().push(facet(layer, &prompts));
            }
        }
        for (set, facets) in sets {
            let sample = if set == fit.set { "in sample" } else { "out of sample" };
            let title = format!("{model}: {set} in the plane of {method} fitted on {fit}, {sample}");
            let mut figure = Figure::new(title, facets);
            figure.caption = "In units of the residual stream; every scale is its own layer's. A label stands where \
                there is room for it."
                .into();
            let ending = if several(fit) { format!("_{}", fit.position) } else { String::new() };
            figures.push(Named { stem: format!("{method}_{}_{set}{ending}", fit.set), figure });
        }
    }
    Ok(figures)
}

fn facet(layer: usize, prompts: &[&ProjectedPrompt]) -> Facet {
    let class = |name: &str, positive: bool| {
        let of_class = prompts.iter().filter(|prompt| prompt.positive == positive);
        let point = |prompt: &&ProjectedPrompt| Point {
            x: prompt.component_1,
            y: prompt.component_2,
            label: prompt.word.trim().to_owned(),
        };
        Class { name: name.into(), points: of_class.map(point).collect() }
    };
    Facet {
        title: format!("layer {layer}"),
        x: Axis::new("component 1"),
        y: Axis::new("component 2"),
        plot: Plot::Scatter(vec![class("positive", true), class("negative", false)]),
    }
}
