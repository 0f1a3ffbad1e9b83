//! `direction-patching-results`.

use super::common::{distinct, print, print_json};
use crate::directions::{DirectionName, list};
use crate::model::Model;
use crate::report::results::{self, BEST_LAYER, Best, BestLayers, Named, ResultFile};
use crate::report::{FittingStats, SuiteCsv, Table};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Arguments of `direction-patching-results`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch direction-patching-results --models demo
  actpatch direction-patching-results --models gpt2-small,pythia-160m,pythia-1.4b

Figures (.svg, .png, .html) of one model go to DATA_DIR/<model>/figures, those of all together and
direction_patching_results.csv to DATA_DIR/figures.")]
pub struct Args {
    /// Models, as they were named when they were patched.
    #[arg(long, value_delimiter = ',', default_value = "demo")]
    models: Vec<String>,
    /// Where results are: those of a model in DATA_DIR/<model>.
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// Print the tables as JSON.
    #[arg(long)]
    json: bool,
}

/// The results of one model.
struct Measured {
    folder: PathBuf,
    model: String,
    files: Vec<ResultFile>,
    /// Files of the suite's kind that it does not write.
    strange: Vec<String>,
    directions: Vec<DirectionName>,
    stats: FittingStats,
}

/// Prints a table per result file of every model, and draws the figures.
pub fn run(args: Args) -> Result<()> {
    let models = distinct(&args.models).iter().map(|spec| read(&args.data_dir, spec)).collect::<Result<Vec<_>>>()?;
    let written = draw(&args.data_dir, &models)?;
    let bests = || models.iter().flat_map(|model| &model.files).map(|file| (file, file.best_layers()));
    let missing: Vec<String> = models.iter().flat_map(Measured::missing).collect();
    if args.json {
        let bests: BTreeMap<String, Vec<Best>> =
            bests().map(|(file, bests)| (file.path.display().to_string(), bests)).collect();
        let written: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        return print_json(&json!({ "best_layers": bests, "written": written, "not_measured": missing }));
    }
    for (file, bests) in bests() {
        print(&format!("{}\nbest layer of every method, percent (layer)\n{}\n", file.path.display(), table(&bests)))?;
    }
    print(&format!("{BEST_LAYER}\n\nwritten:\n"))?;
    for stem in written.iter().map(|path| path.with_extension("")).collect::<BTreeSet<_>>() {
        let endings = written.iter().filter(|path| path.with_extension("") == stem);
        let endings: Vec<_> = endings.filter_map(|path| path.extension()?.to_str()).collect();
        print(&format!("  {}.{}\n", stem.display(), endings.join("|")))?;
    }
    if missing.is_empty() { Ok(()) } else { print(&format!("\nnot measured:\n  {}\n", missing.join("\n  "))) }
}

/// Results need no weights, and may be of a folder that is no longer there: its name is enough.
fn folder_name(data_dir: &Path, spec: &str) -> Result<String> {
    // Only a plain name can be a folder of ours: a path leads to a model, not to its results.
    let plain = Path::new(spec).file_name().is_some_and(|name| name == spec);
    if plain && data_dir.join(spec).is_dir() {
        return Ok(spec.into());
    }
    Model::results_name(spec, None).context("--models")
}

/// Reads what there is of a model.
fn read(data_dir: &Path, spec: &str) -> Result<Measured> {
    let model = &folder_name(data_dir, spec)?;
    let folder = data_dir.join(model);
    let paths = SuiteCsv::files(&folder)?;
    let mut measured = Measured {
        model: model.clone(),
        files: Vec::new(),
        strange: Vec::new(),
        directions: Vec::new(),
        stats: FittingStats::read(&folder)?,
        folder,
    };
    for path in paths {
        match ResultFile::read(model, &path)? {
            Some(file) => measured.files.push(file),
            None => measured.strange.push(format!("{}: not a name of the suite's, not drawn", path.display())),
        }
    }
    if measured.files.is_empty() {
        let folder = measured.folder.display();
        bail!("{folder}: no direction_patching_*.csv; run actpatch direction-patching-suite first");
    }
    measured.directions = list(&measured.folder)?;
    Ok(measured)
}

impl Measured {
    fn missing(&self) -> Vec<String> {
        let cells = self.files.iter().flat_map(ResultFile::missing);
        let empty = self.files.iter().filter(|file| file.cells.is_empty());
        let empty = empty.map(|file| format!("{}: no values", file.path.display()));
        self.strange.iter().cloned().chain(empty).chain(cells).collect()
    }

    /// The figures of this model alone.
    fn figures(&self) -> Result<Vec<Named>> {
        let mut figures = results::cross_dataset(&self.files);
        figures.extend(results::fits(&self.model, &self.stats));
        figures.extend(results::projections(&self.model, &self.folder, &self.directions)?);
        figures.extend(results::similarities(&self.model, &self.folder, &self.directions)?);
        Ok(figures)
    }
}

/// Draws all figures and writes the table of best layers; returns the files.
fn draw(data_dir: &Path, models: &[Measured]) -> Result<Vec<PathBuf>> {
    let files: Vec<ResultFile> = models.iter().flat_map(|model| model.files.iter().cloned()).collect();
    let shared = data_dir.join("figures");
    let mut work: Vec<(PathBuf, Named)> = Vec::new();
    for model in models {
        let folder = model.folder.join("figures");
        work.extend(model.figures()?.into_iter().map(|named| (folder.clone(), named)));
    }
    let together = results::layers(&files).into_iter().chain(results::simple(&files));
    work.extend(together.map(|named| (shared.clone(), named)));
    let mut written = vec![BestLayers::of(&files).write(&shared)?];
    for (folder, Named { stem, figure }) in work {
        written.extend(figure.write(&folder, &stem)?);
    }
    Ok(written)
}

/// One row per method and fit, one column per evaluation.
pub(super) fn table(bests: &[Best]) -> Table {
    let columns: BTreeSet<&str> = bests.iter().map(|best| best.patched.as_str()).collect();
    let mut rows: BTreeMap<(&str, &str), BTreeMap<&str, String>> = BTreeMap::new();
    for best in bests {
        let cell = format!("{:.1} ({})", best.percent, best.layer);
        rows.entry((best.method.name(), &best.fitted_on)).or_default().insert(&best.patched, cell);
    }
    let mut table = Table::new(["method", "fitted on"].into_iter().chain(columns.iter().copied()));
    for ((method, fitted_on), cells) in rows {
        let values = columns.iter().map(|column| cells.get(column).cloned().unwrap_or_default());
        table.push([method.to_owned(), fitted_on.to_owned()].into_iter().chain(values));
    }
    table
}
