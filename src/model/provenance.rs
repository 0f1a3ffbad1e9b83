//! Where a model's files came from, for the manifest of a run.

use super::ModelError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Files up to this size are hashed at load; hashing a checkpoint of many gigabytes would take longer than loading it.
const HASHED_BYTES: u64 = 64 << 20;

/// What a model was made from: enough to get the same one again, or to notice that it is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Kind of place, with its name.
    pub source: Source,
    /// The weight and configuration files.
    pub files: Vec<FileRecord>,
    /// The tokenizer's file.
    pub tokenizer: Option<FileRecord>,
}

/// Kind of place that a model came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// Part of the program.
    Embedded,
    /// A folder on disk.
    Folder {
        /// Its path.
        path: String,
    },
    /// A repository on the Hub.
    Hub {
        /// `organisation/name`.
        repo: String,
        /// The branch, tag or commit that was asked for.
        revision: String,
        /// The commit that it stood for.
        commit: String,
    },
    /// Random weights.
    Random {
        /// The shape's name.
        shape: String,
        /// The seed.
        seed: u64,
    },
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its name without the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal. `None` for a large file outside the Hub's cache.
    pub sha256: Option<String>,
}

impl FileRecord {
    /// Records a file on disk. A large file in the Hub's cache is a link to a blob that is called by its hash, which
    /// was checked when it was downloaded.
    pub(crate) fn of_file(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.into(), source };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        let sha256 = if bytes <= HASHED_BYTES {
            Some(sha256(&std::fs::read(path).map_err(io)?))
        } else {
            let target = std::fs::canonicalize(path).map_err(io)?;
            let blob = target.file_name().map(|name| name.to_string_lossy().into_owned());
            blob.filter(|name| is_sha256(name))
        };
        Ok(Self { name: file_name(path), bytes, sha256 })
    }

    /// Records bytes in memory under the name of `path`.
    pub(crate) fn of_bytes(path: &Path, bytes: &[u8]) -> Self {
        Self { name: file_name(path), bytes: bytes.len() as u64, sha256: Some(sha256(bytes)) }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Is this a SHA-256 in hexadecimal?
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit())
}
