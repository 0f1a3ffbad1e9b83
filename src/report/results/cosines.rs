//! Cosine similarity of directions between methods and between layers (arXiv 2310.15154, figure 2), without its sign:
//! that of DAS, PCA and SVD is a convention.

use super::{FitOf, Method, fit_of, fitted_on};
use crate::directions::{Direction, DirectionError, DirectionName, cosine};
use crate::report::figure::{Axis, Facet, Figure, HeatMap, Plot, Scale};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Most facets of one figure; of more layers, as many are drawn at equal distances.
const MOST_FACETS: usize = 6;

/// One-dimensional directions of a folder, by name.
fn lines(folder: &Path, names: &[DirectionName]) -> Result<BTreeMap<DirectionName, Vec<f32>>, DirectionError> {
    let lines = names.iter().filter(|name| name.method().dimensions() == 1);
    lines.map(|name| Ok((name.clone(), Direction::read_any_width(folder, name)?.columns.data))).collect()
}

fn heat_map(labels: &[String], directions: &[Option<&Vec<f32>>]) -> Plot {
    let pairs = directions.iter().flat_map(|a| directions.iter().map(move |b| a.zip(*b)));
    Plot::HeatMap(HeatMap {
        rows: labels.to_vec(),
        columns: labels.to_vec(),
        // Directions of other widths, from another model, have no cosine.
        values: pairs
            .map(|pair| pair.filter(|(a, b)| a.len() == b.len()).map(|(a, b)| 100.0 * cosine(a, b).abs()))
            .collect(),
        scale: Scale::Reds { low: 0.0, high: 100.0 },
        measure: "cosine similarity (%)".into(),
        decimals: Some(0),
    })
}

/// Writes `cosine_similarity_<dataset>_<POSITION>` for every dataset of a fit: methods against methods, a facet per layer.
///
/// # Errors
/// Those of [`Direction::read_any_width`] and [`Figure::write`].
pub fn between_methods(
    model: &str,
    (model_folder, names): (&Path, &[DirectionName]),
    folder: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let lines = lines(model_folder, names)?;
    let sets: BTreeSet<(&str, &str)> = lines.keys().filter_map(|name| name.dataset().zip(name.position())).collect();
    let mut written = Vec::new();
    for (set, position) in sets {
        let of_set = |name: &&DirectionName| {
            name.dataset().is_none() || name.dataset().zip(name.position()) == Some((set, position))
        };
        let members: Vec<&DirectionName> = lines.keys().filter(of_set).collect();
        let methods: BTreeSet<Method> = members.iter().map(|name| name.method()).collect();
        let fitted: BTreeSet<usize> =
            members.iter().filter(|name| name.dataset().is_some()).map(|name| name.layer()).collect();
        let labels: Vec<String> = methods.iter().map(Method::to_string).collect();
        let facets = evenly(&fitted.into_iter().collect::<Vec<_>>(), MOST_FACETS).into_iter().map(|layer| {
            let find = |method: &Method| {
                let name = members.iter().find(|name| name.method() == *method && name.layer() == layer)?;
                lines.get(name)
            };
            let plot = heat_map(&labels, &methods.iter().map(find).collect::<Vec<_>>());
            Facet { title: format!("layer {layer}"), x: Axis::new("method"), y: Axis::new("method"), plot }
        });
        let mut figure = Figure::new(format!("{model}: directions fitted on {set} at {position}"), facets.collect());
        figure.caption = "Absolute cosine of two methods' directions at one layer.".into();
        written.extend(figure.write(folder, &format!("cosine_similarity_{set}_{position}"))?);
    }
    Ok(written)
}

/// Writes `cosine_similarity_layers_<dataset>_<POSITION>` for every dataset of a fit: layers against layers, a facet per
/// method.
///
/// # Errors
/// As [`between_methods`].
pub fn between_layers(
    model: &str,
    (model_folder, names): (&Path, &[DirectionName]),
    folder: &Path,
) -> anyhow::Result<Vec<PathBuf>> {
    let lines = lines(model_folder, names)?;
    let mut fits: BTreeMap<Option<(String, String)>, BTreeMap<FitOf, Vec<&DirectionName>>> = BTreeMap::new();
    for name in lines.keys().filter(|name| name.dataset().is_some()) {
        let fit = fit_of(name);
        fits.entry(fit.1.clone()).or_default().entry(fit).or_default().push(name);
    }
    let mut written = Vec::new();
    for (set, fits) in fits {
        let facets = fits.values().map(|names| {
            let mut names = names.clone();
            names.sort_by_key(|name| name.layer());
            let labels: Vec<String> = names.iter().map(|name| name.layer().to_string()).collect();
            let directions: Vec<_> = names.iter().map(|name| lines.get(*name)).collect();
            let title = names.first().map_or(String::new(), |name| name.method().to_string());
            Facet { title, x: Axis::new("layer"), y: Axis::new("layer"), plot: heat_map(&labels, &directions) }
        });
        let label = fitted_on(&(Method::RandomDirection, set));
        let mut figure = Figure::new(format!("{model}: directions fitted on {label}"), facets.collect());
        figure.caption = "Absolute cosine of one method's directions at two layers.".into();
        written.extend(figure.write(folder, &format!("cosine_similarity_layers_{}", label.replace(' ', "_")))?);
    }
    Ok(written)
}

/// At most `most` of the items, the first and the last among them.
pub(super) fn evenly<T: Copy>(items: &[T], most: usize) -> Vec<T> {
    if items.len() <= most {
        return items.to_vec();
    }
    (0..most).filter_map(|index| items.get(index * (items.len() - 1) / (most - 1)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_thinned_evenly_with_both_ends() {
        assert_eq!(evenly(&[0, 1, 2], 6), [0, 1, 2]);
        let all: Vec<usize> = (0..25).collect();
        assert_eq!(evenly(&all, 6), [0, 4, 9, 14, 19, 24]);
        assert_eq!(evenly::<usize>(&[], 6), Vec::<usize>::new());
    }
}
