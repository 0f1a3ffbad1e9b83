//! Writing down what becomes of the cells of a sweep, batch by batch.

use super::{
    Cell, CellId, Configuration, Ledger, Measured, Outcome, Place, Running, Shard, State, Stopped, SweepError,
    same_configuration,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What every sweep can be asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepSettings {
    /// Compute only this share, into the shard's folder below the model's; [`super::join`] joins shares.
    pub shard: Option<Shard>,
    /// Compute the cells again that failed.
    pub retry_failed: bool,
}

impl SweepSettings {
    /// Where the sweep's ledger lies: in the model's folder, or in the shard's.
    pub fn folder(&self, model: &Path) -> PathBuf {
        self.shard.map_or(model.to_owned(), |shard| shard.folder(model))
    }
}

/// The ledgers that a sweep on one model begins with: the folder's own, and the shard's.
#[derive(Debug)]
pub struct Known {
    main: State,
    shard: State,
}

impl Known {
    /// Reads them, without changing anything.
    ///
    /// # Errors
    /// Those of [`Ledger::read`]; a ledger of another configuration.
    pub fn read(folder: &Path, sweep: &SweepSettings, configuration: &Configuration) -> Result<Self, SweepError> {
        let read = |folder: &Path| -> Result<State, SweepError> {
            let Some((found, state)) = Ledger::read(folder)? else { return Ok(State::default()) };
            same_configuration(&folder.join(Ledger::FILE), configuration, &found)?;
            Ok(state)
        };
        let shard = sweep.shard.map_or(Ok(State::default()), |shard| read(&shard.folder(folder)))?;
        Ok(Self { main: read(folder)?, shard })
    }

    /// What became of a cell; a value counts for more than a failure elsewhere.
    fn outcome(&self, id: &CellId) -> Option<&Outcome> {
        let of_main = self.main.outcome(id);
        match of_main {
            Some(Outcome::Done { .. }) => of_main,
            _ => self.shard.outcome(id).or(of_main),
        }
    }

    /// Is the cell still to be computed, when cells that failed are tried again or not?
    pub fn lacks(&self, id: &CellId, retry_failed: bool) -> bool {
        match self.outcome(id) {
            None => true,
            Some(Outcome::Failed(_)) => retry_failed,
            Some(Outcome::Done { .. }) => false,
        }
    }

    /// The values of the folder's own ledger at places of these cells that are of other cells, each beside the one that
    /// takes its place.
    pub fn others<'a>(&self, wanted: &'a [Cell]) -> Vec<(&'a Cell, Cell)> {
        let at: BTreeMap<&Place, &Cell> = wanted.iter().map(|cell| (&cell.place, cell)).collect();
        let done = self.main.cells().filter(|(_, outcome)| matches!(outcome, Some(Outcome::Done { .. })));
        let other = |(found, _): (Cell, _)| {
            let wanted = at.get(&found.place)?;
            (wanted.id != found.id).then_some((*wanted, found))
        };
        done.filter_map(other).collect()
    }

    /// The values of the folder's own ledger that are shown no longer once these cells are wanted: those of other prompts
    /// under the same names.
    pub fn outdated(&self, wanted: &[Cell]) -> Vec<Cell> {
        let now: BTreeMap<_, _> = wanted.iter().flat_map(|cell| cell.texts.iter()).collect();
        let places: BTreeSet<&Place> = wanted.iter().map(|cell| &cell.place).collect();
        let is_of_others =
            |cell: &Cell| cell.texts.iter().any(|(name, hash)| now.get(name).is_some_and(|now| *now != hash));
        let done = self.main.cells().filter(|(_, outcome)| matches!(outcome, Some(Outcome::Done { .. })));
        let shown = done.map(|(cell, _)| cell).filter(|cell| self.main.is_of_the_last(cell));
        shown.filter(|cell| is_of_others(cell) && !places.contains(&cell.place)).collect()
    }

    /// The result files that the folder's own ledger has values for.
    pub fn files(&self) -> BTreeSet<Arc<str>> {
        self.main.cells().map(|(cell, _)| cell.place.file).collect()
    }
}

