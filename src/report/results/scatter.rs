//! Prompts in the plane of the first two components of a PCA or SVD fit, in and out of sample.

use super::cosines::evenly;
use crate::directions::{DirectionName, Method};
use crate::report::figure::{Axis, Class, Facet, Figure, Plot, Point};
use crate::report::{ProjectedPrompt, Projections, ReportError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Most facets of one figure; of more layers, as many are drawn at equal distances.
const MOST_FACETS: usize = 6;

/// Writes `<method>_<dataset of the fit>_<dataset shown>` for every fit that kept its projections: a facet per layer, the
/// words at the fitted position as labels.
///
/// # Errors
/// Those of [`Projections::read`] and [`Figure::write`].
pub fn scatters(
    model: &str,
    (model_folder, names): (&Path, &[DirectionName]),
    folder: &Path,
) -> Result<Vec<PathBuf>, ReportError> {
    let mut fits: BTreeMap<(Method, &str, &str), BTreeMap<usize, Projections>> = BTreeMap::new();
    for name in names {
        let Some((set, position)) = name.dataset().zip(name.position()) else { continue };
        if let Some(projections) = Projections::read(model_folder, name)? {
            fits.entry((name.method(), set, position)).or_default().insert(name.layer(), projections);
        }
    }
    let mut written = Vec::new();
    for ((method, train, position), layers) in fits {
        let shown: Vec<(usize, &Projections)> =
            evenly(&layers.iter().map(|(layer, projections)| (*layer, projections)).collect::<Vec<_>>(), MOST_FACETS);
        let sets: BTreeSet<&str> =
            layers.values().flat_map(|all| all.prompts.iter().map(|prompt| &prompt.set[..])).collect();
        for set in sets {
            let facets = shown.iter().map(|(layer, all)| facet(*layer, all, set)).collect();
            let mut figure = Figure::new(format!("{model}: {set} in the plane of {method}"), facets);
            figure.caption = format!("Fitted on {train} at {position}; first component: the direction.");
            written.extend(figure.write(folder, &format!("{method}_{train}_{set}_{position}"))?);
        }
    }
    Ok(written)
}

fn facet(layer: usize, projections: &Projections, set: &str) -> Facet {
    let class = |positive: bool, name: &str| {
        let member = |prompt: &&ProjectedPrompt| prompt.set == set && prompt.positive == positive;
        let point = |prompt: &ProjectedPrompt| Point {
            x: prompt.component_1,
            y: prompt.component_2,
            label: prompt.word.trim().to_owned(),
        };
        Class { name: name.into(), points: projections.prompts.iter().filter(member).map(point).collect() }
    };
    Facet {
        title: format!("layer {layer}"),
        x: Axis::new("first component"),
        y: Axis::new("second component"),
        plot: Plot::Scatter(vec![class(true, "positive"), class(false, "negative")]),
    }
}
