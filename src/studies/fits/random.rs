//! Random directions, to compare others with.

use super::{is_there, revision};
use crate::directions::{Direction, DirectionName, FitRecord, RANDOM_DIRECTION_SEED, random_direction};
use crate::engine::Flops;
use crate::report::RunRecord;
use crate::session::{Observer, Provenance, Session, SessionOptions, note_kept, processing_names};
use crate::studies::suite_tables::forget;
use crate::studies::{Plan, Study};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Writes a random unit direction for every layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RandomDirections {
    /// Seed of the directions; without it the session's, and where that is the usual one 42, as in the paper's code.
    pub direction_seed: Option<u64>,
}

/// The random directions of one model.
#[derive(Debug, Clone, Serialize)]
pub struct RandomWritten {
    /// The model's name.
    pub model: String,
    /// The folder that holds them.
    pub folder: String,
    /// The names of those that were not there.
    pub written: Vec<String>,
    /// The number of those that were.
    pub kept: usize,
    /// The manifest; none when all of them were there.
    pub manifest: Option<RunRecord>,
}

impl fmt::Display for RandomWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} random directions in {}", self.model, self.written.len() + self.kept, self.folder)
    }
}

impl Study for RandomDirections {
    const NAME: &'static str = "random-directions";
    type Outcome = RandomWritten;

    fn plan(&self, session: &Session) -> Result<Plan> {
        let mut count = 0;
        for layer in 0..=session.config().n_layers {
            count += usize::from(!self.is_kept(session, layer)?);
        }
        if count == 0 {
            return Ok(Plan::nothing(session));
        }
        let text = format!("{count} random directions into {}\n", session.folder().display());
        Ok(Plan::of(text).costing(Flops::default(), None))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<RandomWritten> {
        let mut wanted = Vec::new();
        for layer in 0..=session.config().n_layers {
            if !self.is_kept(session, layer)? {
                wanted.push(layer);
            }
        }
        let kept = session.config().n_layers + 1 - wanted.len();
        note_kept(observer, kept, "random directions", session.folder());
        let mut manifest = None;
        if !wanted.is_empty() {
            let mut started = session.manifest(Self::NAME, self)?;
            let changing = wanted.iter().map(|&layer| format!("{}.npy", DirectionName::random(layer)));
            forget(&session.folder(), &changing.collect(), session.options().csv_guard)?;
            for &layer in &wanted {
                started.wrote(&write(session, layer, self.seed(session))?, []);
            }
            manifest = Some(started.finish()?);
        }
        let written = wanted.into_iter().map(|layer| DirectionName::random(layer).to_string()).collect();
        let (model, folder) = (session.model().name.clone(), session.folder().display().to_string());
        Ok(RandomWritten { model, folder, written, kept, manifest })
    }
}

impl RandomDirections {
    fn seed(&self, session: &Session) -> u64 {
        self.direction_seed.unwrap_or_else(|| seed_of(session))
    }

    /// Is the direction of a layer there? One of another seed is refused.
    fn is_kept(&self, session: &Session, layer: usize) -> Result<bool> {
        let name = DirectionName::random(layer);
        is_there(session, &name, &made_of(&name, self.seed(session))?)
    }
}

/// The seed of a session's random directions: its own, or the published ones' where nobody has chosen it.
pub(super) fn seed_of(session: &Session) -> u64 {
    match session.seed() {
        usual if usual == SessionOptions::default().seed => RANDOM_DIRECTION_SEED,
        chosen => chosen,
    }
}

/// What a random direction depends on: nothing but its layer, its width and its seed.
pub(super) fn made_of(name: &DirectionName, seed: u64) -> Result<Provenance> {
    let study = super::FitDirections::NAME.to_owned();
    let provenance = Provenance { study, settings: BTreeMap::new() };
    provenance.with("direction", name.to_string())?.with("seed", seed)
}

/// Writes the random direction of a layer, in the place of an older one, whose results are forgotten already.
pub(super) fn write(session: &Session, layer: usize, seed: u64) -> Result<PathBuf> {
    let (model, name) = (session.model(), DirectionName::random(layer));
    let record = FitRecord {
        model: session.asked().into(),
        revision: revision(model),
        weight_processing: processing_names(model.processing),
        seed,
        provenance: Some(made_of(&name, seed)?.settings),
        ..FitRecord::of(&name)
    };
    let columns = random_direction(model.config.d_model, layer, seed);
    Ok(Direction { name, columns }.write(&session.folder(), &record)?)
}
