//! Tables of results: as much of each as a page has room for.

use super::files::Found;
use crate::files::read_table;
use crate::report::SuiteName;
use crate::report::pages::{Entry, Grid};
use csv::{ByteRecord, ReaderBuilder};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Most rows and columns of a table that are shown, and letters of a cell.
const MOST_ROWS: usize = 500;
const MOST_COLUMNS: usize = 60;
const MOST_LETTERS: usize = 300;

/// Letters of all tables together: the page stays one that opens at once.
const ROOM: usize = 4_000_000;

/// A larger table is not read.
const LARGEST: u64 = 1 << 26;

/// The tables of a folder of results, by path.
#[derive(Debug, Default)]
pub(super) struct Tables(BTreeMap<PathBuf, Grid>);

impl Tables {
    /// Reads the tables among files: small ones first, so that a large one takes the room of no other.
    pub fn read(root: &Path, files: &[Found]) -> Self {
        let mut tables: Vec<&Found> = files.iter().filter(|found| found.ending() == "csv").collect();
        tables.sort_by_key(|found| found.bytes);
        let mut room = ROOM;
        Self(tables.into_iter().map(|found| (found.path.clone(), grid(root, found, &mut room))).collect())
    }

    /// Those among some files.
    pub fn take(&mut self, files: &[&Found]) -> Vec<Grid> {
        files.iter().filter_map(|found| self.0.remove(&found.path)).collect()
    }
}

fn grid(root: &Path, found: &Found, room: &mut usize) -> Grid {
    let empty =
        |note: String| Grid { name: found.path.display().to_string(), href: found.href(), note, ..Grid::default() };
    if found.bytes > LARGEST {
        return empty("too large to be shown here".into());
    }
    let (mut columns, rows) = match records(&root.join(&found.path)) {
        Err(error) => return empty(format!("damaged: {error}")),
        Ok(records) if records.is_empty() => return empty("an empty file".into()),
        Ok(records) => with_head(records, found.name().parse::<SuiteName>().is_ok()),
    };
    let total = rows.len();
    let left_out = columns.len().saturating_sub(MOST_COLUMNS);
    columns.truncate(MOST_COLUMNS);
    let mut shown = Vec::new();
    for row in rows.into_iter().take(MOST_ROWS) {
        let row: Vec<String> = row.into_iter().take(MOST_COLUMNS).map(|cell| cut(&cell)).collect();
        let letters = row.iter().map(|cell| cell.len() + 3).sum();
        let Some(left) = room.checked_sub(letters) else { break };
        *room = left;
        shown.push(row.into_iter().map(Entry::text).collect());
    }
    let note = if left_out > 0 { format!("{left_out} more columns are in the file") } else { String::new() };
    Grid { columns, rows: shown, total: Some(total), ..empty(note) }
}

/// The rows of a table as they were before they were guarded against spreadsheets.
fn records(path: &Path) -> io::Result<Vec<Vec<String>>> {
    let bytes = read_table(path)?;
    let reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&bytes[..]);
    let texts = |record: ByteRecord| record.iter().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
    Ok(reader.into_byte_records().map(|record| record.map(texts)).collect::<Result<_, _>>()?)
}

/// The heads of columns, and the rows below. Tables of the suite have two rows of heads: dataset and position.
fn with_head(mut records: Vec<Vec<String>>, of_suite: bool) -> (Vec<String>, Vec<Vec<String>>) {
    let heads = if of_suite { 2.min(records.len()) } else { 1 };
    let rows = records.split_off(heads);
    let columns = records.iter().map(Vec::len).chain(rows.iter().map(Vec::len)).max().unwrap_or(0);
    let head = |column: usize| {
        let parts: Vec<&str> = records.iter().filter_map(|row| row.get(column)).map(String::as_str).collect();
        // Above the directions stands what the other columns' heads are.
        if of_suite && column == 0 { "direction".to_owned() } else { cut(&parts.join(" ")) }
    };
    ((0..columns).map(head).collect(), rows)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MOST_LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
