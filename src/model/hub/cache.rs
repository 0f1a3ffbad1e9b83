//! One repository in the cache that all of the Hub's clients share: blobs named by their etags, snapshots of commits
//! whose files are links to blobs, and refs that say which commit a branch stood for.

use super::HubError;
use crate::files::write_whole;
use crate::model::names::is_commit;
use hf_hub::{Cache, Repo, RepoType};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// One repository in the cache.
#[derive(Debug)]
pub(super) struct CachedRepo {
    root: PathBuf,
    locks: PathBuf,
    cache: Cache,
    repo: Repo,
}

impl CachedRepo {
    /// The repository `repo` in the folder `cache`.
    pub fn new(cache: &Path, repo: &str) -> Self {
        let repo = Repo::new(repo.to_owned(), RepoType::Model);
        let (root, locks) = (cache.join(repo.folder_name()), cache.join(".locks").join(repo.folder_name()));
        Self { root, locks, cache: Cache::new(cache.into()), repo }
    }

    /// The commit that a branch, tag or commit stood for when it was last asked for. Other tools may have ended its
    /// file with a new line.
    pub fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.reference(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit that a branch or tag stands for now.
    pub fn note_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = self.reference(revision);
        if revision == commit {
            return Ok(());
        }
        write_whole(&path, commit.as_bytes()).map_err(in_cache(&path))
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    /// The folder with a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.repo(self.repo.clone()).pointer_path(commit)
    }

    /// Notes that a commit has no such file, where `huggingface_hub` notes it.
    pub fn note_absent(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.absence(commit, file);
        write_whole(&path, b"").map_err(in_cache(&path))
    }

    /// Has it been noted that a commit has no such file?
    pub fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.absence(commit, file).is_file()
    }

    fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.root.join(".no_exist").join(commit).join(file)
    }

    /// Where the contents with this etag are.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Where their bytes gather.
    pub fn part(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Waits until no other process brings the contents with this etag, by the lock that `huggingface_hub` takes as
    /// well.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        lock(&path).map_err(in_cache(&path))
    }

    /// Links a file of a commit to the contents with this etag, replacing what is there.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let folder = self.snapshot(commit);
        let pointer = folder.join(file);
        let error = in_cache(&pointer);
        fs::create_dir_all(&folder).map_err(&error)?;
        // Beside it first, so that the file is never absent for another process.
        let link = tempfile::Builder::new().make_in(&folder, |path| link(&self.blob(etag), etag, path));
        link.and_then(|link| link.into_temp_path().persist(&pointer).map_err(|error| error.error)).map_err(&error)
    }
}

#[cfg(unix)]
fn link(_: &Path, etag: &str, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), path)
}

/// Symbolic links need a privilege elsewhere.
#[cfg(not(unix))]
fn link(blob: &Path, _: &str, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path)
}

/// Takes a lock that lasts as long as the file is open; says so when another process has it.
pub(crate) fn lock(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = File::options().create(true).append(true).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::warn!("waiting for another process that downloads the same file ({})", path.display());
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// An error of the cache's files, naming one.
pub(super) fn in_cache(path: &Path) -> impl Fn(io::Error) -> HubError {
    move |source| HubError::Cache { path: path.into(), source }
}
