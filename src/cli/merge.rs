//! `merge`.

use super::common::{print, print_json};
use super::sweeping::{models, write_files};
use crate::sweep::{Counts, Joined, Ledger, join};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `merge`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch merge
  actpatch merge node1/data node2/data --data-dir data")]
pub struct Args {
    /// Data folders to join into DATA_DIR; without any, the shards that lie in DATA_DIR itself.
    from: Vec<PathBuf>,
    /// Where the joined ledgers and the result files go.
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// Print it as JSON, with every missing cell.
    #[arg(long)]
    json: bool,
}

/// How many missing cells are printed.
const SHOWN: usize = 20;

/// What a merge came to for one model.
#[derive(Debug, Serialize)]
struct Merged {
    model: String,
    #[serde(flatten)]
    joined: Joined,
    sweep: Counts,
    missing_cells: Vec<String>,
}

/// Joins ledgers, model by model, and makes the result files.
pub fn run(args: Args) -> Result<()> {
    let own = args.data_dir.canonicalize().ok();
    let from = if args.from.is_empty() { vec![args.data_dir.clone()] } else { args.from.clone() };
    let mut sources: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for data in &from {
        for (model, ledgers) in models(data)? {
            let target = args.data_dir.join(&model);
            // A ledger is not joined into itself.
            let others = ledgers.into_iter().filter(|ledger| own != data.canonicalize().ok() || *ledger != target);
            sources.entry(model).or_default().extend(others);
        }
    }
    sources.retain(|_, ledgers| !ledgers.is_empty());
    if sources.is_empty() {
        let names: Vec<String> = from.iter().map(|data| data.display().to_string()).collect();
        bail!("{}: nothing to merge: no <model>/shards/*/{}", names.join(", "), Ledger::FILE);
    }
    let mut all = Vec::new();
    for (model, ledgers) in sources {
        all.push(merge(&args, &model, &ledgers).with_context(|| format!("merge {model}"))?);
    }
    if args.json { print_json(&all) } else { print(&all.iter().map(Merged::text).collect::<String>()) }
}

fn merge(args: &Args, model: &str, ledgers: &[PathBuf]) -> Result<Merged> {
    let folder = args.data_dir.join(model);
    let joined = join(&folder, ledgers)?;
    let Some((configuration, _)) = Ledger::read(&folder)? else { bail!("{}: no ledger", folder.display()) };
    Ledger::open(&folder, &configuration)?.with_state(|state| -> Result<Merged> {
        write_files(&folder, state, |_| false)?;
        let missing = state.fresh(&folder).filter(|(_, outcome)| outcome.is_none());
        Ok(Merged {
            model: model.to_owned(),
            joined,
            sweep: state.fresh(&folder).map(|(_, outcome)| outcome).collect(),
            missing_cells: missing.map(|(cell, _)| cell.place.to_string()).collect(),
        })
    })
}

impl Merged {
    fn text(&self) -> String {
        let Merged { model, joined, sweep, missing_cells } = self;
        let mut text = format!(
            "{model}: {} outcomes added; {} cells done, {} failed, {} missing\n",
            joined.outcomes, sweep.done, sweep.failed, sweep.missing
        );
        if joined.stale > 0 {
            text.push_str(&format!(
                "{} cells are left out: the directions they were computed with have changed since\n",
                joined.stale
            ));
        }
        for cell in missing_cells.iter().take(SHOWN) {
            text.push_str(&format!("missing: {cell}\n"));
        }
        if missing_cells.len() > SHOWN {
            text.push_str(&format!("… and {} more are missing (--json lists them)\n", missing_cells.len() - SHOWN));
        }
        text
    }
}
