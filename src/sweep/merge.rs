//! Joining ledgers.

use super::ledger::same_configuration;
use super::record::Record;
use super::{Cell, Configuration, Ledger, Outcome, Place, State, SweepError};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// What a merge has added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Joined {
    /// Cells that were not known before.
    pub cells: usize,
    /// Outcomes that were not known before.
    pub outcomes: usize,
    /// Cells left out: a file that they were computed from has changed since.
    pub stale: usize,
}

/// Adds what the ledgers of the folders `sources` hold to the ledger of `folder`, all of it or nothing. What is known
/// already is not added again.
///
/// # Errors
/// [`SweepError::Conflict`] when two ledgers have different cells at one place, or different values of one cell;
/// [`SweepError::Configuration`]; [`SweepError::Io`], also for a source without a ledger.
pub fn join(folder: &Path, sources: &[PathBuf]) -> Result<Joined, SweepError> {
    let mut states = Vec::new();
    let mut first: Option<Configuration> = None;
    for source in sources {
        let path = source.join(Ledger::FILE);
        let missing = || SweepError::Io { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
        let (configuration, state) = Ledger::read(source)?.ok_or_else(missing)?;
        match &first {
            None => first = Some(configuration),
            Some(first) => same_configuration(&path, first, &configuration)?,
        }
        states.push((path, state));
    }
    let Some(configuration) = first else { return Ok(Joined::default()) };
    let mut ledger = Ledger::open(folder, &configuration)?;
    let ours = ledger.path().to_owned();
    ledger.extend(|known| {
        let mut merge = Merge::new(folder, &ours, known);
        for (path, state) in &states {
            merge.add(path, state)?;
        }
        Ok(merge.finish())
    })
}

/// A merge under way: what is known of every place and of every cell, and from where.
struct Merge<'a> {
    folder: &'a Path,
    cells: BTreeMap<Place, (Cell, &'a Path)>,
    outcomes: HashMap<super::CellId, (&'a Outcome, &'a Path)>,
    joined: Joined,
    records: Vec<Record>,
}

impl<'a> Merge<'a> {
    fn new(folder: &'a Path, path: &'a Path, known: &'a State) -> Self {
        let mut merge = Self {
            folder,
            cells: BTreeMap::new(),
            outcomes: HashMap::new(),
            joined: Joined::default(),
            records: Vec::new(),
        };
        for (cell, outcome) in known.fresh(folder) {
            merge.outcomes.extend(outcome.map(|outcome| (cell.id, (outcome, path))));
            merge.cells.insert(cell.place.clone(), (cell, path));
        }
        merge
    }

    fn add(&mut self, path: &'a Path, state: &'a State) -> Result<(), SweepError> {
        let before = state.cells().count();
        let mut fresh = 0;
        for (mut cell, outcome) in state.fresh(self.folder) {
            fresh += 1;
            cell.shard = None;
            match self.cells.get(&cell.place) {
                Some((known, ours)) if known.id != cell.id => {
                    let of = |cell: &Cell| format!("cell {}", cell.id);
                    return Err(conflict(&cell.place, (ours, of(known)), (path, of(&cell))));
                }
                Some(_) => {}
                None => {
                    self.joined.cells += 1;
                    self.records.push(Record::Cell(cell.clone()));
                    self.cells.insert(cell.place.clone(), (cell.clone(), path));
                }
            }
            if let Some(outcome) = outcome {
                self.add_outcome(&cell, outcome, path)?;
            }
        }
        self.joined.stale += before - fresh;
        Ok(())
    }

    fn add_outcome(&mut self, cell: &Cell, outcome: &'a Outcome, path: &'a Path) -> Result<(), SweepError> {
        match self.outcomes.get(&cell.id) {
            Some((known, ours)) if !known.agrees(outcome) => {
                return Err(conflict(&cell.place, (ours, shown(known)), (path, shown(outcome))));
            }
            Some((Outcome::Done { .. }, _)) => return Ok(()),
            Some((Outcome::Failed(_), _)) if matches!(outcome, Outcome::Failed(_)) => return Ok(()),
            _ => {}
        }
        self.outcomes.insert(cell.id, (outcome, path));
        self.joined.outcomes += 1;
        self.records.push(Record::of(cell.id, outcome.clone()));
        Ok(())
    }

    fn finish(self) -> (Joined, Vec<Record>) {
        (self.joined, self.records)
    }
}

fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { value, .. } => value.to_string(),
        Outcome::Failed(error) => error.clone(),
    }
}

fn conflict(place: &Place, (ours, expected): (&Path, String), (theirs, found): (&Path, String)) -> SweepError {
    SweepError::Conflict { place: place.clone().into(), ours: ours.into(), expected, theirs: theirs.into(), found }
}
