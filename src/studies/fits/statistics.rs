//! The statistics of fits: how well a fit separates its own and other datasets.

use super::jobs::Job;
use super::{Fitted, Standing};
use crate::datasets::{END, PairedPrompts};
use crate::directions::{Accuracy, DirectionError, DirectionName, Fit, FitRecord, Method, cosine, fit};
use crate::engine::PatchPositions;
use crate::report::{FittingStats, StatsRow};
use crate::session::{Note, Observer, Provenance, Session};
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

/// Where a fit at `name` is tested: at the placeholder of that name (or END) if the test set has one, else at the test
/// set's own main position.
pub(super) fn test_position(session: &Session, test: &PairedPrompts, name: &str) -> Result<(String, PatchPositions)> {
    let shared = name == END || name.parse::<usize>().is_ok() || test.positions.contains_key(name);
    session.position("positions", test, if shared { name } else { "auto" })
}

/// Is the row about this direction?
fn about(row: &StatsRow, name: &DirectionName) -> bool {
    Some(row.train_set.as_str()) == name.dataset()
        && Some(row.train_pos.as_str()) == name.position()
        && row.train_layer == name.layer()
        && row.method == name.found_by().to_string()
}

/// Does the direction of a classifier lack the statistics of its own dataset, or of one of its test sets?
pub(super) fn untested(stats: &FittingStats, job: &Job) -> bool {
    let classifier = !job.method.is_das() && job.method != Method::RandomDirection;
    let tested = |(set, provenance): &(String, Provenance)| {
        let id = provenance.id();
        stats.rows().iter().any(|row| about(row, &job.name) && row.test_set == *set && row.provenance == id)
    };
    let of_itself = || stats.rows().iter().any(|row| about(row, &job.name) && row.test_set == row.train_set);
    classifier && !(of_itself() && job.tests.iter().all(tested))
}

/// What is known of a direction that is there.
pub(super) fn of_kept(session: &Session, job: &Job, observer: &mut dyn Observer) -> Result<Fitted> {
    let folder = session.folder();
    let record = FitRecord::read(&folder, &job.name)?;
    let asked = |set: &String| match job.tests.iter().find(|(test, _)| test == set) {
        Some((_, provenance)) if job.method.is_das() => record.settings["tests"][set] == provenance.id().as_str(),
        found => found.is_some(),
    };
    let mut test_metrics: BTreeMap<String, f64> = match job.method.is_das() {
        true => last_losses(&record, kept_epoch(&record)),
        false => {
            let stats = FittingStats::read(&folder)?;
            let own = stats.rows().iter().filter(|row| about(row, &job.name) && row.test_set != row.train_set);
            own.map(|row| (row.test_set.clone(), row.accuracy)).collect()
        }
    };
    test_metrics.retain(|set, _| asked(set));
    let unwatched = |(test, _): &&(String, Provenance)| job.method.is_das() && !test_metrics.contains_key(test);
    for (test, _) in job.tests.iter().filter(unwatched) {
        observer.note(&Note::Warning(format!(
            "{} is kept without a loss on {test}: as it is now, it was not watched when the direction was fitted",
            job.name
        )));
    }
    Ok(Fitted::of(job, None, record.final_metric, test_metrics))
}

/// The epoch whose directions a record of DAS is about: the last one, unless it stopped early.
fn kept_epoch(record: &FitRecord) -> usize {
    let kept = record.settings.pointer("/early_stop/kept_epoch").and_then(serde_json::Value::as_u64);
    kept.map_or(record.loss_curve.len(), |epoch| epoch as usize)
}

/// The losses of DAS on its test sets after an epoch, counted from 1.
pub(super) fn last_losses(record: &FitRecord, epoch: usize) -> BTreeMap<String, f64> {
    let at = |curve: &Vec<f64>| curve.get(epoch.saturating_sub(1)).copied();
    record.test_loss_curves.iter().filter_map(|(name, curve)| Some((name.clone(), at(curve)?))).collect()
}

/// Adds the statistics of one fit: on its own dataset, and on every test set, whose accuracies it returns. Tests of a
/// direction that is fitted again are forgotten, but for those that are made again, too.
pub(super) fn add(
    session: &Session,
    job: &Job,
    prompts: &PairedPrompts,
    found: &Fit,
    train: &Matrix,
    tested: &[Tested],
) -> Result<BTreeMap<String, f64>> {
    let name = &job.name;
    let own = name.position().unwrap_or_default();
    let row = |set: &str, position: &str, accuracy: Accuracy, similarity: f64, provenance: &Provenance| StatsRow {
        train_set: prompts.name.clone(),
        train_layer: name.layer(),
        train_pos: own.to_owned(),
        test_set: set.to_owned(),
        test_layer: name.layer(),
        test_pos: position.to_owned(),
        method: job.method.to_string(),
        correct: accuracy.correct,
        total: accuracy.total,
        accuracy: accuracy.share(),
        similarity,
        provenance: provenance.id(),
    };
    let of_itself = found.accuracy(train, &prompts.positive)?;
    let mut rows = vec![row(&prompts.name, own, of_itself, 1.0, &job.provenance)];
    let mut shares = BTreeMap::new();
    for (test, (_, provenance)) in tested.iter().zip(&job.tests) {
        let (embeddings, labels) = (&test.embeddings[&name.layer()], &test.prompts.positive);
        let similarity = match fit(job.method, embeddings, labels) {
            Ok(Some(other)) => cosine(&found.direction.data, &other.direction.data),
            // A test set need not have a direction of its own: words that end in the same token are equal at layer 0.
            Ok(None) | Err(DirectionError::Degenerate { .. }) => f64::NAN,
            Err(error) => return Err(error.into()),
        };
        let accuracy = found.accuracy(embeddings, labels)?;
        rows.push(row(&test.prompts.name, &test.position, accuracy, similarity, provenance));
        shares.insert(test.prompts.name.clone(), accuracy.share());
    }
    session.locked(|| {
        let mut stats = FittingStats::read(&session.folder())?;
        if job.standing == Standing::Absent {
            let again =
                |row: &StatsRow| row.test_set == row.train_set || rows.iter().any(|new| new.is_in_place_of(row));
            stats.retain(|row| !about(row, name) || again(row));
        }
        rows.into_iter().for_each(|row| stats.insert(row));
        Ok(stats.write(session.options().csv_guard)?)
    })?;
    Ok(shares)
}
