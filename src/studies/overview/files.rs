//! The files of a folder of results, and their hashes.

use crate::files::{sha256, sha256_of_file};
use crate::report::RunRecord;
use crate::report::pages::{Trouble, link};
use crate::session::{MODEL, Recorded};
use crate::sweep::Ledger;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Most files that are listed; the page is for people.
const MOST_FILES: usize = 20_000;

/// A file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Below the folder of results.
    pub path: PathBuf,
    pub bytes: u64,
    pub modified: SystemTime,
}

/// The files of a folder of results in the order of their paths, without records and what is not whole.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub files: Vec<Found>,
    /// Files that are not listed, and why.
    left_out: Vec<(PathBuf, Trouble)>,
    folders: BTreeSet<PathBuf>,
}

impl Listing {
    /// Lists a folder, which has no links in its path.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn of(root: &Path) -> io::Result<Self> {
        std::fs::read_dir(root)?;
        let mut listing = Self::default();
        listing.add(root, Path::new(""));
        listing.files.sort_by(|a, b| a.path.cmp(&b.path));
        if listing.files.len() > MOST_FILES {
            let why = format!("{} of {} files are listed", MOST_FILES, listing.files.len());
            listing.leave_out(Path::new(""), "left out", why);
            listing.files.truncate(MOST_FILES);
        }
        Ok(listing)
    }

    fn add(&mut self, root: &Path, folder: &Path) {
        let entries = match std::fs::read_dir(root.join(folder)) {
            Ok(entries) => entries,
            Err(error) => return self.leave_out(folder, "damaged", error.to_string()),
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let path = folder.join(&name);
            let name = name.to_string_lossy();
            let Ok(kind) = entry.file_type() else { continue };
            if is_not_whole(&name) || path == Path::new(super::INDEX) {
                continue;
            }
            if kind.is_symlink() && !leads_inside(root, &path) {
                self.leave_out(&path, "left out", "a link that leads out of the folder, or to nothing".into());
            } else if kind.is_dir() {
                self.folders.insert(path.clone());
                if ![RunRecord::FOLDER, Recorded::FOLDER].contains(&&*name) {
                    self.add(root, &path);
                }
            } else if path.to_str().is_none() {
                self.leave_out(&path, "left out", "a name that is no UTF-8".into());
            } else if let Ok(metadata) = std::fs::metadata(root.join(&path))
                && metadata.is_file()
            {
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                self.files.push(Found { path, bytes: metadata.len(), modified });
            }
        }
    }

    fn leave_out(&mut self, path: &Path, kind: &'static str, why: String) {
        let trouble = Trouble { kind, what: path.display().to_string(), href: None, why };
        self.left_out.push((path.to_owned(), trouble));
    }

    /// What is not listed, and why, of the paths that are `wanted`.
    pub fn left_out(&self, wanted: impl Fn(&Path) -> bool) -> Vec<Trouble> {
        self.left_out.iter().filter(|(path, _)| wanted(path)).map(|(_, trouble)| trouble.clone()).collect()
    }

    /// The folders right below that hold results of a model.
    pub fn models(&self) -> BTreeSet<String> {
        let of_model = |path: &Path| {
            let is_there = |name: &str| self.folders.contains(&path.join(name));
            let has_file = |name: &str| {
                let file = path.join(name);
                self.files.binary_search_by(|found| found.path.cmp(&file)).is_ok()
            };
            is_there(RunRecord::FOLDER) || is_there("shards") || has_file(MODEL) || has_file(Ledger::FILE)
        };
        let below = self.folders.iter().filter(|path| path.components().count() == 1 && of_model(path));
        below.filter_map(|path| path.to_str().map(str::to_owned)).collect()
    }

    /// The folders of manifests of a model: its own, and those of its shards.
    pub fn manifests(&self, model: &str) -> impl Iterator<Item = &PathBuf> {
        let own = move |path: &&PathBuf| path.starts_with(model) && path.ends_with(RunRecord::FOLDER);
        self.folders.iter().filter(own)
    }

    /// Another text whenever a result is added, replaced or taken away; ledgers, which grow all the time, are none.
    pub fn stamp(&self) -> String {
        let results = self.files.iter().filter(|found| !found.path.ends_with(Ledger::FILE));
        let told: Vec<String> =
            results.map(|found| format!("{:?} {} {:?}", found.path, found.bytes, found.modified)).collect();
        sha256(told.join("\n").as_bytes())[..16].to_owned()
    }
}

/// Is a file on its way to be whole, or a mark of a process?
fn is_not_whole(name: &str) -> bool {
    name.starts_with('.') || name.starts_with("running-") && name.ends_with(".json")
}

/// Does a link in a folder without links in its path lead to a file in it?
fn leads_inside(root: &Path, path: &Path) -> bool {
    root.join(path).canonicalize().is_ok_and(|target| target.starts_with(root) && target.is_file())
}

impl Found {
    /// Where the page finds it.
    pub fn href(&self) -> Option<String> {
        link(&self.path)
    }

    /// Its name without the folders.
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Its ending in small letters.
    pub fn ending(&self) -> String {
        ending(&self.path)
    }
}

/// The ending of a path in small letters.
pub(super) fn ending(path: &Path) -> String {
    path.extension().map_or(String::new(), |ending| ending.to_string_lossy().to_lowercase())
}

/// The hash of a file, and its size and time when it was taken.
type Hashed = (u64, SystemTime, String);

/// Hashes of files, each taken once until the file changes.
#[derive(Debug, Default)]
pub(super) struct Hashes(Mutex<HashMap<PathBuf, Hashed>>);

impl Hashes {
    /// The SHA-256 of a file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(&self, path: &Path) -> io::Result<String> {
        let metadata = std::fs::metadata(path)?;
        let (bytes, modified) = (metadata.len(), metadata.modified()?);
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some((_, _, hash)) = known.filter(|known| (known.0, known.1) == (bytes, modified)) {
            return Ok(hash);
        }
        let hash = sha256_of_file(path)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(path.to_owned(), (bytes, modified, hash.clone()));
        Ok(hash)
    }
}

/// A number of bytes for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A time for people, UTC, such as `2026-11-30 12:00`.
pub(super) fn minute(time: SystemTime) -> String {
    // Clocks before 1970 and behind 9999 are wrong, and have no text.
    const LAST: u64 = 253_402_300_799;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = SystemTime::UNIX_EPOCH + since.min(std::time::Duration::from_secs(LAST));
    minute_of(&humantime::format_rfc3339_seconds(time).to_string())
}

/// The same of a time as manifests have it.
pub(super) fn minute_of(started: &str) -> String {
    started.get(..16).unwrap_or(started).replacen('T', " ", 1)
}
