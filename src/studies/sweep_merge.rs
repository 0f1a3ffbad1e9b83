//! Joining the shards of sweeps.

use super::suite_tables::write_tables;
use crate::session::Fault;
use crate::sweep::{Counts, Joined, Ledger, join, models};
use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// What a merge came to.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct SweepMerge {
    /// Every model that there was a ledger of.
    pub models: Vec<MergedModel>,
}

/// What a merge came to for one model.
#[derive(Debug, Clone, Serialize)]
pub struct MergedModel {
    /// Its name.
    pub model: String,
    /// What was added to its ledger.
    #[serde(flatten)]
    pub joined: Joined,
    /// How far the whole sweep is by now.
    pub sweep: Counts,
    /// Every cell that is still missing.
    pub missing_cells: Vec<String>,
}

/// Joins the ledgers of the data folders `from` into those of `data_dir`, model by model, and makes the tables of the
/// suite; without any `from`, the shards that lie in `data_dir` itself. What is known already is not added again.
///
/// # Errors
/// Folders that cannot be read, or have nothing to join; ledgers that do not agree.
pub fn merge_sweeps(from: &[PathBuf], data_dir: &Path) -> Result<SweepMerge> {
    let itself = [data_dir.to_owned()];
    let from = if from.is_empty() { &itself } else { from };
    let sources = sources(from, data_dir)?;
    if sources.is_empty() {
        let names: Vec<String> = from.iter().map(|data| data.display().to_string()).collect();
        let (names, ledger) = (names.join(", "), Ledger::FILE);
        return Err(Fault::new(format!("{names}: nothing to merge: no <model>/shards/*/{ledger}")).into());
    }
    let merge = |(model, ledgers): (String, Vec<PathBuf>)| {
        merge_model(data_dir, &model, &ledgers).with_context(|| format!("merge {model}"))
    };
    Ok(SweepMerge { models: sources.into_iter().map(merge).collect::<Result<_>>()? })
}

/// The ledgers that are to be joined, by model.
fn sources(from: &[PathBuf], data_dir: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let own = data_dir.canonicalize().ok();
    let mut sources: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for data in from {
        for (model, ledgers) in models(data)? {
            let target = data.join(&model);
            // A ledger is not joined into itself.
            let others = ledgers.into_iter().filter(|ledger| own != data.canonicalize().ok() || *ledger != target);
            sources.entry(model).or_default().extend(others);
        }
    }
    sources.retain(|_, ledgers| !ledgers.is_empty());
    Ok(sources)
}

fn merge_model(data_dir: &Path, model: &str, ledgers: &[PathBuf]) -> Result<MergedModel> {
    let folder = data_dir.join(model);
    let joined = join(&folder, ledgers)?;
    let Some((configuration, _)) = Ledger::read(&folder)? else {
        return Err(Fault::new(format!("{}: no ledger", folder.display())).into());
    };
    Ledger::open(&folder, &configuration)?.with_state(|state| {
        write_tables(&folder, state, |_| false)?;
        let missing = state.fresh(&folder).filter(|(_, outcome)| outcome.is_none());
        Ok(MergedModel {
            model: model.to_owned(),
            joined,
            sweep: state.fresh(&folder).map(|(_, outcome)| outcome).collect(),
            missing_cells: missing.map(|(cell, _)| cell.place.to_string()).collect(),
        })
    })
}

/// How many missing cells a text lists.
const SHOWN: usize = 20;

impl fmt::Display for SweepMerge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.models.iter().try_for_each(|model| model.fmt(f))
    }
}

impl fmt::Display for MergedModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, joined, sweep, missing_cells } = self;
        let Counts { done, failed, missing, .. } = sweep;
        let added = joined.outcomes;
        writeln!(f, "{model}: {added} outcomes added; {done} cells done, {failed} failed, {missing} missing")?;
        if joined.stale > 0 {
            let stale = joined.stale;
            writeln!(f, "{stale} cells are left out: the directions they were computed with have changed since")?;
        }
        for cell in missing_cells.iter().take(SHOWN) {
            writeln!(f, "missing: {cell}")?;
        }
        match missing_cells.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => writeln!(f, "… and {more} more are missing (JSON lists them)"),
        }
    }
}
