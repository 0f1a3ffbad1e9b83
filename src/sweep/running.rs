//! Which processes are at work in a folder.
//!
//! Each keeps a file `running-*.json` that it holds a lock of: the lock goes with the process, however it ends.

use super::{Shard, SweepError};
use crate::files::{held_file, remove_abandoned};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{Seek, Write};
use std::path::Path;

const PREFIX: &str = "running-";
const SUFFIX: &str = ".json";

/// What a process says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number on its machine.
    pub pid: u32,
    /// Its share of the sweep.
    pub shard: Option<String>,
    /// Cells of the batch that it computes.
    pub cells: usize,
}

/// This process's own mark; gone when it is dropped.
#[derive(Debug)]
pub struct Running {
    file: tempfile::NamedTempFile,
    shard: Option<String>,
}

impl Running {
    /// Leaves a mark in `folder`, which exists.
    ///
    /// # Errors
    /// [`SweepError::Io`].
    pub fn start(folder: &Path, shard: Option<Shard>) -> Result<Self, SweepError> {
        remove_abandoned(folder, PREFIX);
        let file =
            held_file(folder, PREFIX, SUFFIX).map_err(|source| SweepError::Io { path: folder.into(), source })?;
        Ok(Self { file, shard: shard.map(|shard| shard.to_string()) })
    }

    /// Says how many cells are being computed. Nobody's result depends on it: a disk that has no room for it will
    /// refuse the ledger's records too, and those are not ignored.
    pub fn computing(&mut self, cells: usize) {
        let process = Process { pid: std::process::id(), shard: self.shard.clone(), cells };
        let file = self.file.as_file_mut();
        let _ = serde_json::to_vec(&process)
            .map_err(std::io::Error::from)
            .and_then(|text| file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text)));
    }
}

/// Takes away the marks of processes that were killed.
pub(crate) fn clear_marks(folder: &Path) {
    remove_abandoned(folder, PREFIX);
}

/// The processes at work in a folder. The marks of those that were killed are taken away.
///
/// # Errors
/// [`SweepError::Io`].
pub fn running(folder: &Path) -> Result<Vec<Process>, SweepError> {
    clear_marks(folder);
    at_work(folder)
}

/// The same, for those who only look: all marks stay.
///
/// # Errors
/// [`SweepError::Io`].
pub fn at_work(folder: &Path) -> Result<Vec<Process>, SweepError> {
    let io = |source| SweepError::Io { path: folder.into(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !(name.starts_with(PREFIX) && name.ends_with(SUFFIX)) {
            continue;
        }
        // It may end, and take its mark away, at any moment.
        let Ok(file) = File::open(&path) else { continue };
        match file.try_lock_shared() {
            // Nobody holds it: its process was killed.
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                // Read while it is rewritten, it is empty.
                let process = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
                found.push(process.unwrap_or(Process { pid: 0, shard: None, cells: 0 }));
            }
            Err(TryLockError::Error(source)) => return Err(SweepError::Io { path, source }),
        }
    }
    Ok(found)
}
