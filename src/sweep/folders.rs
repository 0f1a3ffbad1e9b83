//! Where the ledgers of a data folder lie.

use super::{Ledger, SweepError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The entries of a folder.
fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>, SweepError> {
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect);
    entries.map_err(|source| SweepError::Io { path: folder.into(), source })
}

/// The ledgers below a model's folder: its own, if it has one, and those of its shards in the order of their names.
///
/// # Errors
/// [`SweepError::Io`].
pub fn ledgers(folder: &Path) -> Result<Vec<PathBuf>, SweepError> {
    let mut folders = vec![folder.to_owned()];
    let shards = folder.join("shards");
    if shards.is_dir() {
        let mut found: Vec<PathBuf> = entries(&shards)?.iter().map(std::fs::DirEntry::path).collect();
        found.sort();
        folders.extend(found);
    }
    folders.retain(|folder| folder.join(Ledger::FILE).is_file());
    Ok(folders)
}

/// The folders of a data folder that have a ledger, with their ledgers, by name.
///
/// # Errors
/// [`SweepError::Io`].
pub fn models(data: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>, SweepError> {
    let mut models = BTreeMap::new();
    for entry in entries(data)? {
        let ledgers = ledgers(&entry.path())?;
        if !ledgers.is_empty() {
            models.insert(entry.file_name().to_string_lossy().into_owned(), ledgers);
        }
    }
    Ok(models)
}
