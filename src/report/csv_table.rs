//! Tables of any length, written row by row beside their place and put there whole.

use super::ReportError;
use std::io::Seek;
use std::path::{Path, PathBuf};

/// A `.csv` file under way, on disk from the first row on: it may be larger than the memory.
#[derive(Debug)]
pub struct CsvTable {
    writer: csv::Writer<std::fs::File>,
}

impl CsvTable {
    /// A table with these column heads.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn new(header: Vec<String>) -> Result<Self, ReportError> {
        let file = tempfile::tempfile().map_err(|source| ReportError::Io { path: std::env::temp_dir(), source })?;
        let mut table = Self { writer: csv::Writer::from_writer(file) };
        table.push(header)?;
        Ok(table)
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn push(&mut self, row: impl IntoIterator<Item = String>) -> Result<(), ReportError> {
        self.writer.write_record(row).map_err(|error| failed(&std::env::temp_dir(), error))
    }

    /// Puts the table at `path`, and says where it is.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(self, path: &Path) -> Result<PathBuf, ReportError> {
        let mut file = self.writer.into_inner().map_err(|error| failed(path, error))?;
        let io = |source| ReportError::Io { path: path.into(), source };
        file.rewind().map_err(io)?;
        crate::files::write_whole_from(path, &mut file).map_err(io)?;
        Ok(path.into())
    }
}

fn failed(path: &Path, error: impl std::fmt::Display) -> ReportError {
    ReportError::Io { path: path.into(), source: std::io::Error::other(error.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_a_short_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let mut table = CsvTable::new(row(&["token", "count"])).unwrap();
        table.push(row(&[" \"a\",\n", "2"])).unwrap();
        assert!(table.push(row(&["b"])).is_err());
        let path = table.write(&folder.path().join("deep/x.csv")).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "token,count\n\" \"\"a\"\",\n\",2\n");
    }
}
