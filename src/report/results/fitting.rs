//! Figures of how well fitted directions separate prompts.

use super::{Lines, Named, Place};
use crate::report::figure::{Axis, Facet, Figure, Plot, Series};
use crate::report::{FittingStats, StatsRow};
use std::collections::BTreeMap;

/// Accuracy, and cosine with the test set's own fit, against the layer: colour is the method, a facet is a dataset of the
/// fit and one of the test. Nothing without statistics.
pub fn fits(model: &str, stats: &FittingStats) -> Vec<Named> {
    let accuracy = facets(stats, "accuracy (%)", |row| 100.0 * row.accuracy, |_| true);
    // A fit's cosine with itself is one.
    let similarity = facets(
        stats,
        "cosine",
        |row| row.similarity,
        |row| (&row.train_set, &row.train_pos) != (&row.test_set, &row.test_pos),
    );
    let named = |name: &str, title: &str, facets: Vec<Facet>| {
        let mut figure = Figure::new(format!("{model}: {title}"), facets);
        figure.share_y();
        Named { stem: format!("direction_fitting_{name}"), figure }
    };
    let figures = [
        named("accuracy", "prompts on the right side of the fitted classifier", accuracy),
        named("similarity", "cosine with the direction fitted on the test set", similarity),
    ];
    figures.into_iter().filter(|named| !named.figure.facets.is_empty()).collect()
}

fn facets(
    stats: &FittingStats,
    measure: &str,
    value: impl Fn(&StatsRow) -> f64,
    wanted: impl Fn(&StatsRow) -> bool,
) -> Vec<Facet> {
    let mut lines: BTreeMap<(Place, Place), Lines<&str>> = BTreeMap::new();
    for row in stats.rows().iter().filter(|row| wanted(row) && value(row).is_finite()) {
        let train = Place { set: row.train_set.clone(), position: row.train_pos.clone() };
        let test = Place { set: row.test_set.clone(), position: row.test_pos.clone() };
        let point = (row.train_layer as f64, value(row));
        lines.entry((train, test)).or_default().entry(&row.method).or_default().push(point);
    }
    let facet = |((train, test), methods): ((Place, Place), Lines<&str>)| {
        let series = methods.into_iter().map(|(name, mut points)| {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series { name: name.into(), points, baseline: false }
        });
        Facet {
            title: format!("{train} on {test}"),
            x: Axis::whole("layer"),
            y: Axis::new(measure),
            plot: Plot::Lines(series.collect()),
        }
    };
    lines.into_iter().map(facet).collect()
}
