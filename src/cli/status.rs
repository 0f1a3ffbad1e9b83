//! `status`.

use super::common::{print, print_json};
use super::sweeping::models;
use crate::report::Table;
use crate::sweep::{Counts, Ledger, Outcome, Process, running};
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `status`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  actpatch status\n  actpatch status --data-dir /results --json")]
pub struct Args {
    /// The folder of the sweeps' results.
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// Print it as JSON, with every failed and every missing cell.
    #[arg(long)]
    json: bool,
}

/// How many failed cells are printed.
const SHOWN: usize = 20;

/// How far one ledger is.
#[derive(Debug, Serialize)]
struct Progress {
    ledger: String,
    #[serde(flatten)]
    counts: Counts,
    running: Vec<Process>,
    seconds_left: Option<f64>,
    failures: Vec<(String, String)>,
    missing_cells: Vec<String>,
}

/// Prints how far every sweep of a data folder is.
pub fn run(args: Args) -> Result<()> {
    let mut all = Vec::new();
    for (model, folders) in models(&args.data_dir)? {
        for folder in folders {
            all.push(progress(&args.data_dir.join(&model), &folder)?);
        }
    }
    if all.is_empty() {
        bail!("{}: no folder with a {}; run a sweep first", args.data_dir.display(), Ledger::FILE);
    }
    if args.json { print_json(&json!(all)) } else { print(&text(&all)) }
}

fn progress(model: &Path, folder: &Path) -> Result<Progress> {
    let state = Ledger::read(folder)?.map(|(_, state)| state).unwrap_or_default();
    let own = own_shard(folder);
    let cells = || state.fresh(model).filter(|(cell, _)| own.is_none() || cell.shard == own);
    let counts: Counts = cells().map(|(_, outcome)| outcome).collect();
    let running = running(folder)?;
    let seconds_left = counts.seconds_left().map(|seconds| seconds / running.len().max(1) as f64);
    let failed = |(cell, outcome): (crate::sweep::Cell, Option<&Outcome>)| match outcome {
        Some(Outcome::Failed(error)) => Some((cell.place.to_string(), error.clone())),
        _ => None,
    };
    let missing = cells().filter(|(_, outcome)| outcome.is_none()).map(|(cell, _)| cell.place.to_string());
    Ok(Progress {
        ledger: folder.display().to_string(),
        counts,
        running,
        seconds_left,
        failures: cells().filter_map(failed).collect(),
        missing_cells: missing.collect(),
    })
}

/// The number of the shard whose folder this is: other shards' cells are not its business.
fn own_shard(folder: &Path) -> Option<usize> {
    let parent = folder.parent()?.file_name()?;
    let (index, _) = folder.file_name()?.to_str()?.split_once("-of-")?;
    (parent == "shards").then(|| index.parse().ok())?
}

fn text(all: &[Progress]) -> String {
    let mut table = Table::new(["ledger", "done", "running", "failed", "missing", "time left"]);
    for progress in all {
        let Progress { ledger, counts, running, seconds_left, .. } = progress;
        let processes: usize = running.iter().map(|process| process.cells).sum();
        let left = match (counts.missing, seconds_left) {
            (0, _) => "-".into(),
            (_, Some(seconds)) => duration(*seconds),
            (_, None) => "unknown".into(),
        };
        let counts = [counts.done, processes.min(counts.missing), counts.failed, counts.missing].map(|n| n.to_string());
        table.push([ledger.clone()].into_iter().chain(counts).chain([left]));
    }
    let failures: Vec<_> = all.iter().flat_map(|progress| &progress.failures).collect();
    let mut text = table.to_string();
    for (place, error) in failures.iter().take(SHOWN) {
        text.push_str(&format!("failed: {place}: {error}\n"));
    }
    if failures.len() > SHOWN {
        text.push_str(&format!("… and {} more that failed (--json lists them)\n", failures.len() - SHOWN));
    }
    text
}

fn duration(seconds: f64) -> String {
    match seconds {
        ..60.0 => format!("{seconds:.0} s"),
        ..3600.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}
