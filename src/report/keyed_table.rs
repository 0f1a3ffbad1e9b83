//! Tables of results: a CSV file whose first columns say what a row is about, and whose other columns are numbers.

use super::ReportError;
use super::error::write_csv;
use std::path::{Path, PathBuf};

/// The columns of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Those that tell rows apart.
    pub keys: &'static [&'static str],
    /// Those that hold numbers; an empty cell is a number that is not defined.
    pub numbers: &'static [&'static str],
}

impl Columns {
    fn all(self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().chain(self.numbers).copied()
    }
}

/// A row: its keys, and its numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedRow {
    /// One per key column.
    pub keys: Vec<String>,
    /// One per number column; none where it is not defined.
    pub numbers: Vec<Option<f64>>,
}

impl KeyedRow {
    /// The row as JSON, under the names of the columns.
    pub fn as_json(&self, columns: Columns) -> serde_json::Value {
        let keys = columns.keys.iter().zip(&self.keys).map(|(name, key)| ((*name).to_owned(), key.clone().into()));
        let numbers = columns.numbers.iter().zip(&self.numbers);
        let numbers = numbers.map(|(name, number)| ((*name).to_owned(), serde_json::json!(number)));
        serde_json::Value::Object(keys.chain(numbers).collect())
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyedTable {
    path: PathBuf,
    columns: Columns,
    rows: Vec<KeyedRow>,
}

impl KeyedTable {
    /// Reads the file; no file is an empty one.
    ///
    /// # Errors
    /// [`ReportError`] for a file that cannot be read, other columns, a cell that is no finite number.
    pub fn read(path: &Path, columns: Columns) -> Result<Self, ReportError> {
        let mut table = Self { path: path.into(), columns, rows: Vec::new() };
        if !path.exists() {
            return Ok(table);
        }
        let content = |field: String, expected: String, found: String| ReportError::Content {
            path: path.into(),
            field,
            expected,
            found,
        };
        let mut reader = csv::Reader::from_path(path)
            .map_err(|error| ReportError::Io { path: path.into(), source: error.into() })?;
        let wrong = |error: csv::Error| content("file".into(), "rows of equal length".into(), error.to_string());
        let header = reader.headers().map_err(wrong)?.iter().map(str::to_owned).collect::<Vec<_>>();
        let expected: Vec<&str> = columns.all().collect();
        if header != expected {
            return Err(content("header".into(), expected.join(","), header.join(",")));
        }
        for (number, record) in reader.records().enumerate() {
            let record = record.map_err(wrong)?;
            let keys = record.iter().take(columns.keys.len()).map(str::to_owned).collect();
            let value = |(column, text): (usize, &str)| match text.parse::<f64>() {
                _ if text.is_empty() => Ok(None),
                Ok(value) if value.is_finite() => Ok(Some(value)),
                _ => Err(content(
                    format!("line {}, column {}", number + 2, column + 1),
                    "a finite number or nothing".into(),
                    text.into(),
                )),
            };
            let numbers = record.iter().enumerate().skip(columns.keys.len()).map(value).collect::<Result<_, _>>()?;
            table.rows.push(KeyedRow { keys, numbers });
        }
        Ok(table)
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its columns.
    pub fn columns(&self) -> Columns {
        self.columns
    }

    /// Every row, in the order in which they came.
    pub fn rows(&self) -> &[KeyedRow] {
        &self.rows
    }

    /// The rows whose first keys are these.
    pub fn rows_of<'a>(&'a self, keys: &'a [String]) -> impl Iterator<Item = &'a KeyedRow> {
        self.rows.iter().filter(move |row| row.keys.starts_with(keys))
    }

    /// Puts a row in, in the place of one with the same keys.
    pub fn insert(&mut self, row: KeyedRow) {
        match self.rows.iter_mut().find(|own| own.keys == row.keys) {
            Some(own) => *own = row,
            None => self.rows.push(row),
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self) -> Result<(), ReportError> {
        let header = self.columns.all().map(str::to_owned).collect();
        let cells = |row: &KeyedRow| -> Vec<String> {
            let numbers = row.numbers.iter().map(|number| number.map_or(String::new(), |number| number.to_string()));
            row.keys.iter().cloned().chain(numbers).collect()
        };
        write_csv(&self.path, std::iter::once(header).chain(self.rows.iter().map(cells)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns { keys: &["what", "where"], numbers: &["count", "percent"] };

    fn row(what: &str, place: &str, percent: Option<f64>) -> KeyedRow {
        KeyedRow { keys: vec![what.into(), place.into()], numbers: vec![Some(3.0), percent] }
    }

    #[test]
    fn rows_are_kept_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        let mut table = KeyedTable::read(&path, COLUMNS).unwrap();
        table.insert(row("a", "b, c", Some(-0.1)));
        table.insert(row("a", "d", None));
        table.write().unwrap();
        let mut again = KeyedTable::read(&path, COLUMNS).unwrap();
        assert_eq!(again, table);
        again.insert(row("a", "d", Some(7.0)));
        assert_eq!(again.rows_of(&["a".into()]).count(), 2);
        assert_eq!(again.rows_of(&["a".into(), "d".into()]).next().unwrap().numbers[1], Some(7.0));
        let json = again.rows()[0].as_json(COLUMNS);
        assert_eq!(json, serde_json::json!({ "what": "a", "where": "b, c", "count": 3.0, "percent": -0.1 }));
    }

    #[test]
    fn another_files_columns_and_cells_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        for (text, expected) in [
            ("what,count\na,1\n", "header: expected what,where,count,percent, found what,count"),
            ("what,where,count,percent\na,b,1,x\n", "line 2, column 4: expected a finite number or nothing, found x"),
            ("what,where,count,percent\na,b,1,NaN\n", "line 2, column 4"),
            ("what,where,count,percent\na,b\n", "rows of equal length"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = KeyedTable::read(&path, COLUMNS).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
