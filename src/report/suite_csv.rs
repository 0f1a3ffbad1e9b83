//! Tables of the suite, named as [`SuiteName`] says: one row per direction, one column per dataset and position under
//! two header rows, values in percent.

use super::error::write_csv;
use super::{ReportError, SuiteName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where a value stands: direction (its file name with a two-digit layer), dataset, position.
pub type CellKey = (String, String, String);

/// The file's cells.
#[derive(Debug, Clone, PartialEq)]
pub struct SuiteCsv {
    path: PathBuf,
    cells: BTreeMap<CellKey, f64>,
}

impl SuiteCsv {
    /// A file of these cells, in percent.
    pub fn new(path: &Path, cells: BTreeMap<CellKey, f64>) -> Self {
        Self { path: path.into(), cells }
    }

    /// Reads the file; no file is an empty one.
    ///
    /// # Errors
    /// [`ReportError`] for a file that cannot be read, a row of another length, a value that is no finite number.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let mut file = Self { path: path.into(), cells: BTreeMap::new() };
        if !path.exists() {
            return Ok(file);
        }
        let content = |field: String, expected: &str, found: String| ReportError::Content {
            path: path.into(),
            field,
            expected: expected.into(),
            found,
        };
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_path(path)
            .map_err(|error| ReportError::Io { path: path.into(), source: error.into() })?;
        let records = reader
            .records()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| content("file".into(), "rows of equal length", error.to_string()))?;
        let [prompts, positions, rows @ ..] = &records[..] else {
            return Err(content("header".into(), "two header rows", format!("{} rows", records.len())));
        };
        for (number, record) in rows.iter().enumerate() {
            let direction = record.get(0).unwrap_or_default();
            for (column, text) in record.iter().enumerate().skip(1).filter(|(_, text)| !text.is_empty()) {
                let field = || format!("line {}, column {}", number + 3, column + 1);
                let value: Option<f64> = text.parse().ok().filter(|value: &f64| value.is_finite());
                let value = value.ok_or_else(|| content(field(), "a finite number", text.into()))?;
                let head = |row: &csv::StringRecord| row.get(column).unwrap_or_default().to_owned();
                file.cells.insert((direction.to_owned(), head(prompts), head(positions)), value);
            }
        }
        Ok(file)
    }

    /// The tables of a model's folder, and files that are named like some, sorted; a folder that is not there has none.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn files(folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
        let io = |source| ReportError::Io { path: folder.into(), source };
        let mut files = Vec::new();
        if folder.is_dir() {
            for entry in std::fs::read_dir(folder).map_err(io)? {
                let path = entry.map_err(io)?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if SuiteName::resembles(name) {
                    files.push(path);
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Every cell in order.
    pub fn cells(&self) -> &BTreeMap<CellKey, f64> {
        &self.cells
    }

    /// Writes the file; cells that are not there stay empty.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self) -> Result<(), ReportError> {
        let columns: BTreeSet<(&str, &str)> = self.cells.keys().map(|(_, s, p)| (s.as_str(), p.as_str())).collect();
        let directions: BTreeSet<&str> = self.cells.keys().map(|(d, _, _)| d.as_str()).collect();
        let mut rows = vec![
            std::iter::once("prompt").chain(columns.iter().map(|(set, _)| *set)).map(str::to_owned).collect::<Vec<_>>(),
            std::iter::once("position").chain(columns.iter().map(|(_, p)| *p)).map(str::to_owned).collect(),
        ];
        for direction in directions {
            let value = |(set, position): &(&str, &str)| {
                let key = (direction.to_owned(), (*set).to_owned(), (*position).to_owned());
                self.cells.get(&key).map_or(String::new(), |value| value.to_string())
            };
            rows.push(std::iter::once(direction.to_owned()).chain(columns.iter().map(value)).collect());
        }
        write_csv(&self.path, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(direction: &str, set: &str, position: &str) -> CellKey {
        (direction.into(), set.into(), position.into())
    }

    #[test]
    fn cells_survive_a_round_trip_under_two_header_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x/direction_patching_logit_diff_resid_plain.csv");
        let cells = [
            (key("das_simple_train_ADJ_layer02", "simple_test", "ADJ"), 98.25),
            (key("das_simple_train_ADJ_layer02", "simple_test", "ALL"), 101.0),
            (key("random_direction_layer02", "simple_test", "ADJ"), -0.5),
        ];
        let file = SuiteCsv::new(&path, cells.into());
        file.write().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = "prompt,simple_test,simple_test\nposition,ADJ,ALL\n\
                        das_simple_train_ADJ_layer02,98.25,101\nrandom_direction_layer02,-0.5,\n";
        assert_eq!(text, expected);
        assert_eq!(SuiteCsv::read(&path).unwrap(), file);
    }

    #[test]
    fn a_broken_file_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broken.csv");
        for (text, place) in [
            ("prompt,a\n", "header"),
            ("prompt,a\nposition,b\nd,x1\n", "line 3, column 2"),
            ("prompt,a\nposition,b\nd,NaN\n", "line 3, column 2"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = SuiteCsv::read(&path).unwrap_err().to_string();
            assert!(message.contains("broken.csv") && message.contains(place), "{message}");
        }
    }
}
