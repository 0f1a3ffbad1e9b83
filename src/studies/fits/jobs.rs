//! Which directions are asked for, and how they stand.

use super::statistics::test_position;
use super::{FitDirections, Place, sign, statistics};
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Split;
use crate::directions::{Direction, DirectionName, FitRecord, Method};
use crate::engine::PatchPositions;
use crate::report::{FittingStats, Projections};
use crate::session::{Fault, Mend, Provenance, Session, fingerprint, layers};
use crate::studies::Study;
use crate::sweep::{CellId, Configuration, deal};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One direction that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub place: Place,
    pub name: DirectionName,
    pub method: Method,
    pub layer: usize,
    pub positions: PatchPositions,
    pub provenance: Provenance,
    /// Every test set with the provenance of a test on it.
    pub tests: Vec<(String, Provenance)>,
    pub standing: Standing,
}

/// How a direction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has to be fitted.
    Absent,
    /// It is there, and lacks tests.
    Untested,
    /// It is there.
    Kept,
    /// No training could find it: what is patched never reaches the logits.
    Unreachable,
}

impl Standing {
    /// Is there something to do?
    pub fn is_open(self) -> bool {
        matches!(self, Self::Absent | Self::Untested)
    }
}

/// The directions of one dataset that this process makes or keeps.
///
/// # Errors
/// A direction that is there and was made of something else: it is not replaced unless that is asked for.
pub(super) fn jobs(
    study: &FitDirections,
    session: &Session,
    number: usize,
    prompts: &PairedPrompts,
    tests: &[PairedPrompts],
) -> Result<Vec<Job>> {
    let mut shared = session.provenance(FitDirections::NAME)?.with("dataset", fingerprint(prompts)?)?;
    if Split::of_dataset(&prompts.name).is_some() {
        // Says why the prompts differ.
        shared = shared.with("scaffold", study.scaffold_of(&prompts.name))?;
    }
    let tests =
        tests.iter().map(|test| Ok((test, fingerprint(test)?))).collect::<Result<Vec<(&PairedPrompts, _)>>>()?;
    let layers = layers("layers", &study.layers, session.config().n_layers)?;
    let mut all: Vec<Job> = Vec::new();
    for (position, positions) in session.positions(prompts, &study.positions)? {
        let mut placed = Vec::new();
        for (test, hash) in &tests {
            placed.push((*test, hash.clone(), test_position(session, test, &position)?.1.to_string()));
        }
        for method in study.methods() {
            for &layer in &layers {
                let name = match method {
                    Method::RandomDirection => DirectionName::random(layer),
                    _ => DirectionName::fitted(method, &prompts.name, &position, layer)?,
                };
                if all.iter().any(|job| job.name == name) {
                    continue;
                }
                let provenance = made_of(study, session, prompts, &placed, (&name, positions), shared.clone())?;
                let tested = |(test, hash, at): &(&PairedPrompts, String, String)| {
                    Ok((test.name.clone(), provenance.clone().with("test", hash)?.with("test_position", at)?))
                };
                let tests = placed.iter().map(tested).collect::<Result<_>>()?;
                let place = (number, all.len());
                let standing = Standing::Absent;
                all.push(Job { place, name, method, layer, positions, provenance, tests, standing });
            }
        }
    }
    let mut jobs = share(study, all);
    let stats = FittingStats::read(&session.results()?)?;
    for job in &mut jobs {
        job.standing = match reaches_logits(session, prompts, job) {
            true => standing(session, job, &stats)?,
            false => Standing::Unreachable,
        };
    }
    Ok(jobs)
}

/// Everything that a direction depends on.
fn made_of(
    study: &FitDirections,
    session: &Session,
    prompts: &PairedPrompts,
    tests: &[(&PairedPrompts, String, String)],
    (name, positions): (&DirectionName, PatchPositions),
    shared: Provenance,
) -> Result<Provenance> {
    if name.method() == Some(Method::RandomDirection) {
        return super::random::made_of(name, super::random::seed_of(session));
    }
    // A position's name is the dataset's, and may come to be another position's: its number counts.
    let mut provenance = shared.with("direction", name.to_string())?.with("position", positions.to_string())?;
    if name.method().is_some_and(Method::is_das) || positions == PatchPositions::All {
        provenance = provenance.with("seed", session.seed())?;
    }
    if name.method().is_some_and(Method::is_das) {
        let settings = study.train_settings(&prompts.name);
        provenance = provenance
            .with("epochs", settings.epochs)?
            .with("batch_size", settings.batch_size)?
            .with("learning_rate", settings.adam.learning_rate)?
            .with("early_stop", settings.early_stop)?
            .with("sign", sign::asked(session))?;
        if settings.early_stop.is_some() {
            provenance =
                provenance.with("test_sets", tests.iter().map(|(_, hash, at)| (hash, at)).collect::<Vec<_>>())?;
        }
    }
    Ok(provenance)
}

