//! What the suite has measured: tables of best layers, and figures. No model is needed.

use super::{Plan, Study};
use crate::directions::{DirectionName, list};
use crate::model::Model;
use crate::report::results::{self, BEST_LAYER, Best, BestLayers, Named, ResultFile, best_layers_table};
use crate::report::{FittingStats, SuiteCsv, SuiteRow};
use crate::session::{Fault, Mend, Observer, OfSetting, Session, SessionOptions, distinct};
use anyhow::Result;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Reads what the suite has measured of a session's model: [`patching_results`] of it alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteResults {}

impl Study for SuiteResults {
    const NAME: &'static str = "direction-patching-results";
    type Outcome = PatchingResults;

    /// What there is to read is known when it is read.
    fn plan(&self, session: &Session) -> Result<Plan> {
        Ok(Plan::of(format!("{}: tables and figures of what the suite has measured\n", session.model().name)))
    }

    fn run(&self, session: &Session, _: &mut dyn Observer) -> Result<PatchingResults> {
        let SessionOptions { data_dir, csv_guard, .. } = session.options();
        patching_results(data_dir, std::slice::from_ref(&session.model().name), *csv_guard)
    }
}

/// Tables of what the suite has measured, and the files that were drawn of it.
#[derive(Debug, Clone)]
pub struct PatchingResults {
    /// Every table of the suite with the best layer of every method on every evaluation column, model by model.
    pub best_layers: Vec<(PathBuf, Vec<Best>)>,
    /// The files written.
    pub written: Vec<PathBuf>,
    /// What is missing in the tables, and files that are none.
    pub not_measured: Vec<String>,
}

/// Reads what the suite has measured of models, named as they were when they were patched. Figures of one model go to
/// `data_dir/<model>/figures`, those of all together and the table of best layers, its cells guarded against spreadsheets
/// or not, to `data_dir/figures`.
///
/// # Errors
/// A name that is no model's, a folder without results, a file that cannot be read or written.
pub fn patching_results(data_dir: &Path, models: &[String], csv_guard: bool) -> Result<PatchingResults> {
    let models = distinct(models).iter().map(|name| Measured::read(data_dir, name)).collect::<Result<Vec<_>>>()?;
    let files = || models.iter().flat_map(|model| &model.files);
    Ok(PatchingResults {
        written: draw(data_dir, &models, csv_guard)?,
        best_layers: files().map(|file| (file.path.clone(), file.best_layers())).collect(),
        not_measured: models.iter().flat_map(Measured::missing).collect(),
    })
}

/// Writes everything that the suite has measured of models to a Parquet file: the rows of their `direction_patching.csv`.
/// It needs the feature `parquet`.
///
/// # Errors
/// A name that is no model's, a table that is not there or cannot be read, a file that cannot be written.
pub fn export_patching_values(data_dir: &Path, models: &[String], path: &Path) -> Result<()> {
    let mut rows = Vec::new();
    for model in distinct(models) {
        let folder = data_dir.join(folder_name(data_dir, &model)?);
        let table = SuiteRow::path(&folder);
        if !table.is_file() {
            let fault = Fault::new(format!("{}: no such file", table.display()));
            return Err(fault.mended_by(Mend::Study("direction-patching-suite", Vec::new())).into());
        }
        rows.extend(SuiteRow::read(&folder)?);
    }
    Ok(SuiteRow::write_parquet(&rows, path)?)
}

impl fmt::Display for PatchingResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (path, bests) in &self.best_layers {
            let table = best_layers_table(bests);
            writeln!(f, "{}\nbest layer of every method, percent (layer)\n{table}", path.display())?;
        }
        writeln!(f, "{BEST_LAYER}\n\nwritten:")?;
        for stem in self.written.iter().map(|path| path.with_extension("")).collect::<BTreeSet<_>>() {
            let endings = self.written.iter().filter(|path| path.with_extension("") == stem);
            let endings: Vec<_> = endings.filter_map(|path| path.extension()?.to_str()).collect();
            writeln!(f, "  {}.{}", stem.display(), endings.join("|"))?;
        }
        match self.not_measured.is_empty() {
            true => Ok(()),
            false => writeln!(f, "\nnot measured:\n  {}", self.not_measured.join("\n  ")),
        }
    }
}

impl Serialize for PatchingResults {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tables = self.best_layers.iter().map(|(path, bests)| (path.display().to_string(), bests));
        let best_layers: BTreeMap<String, &Vec<Best>> = tables.collect();
        let written: Vec<String> = self.written.iter().map(|path| path.display().to_string()).collect();
        let not_measured = &self.not_measured;
        json!({ "best_layers": best_layers, "written": written, "not_measured": not_measured }).serialize(serializer)
    }
}

/// The results of one model.
struct Measured {
    folder: PathBuf,
    model: String,
    files: Vec<ResultFile>,
    /// Files that are named like tables of the suite, and are none.
    misnamed: Vec<String>,
    directions: Vec<DirectionName>,
    stats: FittingStats,
}

/// Results need no weights, and may be of a folder that is no longer there: its name is enough.
fn folder_name(data_dir: &Path, model: &str) -> Result<String> {
    // Only a plain name can be a folder of ours: a path leads to a model, not to its results.
    let plain = Path::new(model).file_name().is_some_and(|name| name == model);
    if plain && data_dir.join(model).is_dir() {
        return Ok(model.into());
    }
    Model::results_name(model, None).of_setting("models")
}

impl Measured {
    /// Reads what there is of a model.
    fn read(data_dir: &Path, model: &str) -> Result<Self> {
        let model = folder_name(data_dir, model)?;
        let folder = data_dir.join(&model);
        let (mut files, mut misnamed) = (Vec::new(), Vec::new());
        for path in SuiteCsv::files(&folder)? {
            match ResultFile::read(&model, &path)? {
                Some(file) => files.push(file),
                None => misnamed.push(format!("{}: not a name of the suite's, not drawn", path.display())),
            }
        }
        let stats = FittingStats::read(&folder)?;
        if files.is_empty() {
            let fault = Fault::new(format!("{}: no direction_patching_*.csv", folder.display()));
            return Err(fault.mended_by(Mend::Study("direction-patching-suite", Vec::new())).into());
        }
        let directions = list(&folder)?;
        Ok(Self { folder, model, files, misnamed, directions, stats })
    }

    fn missing(&self) -> Vec<String> {
        let cells = self.files.iter().flat_map(ResultFile::missing);
        let empty = self.files.iter().filter(|file| file.cells.is_empty());
        let empty = empty.map(|file| format!("{}: no values", file.path.display()));
        self.misnamed.iter().cloned().chain(empty).chain(cells).collect()
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
fn draw(data_dir: &Path, models: &[Measured], csv_guard: bool) -> Result<Vec<PathBuf>> {
    let files: Vec<ResultFile> = models.iter().flat_map(|model| model.files.iter().cloned()).collect();
    let shared = data_dir.join("figures");
    let mut figures: Vec<(PathBuf, Named)> = Vec::new();
    for model in models {
        let folder = model.folder.join("figures");
        figures.extend(model.figures()?.into_iter().map(|named| (folder.clone(), named)));
    }
    let together = results::layers(&files).into_iter().chain(results::simple(&files));
    figures.extend(together.map(|named| (shared.clone(), named)));
    let mut written = vec![BestLayers::of(&files).write(&shared, csv_guard)?];
    for (folder, Named { stem, figure }) in figures {
        written.extend(figure.write_beside_data(&folder, &stem)?);
    }
    Ok(written)
}
