//! How far sweeps are, from their ledgers.

use super::records::Records;
use crate::report::pages::SweepBar;
use crate::report::{CellKey, SuiteCsv, SuiteName};
use crate::studies::sweep_status::{LedgerStatus, duration, is_own, status_of};
use crate::sweep::{Cell, Ledger, Outcome, State, at_work, ledgers};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// How many failures of a sweep are listed.
const FAILURES: usize = 20;

/// How far ledgers were, and their sizes and times then.
type Known = HashMap<PathBuf, (u64, SystemTime, SweepBar)>;

/// What was read of ledgers, which may be large.
#[derive(Debug, Default)]
pub(super) struct Sweeps(Mutex<Known>);

impl Sweeps {
    /// A bar for every ledger of some models below `root`; with `known`, ledgers that have not changed are not read again.
    pub fn bars(&self, root: &Path, models: &BTreeSet<String>, known: bool) -> Vec<SweepBar> {
        let mut bars = Vec::new();
        for model in models {
            let folder = root.join(model);
            match ledgers(&folder) {
                Ok(found) => bars.extend(found.iter().map(|ledger| self.bar(root, &folder, ledger, known))),
                Err(error) => bars.push(damaged(model.clone(), &error.into())),
            }
        }
        bars
    }

    fn bar(&self, root: &Path, model: &Path, folder: &Path, known: bool) -> SweepBar {
        let name = folder.strip_prefix(root).unwrap_or(folder).display().to_string();
        let metadata = std::fs::metadata(folder.join(Ledger::FILE)).ok();
        let version = metadata.and_then(|file| Some((file.len(), file.modified().ok()?)));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.get(folder).filter(|(bytes, modified, _)| known && version == Some((*bytes, *modified)));
        let bar = match kept {
            Some((_, _, bar)) => bar.clone(),
            None => read(model, folder, name.clone()).unwrap_or_else(|error| damaged(name, &error)),
        };
        if let Some((bytes, modified)) = version {
            all.insert(folder.to_owned(), (bytes, modified, bar.clone()));
        }
        with_processes(bar, folder)
    }
}

fn damaged(name: String, error: &anyhow::Error) -> SweepBar {
    SweepBar { name, damaged: Some(format!("{error:#}")), ..SweepBar::default() }
}

fn read(model: &Path, folder: &Path, name: String) -> Result<SweepBar> {
    let state = Ledger::read(folder)?.map(|(_, state)| state).unwrap_or_default();
    // How many processes there are is looked up whenever it is asked.
    let LedgerStatus { counts, seconds_left, failures, .. } = status_of(&state, model, folder, Vec::new());
    let cells = state.cells().filter(|(cell, _)| is_own(cell, folder)).count();
    Ok(SweepBar {
        name,
        done: counts.done,
        failed: counts.failed,
        missing: counts.missing,
        stale: cells - counts.done - counts.failed - counts.missing,
        alone: seconds_left,
        failures: failures.into_iter().take(FAILURES).collect(),
        ..SweepBar::default()
    })
}

/// The same with the processes that are at work now.
fn with_processes(bar: SweepBar, folder: &Path) -> SweepBar {
    let processes = at_work(folder).unwrap_or_default();
    let computing = processes.iter().map(|process| process.cells).sum::<usize>().min(bar.missing);
    let left = bar.alone.filter(|_| bar.missing > 0).map(|seconds| duration(seconds / processes.len().max(1) as f64));
    SweepBar { processes: processes.len(), computing, left, ..bar }
}

/// Notes tables that still have values of directions or prompts that have changed since, and ledgers of other weights.
pub(super) fn note_stale(root: &Path, model: &str, records: &mut Records) {
    let folder = root.join(model);
    let path = Path::new(model).join(Ledger::FILE);
    match Ledger::read(&folder) {
        Ok(None) => {}
        Err(error) => records.note(path, "damaged", error.to_string()),
        Ok(Some((configuration, state))) => {
            if let Some(why) = configuration.get("weights").and_then(|weights| records.weights_differ(weights)) {
                records.note(path, "other model", why);
            }
            for (file, count) in stale(&state, &folder) {
                let why = format!("{count} values of directions or prompts that have changed since");
                records.note(Path::new(model).join(file), "stale", why);
            }
        }
    }
}

/// How many values that no longer hold every table of the suite has.
fn stale(state: &State, folder: &Path) -> BTreeMap<String, usize> {
    let fresh: BTreeSet<_> = state.fresh(folder).map(|(cell, _)| cell.place).collect();
    let mut gone: BTreeMap<String, BTreeSet<CellKey>> = BTreeMap::new();
    for (Cell { place, .. }, outcome) in state.cells().filter(|(cell, _)| !fresh.contains(&cell.place)) {
        if let ([direction, set, position], Some(Outcome::Done { .. })) = (&place.at[..], outcome) {
            let key = (direction.to_string(), set.to_string(), position.to_string());
            gone.entry(place.file.to_string()).or_default().insert(key);
        }
    }
    let counted = gone.into_iter().filter_map(|(file, places)| {
        // Files of other studies are no such tables, and a name with a folder in it is nobody's.
        file.parse::<SuiteName>().ok().filter(|_| !file.contains(['/', '\\']))?;
        let table = SuiteCsv::read(&folder.join(&file)).ok()?;
        let count = table.cells().keys().filter(|key| places.contains(*key)).count();
        (count > 0).then_some((file, count))
    });
    counted.collect()
}
