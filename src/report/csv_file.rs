//! Tables of any length, written row by row beside their place and put there whole.

use super::ReportError;
use crate::files::{CsvRows, temporary_beside};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A `.csv` file under way, on disk from the first row on: it may be larger than the memory.
#[derive(Debug)]
pub struct CsvFile {
    path: PathBuf,
    rows: CsvRows<NamedTempFile>,
}

impl CsvFile {
    /// A table that will be at `path`, its cells guarded against spreadsheets or not.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn create(path: &Path, guard: bool) -> Result<Self, ReportError> {
        let file = temporary_beside(path).map_err(|source| ReportError::Io { path: path.into(), source })?;
        Ok(Self { path: path.into(), rows: CsvRows::new(file, guard) })
    }

    /// Adds a row, the head of the columns first.
    ///
    /// # Errors
    /// [`ReportError::Io`], also for a row of another length.
    pub fn push(&mut self, row: impl Serialize) -> Result<(), ReportError> {
        self.rows.push(row).map_err(|error| failed(&self.path, error))
    }

    /// Puts the table in its place, and says where that is.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn finish(self) -> Result<PathBuf, ReportError> {
        let file = self.rows.finish().map_err(|error| failed(&self.path, error))?;
        file.persist(&self.path).map_err(|error| failed(&self.path, error.error))?;
        Ok(self.path)
    }
}

fn failed(path: &Path, source: io::Error) -> ReportError {
    ReportError::Io { path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_there_when_it_is_finished() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/x.csv");
        let mut table = CsvFile::create(&path, true).unwrap();
        table.push(["token", "count"]).unwrap();
        table.push((" \"a\",\n", -2)).unwrap();
        table.push(("=a", 3)).unwrap();
        assert!(!path.exists());
        assert_eq!(table.finish().unwrap(), path);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "token,count\n\" \"\"a\"\",\n\",-2\n'=a,3\n");
        let mut unfinished = CsvFile::create(&path, false).unwrap();
        unfinished.push(["another", "file"]).unwrap();
        assert!(unfinished.push(["b"]).is_err());
        drop(unfinished);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("token"));
        assert_eq!(std::fs::read_dir(folder.path().join("deep")).unwrap().count(), 1, "no temporary file is left");
    }
}
