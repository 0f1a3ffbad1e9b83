//! What people's labels say of values.

use crate::experiments::label_shares::{Accuracy, KEYS, Labelled, Part, read};
use crate::report::figure::{Axis, Facet, Figure, Plot, Series};
use crate::report::neuroscope::ChannelSummary;
use crate::report::{Table, write_csv};
use crate::session::{Fault, Mend, OfSetting, wrong};
use crate::studies::fields::{optional_path, path};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};
use std::fmt;
use std::path::{Path, PathBuf};

/// What people's labels say of values: shares along them, and the accuracy of both ends. It needs no model.
///
/// A file of labels is any CSV file with a column of values and one of labels: the samples of [`super::Neuroscope`], or
/// the texts of [`super::Steering`], to which somebody has added `sentiment`. Its directions and layers, if it has such
/// columns, are kept apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelShares {
    /// The file of labels.
    #[serde(serialize_with = "path")]
    pub labels: PathBuf,
    /// Its column of values.
    pub value: String,
    /// Its column of labels; accuracy knows Positive and Negative.
    pub label: String,
    /// The `_summary.csv` of the reading that the values come from.
    #[serde(serialize_with = "optional_path")]
    pub summary: Option<PathBuf>,
    /// Equal parts of the range of the values: 1 to 1000. Where there are no more different values, each is a part of its own.
    pub parts: u16,
    /// Texts of tables that a spreadsheet would compute get an apostrophe in front.
    pub csv_guard: bool,
}

impl Default for LabelShares {
    fn default() -> Self {
        let (value, label) = ("value".into(), "sentiment".into());
        Self { labels: PathBuf::new(), value, label, summary: None, parts: 50, csv_guard: false }
    }
}

/// Most parts of a range.
const MOST_PARTS: u16 = 1000;

/// Most facets of a figure.
const MOST_FACETS: usize = 12;

/// Columns behind the keys, with a summary.
const ACCURACY: [&str; 5] = ["labels", "labels_above", "labels_below", "accuracy", "accuracy_of_the_paper"];

/// The counts of labels, and with a summary how well the ends tell them apart: a row per direction and layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledShares {
    /// The columns.
    pub columns: Vec<String>,
    /// The rows. Where no label lies beyond one of the quantiles, accuracy is empty.
    pub rows: Vec<Vec<String>>,
}

impl fmt::Display for LabelledShares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(self.columns.clone());
        self.rows.iter().for_each(|row| table.push(row.clone()));
        table.fmt(f)
    }
}

impl Serialize for LabelledShares {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A direction's name may look like a number, and is none.
        let value = |(column, cell): (&String, &String)| match cell.parse::<f64>() {
            _ if cell.is_empty() => Value::Null,
            Ok(number) if column != KEYS[0] && number.fract() == 0.0 => json!(number as i64),
            Ok(number) if column != KEYS[0] && number.is_finite() => json!(number),
            _ => cell.clone().into(),
        };
        let object = |row: &Vec<String>| -> Map<String, Value> {
            self.columns.iter().zip(row).map(|(column, cell)| (column.clone(), value((column, cell)))).collect()
        };
        serializer.collect_seq(self.rows.iter().map(object))
    }
}

impl LabelShares {
    /// Its name on the command line.
    pub const NAME: &'static str = "label-shares";

    /// Checks what needs no file.
    ///
    /// # Errors
    /// A [`Fault`] that names the field.
    pub fn validate(&self) -> Result<()> {
        if self.labels.file_stem().is_none() {
            wrong!("labels", "expected a file, found {:?}", self.labels);
        }
        if !(1..=MOST_PARTS).contains(&self.parts) {
            wrong!("parts", "expected 1 to {MOST_PARTS}, found {}", self.parts);
        }
        Ok(())
    }

    /// Writes the shares of the labels beside their file: `<name>_shares.csv` and its figure, and with a summary
    /// `<name>_accuracy.csv`.
    ///
    /// # Errors
    /// A file that cannot be read or written, or does not have such columns; a summary of another reading.
    pub fn run(&self) -> Result<LabelledShares> {
        self.validate()?;
        let groups = read(&self.labels, &self.value, &self.label).of_setting("labels")?;
        let accuracies = self.summary.as_ref().map(|summary| self.accuracies(summary, &groups)).transpose()?;
        let stem = self.labels.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let folder = self.labels.parent().unwrap_or(Path::new(""));
        let parts: Vec<Vec<Part>> = groups.iter().map(|group| group.parts(self.parts.into())).collect();
        write_csv(&folder.join(format!("{stem}_shares.csv")), self.share_rows(&groups, &parts), self.csv_guard)?;
        let (heads, rows) = match &accuracies {
            Some(accuracies) => (&ACCURACY[..], groups.iter().zip(accuracies).map(accuracy_row).collect::<Vec<_>>()),
            None => (&["labels"][..], groups.iter().map(count_row).collect()),
        };
        let columns: Vec<String> = keys(&groups).iter().chain(heads).map(|name| (*name).to_owned()).collect();
        if accuracies.is_some() {
            write_csv(
                &folder.join(format!("{stem}_accuracy.csv")),
                std::iter::once(&columns).chain(&rows),
                self.csv_guard,
            )?;
        }
        self.figure(&stem, &groups, &parts).write_beside_data(folder, &format!("{stem}_shares"))?;
        Ok(LabelledShares { columns, rows })
    }

