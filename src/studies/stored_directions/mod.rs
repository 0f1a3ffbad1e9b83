//! Stored directions: what a folder of results holds, and what comes from elsewhere. No model is loaded.

mod import;

pub use import::{ImportDirections, Imported};

use super::fields::list;
use crate::directions::{Direction, DirectionName, FitRecord, Method, list as stored, select, similarity};
use crate::files::csv_bytes;
use crate::model::Model;
use crate::report::Table;
use crate::session::{DEFAULT_MODEL, Fault, Mend, OfSetting, SessionOptions};
use anyhow::Result;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

/// Which stored directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredDirections {
    /// Directions by name, `*` and `?` match anything.
    #[serde(deserialize_with = "list")]
    pub names: Vec<String>,
    /// The model, as it was named when they were fitted or imported.
    pub model: String,
    /// Where results are: the directions are in the folder of the model's name in it.
    pub data_dir: PathBuf,
}

impl Default for StoredDirections {
    fn default() -> Self {
        Self { names: vec!["*".into()], model: DEFAULT_MODEL.into(), data_dir: SessionOptions::default().data_dir }
    }
}

/// A stored direction, with the record of how it came about if there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its name and columns.
    pub direction: Direction,
    /// The record beside it.
    pub record: Option<FitRecord>,
    /// Is the array another one than the record was written with?
    pub has_changed: bool,
}

impl StoredDirections {
    fn folder(&self) -> Result<PathBuf> {
        let folder = self.data_dir.join(Model::results_name(&self.model, None).of_setting("model")?);
        if folder.is_dir() {
            return Ok(folder);
        }
        let fault = Fault::new(format!("{}: no such folder", folder.display()));
        let fit = Mend::Study("fit-directions", vec![("models", self.model.clone())]);
        Err(fault.mended_by(fit).mended_by(Mend::Study("directions import", Vec::new())).into())
    }

    /// Reads them.
    ///
    /// # Errors
    /// A folder that is not there, a pattern that matches nothing, a file that is no direction or record.
    pub fn read(&self) -> Result<Vec<Stored>> {
        let folder = self.folder()?;
        let read = |name: &DirectionName| -> Result<Stored> {
            let (array, path) = Direction::paths(&folder, name);
            let record = path.exists().then(|| FitRecord::read(&folder, name)).transpose()?;
            let has_changed = record.as_ref().map_or(Ok(false), |record| record.is_of(&array).map(|same| !same))?;
            Ok(Stored { direction: Direction::read_any_width(&folder, name)?, record, has_changed })
        };
        select(&self.names, &stored(&folder)?)?.iter().map(read).collect()
    }
}

impl Stored {
    fn shape(&self) -> [usize; 2] {
        [self.direction.columns.rows, self.direction.columns.cols]
    }

    /// Euclidean length of every column.
    pub fn norms(&self) -> Vec<f64> {
        let columns = &self.direction.columns;
        let squares = |col: usize| columns.data.iter().skip(col).step_by(columns.cols).map(|v| f64::from(*v).powi(2));
        (0..columns.cols).map(|col| squares(col).sum::<f64>().sqrt()).collect()
    }

    /// How it came about, in a word.
    fn origin(&self) -> &'static str {
        match &self.record {
            None => "no record",
            Some(_) if self.has_changed => "changed since",
            Some(record) if record.imported.is_some() => "imported",
            Some(_) => "fitted",
        }
    }
}

/// Weight processing as a list for people.
fn processing(record: &FitRecord) -> String {
    if record.weight_processing.is_empty() { "none".into() } else { record.weight_processing.join(",") }
}

/// A line for every stored direction.
#[derive(Debug, Clone)]
pub struct Listing(pub Vec<Stored>);

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["direction", "shape", "provenance", "weight processing", "final metric"]);
        for stored in &self.0 {
            let [rows, cols] = stored.shape();
            let processing = stored.record.as_ref().map_or("unknown".into(), processing);
            let metric = stored.record.as_ref().and_then(|record| record.final_metric);
            let metric = metric.map_or(String::new(), |metric| format!("{metric:.4}"));
            let (name, origin) = (stored.direction.name.to_string(), stored.origin().to_owned());
            table.push([name, format!("({rows}, {cols})"), origin, processing, metric]);
        }
        write!(f, "{table}")
    }
}

impl Serialize for Listing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = |stored: &Stored| {
            let name = stored.direction.name.to_string();
            json!({ "name": name, "shape": stored.shape(), "provenance": stored.origin(), "record": stored.record })
        };
        serializer.collect_seq(self.0.iter().map(row))
    }
}

/// Everything that is known of stored directions.
#[derive(Debug, Clone)]
pub struct Details(pub Vec<Stored>);

/// Points of a loss curve that are shown.
const POINTS: usize = 9;

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|stored| write!(f, "{}", details(stored)))
    }
}

