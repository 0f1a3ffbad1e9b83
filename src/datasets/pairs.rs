//! Pairs of one's own as a table: CSV under a header, or JSON lines, one pair a row. The dataset is called what the file
//! is called, and its texts are taken as they stand: braces mean nothing.

use super::error::{DatasetError, Place, short};
use super::explicit::{At, ExplicitPrompt, Layout, Lengths, check_classes, check_length};
use super::file::{Dataset, PromptSource, check_name};
use super::rows::{Row, csv_rows, json_rows};
use super::template::{Prompt, check_position_name};
use super::treebank::Split;
use crate::choice::{nearest, suggestion};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// How a table of pairs is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    JsonLines,
}

impl Format {
    /// The format that a file's ending tells; none for one of another kind.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Format::Csv),
            "jsonl" => Some(Format::JsonLines),
            _ => None,
        }
    }
}

/// What the columns are called; those of positions begin with [`POSITION`].
const COLUMNS: [&str; 5] = ["clean", "corrupted", "answer", "wrong_answer", "class"];

/// Another name of the column `class`.
const LABEL: &str = "label";

/// Columns that every table has.
const NEEDED: usize = 4;

/// How the names of columns with positions begin: `position_ADJ` holds the part of the clean text at whose last token
/// the position `ADJ` is.
const POSITION: &str = "position_";

/// Parses a table of pairs, as far as it can be; what is wrong goes to `faults`.
pub(super) fn parse_pairs(file: &str, format: Format, text: &str, faults: &mut Vec<DatasetError>) -> Option<Dataset> {
    let before = faults.len();
    let name = Path::new(file).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    faults.extend(check_name(file, &name).err());
    let shown = name.escape_debug().to_string();
    let table = Table { file, name: &shown };
    if Split::of_dataset(&name).is_some() {
        faults.push(table.wrong(format!("`{name}` is a dataset of the Treebank: give the file another name")));
    }
    let mut of_rows = Vec::new();
    let mut fault = |line, column: Option<&str>, message| of_rows.push(table.at_line(line, column, message));
    let rows = match format {
        Format::Csv => csv_rows(text, &mut fault),
        Format::JsonLines => json_rows(text, &mut fault),
    };
    let without_columns = faults.len();
    table.check_columns(&rows.columns, faults);
    let columns_are_wrong = faults.len() > without_columns;
    faults.extend(of_rows);
    // Every row would be wrong in the same way.
    if columns_are_wrong {
        return None;
    }
    let prompts: Vec<ExplicitPrompt> = rows.rows.iter().filter_map(|row| table.pair(row, faults)).collect();
    check_classes(&prompts, &|field| table.place(field), faults);
    let layout = Layout { lengths: Lengths::Any, named_in_clean: true };
    let prompts = PromptSource::Explicit { prompts, layout };
    Some(Dataset { file: file.into(), name: name.clone(), prompts, flawed: faults.len() > before })
}

/// Where a table comes from.
struct Table<'a> {
    file: &'a str,
    name: &'a str,
}