/// The jobs of this process's shard: its share of the DAS fits, and in the first shard everything else, which takes seconds
/// and shares a file of statistics.
fn share(study: &FitDirections, mut jobs: Vec<Job>) -> Vec<Job> {
    let Some(shard) = study.shard else { return jobs };
    let unit = |job: &Job| {
        let name = [("direction".to_owned(), job.name.to_string())].into();
        CellId::of(FitDirections::NAME, &Configuration::new(), &name)
    };
    let units: Vec<CellId> = jobs.iter().filter(|job| job.method.is_das()).map(unit).collect();
    let mut shards = deal(&units, shard.count()).into_iter();
    jobs.retain(|job| {
        let own = if job.method.is_das() { shards.next() } else { Some(0) };
        own == Some(shard.index())
    });
    jobs
}

/// Does a patch along the direction reach the logits, for a training to learn from? Behind the last block only that of the
/// last position does.
fn reaches_logits(session: &Session, prompts: &PairedPrompts, job: &Job) -> bool {
    let PatchPositions::One(position) = job.positions else { return true };
    let is_last = |&sequence: &usize| position + 1 >= prompts.sequences[sequence].len();
    !job.method.is_das() || job.layer < session.config().n_layers || prompts.corrupted.iter().all(is_last)
}

/// How a direction stands: a file of its name counts only if it was made of what is asked for.
fn standing(session: &Session, job: &Job, stats: &FittingStats) -> Result<Standing> {
    if !is_there(session, &job.name, &job.provenance)? {
        return Ok(Standing::Absent);
    }
    let projections = Projections::path(&session.folder(), &job.name);
    let projected = ![Method::Pca, Method::Svd].contains(&job.method) || projections.is_file();
    Ok(if statistics::untested(stats, job) || !projected { Standing::Untested } else { Standing::Kept })
}

/// Is a direction there, and to be kept?
///
/// # Errors
///
/// When the one that is there was made of something else: it is not replaced unasked. A folder of another model.
pub(crate) fn is_there(session: &Session, name: &DirectionName, provenance: &Provenance) -> Result<bool> {
    let folder = session.results()?;
    let (array, record) = Direction::paths(&folder, name);
    if session.options().overwrite || !array.exists() {
        return Ok(false);
    }
    let difference = match record.exists() {
        false => Some("nothing says what it was made of".to_owned()),
        true => match FitRecord::read(&folder, name) {
            Err(error) => Some(format!("damaged ({error})")),
            Ok(found) if !found.is_of(&array)? => Some(format!("{} has changed since it was written", array.display())),
            Ok(found) => difference(provenance, &found),
        },
    };
    match difference {
        None => Ok(true),
        Some(difference) => Err(Fault::new(format!("{}: {difference}", record.display()))
            .mended_by(Mend::Set("overwrite", String::new()))
            .mended_by(Mend::Another("data_dir"))
            .into()),
    }
}

/// The first thing in which a direction that is there is not what is asked for.
fn difference(wanted: &Provenance, record: &FitRecord) -> Option<String> {
    if let Some(source) = &record.imported {
        return Some(format!("expected a fit, found an import of {}", source.file));
    }
    if let Some(settings) = &record.provenance {
        return wanted.difference(&Provenance { study: wanted.study.clone(), settings: settings.clone() });
    }
    // Records of version 0.1 say less: what they do say must be the same.
    let known = known_of(record);
    let of_both = |name: &String| known.contains_key(name);
    let settings = wanted.settings.iter().filter(|(name, _)| of_both(name));
    let settings = settings.map(|(name, value)| (name.clone(), value.clone())).collect();
    let wanted = Provenance { study: wanted.study.clone(), settings };
    let known = known.into_iter().filter(|(name, _)| wanted.settings.contains_key(name)).collect();
    let difference = wanted.difference(&Provenance { study: wanted.study.clone(), settings: known });
    match record.method.method() {
        // It depends on no prompts.
        Some(Method::RandomDirection) => difference,
        _ => difference.or(Some("version 0.1 wrote it, which did not record the prompts".to_owned())),
    }
}

/// What a record of version 0.1 says, under the names of today.
fn known_of(record: &FitRecord) -> BTreeMap<String, Value> {
    let setting = |name: &str| record.settings.get(name).cloned();
    let settings = [
        ("weight_processing", Some(json!(record.weight_processing.join(",")))),
        ("compat", Some(json!(record.compat))),
        ("seed", Some(json!(record.seed))),
        ("scaffold", setting("scaffold")),
        ("dtype", setting("dtype")),
        ("epochs", setting("epochs")),
        ("batch_size", setting("batch_size")),
        ("learning_rate", record.settings.pointer("/adam/learning_rate").cloned()),
        ("sign", record.method.method().is_some_and(Method::is_das).then(|| json!(sign::AS_FITTED))),
        ("early_stop", Some(record.settings.pointer("/early_stop/patience").cloned().unwrap_or(Value::Null))),
    ];
    settings.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
