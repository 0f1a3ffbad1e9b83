//! The statistics of `fit-directions`: how well a fit separates its own and other datasets.

use super::common::resolve_position;
use crate::datasets::{END, PairedPrompts};
use crate::directions::{Accuracy, DirectionError, DirectionName, Fit, Method, cosine, fit};
use crate::engine::PatchPositions;
use crate::report::{FittingStats, StatsRow};
use crate::types::Matrix;
use anyhow::Result;
use std::collections::BTreeMap;

/// A dataset that classifiers are tested on: the name of its position, where that is in every prompt, and its embeddings
/// per layer.
pub(super) struct Tested<'a> {
    pub prompts: &'a PairedPrompts,
    pub position: String,
    pub at: Vec<usize>,
    pub embeddings: BTreeMap<usize, Matrix>,
}

/// Where a fit at `position` is tested: at the placeholder of that name (or END) if the test set has one, else at the
/// test set's own main position.
pub(super) fn test_position(test: &PairedPrompts, position: &str) -> Result<(String, PatchPositions)> {
    let shared = position == END || test.positions.contains_key(position);
    resolve_position(test, if shared { position } else { "auto" })
}

/// Is the row about this direction?
fn about(row: &StatsRow, name: &DirectionName) -> bool {
    Some(row.train_set.as_str()) == name.dataset()
        && Some(row.train_pos.as_str()) == name.position()
        && row.train_layer == name.layer()
        && row.method == name.method().to_string()
}

/// Does a direction of a classifier lack the statistics of one of these test sets?
pub(super) fn untested(stats: &FittingStats, name: &DirectionName, test_sets: &[String]) -> bool {
    let classifier = !name.method().is_das() && name.method() != Method::RandomDirection;
    let tested = |set: &String| stats.rows().iter().any(|row| about(row, name) && row.test_set == *set);
    classifier && !test_sets.iter().all(tested)
}

/// Forgets the tests of a direction that is fitted again, but for those that are made again, too.
pub(super) fn forget_others(stats: &mut FittingStats, name: &DirectionName, tested: &[Tested]) {
    let again = |row: &StatsRow| {
        let test = |test: &Tested| test.prompts.name == row.test_set && test.position == row.test_pos;
        row.test_set == row.train_set || tested.iter().any(test)
    };
    stats.retain(|row| !about(row, name) || again(row));
}

/// Adds the statistics of one fit: on its own dataset, and on every test set, whose accuracies it returns.
pub(super) fn add(
    stats: &mut FittingStats,
    name: &DirectionName,
    prompts: &PairedPrompts,
    found: &Fit,
    train: &Matrix,
    tested: &[Tested],
) -> Result<BTreeMap<String, f64>> {
    let own = name.position().unwrap_or_default();
    let mut row = |set: &str, position: &str, accuracy: Accuracy, similarity: f64| {
        stats.insert(StatsRow {
            train_set: prompts.name.clone(),
            train_layer: name.layer(),
            train_pos: own.to_owned(),
            test_set: set.to_owned(),
            test_layer: name.layer(),
            test_pos: position.to_owned(),
            method: name.method().to_string(),
            correct: accuracy.correct,
            total: accuracy.total,
            accuracy: accuracy.share(),
            similarity,
        });
    };
    row(&prompts.name, own, found.accuracy(train, &prompts.positive)?, 1.0);
    let mut shares = BTreeMap::new();
    for test in tested {
        let (embeddings, labels) = (&test.embeddings[&name.layer()], &test.prompts.positive);
        let similarity = match fit(name.method(), embeddings, labels) {
            Ok(Some(other)) => cosine(&found.direction.data, &other.direction.data),
            // A test set need not have a direction of its own: words that end in the same token are equal at layer 0.
            Ok(None) | Err(DirectionError::Degenerate { .. }) => f64::NAN,
            Err(error) => return Err(error.into()),
        };
        let accuracy = found.accuracy(embeddings, labels)?;
        row(&test.prompts.name, &test.position, accuracy, similarity);
        shares.insert(test.prompts.name.clone(), accuracy.share());
    }
    Ok(shares)
}
