//! How far sweeps are.

use crate::report::Table;
use crate::session::Fault;
use crate::sweep::{Cell, Counts, Ledger, Outcome, Process, State, models, running};
use anyhow::Result;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// How far every ledger of a data folder is.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct SweepStatus {
    /// Model by model: its own ledger, and those of its shards.
    pub ledgers: Vec<LedgerStatus>,
}

/// How far one ledger is.
#[derive(Debug, Clone, Serialize)]
pub struct LedgerStatus {
    /// The folder that it lies in.
    pub ledger: String,
    /// What became of its cells.
    #[serde(flatten)]
    pub counts: Counts,
    /// The processes that are at work in the folder.
    pub running: Vec<Process>,
    /// How long they will take, judging from the cells that are done.
    pub seconds_left: Option<f64>,
    /// Every cell that failed, and why.
    pub failures: Vec<(String, String)>,
    /// Every cell that is still missing.
    pub missing_cells: Vec<String>,
}

/// Tells how far every sweep of a data folder is.
///
/// # Errors
/// A folder that cannot be read, or has no ledger.
pub fn sweep_status(data_dir: &Path) -> Result<SweepStatus> {
    let mut ledgers = Vec::new();
    for (model, folders) in models(data_dir)? {
        for folder in folders {
            ledgers.push(ledger_status(&data_dir.join(&model), &folder)?);
        }
    }
    match ledgers.is_empty() {
        false => Ok(SweepStatus { ledgers }),
        true => {
            let (folder, ledger) = (data_dir.display(), Ledger::FILE);
            Err(Fault::new(format!("{folder}: no folder with a {ledger}; run a sweep first")).into())
        }
    }
}

/// How far the ledger in `folder` is, which is that of the model's folder or one of its shards.
fn ledger_status(model: &Path, folder: &Path) -> Result<LedgerStatus> {
    let state = Ledger::read(folder)?.map(|(_, state)| state).unwrap_or_default();
    Ok(status_of(&state, model, folder, running(folder)?))
}

/// The same of what its records amount to, with the processes at work.
pub(super) fn status_of(state: &State, model: &Path, folder: &Path, running: Vec<Process>) -> LedgerStatus {
    let cells = || state.fresh(model).filter(|(cell, _)| is_own(cell, folder));
    let counts: Counts = cells().map(|(_, outcome)| outcome).collect();
    let seconds_left = counts.seconds_left().map(|seconds| seconds / running.len().max(1) as f64);
    let failed = |(cell, outcome): (Cell, Option<&Outcome>)| match outcome {
        Some(Outcome::Failed(error)) => Some((cell.place.to_string(), error.clone())),
        _ => None,
    };
    let missing = cells().filter(|(_, outcome)| outcome.is_none()).map(|(cell, _)| cell.place.to_string());
    LedgerStatus {
        ledger: folder.display().to_string(),
        counts,
        running,
        seconds_left,
        failures: cells().filter_map(failed).collect(),
        missing_cells: missing.collect(),
    }
}

/// Is a cell that of the ledger in `folder`? A shard's ledger lists the whole sweep, and other shards' cells are not its
/// business.
pub(super) fn is_own(cell: &Cell, folder: &Path) -> bool {
    let own = own_shard(folder);
    own.is_none() || cell.shard == own
}

/// The number of the shard whose folder this is.
fn own_shard(folder: &Path) -> Option<usize> {
    let parent = folder.parent()?.file_name()?;
    let (index, _) = folder.file_name()?.to_str()?.split_once("-of-")?;
    (parent == "shards").then(|| index.parse().ok())?
}

impl LedgerStatus {
    /// Its row in a table.
    fn row(&self) -> [String; 6] {
        let Self { ledger, counts, running, seconds_left, .. } = self;
        let computing: usize = running.iter().map(|process| process.cells).sum();
        let left = match (counts.missing, seconds_left) {
            (0, _) => "-".into(),
            (_, Some(seconds)) => duration(*seconds),
            (_, None) => "unknown".into(),
        };
        let computing = computing.min(counts.missing);
        let [done, computing, failed, missing] =
            [counts.done, computing, counts.failed, counts.missing].map(|count| count.to_string());
        [ledger.clone(), done, computing, failed, missing, left]
    }
}

/// How many failed cells a text lists.
const SHOWN: usize = 20;

impl fmt::Display for SweepStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["ledger", "done", "running", "failed", "missing", "time left"]);
        self.ledgers.iter().for_each(|ledger| table.push(ledger.row()));
        write!(f, "{table}")?;
        let failures: Vec<_> = self.ledgers.iter().flat_map(|ledger| &ledger.failures).collect();
        for (place, error) in failures.iter().take(SHOWN) {
            writeln!(f, "failed: {place}: {error}")?;
        }
        match failures.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => writeln!(f, "… and {more} more that failed (JSON lists them)"),
        }
    }
}

/// Seconds for people.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.0} s"),
        ..3600.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_knows_its_number_by_its_folder() {
        assert_eq!(own_shard(Path::new("data/demo/shards/3-of-4")), Some(3));
        for other in ["data/demo", "data/3-of-4", "data/demo/shards/notes", "data/demo/shards/x-of-4", ""] {
            assert_eq!(own_shard(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_text_lists_some_of_many_failures() {
        let failures = (0..SHOWN + 3).map(|number| (format!("cell {number}"), "NaN".to_owned())).collect();
        let ledger = LedgerStatus {
            ledger: "data/demo".into(),
            counts: Counts { done: 4, failed: SHOWN + 3, missing: 2, seconds: 3600.0 },
            running: vec![Process { pid: 1, shard: None, cells: 8 }],
            seconds_left: Some(1800.0),
            failures,
            missing_cells: Vec::new(),
        };
        let text = SweepStatus { ledgers: vec![ledger] }.to_string();
        let row: Vec<&str> = text.lines().nth(2).unwrap().split_whitespace().collect();
        assert_eq!(row, ["data/demo", "4", "2", "23", "2", "30", "min"], "no more are running than are missing");
        assert_eq!(text.matches("failed: cell").count(), SHOWN);
        assert!(text.ends_with("… and 3 more that failed (JSON lists them)\n"), "{text}");
    }
}
