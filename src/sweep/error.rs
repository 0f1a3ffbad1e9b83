//! Errors of ledgers, shards and merges.

use super::{CellId, Place};
use std::path::PathBuf;

/// What can be wrong with a sweep's files.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A file or folder could not be read, written or locked.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that is no ledger, or one of another format or configuration.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Configuration {
        /// The ledger.
        path: PathBuf,
        /// The setting.
        field: String,
        /// What this run needs.
        expected: String,
        /// What the ledger has.
        found: String,
    },
    /// Two ledgers that do not agree about a cell.
    #[error("{place}: {found} in {theirs}, {expected} in {ours}")]
    Conflict {
        /// The cell.
        place: Box<Place>,
        /// One ledger.
        ours: PathBuf,
        /// What it says.
        expected: String,
        /// The other.
        theirs: PathBuf,
        /// What that one says.
        found: String,
    },
    /// Cells that have no value.
    #[error("{count} cells failed, cell {id}: {error}")]
    Failed {
        /// How many.
        count: usize,
        /// The first.
        id: CellId,
        /// Why it failed.
        error: String,
    },
    /// A cell that is asked for before its sweep is over.
    #[error("{}: cell {id} is neither done nor failed", folder.display())]
    Unfinished {
        /// The model's folder.
        folder: PathBuf,
        /// The cell.
        id: CellId,
    },
}
