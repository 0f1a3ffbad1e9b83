//! `direction-patching-results`.

use super::common::{ModelArgs, RunArgs, distinct, print, print_json};
use crate::directions::{DirectionName, Method};
use crate::report::{SuiteCsv, Table};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Arguments of `direction-patching-results`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  actpatch direction-patching-results --models demo")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// The best layer of one method, fitted on one dataset, on one evaluation column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Best {
    /// Fitting method.
    pub method: String,
    /// Dataset and placeholder of the fit.
    pub fitted_on: String,
    /// Dataset and position that were patched.
    pub patched: String,
    /// The metric in percent at the best layer.
    pub percent: f64,
    /// That layer.
    pub layer: usize,
}

/// Prints a table per result file of every model.
pub fn run(args: Args) -> Result<()> {
    let mut all = BTreeMap::new();
    for spec in &distinct(&args.models.models) {
        let name = folder_name(&args, spec)?;
        let folder = args.run.folder(&name);
        let files = SuiteCsv::files(&folder)?;
        if files.is_empty() {
            bail!("{}: no direction_patching_*.csv; run actpatch direction-patching-suite first", folder.display());
        }
        for path in files {
            let bests = best_layers(&path)?;
            if args.run.json {
                all.insert(path.display().to_string(), bests);
            } else {
                print(&format!(
                    "{}\nbest layer of every method, percent (layer)\n{}\n",
                    path.display(),
                    table(&bests)
                ))?;
            }
        }
    }
    if args.run.json { print_json(&all) } else { Ok(()) }
}

/// Results need no weights: a folder of that name is enough, otherwise the model is asked for its name.
fn folder_name(args: &Args, spec: &str) -> Result<String> {
    // Only a plain name can be a folder of ours: a path leads to a model, not to its results.
    let plain = Path::new(spec).file_name().is_some_and(|name| name == spec);
    if plain && args.run.folder(spec).is_dir() {
        return Ok(spec.into());
    }
    Ok(args.models.load(spec, args.run.seed)?.name)
}

/// The layer with the largest value of every (method, dataset of the fit, evaluation column).
///
/// The layer is chosen on the same prompts that are reported, as in the paper's tables.
pub(super) fn best_layers(path: &Path) -> Result<Vec<Best>> {
    let file = SuiteCsv::read(path)?;
    let mut bests: BTreeMap<(Method, String, String), (f64, usize)> = BTreeMap::new();
    for ((direction, set, position), &percent) in file.cells() {
        let name: DirectionName = direction.parse().with_context(|| path.display().to_string())?;
        let fitted_on = match (name.dataset(), name.position()) {
            (Some(dataset), Some(position)) => format!("{dataset} {position}"),
            _ => "-".into(),
        };
        let best =
            bests.entry((name.method(), fitted_on, format!("{set} {position}"))).or_insert((percent, name.layer()));
        if percent > best.0 {
            *best = (percent, name.layer());
        }
    }
    let rows = bests.into_iter().map(|((method, fitted_on, patched), (percent, layer))| Best {
        method: method.to_string(),
        fitted_on,
        patched,
        percent,
        layer,
    });
    Ok(rows.collect())
}

/// One row per method and fit, one column per evaluation.
pub(super) fn table(bests: &[Best]) -> Table {
    let columns: BTreeSet<&str> = bests.iter().map(|best| best.patched.as_str()).collect();
    let mut rows: BTreeMap<(&str, &str), BTreeMap<&str, String>> = BTreeMap::new();
    for best in bests {
        let cell = format!("{:.1} ({})", best.percent, best.layer);
        rows.entry((&best.method, &best.fitted_on)).or_default().insert(&best.patched, cell);
    }
    let mut table = Table::new(["method", "fitted on"].into_iter().chain(columns.iter().copied()));
    for ((method, fitted_on), cells) in rows {
        let values = columns.iter().map(|column| cells.get(column).cloned().unwrap_or_default());
        table.push([method.to_owned(), fitted_on.to_owned()].into_iter().chain(values));
    }
    table
}