fn details(stored: &Stored) -> String {
    let [rows, cols] = stored.shape();
    let mut lines = vec![
        ("shape", format!("({rows}, {cols})")),
        ("norm", stored.norms().iter().map(|norm| format!("{norm:.6}")).collect::<Vec<_>>().join(" ")),
        ("provenance", stored.origin().to_owned()),
    ];
    if let Some(record) = &stored.record {
        let revision = record.revision.as_ref().map_or(String::new(), |revision| format!(" at {revision}"));
        lines.push(("model", format!("{}{revision}", record.model)));
        lines.push(("weight processing", processing(record)));
        match &record.imported {
            Some(source) => {
                lines.push(("file", source.file.clone()));
                lines.push(("sha256", source.sha256.clone()));
            }
            None => {
                lines.push(("seed", record.seed.to_string()));
                lines.push(("settings", record.settings.to_string()));
            }
        }
        lines.extend(record.final_metric.map(|metric| ("final metric", metric.to_string())));
        lines.push(("version", record.version.clone()));
    }
    let mut text = format!("{}\n", stored.direction.name);
    lines.iter().for_each(|(field, value)| text += &format!("  {field:<18}{value}\n"));
    let curve = stored.record.as_ref().map(|record| &record.loss_curve).filter(|curve| !curve.is_empty());
    if let Some(curve) = curve {
        text += &format!("\n{}", curve_table(curve));
    }
    text + "\n"
}

/// A few points of a loss curve, the first and the last among them.
fn curve_table(curve: &[f64]) -> Table {
    let mut table = Table::new(["epoch", "loss"]);
    let last = curve.len() - 1;
    let points = POINTS.min(curve.len());
    let mut epochs: Vec<usize> = (0..points).map(|point| point * last / (points - 1).max(1)).collect();
    epochs.dedup();
    epochs.into_iter().for_each(|epoch| table.push([(epoch + 1).to_string(), format!("{:.6}", curve[epoch])]));
    table
}

impl Serialize for Details {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = |stored: &Stored| {
            let name = stored.direction.name.to_string();
            json!({ "name": name, "shape": stored.shape(), "norms": stored.norms(), "record": stored.record })
        };
        serializer.collect_seq(self.0.iter().map(row))
    }
}

/// How alike directions are: of two directions the cosine; where a subspace is one of them, the root mean square of the
/// cosines of the principal angles, which has no sign.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cosines {
    /// Names of the directions.
    pub directions: Vec<String>,
    /// A row per direction.
    pub cosines: Vec<Vec<f64>>,
    /// What keeps some of them from being compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Cosines {
    /// Compares every two of them.
    ///
    /// # Errors
    /// Directions of different widths.
    pub fn of(stored: &[Stored]) -> Result<Self> {
        let all: Vec<&Direction> = stored.iter().map(|stored| &stored.direction).collect();
        if let [first, rest @ ..] = &all[..]
            && let Some(other) = rest.iter().find(|other| other.columns.rows != first.columns.rows)
        {
            let (ours, theirs) = (first.columns.rows, other.columns.rows);
            let expected = format!("width: expected {ours}, that of {}, found {theirs}", first.name);
            return Err(Fault::new(format!("{}: {expected}", other.name)).into());
        }
        let row = |a: &&Direction| all.iter().map(|b| similarity(&a.columns, &b.columns)).collect();
        let directions = all.iter().map(|direction| direction.name.to_string()).collect();
        let records = stored.iter().filter(|stored| stored.direction.name.method() != Some(Method::RandomDirection));
        let processings: BTreeSet<String> =
            records.filter_map(|stored| stored.record.as_ref()).map(processing).collect();
        let note = (processings.len() > 1).then(|| {
            let listed = Vec::from_iter(processings).join(" and ");
            format!("cosines between directions of different weight processing ({listed}) compare different bases")
        });
        Ok(Self { directions, cosines: all.iter().map(row).collect(), note })
    }

    /// The table as CSV, with all digits, its cells guarded against spreadsheets or not.
    ///
    /// # Errors
    /// Rows of different lengths.
    pub fn csv(&self, guard: bool) -> Result<String> {
        let header = ["direction".to_owned()].into_iter().chain(self.directions.iter().cloned()).collect::<Vec<_>>();
        let row = |(name, row): (&String, &Vec<f64>)| {
            [name.clone()].into_iter().chain(row.iter().map(f64::to_string)).collect()
        };
        let rows = self.directions.iter().zip(&self.cosines).map(row);
        Ok(String::from_utf8(csv_bytes(std::iter::once(header).chain(rows), guard)?)?)
    }
}

impl fmt::Display for Cosines {
    /// Columns carry the rows' numbers: names side by side would not fit on a screen.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = (1..=self.directions.len()).map(|n| n.to_string());
        let mut table = Table::new(["cosine".to_owned()].into_iter().chain(numbers));
        for (number, (name, row)) in self.directions.iter().zip(&self.cosines).enumerate() {
            let cells = row.iter().map(|cosine| format!("{cosine:.3}"));
            table.push([format!("{} {name}", number + 1)].into_iter().chain(cells));
        }
        write!(f, "{table}")?;
        self.note.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}
