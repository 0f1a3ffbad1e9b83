//! Errors of result files.

use std::path::{Path, PathBuf};

/// What can be wrong with a result file.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Line or column.
        field: String,
        /// What would fit.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A figure that cannot be drawn.
    #[error("figure {title:?}: {field}: expected {expected}, found {found}")]
    Figure {
        /// The figure.
        title: String,
        /// Which part of it.
        field: String,
        /// What could be drawn.
        expected: String,
        /// What is there.
        found: String,
    },
}

/// Writes a result file whole.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    crate::files::write_whole(path, bytes).map_err(|source| ReportError::Io { path: path.into(), source })
}

/// Writes rows as a CSV file, whole: structs under a header of their fields' names, lists of cells as they are; with
/// `guard`, guarded against spreadsheets.
///
/// # Errors
/// [`ReportError::Io`].
pub fn write_csv<R: serde::Serialize>(
    path: &Path,
    rows: impl IntoIterator<Item = R>,
    guard: bool,
) -> Result<(), ReportError> {
    let bytes = crate::files::csv_bytes(rows, guard).map_err(|source| ReportError::Io { path: path.into(), source })?;
    write_whole(path, &bytes)
}

/// The bytes of a CSV file that was written here, as they are without a guard.
///
/// # Errors
/// [`ReportError::Io`].
pub(super) fn read_table(path: &Path) -> Result<Vec<u8>, ReportError> {
    crate::files::read_table(path).map_err(|source| ReportError::Io { path: path.into(), source })
}

/// Reads the rows of a CSV file; `what` says what they are.
///
/// # Errors
/// [`ReportError::Io`]; [`ReportError::Content`] for a row that is none.
pub(crate) fn read_csv<R: serde::de::DeserializeOwned>(path: &Path, what: &str) -> Result<Vec<R>, ReportError> {
    let wrong = |error: csv::Error| ReportError::Content {
        path: path.into(),
        field: error.position().map_or("header".into(), |place| format!("line {}", place.line())),
        expected: what.into(),
        found: error.to_string(),
    };
    let table = read_table(path)?;
    csv::Reader::from_reader(&table[..]).deserialize().collect::<Result<_, _>>().map_err(wrong)
}
