//! Models from the Hugging Face Hub: looked up in the shared cache first, downloaded into it otherwise.

mod cache;
mod client;
mod error;
mod settings;

pub use error::HubError;
pub use settings::{HubSettings, Token};

use super::tensors::{INDEX, SINGLE, shard_names};
use cache::{RepoCache, missing};
use client::Client;
use std::path::PathBuf;

/// The weights' names in the format that is not read here.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Which of a repository's files are needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// `config.json` and the weights.
    pub weights: bool,
    /// `tokenizer.json`.
    pub tokenizer: bool,
}

/// A repository's files at one commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// The folder with the files.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
}

/// The files of `repo` at `revision`. A complete snapshot in the cache needs no network; else what is missing is
/// downloaded, all of it from the one commit that `revision` stands for now.
///
/// # Errors
/// The network may not be used or fails, the Hub refuses, or the cache cannot be written.
pub(crate) fn snapshot(
    settings: &HubSettings,
    repo: &str,
    revision: &str,
    wanted: Wanted,
) -> Result<Snapshot, HubError> {
    let cache = RepoCache::new(&settings.cache, repo);
    let mut lacking = missing(&settings.cache.join("absent"), wanted);
    if let Some(commit) = cache.commit(revision) {
        let folder = cache.snapshot(&commit);
        lacking = missing(&folder, wanted);
        if lacking.is_none() {
            return Ok(Snapshot { folder, commit });
        }
    }
    if settings.offline {
        let file = lacking.unwrap_or_default();
        return Err(HubError::Offline {
            repo: repo.to_owned(),
            revision: revision.to_owned(),
            file,
            cache: settings.cache.clone(),
        });
    }
    let fetch = Fetch { client: Client::new(settings, repo), cache: &cache };
    let commit = fetch.all(repo, revision, wanted)?;
    cache.record(revision, &commit)?;
    Ok(Snapshot { folder: cache.snapshot(&commit), commit })
}

/// A download of several files of one repository.
struct Fetch<'a> {
    client: Client<'a>,
    cache: &'a RepoCache,
}

impl Fetch<'_> {
    /// Brings all wanted files and returns their commit.
    fn all(&self, repo: &str, revision: &str, wanted: Wanted) -> Result<String, HubError> {
        // The first file is asked for by the revision's name; all others by the commit that it turned out to be.
        let first = if wanted.weights { "config.json" } else { "tokenizer.json" };
        let remote = self.client.require(revision, first)?;
        self.client.download(self.cache, &remote, first)?;
        let commit = remote.commit;
        if !wanted.weights {
            // The configuration tells the tokenizer's BOS id, but a tokenizer can do without.
            self.optional(&commit, "config.json")?;
            return Ok(commit);
        }
        if missing(&self.cache.snapshot(&commit), wanted).is_none() {
            return Ok(commit);
        }
        if wanted.tokenizer {
            self.required(&commit, "tokenizer.json")?;
        }
        let absent = match self.required(&commit, SINGLE) {
            Ok(()) => return Ok(commit),
            Err(absent @ HubError::NotFound { .. }) => absent,
            Err(error) => return Err(error),
        };
        if !self.optional(&commit, INDEX)? {
            return Err(self.pickled(repo, &commit)?.unwrap_or(absent));
        }
        let index = self.cache.snapshot(&commit).join(INDEX);
        let shards = shard_names(&index).map_err(|error| HubError::Cache {
            path: index.clone(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string()),
        })?;
        for shard in shards {
            self.required(&commit, &shard)?;
        }
        Ok(commit)
    }

    fn required(&self, commit: &str, file: &str) -> Result<(), HubError> {
        if self.cache.snapshot(commit).join(file).is_file() {
            return Ok(());
        }
        let remote = self.client.require(commit, file)?;
        self.client.download(self.cache, &remote, file)
    }

    /// Brings a file that the repository may lack; says whether it is there.
    fn optional(&self, commit: &str, file: &str) -> Result<bool, HubError> {
        if self.cache.snapshot(commit).join(file).is_file() {
            return Ok(true);
        }
        match self.client.describe(commit, file)? {
            Some(remote) => self.client.download(self.cache, &remote, file).map(|()| true),
            None => Ok(false),
        }
    }

    /// The complaint about a repository whose weights are in the other format only.
    fn pickled(&self, repo: &str, commit: &str) -> Result<Option<HubError>, HubError> {
        for file in PICKLED {
            if self.client.describe(commit, file)?.is_some() {
                let (repo, revision, found) = (repo.to_owned(), commit.to_owned(), file.to_owned());
                return Ok(Some(HubError::NoSafetensors { repo, revision, found }));
            }
        }
        Ok(None)
    }
}
