//! The cache folder, in the layout that all of the Hub's clients share:
//! `models--{organisation}--{name}/{refs/{revision}, snapshots/{commit}/{file} -> blobs/{etag}}`.

use super::{HubError, Wanted};
use crate::model::names::is_commit;
use crate::model::tensors::{INDEX, SINGLE, shard_names};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// One repository's part of the cache.
#[derive(Debug)]
pub(super) struct RepoCache {
    /// The folder of the repository.
    root: PathBuf,
    /// The folder of locks, shared by all repositories.
    locks: PathBuf,
}

impl RepoCache {
    pub fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { root: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that `revision` stood for when it was last downloaded.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// The folder with the files of `commit`.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Where the contents called `etag` are kept.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The file whose lock guards the download of `etag`.
    pub fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// Makes `file` of `commit` a link to its blob.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let folder = self.snapshot(commit);
        let link = folder.join(file);
        let error = |source| HubError::Cache { path: link.clone(), source };
        fs::create_dir_all(&folder).map_err(error)?;
        // Made beside and renamed, so that the link is never seen half-made; an old one may hang in the air.
        let scratch = tempfile::tempdir_in(&folder).map_err(error)?;
        let beside = scratch.path().join("link");
        make_link(&Path::new("../../blobs").join(etag), &self.blob(etag), &beside).map_err(error)?;
        fs::rename(&beside, &link).map_err(error)
    }

    /// Records the commit that `revision` stands for.
    pub fn record(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        write_beside(&path, commit.as_bytes()).map_err(|source| HubError::Cache { path, source })
    }
}

/// The first file that a snapshot lacks.
pub(super) fn missing(folder: &Path, wanted: Wanted) -> Option<String> {
    let lacks = |name: &str| !folder.join(name).is_file();
    if wanted.weights && lacks("config.json") {
        return Some("config.json".to_owned());
    }
    if wanted.tokenizer && lacks("tokenizer.json") {
        return Some("tokenizer.json".to_owned());
    }
    if !wanted.weights || !lacks(SINGLE) {
        return None;
    }
    if lacks(INDEX) {
        return Some(SINGLE.to_owned());
    }
    match shard_names(&folder.join(INDEX)) {
        Ok(shards) => shards.into_iter().find(|shard| lacks(shard)),
        // A damaged index counts as there: reading the folder names what is wrong with it.
        Err(_) => None,
    }
}

fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(unix)]
fn make_link(relative: &Path, _blob: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, link)
}

#[cfg(not(unix))]
fn make_link(_relative: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(drop))
}