    /// The accuracy of every direction and layer, by the quantiles of a summary.
    fn accuracies(&self, summary: &Path, groups: &[Labelled]) -> Result<Vec<Option<Accuracy>>> {
        let summaries = ChannelSummary::read(summary).of_setting("summary")?;
        let accuracy = |group: &Labelled| {
            let quantiles = quantiles(&summaries, &group.keys);
            let quantiles =
                quantiles.with_context(|| format!("{} beside {}", self.labels.display(), summary.display()))?;
            Ok(group.accuracy(quantiles))
        };
        groups.iter().map(accuracy).collect()
    }

    /// A row per part of the range and label.
    fn share_rows(&self, groups: &[Labelled], parts: &[Vec<Part>]) -> Vec<Vec<String>> {
        let heads = keys(groups).iter().copied().chain([&*self.value, "count", &*self.label, "share"]);
        let mut rows = vec![heads.map(str::to_owned).collect::<Vec<_>>()];
        for (group, parts) in groups.iter().zip(parts) {
            for Part { middle, count, shares } in parts {
                for (label, share) in shares {
                    let cells = [middle.to_string(), count.to_string(), label.clone(), share.to_string()];
                    rows.push(group.keys.iter().cloned().chain(cells).collect());
                }
            }
        }
        rows
    }

    /// Stacked shares, one facet per direction and layer.
    fn figure(&self, stem: &str, groups: &[Labelled], parts: &[Vec<Part>]) -> Figure {
        let facet = |(group, parts): (&Labelled, &Vec<Part>)| {
            let names = parts.first().into_iter().flat_map(|part| part.shares.keys());
            let share = |part: &Part, name: &String| part.shares.get(name).copied().unwrap_or_default();
            let points = |name: &String| parts.iter().map(|part| (part.middle, 100.0 * share(part, name))).collect();
            let series = names.map(|name| Series { name: name.clone(), points: points(name), baseline: false });
            Facet {
                title: group.keys.join(" at layer "),
                x: Axis::new(&*self.value),
                y: Axis { range: Some((0.0, 100.0)), ..Axis::new("share of labels (%)") },
                plot: Plot::Areas(series.collect()),
            }
        };
        let facets = groups.iter().zip(parts).take(MOST_FACETS).map(facet).collect();
        Figure::new(format!("Labels along values, {stem}"), facets)
    }
}

/// The quantiles of a direction at a layer.
fn quantiles(summaries: &[ChannelSummary], keys: &[String]) -> Result<[f64; 2], Fault> {
    let name = keys.join(" at layer ");
    let own = |row: &&ChannelSummary| keys == [row.direction.clone(), row.layer.to_string()];
    let row = summaries
        .iter()
        .find(own)
        .ok_or_else(|| Fault::new(format!("{name:?}: expected a direction and layer of the summary, found another")))?;
    match (row.lower, row.upper) {
        (Some(lower), Some(upper)) => Ok([lower, upper]),
        _ => {
            let fault = Fault::new(format!("{name}: expected a summary with quantiles, found none"));
            Err(fault.mended_by(Mend::Study("neuroscope", vec![("measure", "cosine".into())])))
        }
    }
}

/// The keys that the file has.
fn keys(groups: &[Labelled]) -> &'static [&'static str] {
    &KEYS[..groups.first().map_or(0, |group| group.keys.len())]
}

fn count_row(group: &Labelled) -> Vec<String> {
    group.keys.iter().cloned().chain([group.values.len().to_string()]).collect()
}

fn accuracy_row((group, accuracy): (&Labelled, &Option<Accuracy>)) -> Vec<String> {
    let cells = match accuracy {
        None => std::array::from_fn(|_| String::new()),
        Some(Accuracy { labelled: [above, below], paper, opposite }) => {
            [above.to_string(), below.to_string(), opposite.to_string(), paper.to_string()]
        }
    };
    count_row(group).into_iter().chain(cells).collect()
}
