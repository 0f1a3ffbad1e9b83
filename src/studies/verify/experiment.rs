//! What experiments have in common: settings from a golden file, a place to run in, and numbers by name.

use super::Ran;
use super::directions::{DirectionCosines, DirectionalPatching, FittedCosines};
use super::maps::{ActivationPatching, AttributionPatching, LogitAttribution, PathPatching};
use super::runs::{Ablation, Baselines};
use super::texts::{GreedyTexts, Steering, TextLoss};
use super::tokens::{NextTokenLogits, TokenIds};
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::{Scaffold, Split};
use crate::report::{GOLDEN_DATASETS, Golden};
use crate::session::{Fault, Fields, Note, Observer, Session, Stopped, text_of};
use anyhow::{Context, Result, anyhow};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use tempfile::TempDir;

/// Numbers by name.
pub type Numbers = BTreeMap<String, f64>;

/// A kind of experiment, with the settings that its golden entries have.
pub(super) trait Experiment: DeserializeOwned {
    /// Its name in golden files.
    const NAME: &'static str;

    /// Its numbers, those of the golden entry among them.
    ///
    /// # Errors
    /// [`Unavailable`] where something is not there; settings that are wrong; everything that can go wrong in the
    /// studies.
    fn numbers(self, golden: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers>;
}

/// Reads an experiment's settings and runs it.
type Run = fn(&Golden, &Setup, &mut dyn Observer) -> Result<Numbers>;

/// Every kind that there is.
const EXPERIMENTS: [(&str, Run); 14] = [
    of_kind::<TokenIds>(),
    of_kind::<NextTokenLogits>(),
    of_kind::<GreedyTexts>(),
    of_kind::<Baselines>(),
    of_kind::<LogitAttribution>(),
    of_kind::<Ablation>(),
    of_kind::<DirectionalPatching>(),
    of_kind::<ActivationPatching>(),
    of_kind::<AttributionPatching>(),
    of_kind::<PathPatching>(),
    of_kind::<FittedCosines>(),
    of_kind::<DirectionCosines>(),
    of_kind::<Steering>(),
    of_kind::<TextLoss>(),
];

const fn of_kind<E: Experiment>() -> (&'static str, Run) {
    (E::NAME, run::<E>)
}

fn run<E: Experiment>(golden: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
    let experiment: E = golden.settings.clone().try_into()?;
    experiment.numbers(golden, setup, observer)
}

/// Something that an experiment needs is not there: it cannot run, and nothing is wrong with it.
#[derive(Debug)]
pub(super) struct Unavailable(pub Fault);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unavailable {}

/// Runs the experiment of a golden entry.
pub(super) fn ran(golden: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Ran> {
    if let Some(missing) = &golden.missing {
        return Ok(Ran::Cannot(Fault::new(missing.clone())));
    }
    let Some((_, run)) = EXPERIMENTS.iter().find(|(name, _)| *name == golden.experiment) else {
        let unknown = format!("there is no experiment {} to run yet", golden.experiment);
        return Ok(Ran::Cannot(Fault::new(unknown)));
    };
    let numbers = run(golden, setup, &mut WarningsOnly(observer));
    match numbers.and_then(|numbers| only_golden(golden, numbers)) {
        Ok(numbers) => Ok(Ran::Numbers(numbers)),
        Err(error) => match error.downcast::<Unavailable>() {
            Ok(Unavailable(fault)) => Ok(Ran::Cannot(fault)),
            // Whoever has stopped the studies has no fault to be told of.
            Err(error) if error.is::<Stopped>() => Err(error),
            // A file of golden numbers speaks of its fields, whoever shows the error.
            Err(error) => Err(anyhow!("{}: {}", golden.name, text_of(&error, &Fields))),
        },
    }
}

/// The computed numbers that have a golden one; all of those must be among them.
fn only_golden(golden: &Golden, mut numbers: Numbers) -> Result<Numbers> {
    let take = |name: &String| {
        let number = numbers.remove(name);
        let number = number.ok_or_else(|| anyhow!("values.{name}: the experiment gives no such number"))?;
        Ok((name.clone(), number))
    };
    golden.values.keys().map(take).collect()
}

/// What experiments on one model are run with.
pub(super) struct Setup {
    /// How the model was asked for.
    pub asked: String,
    /// The folder of what the user has: imported directions, datasets of the Treebank.
    pub folder: PathBuf,
    sessions: Result<Sessions, Fault>,
}

struct Sessions {
    own: Session,
    /// The same with the notebooks' datasets, whose results go to a folder of their own.
    scratch: Session,
    _folder: TempDir,
}

impl Setup {
    /// Prepares experiments with a session, or without one where the model cannot be loaded.
    ///
    /// # Errors
    /// A folder that cannot be made, datasets that cannot be read.
    pub fn new(asked: String, folder: PathBuf, session: Result<Session, Fault>) -> Result<Self> {
        let sessions = match session {
            Ok(own) => Ok(Sessions::new(own)?),
            Err(fault) => Err(fault),
        };
        Ok(Self { asked, folder, sessions })
    }

    fn sessions(&self) -> Result<&Sessions> {
        // Every experiment that needs the model tells of it.
        self.sessions.as_ref().map_err(|fault| Unavailable(fault.repeated()).into())
    }

    /// The session to run studies with.
    ///
    /// # Errors
    /// [`Unavailable`] without a model.
    pub fn session(&self) -> Result<&Session> {
        Ok(&self.sessions()?.scratch)
    }

    /// Makes a dataset one of the session's, and builds it.
    ///
    /// # Errors
    /// [`Unavailable`] without a model, and for one of the Treebank that has to be made first; a dataset that cannot
    /// be built.
    pub fn prompts(&self, dataset: &str, scaffold: Scaffold) -> Result<PairedPrompts> {
        let Sessions { own, scratch, .. } = self.sessions()?;
        if let Some(split) = Split::of_dataset(dataset) {
            let theirs = own.treebank_file(split, scaffold).map_err(Unavailable)?;
            let ours = scaffold.dataset_file(&scratch.folder(), split);
            let copy = || {
                std::fs::create_dir_all(scratch.folder())?;
                std::fs::copy(&theirs, &ours)
            };
            copy().with_context(|| theirs.display().to_string())?;
        }
        scratch.prompts(dataset, scaffold)
    }
}

impl Sessions {
    fn new(own: Session) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the runs")?;
        let scratch = own.with(|options| {
            options.data_dir = folder.path().into();
            options.overwrite = false;
        })?;
        let scratch = scratch.with_datasets("data/golden/datasets.toml (built in)", GOLDEN_DATASETS)?;
        Ok(Self { own, scratch, _folder: folder })
    }
}

/// Passes on how an experiment comes along; of notes only warnings, since what its studies keep and remark is nobody's
/// result.
struct WarningsOnly<'a>(&'a mut dyn Observer);

impl Observer for WarningsOnly<'_> {
    fn begin(&mut self, what: &str, total: u64) {
        self.0.begin(what, total);
    }

    fn progress(&mut self, done: u64) {
        self.0.progress(done);
    }

    fn at(&mut self, what: &str) {
        self.0.at(what);
    }

    fn end(&mut self) {
        self.0.end();
    }

    fn note(&mut self, note: &Note) {
        if let Note::Warning(_) = note {
            self.0.note(note);
        }
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/verify.md has a row for every kind, and for no other.
    #[test]
    fn every_experiment_is_documented() {
        let page = include_str!("../../../docs/verify.md");
        let table = page.split("| experiment | settings |").nth(1).unwrap();
        let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| `")?.split_once('`'));
        let documented: Vec<&str> = rows.map(|(name, _)| name).collect();
        assert_eq!(documented, EXPERIMENTS.map(|(name, _)| name));
    }
}