impl Table<'_> {
    fn wrong(&self, message: String) -> DatasetError {
        DatasetError::Table { file: self.file.into(), dataset: self.name.into(), message }
    }

    fn place(&self, field: String) -> Box<Place> {
        Box::new(Place { file: self.file.into(), dataset: self.name.into(), field })
    }

    fn at_line(&self, line: usize, column: Option<&str>, message: String) -> DatasetError {
        let at = At::Line(line);
        DatasetError::Field { place: self.place(column.map_or_else(|| at.pair(), |column| at.field(column))), message }
    }

    /// Every column is known and there once, and those that are needed are there.
    fn check_columns(&self, columns: &[String], faults: &mut Vec<DatasetError>) {
        if columns.is_empty() {
            return;
        }
        for (number, column) in columns.iter().enumerate() {
            if columns[..number].contains(column) {
                faults.push(self.wrong(format!("two columns are called {column:?}")));
            } else if let Err(message) = check_column(column) {
                faults.push(self.wrong(message));
            }
        }
        let there = |name: &str| columns.iter().any(|column| column == name);
        if there("class") && there(LABEL) {
            faults.push(self.wrong(format!("expected a column `class` or `{LABEL}`, found both")));
        }
        let missing: Vec<_> =
            COLUMNS[..NEEDED].iter().filter(|name| !there(name)).map(|name| format!("`{name}`")).collect();
        if !missing.is_empty() {
            let (missing, columns) = (missing.join(", "), listed());
            faults.push(self.wrong(format!("expected a column {missing}, found none (columns are {columns})")));
        }
    }

    /// The pair of a row; what is wrong with it goes to `faults`.
    fn pair(&self, row: &Row, faults: &mut Vec<DatasetError>) -> Option<ExplicitPrompt> {
        let at = At::Line(row.line);
        let before = faults.len();
        let mut wrong = |field: &str, message: String| {
            faults.push(DatasetError::Field { place: self.place(at.field(field)), message });
        };
        let mut texts: BTreeMap<&str, &str> = BTreeMap::new();
        let mut positive = None;
        for (column, value) in &row.cells {
            if column == "class" || column == LABEL {
                positive = class_of(value).map_err(|message| wrong(column, message)).unwrap_or_default();
            } else {
                match text_of(value) {
                    Ok(text) => drop(texts.insert(column, text)),
                    Err(message) => wrong(column, message),
                }
            }
        }
        for column in COLUMNS[..NEEDED].iter().filter(|column| !row.cells.iter().any(|(name, _)| name == *column)) {
            wrong(column, "expected a text, found none".into());
        }
        let text = |column: &str| texts.get(column).copied().unwrap_or_default();
        let mut ends = BTreeMap::new();
        for (column, span) in &texts {
            let Some(position) = column.strip_prefix(POSITION) else { continue };
            match end_of(span, text("clean")) {
                Ok(end) => drop(ends.insert(position.to_owned(), end)),
                Err(message) => wrong(column, message),
            }
        }
        let pair = ExplicitPrompt {
            clean: Prompt { text: text("clean").into(), ends },
            corrupted: Prompt { text: text("corrupted").into(), ends: BTreeMap::new() },
            correct: text("answer").into(),
            incorrect: text("wrong_answer").into(),
            positive,
            at,
        };
        (faults.len() == before).then_some(pair)
    }
}

/// The columns there can be.
fn listed() -> String {
    let names = COLUMNS.map(|name| format!("`{name}`")).join(", ");
    format!("{names}, and `{POSITION}` with a name behind it")
}

fn check_column(column: &str) -> Result<(), String> {
    if COLUMNS.contains(&column) || column == LABEL {
        return Ok(());
    }
    if let Some(position) = column.strip_prefix(POSITION) {
        return check_position_name(position).map_err(|message| format!("column {column:?}: {message}"));
    }
    let meant = suggestion(nearest(column, &COLUMNS));
    Err(format!("unknown column {column:?}{meant} (columns are {})", listed()))
}

/// The text of a cell.
fn text_of(value: &Value) -> Result<&str, String> {
    let Value::String(text) = value else { return Err(format!("expected a text, found {value}")) };
    check_length(text)?;
    match text.find('\0') {
        _ if text.is_empty() => Err("expected a text, found none".into()),
        Some(place) => Err(format!("expected a text, found a NUL character behind byte {place}")),
        None => Ok(text),
    }
}

/// The class of a cell: is it the positive one? None where the cell is empty.
pub(super) fn class_of(value: &Value) -> Result<Option<bool>, String> {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_lowercase(),
        other => other.to_string(),
    };
    // Tables of numbers write 1 as 1.0.
    match text.as_str() {
        "" => Ok(None),
        "positive" | "true" | "1" | "1.0" => Ok(Some(true)),
        "negative" | "false" | "0" | "0.0" => Ok(Some(false)),
        _ => Err(format!("expected positive or negative (or true or false, 1 or 0), found {}", short(&text))),
    }
}

/// The byte behind the only place of `span` in a clean text; two places may overlap.
fn end_of(span: &str, clean: &str) -> Result<usize, String> {
    let Some(start) = clean.find(span) else {
        return Err(format!("expected a part of the clean text, found {span:?}"));
    };
    let second = start + span.chars().next().map_or(0, char::len_utf8);
    if clean[second..].contains(span) {
        let expected = "expected a part of the clean text that it has once";
        return Err(format!("{expected}, found {span:?}, which it has more than once"));
    }
    Ok(start + span.len())
}
