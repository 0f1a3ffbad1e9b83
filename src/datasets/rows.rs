//! The rows of a table: CSV under a header, or JSON lines.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::fmt;

/// A table before anything is made of it.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The names of all columns: of the header, or of all objects.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
}

/// One row.
#[derive(Debug)]
pub(super) struct Row {
    /// The line it begins in, from 1.
    pub line: usize,
    /// Its cells with their columns' names.
    pub cells: Vec<(String, Value)>,
}

/// Far more columns than a table of pairs has: what has them is none.
const MOST_COLUMNS: usize = 1000;

/// Reads CSV (RFC 4180) under a header; `fault` is told what is wrong with which line.
pub(super) fn csv_rows(text: &str, fault: &mut dyn FnMut(usize, String)) -> Rows {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut lines = Lines { text, at: 0, line: 1 };
    let mut rows = Rows::default();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                fault(lines.line, error.to_string());
                break;
            }
        }
        let (line, source) = lines.next(reader.position().byte());
        // The parser takes the rest of the file for a cell whose quotes are not closed.
        if source.bytes().filter(|byte| *byte == b'"').count() % 2 == 1 {
            fault(line, "expected every quote to be closed, and doubled within a cell, found an odd number".into());
            break;
        }
        if rows.columns.is_empty() {
            if record.len() > MOST_COLUMNS {
                fault(line, format!("expected at most {MOST_COLUMNS} columns, found {}", record.len()));
                return rows;
            }
            rows.columns = record.iter().map(|name| name.trim().to_owned()).collect();
        } else if record.len() == rows.columns.len() {
            let cells = record.iter().map(|cell| Value::from(cell));
            rows.rows.push(Row { line, cells: rows.columns.iter().cloned().zip(cells).collect() });
        } else {
            fault(line, format!("expected {} cells, as in the header, found {}", rows.columns.len(), record.len()));
        }
    }
    if rows.columns.is_empty() {
        fault(1, "expected a header with the names of the columns, found an empty file".into());
    }
    rows
}

/// Counts the lines of a text up to bytes that follow each other.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    /// The next record, which ends in front of this byte: the line it begins in, and its source.
    fn next(&mut self, end: u64) -> (usize, &'a str) {
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(self.text.len());
        let whole = &self.text[self.at..end];
        let source = whole.trim_start_matches(['\r', '\n']);
        let count = |text: &str| text.bytes().filter(|byte| *byte == b'\n').count();
        let line = self.line + count(&whole[..whole.len() - source.len()]);
        self.line += count(whole);
        self.at = end;
        (line, source)
    }
}

/// Reads JSON lines, one object each; empty lines are skipped. `fault` is told what is wrong with which line.
pub(super) fn json_rows(text: &str, fault: &mut dyn FnMut(usize, String)) -> Rows {
    let mut rows = Rows::default();
    let lines = text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty());
    for (number, text) in lines {
        let line = number + 1;
        match serde_json::from_str::<Object>(text) {
            Ok(Object(cells)) => {
                let new: Vec<_> =
                    cells.iter().map(|(name, _)| name).filter(|name| !rows.columns.contains(name)).cloned().collect();
                rows.columns.extend(new);
                if rows.columns.len() > MOST_COLUMNS {
                    fault(line, format!("expected at most {MOST_COLUMNS} fields, found more"));
                    return Rows::default();
                }
                rows.rows.push(Row { line, cells });
            }
            Err(error) => {
                let message = error.to_string();
                // The parser counts lines of the line that it was given.
                let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
                fault(
                    line,
                    format!("expected an object in JSON, found another text (column {}: {what})", error.column()),
                );
            }
        }
    }
    if rows.columns.is_empty() {
        fault(1, "expected an object in JSON, found none in the file".into());
    }
    rows
}

/// An object that has every field once.
struct Object(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields: Vec<(String, Value)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.iter().any(|(known, _)| *known == name) {
                        return Err(serde::de::Error::custom(format!("two fields are called {name:?}")));
                    }
                    if fields.len() == MOST_COLUMNS {
                        return Err(serde::de::Error::custom(format!("more than {MOST_COLUMNS} fields")));
                    }
                    fields.push((name, value));
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}
