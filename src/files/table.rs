//! Tables as CSV, with or without a guard against spreadsheets, which compute a cell that begins like a formula.
//!
//! A guarded cell has an apostrophe in front, which spreadsheets do not show. So that nothing is lost, a text with
//! apostrophes in front of such a beginning gets one more.

use csv::{ReaderBuilder, StringRecord, Writer, WriterBuilder};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// What a formula begins with.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// What a guarded cell begins with.
const GUARD: char = '\'';

/// Does a text begin like a formula, and is no number?
fn is_formula(text: &str) -> bool {
    text.starts_with(FORMULA) && text.parse::<f64>().is_err()
}

/// What is in a guarded cell, if it is one.
fn inside_guard(cell: &str) -> Option<&str> {
    cell.strip_prefix(GUARD).filter(|_| is_formula(cell.trim_start_matches(GUARD)))
}

/// A text as a guarded table has it.
fn guarded(text: &str) -> String {
    let guard = if is_formula(text.trim_start_matches(GUARD)) { "'" } else { "" };
    format!("{guard}{text}")
}

/// Rows on their way into a table.
#[derive(Debug)]
pub struct CsvRows<W: Write> {
    writer: Writer<W>,
    guard: bool,
    /// Has there been a row? Structs have a header in front of the first one.
    begun: bool,
}

impl<W: Write> CsvRows<W> {
    /// No rows yet; with `guard` cells are guarded.
    pub fn new(writer: W, guard: bool) -> Self {
        Self { writer: Writer::from_writer(writer), guard, begun: false }
    }

    /// Adds a row: structs under a header of their fields' names, lists of cells as they are.
    ///
    /// # Errors
    /// A row of another length than the first one, and those of the writer.
    pub fn push(&mut self, row: impl Serialize) -> io::Result<()> {
        if !self.guard {
            return Ok(self.writer.serialize(row)?);
        }
        // What the cells of a row are is known once it is written.
        let mut plain = WriterBuilder::new().has_headers(!self.begun).from_writer(Vec::new());
        plain.serialize(row)?;
        let plain = plain.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
        self.begun = true;
        for record in records(&plain)? {
            self.writer.write_record(record.iter().map(guarded))?;
        }
        Ok(())
    }

    /// The writer, behind all rows.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        self.writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
    }
}

/// Rows as CSV: structs under a header of their fields' names, lists of cells as they are; with `guard`, guarded.
///
/// # Errors
/// A row of another length than the first one.
pub fn csv_bytes<R: Serialize>(rows: impl IntoIterator<Item = R>, guard: bool) -> io::Result<Vec<u8>> {
    let mut table = CsvRows::new(Vec::new(), guard);
    rows.into_iter().try_for_each(|row| table.push(row))?;
    table.finish()
}

fn records(table: &[u8]) -> csv::Result<Vec<StringRecord>> {
    ReaderBuilder::new().has_headers(false).flexible(true).from_reader(table).into_records().collect()
}

/// Rows of a table as they were before they were guarded, if they were: then no cell begins like a formula.
pub fn unguarded(rows: Vec<StringRecord>) -> Vec<StringRecord> {
    if rows.iter().flatten().any(is_formula) {
        return rows;
    }
    let plain = |row: StringRecord| row.iter().map(|cell| inside_guard(cell).unwrap_or(cell)).collect();
    rows.into_iter().map(plain).collect()
}

/// The bytes of a table as they were before it was guarded.
///
/// # Errors
/// Any of the file system.
pub fn read_table(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    if !bytes.contains(&(GUARD as u8)) {
        return Ok(bytes);
    }
    // What is wrong with a table is told by who knows its columns.
    let Ok(rows) = records(&bytes) else { return Ok(bytes) };
    let mut plain = WriterBuilder::new().flexible(true).from_writer(Vec::new());
    for row in unguarded(rows) {
        plain.write_record(&row)?;
    }
    plain.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

/// Would a table that was written with or without the guard be another one if it was written the other way?
///
/// # Errors
/// Any of the file system; a file that is no table.
pub fn written_otherwise(path: &Path, guarded: bool) -> io::Result<bool> {
    let records = records(&std::fs::read(path)?)?;
    let mut cells = records.iter().flatten();
    Ok(cells.any(|cell| if guarded { inside_guard(cell).is_some() } else { is_formula(cell) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rows: &[&[&str]], guard: bool) -> io::Result<String> {
        csv_bytes(rows, guard).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[derive(Serialize)]
    struct Row {
        token: &'static str,
        mean: Option<f64>,
    }

    #[test]
    fn rows_become_csv_with_quotes_where_they_are_needed() {
        for guard in [false, true] {
            let rows: &[&[&str]] = &[&["token", "n"], &[" \"a\",\n", "2"], &["", ""]];
            assert_eq!(text(rows, guard).unwrap(), "token,n\n\" \"\"a\"\",\n\",2\n,\n");
            assert!(text(&[&["token", "n"], &["b"]], guard).is_err());
            let rows = [Row { token: "a", mean: Some(-0.5) }, Row { token: "b", mean: None }];
            assert_eq!(csv_bytes(rows, guard).unwrap(), b"token,mean\na,-0.5\nb,\n");
        }
    }

    #[test]
    fn guarded_cells_are_texts_and_read_as_they_were() {
        let texts = ["=1+1", "+a", "-", "@x", "\ta", "\ra", "'=", "''-a", "'", "'a", "a=b", "", "-1.5e-7", "+3", "'-2"];
        let rows: Vec<[&str; 1]> = texts.iter().map(|text| [*text]).collect();
        let guarded = csv_bytes(&rows, true).unwrap();
        let cells: Vec<String> = records(&guarded).unwrap().iter().flatten().map(str::to_owned).collect();
        let expected =
            ["'=1+1", "'+a", "'-", "'@x", "'\ta", "'\ra", "''=", "'''-a", "'", "'a", "a=b", "", "-1.5e-7", "+3", "'-2"];
        assert_eq!(cells, expected);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        let plain = csv_bytes(&rows, false).unwrap();
        std::fs::write(&path, &guarded).unwrap();
        assert_eq!(read_table(&path).unwrap(), plain);
        assert!(written_otherwise(&path, true).unwrap());
        std::fs::write(&path, &plain).unwrap();
        assert_eq!(read_table(&path).unwrap(), plain, "what was not guarded keeps its apostrophes");
        assert!(written_otherwise(&path, false).unwrap());
        let numbers = csv_bytes([["a", "-1"]], true).unwrap();
        std::fs::write(&path, numbers).unwrap();
        assert!(!written_otherwise(&path, false).unwrap() && !written_otherwise(&path, true).unwrap());
    }

    #[test]
    fn a_struct_has_its_header_once() {
        let rows = [Row { token: "-", mean: Some(-0.5) }, Row { token: "b", mean: None }];
        assert_eq!(csv_bytes(rows, true).unwrap(), b"token,mean\n'-,-0.5\nb,\n");
    }
}
