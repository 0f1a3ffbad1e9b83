//! Errors of ledgers, shards and merges.

use super::Place;
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
    #[error("{path}: {field}: expected {expected}, found {found}; use another --data-dir, or move the ledger away")]
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
}
