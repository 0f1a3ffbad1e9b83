//! What the records of a ledger amount to.

use super::record::Record;
use super::{Cell, CellId, Configuration, Inputs, Parts, Place, Texts};
use crate::files::sha256_of_file;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// What became of a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Its value, and its share of the time that its batch took.
    Done {
        /// What the sweep measured.
        value: serde_json::Value,
        /// What the value is the mean of; empty where that is not kept.
        parts: Parts,
        /// Wall time.
        seconds: f64,
    },
    /// Why it has no value.
    Failed(String),
}

impl Outcome {
    /// Do two ledgers say the same about a cell? Times differ from run to run.
    pub(super) fn agrees(&self, other: &Outcome) -> bool {
        match (self, other) {
            (Outcome::Done { value: a, .. }, Outcome::Done { value: b, .. }) => a == b,
            // A cell that has failed may be computed again, anywhere.
            _ => true,
        }
    }
}

/// How far a sweep has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Counts {
    /// Cells with a value.
    pub done: usize,
    /// Cells with an error.
    pub failed: usize,
    /// Cells with neither.
    pub missing: usize,
    /// What the cells that are done took.
    pub seconds: f64,
}

impl Counts {
    /// What the missing cells will take one process, judging from those that are done.
    pub fn seconds_left(&self) -> Option<f64> {
        (self.done > 0).then(|| self.seconds / self.done as f64 * self.missing as f64)
    }
}

/// The cells of a ledger and what became of them.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The last cell wanted at every place.
    cells: BTreeMap<Place, Wanted>,
    outcomes: HashMap<CellId, Outcome>,
    names: HashSet<Arc<str>>,
    inputs: HashSet<Arc<Inputs>>,
    texts: HashSet<Arc<Texts>>,
    settings: HashSet<Arc<Configuration>>,
    /// The prompts that were last wanted under every name.
    last: HashMap<Arc<str>, Arc<str>>,
}

/// A cell without its place.
#[derive(Debug, Clone)]
struct Wanted {
    id: CellId,
    inputs: Arc<Inputs>,
    texts: Arc<Texts>,
    settings: Arc<Configuration>,
    shard: Option<usize>,
}

impl State {
    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Header { .. } => {}
            Record::Cell(cell) => self.want(cell),
            Record::Done { id, value, seconds, parts } => {
                self.outcomes.insert(id, Outcome::Done { value, parts, seconds });
            }
            Record::Failed { id, error } => {
                self.outcomes.insert(id, Outcome::Failed(error));
            }
        }
    }

    /// Cells come in thousands and share their names: each name is kept once.
    fn want(&mut self, cell: Cell) {
        let Cell { id, place, inputs, texts, settings, shard } = cell;
        let place = Place {
            file: kept_once(&mut self.names, place.file),
            at: place.at.into_iter().map(|name| kept_once(&mut self.names, name)).collect(),
        };
        let inputs = kept_once(&mut self.inputs, inputs);
        let texts = kept_once(&mut self.texts, texts);
        let settings = kept_once(&mut self.settings, settings);
        self.last.extend(texts.iter().map(|(name, hash)| (name.clone(), hash.clone())));
        self.cells.insert(place, Wanted { id, inputs, texts, settings, shard });
    }

    /// The cells in the order of their places, with what became of them.
    pub fn cells(&self) -> impl Iterator<Item = (Cell, Option<&Outcome>)> {
        self.cells.iter().map(|(place, Wanted { id, inputs, texts, settings, shard })| {
            let (inputs, texts, settings) = (inputs.clone(), texts.clone(), settings.clone());
            let cell = Cell { id: *id, place: place.clone(), inputs, texts, settings, shard: *shard };
            (cell, self.outcomes.get(id))
        })
    }

    /// Is this very cell, with these inputs, wanted already, and of the prompts that were last wanted?
    pub(super) fn wants(&self, cell: &Cell) -> bool {
        let same = |wanted: &Wanted| {
            let of_values = wanted.id == cell.id && wanted.inputs == cell.inputs && wanted.texts == cell.texts;
            of_values && wanted.settings == cell.settings
        };
        self.cells.get(&cell.place).is_some_and(same) && self.is_of_the_last(cell)
    }

    /// Is the cell of the prompts that were last wanted, as far as it says?
    pub(super) fn is_of_the_last(&self, cell: &Cell) -> bool {
        cell.texts.iter().all(|(name, hash)| self.last.get(name).is_none_or(|last| last == hash))
    }

    /// What became of a cell.
    pub fn outcome(&self, id: &CellId) -> Option<&Outcome> {
        self.outcomes.get(id)
    }

    /// Cells of the prompts that were last wanted, whose inputs lie in `folder` as they were when the
    /// value was computed. An input that is not there is not
    /// held against a cell: results may be looked at elsewhere.
    pub fn fresh(&self, folder: &Path) -> impl Iterator<Item = (Cell, Option<&Outcome>)> {
        let mut hashes: HashMap<Arc<str>, Option<String>> = HashMap::new();
        let mut changed = move |name: &Arc<str>, hash: &Arc<str>| {
            let now = hashes.entry(name.clone()).or_insert_with(|| sha256_of_file(&folder.join(&**name)).ok());
            now.as_deref().is_some_and(|now| now != &**hash)
        };
        let of_the_last = self.cells().filter(|(cell, _)| self.is_of_the_last(cell));
        of_the_last.filter(move |(cell, _)| !cell.inputs.iter().any(|(name, hash)| changed(name, hash)))
    }
}

impl<'a> FromIterator<Option<&'a Outcome>> for Counts {
    fn from_iter<T: IntoIterator<Item = Option<&'a Outcome>>>(outcomes: T) -> Self {
        let mut counts = Self::default();
        for outcome in outcomes {
            match outcome {
                Some(Outcome::Done { seconds, .. }) => {
                    counts.done += 1;
                    counts.seconds += seconds;
                }
                Some(Outcome::Failed(_)) => counts.failed += 1,
                None => counts.missing += 1,
            }
        }
        counts
    }
}

fn kept_once<T: Eq + std::hash::Hash + Clone>(known: &mut HashSet<T>, value: T) -> T {
    match known.get(&value) {
        Some(kept) => kept.clone(),
        None => {
            known.insert(value.clone());
            value
        }
    }
}