/// Writes down what becomes of the cells of a sweep.
#[derive(Debug)]
pub struct Recorder {
    ledger: Ledger,
    running: Running,
    left: usize,
    since: Instant,
}

impl Recorder {
    /// Opens the sweep's ledger and adds its cells; `left` of them are going to be computed.
    ///
    /// # Errors
    /// Those of [`Ledger::open`].
    pub fn start(
        folder: &Path,
        sweep: &SweepSettings,
        configuration: &Configuration,
        cells: Vec<Cell>,
        left: usize,
    ) -> Result<Self, SweepError> {
        let folder = sweep.folder(folder);
        let mut ledger = Ledger::open(&folder, configuration)?;
        ledger.want(cells)?;
        let mut running = Running::start(&folder, sweep.shard)?;
        running.computing(left);
        Ok(Self { ledger, running, left, since: Instant::now() })
    }

    /// What has gone by until now was preparation, not the first batch's work.
    pub fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Records a batch: a value of each cell, or the reason why it has none.
    ///
    /// # Errors
    /// Whatever keeps the records from the disk.
    pub fn record(&mut self, batch: Vec<(CellId, Result<Measured, String>)>) -> Result<(), SweepError> {
        if batch.is_empty() {
            return Ok(());
        }
        let seconds = self.since.elapsed().as_secs_f64() / batch.len() as f64;
        self.since = Instant::now();
        self.left = self.left.saturating_sub(batch.len());
        let outcome = |(id, value)| match value {
            Ok(Measured { value, parts }) => (id, Outcome::Done { value, parts, seconds }),
            Err(error) => (id, Outcome::Failed(error)),
        };
        self.ledger.record(batch.into_iter().map(outcome))?;
        self.running.computing(self.left);
        Ok(())
    }

    /// Ends the sweep between two batches when it is `cancelled` and cells are left.
    ///
    /// # Errors
    /// [`Stopped`], with the number of cells that are left.
    pub fn go_on_unless(&self, cancelled: bool) -> Result<(), Stopped> {
        match self.left {
            left if cancelled && left > 0 => Err(Stopped { left: Some(left) }),
            _ => Ok(()),
        }
    }

    /// Shows `work` all that is recorded by now, while other processes wait; see [`Ledger::with_state`].
    ///
    /// # Errors
    /// Those of the ledger's file, and of `work`.
    pub fn with_state<T, E: From<SweepError>>(&mut self, work: impl FnOnce(&State) -> Result<T, E>) -> Result<T, E> {
        self.ledger.with_state(work)
    }

    /// What cells that are done have come to; null where a metric is not defined.
    ///
    /// # Errors
    /// [`SweepError::Failed`] when some of them have failed; [`SweepError::Unfinished`].
    pub fn results<K: Ord>(
        self,
        folder: &Path,
        sweep: &SweepSettings,
        cells: Vec<(K, CellId)>,
    ) -> Result<BTreeMap<K, Measured>, SweepError> {
        // A shard leaves the cells that the folder's own ledger knows to it.
        let main = match sweep.shard {
            Some(_) => Ledger::read(folder)?.map(|(_, state)| state).unwrap_or_default(),
            None => State::default(),
        };
        let known = Known { main, shard: self.ledger.into_state() };
        let (mut results, mut failed) = (BTreeMap::new(), Vec::new());
        for (key, id) in cells {
            match known.outcome(&id) {
                Some(Outcome::Done { value, parts, .. }) => {
                    results.insert(key, Measured { value: value.clone(), parts: parts.clone() });
                }
                Some(Outcome::Failed(error)) => failed.push((id, error)),
                None => return Err(SweepError::Unfinished { folder: folder.into(), id }),
            }
        }
        match failed[..] {
            [] => Ok(results),
            [(id, error), ..] => Err(SweepError::Failed { count: failed.len(), id, error: error.clone() }),
        }
    }
}

/// The value that a cell is recorded with.
///
/// # Errors
/// A value that is not finite, as the reason why the cell has failed.
pub fn finite(value: f64) -> Result<Value, String> {
    match value.is_finite() {
        true => Ok(value.into()),
        false => Err(format!("expected a finite number, found {value}")),
    }
}
