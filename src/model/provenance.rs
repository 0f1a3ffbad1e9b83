//! Where a model's files came from, for the manifest of a run.

use super::{BosRecord, ModelError};
use crate::files::{sha256, sha256_of_file, write_whole};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Files up to this size are hashed at load; hashing a checkpoint of many gigabytes would take longer than loading it
/// (see [`Provenance::with_every_hash`]).
pub(crate) const HASHED_BYTES: u64 = 64 << 20;

/// What a model was made from: enough to get the same one again, or to notice that it is another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Kind of place, with its name.
    pub source: Source,
    /// The weight and configuration files.
    pub files: Vec<FileRecord>,
    /// Types of the tensors, with their numbers, where the weights were rounded to fewer bits than a floating-point number
    /// has: `Q4_1 210, F32 61, Q8_0 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantised: Option<String>,
    /// The tokenizer's file.
    pub tokenizer: Option<FileRecord>,
    /// Which token opens every text, and why.
    #[serde(default)]
    pub bos_choice: Option<BosRecord>,
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
    /// A file on disk that holds all of it.
    File {
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
    /// Where a file without a hash lies.
    #[serde(skip)]
    unhashed: Option<PathBuf>,
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
        let unhashed = sha256.is_none().then(|| path.to_path_buf());
        Ok(Self { name: file_name(path), bytes, sha256, unhashed })
    }

    /// Records bytes in memory under the name of `path`.
    pub(crate) fn of_bytes(path: &Path, bytes: &[u8]) -> Self {
        Self { name: file_name(path), bytes: bytes.len() as u64, sha256: Some(sha256(bytes)), unhashed: None }
    }
}

impl Provenance {
    /// What the weights of these files, whose hashes are known, are known by: the hash of their names and hashes.
    ///
    /// # Errors
    /// What cannot be written as JSON.
    pub(crate) fn known_by(&self) -> serde_json::Result<String> {
        let contents: Vec<_> = self.files.iter().map(|file| (&file.name, &file.sha256)).collect();
        Ok(sha256(&serde_json::to_vec(&contents)?))
    }

    /// The same with the hash of every file. Those of large files are remembered in the file `known`, by path, size and
    /// time of the last change, so that a checkpoint is read for its hash once and not in every run.
    ///
    /// # Errors
    /// [`ModelError::Io`] for a file that cannot be read, or a `known` that cannot be written.
    pub fn with_every_hash(mut self, known: &Path) -> Result<Self, ModelError> {
        for record in self.files.iter_mut().chain(&mut self.tokenizer) {
            if let Some(path) = record.unhashed.take() {
                record.sha256 = Some(remembered_sha256(&path, known)?);
            }
        }
        Ok(self)
    }
}

/// A hash and what the file was like when it was taken.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownHash {
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u128,
    sha256: String,
}

fn remembered_sha256(path: &Path, known: &Path) -> Result<String, ModelError> {
    let io = |source| ModelError::Io { path: path.into(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    let modified = metadata.modified().map_err(io)?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let key = std::path::absolute(path).map_err(io)?.display().to_string();
    // A list that is not there or not readable costs the time of a hash, and is written anew.
    let text = std::fs::read(known).unwrap_or_default();
    let mut list: BTreeMap<String, KnownHash> = serde_json::from_slice(&text).unwrap_or_default();
    if let Some(hash) = list.get(&key).filter(|hash| (hash.bytes, hash.modified) == (metadata.len(), modified)) {
        return Ok(hash.sha256.clone());
    }
    tracing::info!("{}: taking its SHA-256", path.display());
    let sha256 = sha256_of_file(path).map_err(io)?;
    list.insert(key, KnownHash { bytes: metadata.len(), modified, sha256: sha256.clone() });
    let written = serde_json::to_vec_pretty(&list).map_err(std::io::Error::from);
    written
        .and_then(|text| write_whole(known, &text))
        .map_err(|source| ModelError::Io { path: known.into(), source })?;
    Ok(sha256)
}

/// A file's name without its folder.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Is this a SHA-256 in hexadecimal?
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    #[test]
    fn large_files_are_hashed_once_until_they_change() {
        let folder = tempfile::tempdir().unwrap();
        let (weights, known) = (folder.path().join("model.safetensors"), folder.path().join("data/hashes.json"));
        let hashed = || {
            let name = "model.safetensors".to_owned();
            let record = FileRecord { name, bytes: 3, sha256: None, unhashed: Some(weights.clone()) };
            let source = Source::Folder { path: folder.path().display().to_string() };
            let provenance =
                Provenance { source, files: vec![record], quantised: None, tokenizer: None, bos_choice: None };
            provenance.with_every_hash(&known).unwrap().files.remove(0).sha256.unwrap()
        };
        let write = |text: &str, seconds| {
            std::fs::write(&weights, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            File::options().write(true).open(&weights).unwrap().set_modified(time).unwrap();
        };
        write("abc", 1_000);
        assert_eq!(hashed(), sha256(b"abc"));
        // Same size and time: the file is not read again.
        write("xyz", 1_000);
        assert_eq!(hashed(), sha256(b"abc"));
        write("xyz", 1_001);
        assert_eq!(hashed(), sha256(b"xyz"));
        std::fs::write(&known, "{").unwrap();
        assert_eq!(hashed(), sha256(b"xyz"));
        assert!(std::fs::read_to_string(&known).unwrap().contains(&sha256(b"xyz")));
    }
}
