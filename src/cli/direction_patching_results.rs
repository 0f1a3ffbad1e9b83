//! `direction-patching-results`.

use super::common::{ModelArgs, distinct, print, print_json};
use crate::directions::{DirectionName, list};
use crate::report::Table;
use crate::report::results::{
    Best, Column, ResultFile, best_layers, between_layers, between_methods, cross_dataset, fit_tables, layer_figures,
    read_folder, scatters, summaries,
};
use anyhow::{Result, bail};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Arguments of `direction-patching-results`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch direction-patching-results --models demo
  actpatch direction-patching-results --models gpt2-small,pythia-1.4b --data-dir results

Tables and figures of one model go to DATA_DIR/<model>/figures, figures with a facet per model to DATA_DIR/figures.
docs/gallery.md shows them.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Results are in DATA_DIR/<model>.
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// Print the best layers, the empty cells and the files written as JSON.
    #[arg(long)]
    json: bool,
}

/// What is said of one model.
struct ModelResults {
    name: String,
    files: Vec<ResultFile>,
    written: Vec<PathBuf>,
}

/// Prints the best layers of every result file, lists empty cells, and draws tables and figures.
pub fn run(args: Args) -> Result<()> {
    let models = distinct(&args.models.models);
    let mut models = models.iter().map(|spec| model_results(&args, spec)).collect::<Result<Vec<_>>>()?;
    let shared: Vec<_> =
        models.iter_mut().map(|model| (model.name.clone(), std::mem::take(&mut model.files))).collect();
    let across = layer_figures(&shared, &args.data_dir.join("figures"))?;
    let written: Vec<&PathBuf> = models.iter().flat_map(|model| &model.written).chain(&across).collect();
    let files: Vec<&ResultFile> = shared.iter().flat_map(|(_, files)| files).collect();
    if args.json {
        return print_json(&as_json(&files, &written));
    }
    for file in &files {
        let path = file.path.display();
        print(&format!("{path}\nbest layer of every method, percent (layer)\n{}\n", table(&best_layers(file))))?;
    }
    for file in &files {
        print(&missing_text(file))?;
    }
    let folders: BTreeSet<&Path> = written.iter().filter_map(|path| path.parent()).collect();
    let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    print(&format!("{} files into {}\n", written.len(), folders.join(", ")))
}

/// Reads the results of one model, and writes the tables and figures that are about it alone.
fn model_results(args: &Args, spec: &str) -> Result<ModelResults> {
    let name = folder_name(args, spec)?;
    let folder = args.data_dir.join(&name);
    let files = read_folder(&folder)?;
    if files.is_empty() {
        bail!("{}: no direction_patching_*.csv; run actpatch direction-patching-suite first", folder.display());
    }
    let into = folder.join("figures");
    let names = list(&folder)?;
    let directions = (folder.as_path(), &names[..]);
    let mut written = summaries(&name, &files, &into)?;
    for file in &files {
        written.extend(cross_dataset(&name, file, &into)?);
    }
    written.extend(fit_tables(&name, &folder, &into)?);
    written.extend(scatters(&name, directions, &into)?);
    written.extend(between_methods(&name, directions, &into)?);
    written.extend(between_layers(&name, directions, &into)?);
    Ok(ModelResults { name, files, written })
}

/// Results need no weights: a folder of that name is enough, otherwise the model is asked for its name.
fn folder_name(args: &Args, spec: &str) -> Result<String> {
    // Only a plain name can be a folder of ours: a path leads to a model, not to its results.
    let plain = Path::new(spec).file_name().is_some_and(|name| name == spec);
    if plain && args.data_dir.join(spec).is_dir() {
        return Ok(spec.into());
    }
    Ok(args.models.load(spec, 0)?.name)
}

/// Most empty cells that are named; of more, the rest is counted.
const MOST_NAMED: usize = 20;

/// The empty cells of a file's grid, or nothing.
fn missing_text(file: &ResultFile) -> String {
    let missing = file.missing();
    if missing.is_empty() {
        return String::new();
    }
    let named = missing.iter().take(MOST_NAMED);
    let mut text = format!("{}: {} cells are not measured:\n", file.path.display(), missing.len());
    text.extend(named.map(|(name, (set, position))| format!("  {name} on {set} {position}\n")));
    if missing.len() > MOST_NAMED {
        text.push_str(&format!("  and {} more\n", missing.len() - MOST_NAMED));
    }
    text
}

fn as_json(files: &[&ResultFile], written: &[&PathBuf]) -> serde_json::Value {
    let path = |file: &ResultFile| file.path.display().to_string();
    let best: BTreeMap<String, Vec<Best>> = files.iter().map(|file| (path(file), best_layers(file))).collect();
    let cell = |(name, (set, position)): &(&DirectionName, &Column)| json!({ "direction": name.to_string(), "prompt": set, "position": position });
    let missing: BTreeMap<String, Vec<_>> =
        files.iter().map(|file| (path(file), file.missing().iter().map(cell).collect())).collect();
    let written: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    json!({ "best_layers": best, "not_measured": missing, "files": written })
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
