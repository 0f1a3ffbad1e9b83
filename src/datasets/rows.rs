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

/// Is told what is wrong with which line, and in which column if it is one.
pub(super) type Faults<'a> = dyn FnMut(usize, Option<&str>, String) + 'a;

/// Letters of a cell that a message shows.
const SHOWN: usize = 30;

/// Reads CSV (RFC 4180) under a header.
pub(super) fn csv_rows(text: &str, fault: &mut Faults<'_>) -> Rows {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut lines = Lines { text, at: 0, line: 1 };
    let mut rows = Rows::default();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                fault(lines.line, None, error.to_string());
                return rows;
            }
        }
        let (line, source) = lines.next(reader.position().byte());
        // The parser takes any text for something; behind such a cell nobody knows where the next row begins.
        if let Some((cell, message)) = misquoted(source) {
            fault(line, rows.columns.get(cell).map(String::as_str), message);
            return rows;
        }
        if rows.columns.is_empty() {
            if record.len() > MOST_COLUMNS {
                fault(line, None, format!("expected at most {MOST_COLUMNS} columns, found {}", record.len()));
                return rows;
            }
            rows.columns = record.iter().map(|name| name.trim().to_owned()).collect();
        } else if record.len() == rows.columns.len() {
            let cells = record.iter().map(Value::from);
            rows.rows.push(Row { line, cells: rows.columns.iter().cloned().zip(cells).collect() });
        } else {
            let message = format!("expected {} cells, as in the header, found {}", rows.columns.len(), record.len());
            fault(line, None, message);
        }
    }
    if rows.columns.is_empty() {
        fault(1, None, "expected a header with the names of the columns, found an empty file".into());
    }
    rows
}

/// The first cell of a record whose quotes are not those of RFC 4180, from 0, and what is wrong with it.
fn misquoted(record: &str) -> Option<(usize, String)> {
    let (mut cell, mut rest) = (0, record);
    loop {
        let quoted = rest.strip_prefix('"');
        let end = match quoted.map(closing_quote) {
            Some(Some(end)) => end + 2,
            Some(None) => {
                return Some((cell, "expected the cell's quote to be closed, found the end of the file".into()));
            }
            None => rest.find([',', '"', '\r', '\n']).unwrap_or(rest.len()),
        };
        match rest[end..].chars().next() {
            None | Some('\r' | '\n') => return None,
            Some(',') => (cell, rest) = (cell + 1, &rest[end + 1..]),
            Some(found) => {
                let expected = match quoted {
                    Some(_) => "a comma or the end of the line behind the closing quote (one within a cell is doubled)",
                    None => "a quote at the beginning of a cell alone, which is then quoted as a whole",
                };
                return Some((cell, format!("expected {expected}, found {found:?} behind {:?}", last(&rest[..end]))));
            }
        }
    }
}

/// Where the quote is that closes a cell: the first one that is not doubled.
fn closing_quote(inside: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + inside[from..].find('"')?;
        if !inside[at + 1..].starts_with('"') {
            return Some(at);
        }
        from = at + 2;
    }
}

/// The end of a text, as much as a message shows of it.
fn last(text: &str) -> &str {
    text.char_indices().rev().nth(SHOWN - 1).map_or(text, |(start, _)| &text[start..])
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

/// Reads JSON lines, one object each; empty lines are skipped.
pub(super) fn json_rows(text: &str, fault: &mut Faults<'_>) -> Rows {
    let (mut rows, mut damaged) = (Rows::default(), false);
    let lines = text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty());
    for (number, text) in lines {
        let line = number + 1;
        match serde_json::from_str::<Object>(text) {
            Ok(Object(cells)) => {
                let new: Vec<_> =
                    cells.iter().map(|(name, _)| name).filter(|name| !rows.columns.contains(name)).cloned().collect();
                rows.columns.extend(new);
                if rows.columns.len() > MOST_COLUMNS {
                    fault(line, None, format!("expected at most {MOST_COLUMNS} fields, found more"));
                    return Rows::default();
                }
                rows.rows.push(Row { line, cells });
            }
            Err(error) => {
                damaged = true;
                let message = error.to_string();
                // The parser counts lines of the line that it was given.
                let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what);
                fault(
                    line,
                    None,
                    format!("expected an object in JSON, found another text (column {}: {what})", error.column()),
                );
            }
        }
    }
    if rows.columns.is_empty() && !damaged {
        fault(1, None, "expected an object in JSON, found none in the file".into());
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
