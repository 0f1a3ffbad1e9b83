//! Files that appear whole or not at all.

use std::io::Write;
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
}

/// Writes `bytes` beside `path` and renames the result into place; makes the folder if need be.
///
/// # Errors
/// [`ReportError::Io`]; nothing is changed then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| ReportError::Io { path, source }
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io(folder))?;
    file.write_all(bytes).map_err(io(path))?;
    file.persist(path).map_err(|error| io(path)(error.error))?;
    Ok(())
}
