//! `direction_fitting_stats.csv`: how well each fitted direction separates its own and other datasets.

use super::ReportError;
use super::error::{read_table, write_csv};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsRow {
    /// Dataset of the fit.
    pub train_set: String,
    /// Layer of the fit.
    pub train_layer: usize,
    /// Placeholder of the fit.
    pub train_pos: String,
    /// Dataset of the test.
    pub test_set: String,
    /// Layer of the test.
    pub test_layer: usize,
    /// Placeholder of the test.
    pub test_pos: String,
    /// Fitting method.
    pub method: String,
    /// Prompts on the right side.
    pub correct: usize,
    /// Prompts.
    pub total: usize,
    /// `correct / total`.
    pub accuracy: f64,
    /// Cosine with the direction fitted on the test set.
    pub similarity: f64,
    /// Id of everything that the fit and the test were made of; empty in files of version 0.1, which did not say.
    #[serde(default)]
    pub provenance: String,
}

impl StatsRow {
    fn key(&self) -> (&str, usize, &str, &str, usize, &str, &str) {
        let Self { train_set, train_layer, train_pos, test_set, test_layer, test_pos, method, .. } = self;
        (train_set, *train_layer, train_pos, test_set, *test_layer, test_pos, method)
    }

    /// Is it about the same fit and test?
    pub fn is_in_place_of(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

/// The file's rows. A row added again replaces the old one.
#[derive(Debug, Clone, PartialEq)]
pub struct FittingStats {
    path: PathBuf,
    rows: Vec<StatsRow>,
}

impl FittingStats {
    /// Name of the file in a model's folder.
    pub const FILE: &'static str = "direction_fitting_stats.csv";

    /// The columns, in this order.
    const COLUMNS: [&'static str; 12] = [
        "train_set",
        "train_layer",
        "train_pos",
        "test_set",
        "test_layer",
        "test_pos",
        "method",
        "correct",
        "total",
        "accuracy",
        "similarity",
        "provenance",
    ];

    /// Reads `folder`'s file; no file is an empty one.
    ///
    /// # Errors
    /// [`ReportError`] for a file that cannot be read, or a line that does not parse.
    pub fn read(folder: &Path) -> Result<Self, ReportError> {
        let path = folder.join(Self::FILE);
        if !path.exists() {
            return Ok(Self { path, rows: Vec::new() });
        }
        let content = |error: csv::Error| ReportError::Content {
            path: path.clone(),
            field: error.position().map_or("header".into(), |p| format!("line {}", p.line())),
            expected: "the columns of a fitting statistics file".into(),
            found: error.to_string(),
        };
        let table = read_table(&path)?;
        let mut reader = csv::Reader::from_reader(&table[..]);
        let header = reader.headers().map_err(content)?;
        let earlier = &Self::COLUMNS[..Self::COLUMNS.len() - 1];
        if !header.iter().eq(Self::COLUMNS) && !header.iter().eq(earlier.iter().copied()) {
            return Err(ReportError::Content {
                path: path.clone(),
                field: "header".into(),
                expected: Self::COLUMNS.join(","),
                found: header.iter().collect::<Vec<_>>().join(","),
            });
        }
        let rows = reader.deserialize().collect::<Result<_, _>>().map_err(content)?;
        Ok(Self { path, rows })
    }

    /// Adds a row, in the place of an older one about the same fit and test.
    pub fn insert(&mut self, row: StatsRow) {
        match self.rows.iter_mut().find(|old| old.is_in_place_of(&row)) {
            Some(old) => *old = row,
            None => self.rows.push(row),
        }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes out the rows that `keep` does not want.
    pub fn retain(&mut self, keep: impl FnMut(&StatsRow) -> bool) {
        self.rows.retain(keep);
    }

    /// The rows, oldest first.
    pub fn rows(&self) -> &[StatsRow] {
        &self.rows
    }

    /// Writes the file, its cells guarded against spreadsheets or not.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, guard: bool) -> Result<(), ReportError> {
        write_csv(&self.path, &self.rows, guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(method: &str, correct: usize) -> StatsRow {
        StatsRow {
            train_set: "simple_train".into(),
            train_layer: 3,
            train_pos: "ADJ".into(),
            test_set: "simple_test".into(),
            test_layer: 3,
            test_pos: "ADJ".into(),
            method: method.into(),
            correct,
            total: 26,
            accuracy: correct as f64 / 26.0,
            similarity: 0.5,
            provenance: "0123456789abcdef".into(),
        }
    }

    #[test]
    fn a_row_written_again_replaces_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut stats = FittingStats::read(folder.path()).unwrap();
        stats.insert(row("kmeans", 20));
        stats.insert(row("pca", 21));
        stats.insert(row("kmeans", 26));
        stats.write(false).unwrap();
        let again = FittingStats::read(folder.path()).unwrap();
        assert_eq!(again.rows(), [row("kmeans", 26), row("pca", 21)]);
        let path = folder.path().join(FittingStats::FILE);
        // A file of other columns is refused even without rows: writing would replace it.
        let columns = FittingStats::COLUMNS.join(",");
        let row = format!("{columns}\nx,3,ADJ,x,3,ADJ,pca,many,26,1,1,\n");
        for (text, field) in [("notes\n", "header"), ("train_set,train_layer\nx,y\n", "header"), (&row, "line 2")] {
            std::fs::write(&path, text).unwrap();
            let message = FittingStats::read(folder.path()).unwrap_err().to_string();
            assert!(message.contains(FittingStats::FILE) && message.contains(field), "{message}");
        }
    }
}
