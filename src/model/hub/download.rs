//! Downloads by `hf-hub`, and the checks that it leaves to its callers: the size and the hash of what arrived.

use super::{HubError, HubSettings};
use crate::files::sha256_of_file;
use crate::model::names::is_commit;
use crate::model::provenance::is_sha256;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, Metadata};
use hf_hub::{Cache, Repo, RepoType};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The download of several files of one repository at one commit.
pub(super) struct Download<'a> {
    api: Api,
    cache: &'a Cache,
    repo: &'a str,
    commit: String,
}

impl<'a> Download<'a> {
    /// Asks which commit `revision` stands for now; `file` is one that every repository has.
    pub fn start(
        settings: &HubSettings,
        cache: &'a Cache,
        repo: &'a str,
        revision: &str,
        file: &str,
    ) -> Result<Self, HubError> {
        let HubSettings { endpoint, token, .. } = settings;
        // No retries: hf-hub's own would append a whole file to a part of it. The next attempt continues.
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(endpoint.clone())
            .with_token(token.as_ref().map(|token| token.reveal().to_owned()))
            .with_user_agent("actpatch", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| HubError::Unreachable { url: endpoint.clone(), reason: error.to_string() })?;
        let mut this = Self { api, cache, repo, commit: revision.to_owned() };
        this.commit = this.describe(file)?.commit_hash().to_owned();
        Ok(this)
    }

    /// The commit that all files are of.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder with the files.
    pub fn folder(&self) -> PathBuf {
        self.cache.repo(self.at_commit()).pointer_path(&self.commit)
    }

    /// What the Hub says about a file. Commit and etag become names in the cache, so they are checked.
    fn describe(&self, file: &str) -> Result<Metadata, HubError> {
        let url = self.url(file);
        let metadata = self.api.metadata(&url).map_err(|error| self.failure(file, error))?;
        let (commit, etag) = (metadata.commit_hash(), metadata.etag());
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let reason = if !is_commit(commit) {
            format!("header x-repo-commit: expected a commit hash of 40 digits, found {commit:?}")
        } else if etag.is_empty() || !etag.trim_start_matches("W/").chars().all(plain) {
            format!("header etag: expected letters and digits, found {etag:?}")
        } else {
            return Ok(metadata);
        };
        Err(HubError::Answer { url, reason })
    }

    /// Is there such a file at the Hub?
    pub fn exists(&self, file: &str) -> Result<bool, HubError> {
        found(self.describe(file).map(drop))
    }

    /// Brings a file that the repository may lack; says whether it is there.
    pub fn optional(&self, file: &str) -> Result<bool, HubError> {
        found(self.required(file))
    }

    /// Brings a file into the cache unless it is there.
    pub fn required(&self, file: &str) -> Result<(), HubError> {
        let pointer = self.folder().join(file);
        if pointer.is_file() {
            return Ok(());
        }
        let metadata = self.describe(file)?;
        let (etag, size) = (metadata.etag(), metadata.size() as u64);
        let blob = self.cache.repo(self.at_commit()).blob_path(etag);
        let part = blob.with_extension("part");
        // Of a whole part, hf-hub would ask for the bytes after the last one, for ever. A file without a hash always
        // starts anew: a part that was continued wrongly might come to the right size.
        if !is_sha256(etag) || length(&part).is_some_and(|length| length >= size) {
            remove(&part)?;
        }
        // A link to a blob that is gone.
        remove(&pointer)?;
        if let Err(error) = self.api.repo(self.at_commit()).download(file) {
            return Err(match (error, length(&part)) {
                (ApiError::IoError(cause), Some(found)) => {
                    HubError::Incomplete { url: self.url(file), expected: size, found, reason: cause.to_string() }
                }
                (ApiError::IoError(source), None) => HubError::Cache { path: blob, source },
                (error, _) => self.failure(file, error),
            });
        }
        let checked = self.check(file, &pointer, etag, size);
        if checked.is_err() {
            remove(&pointer)?;
            remove(&blob)?;
        }
        checked
    }

    /// Compares size and hash of a downloaded file with those announced. The etag of a large file is its SHA-256; a
    /// small one's is a Git hash, for which the size has to do.
    fn check(&self, file: &str, path: &Path, etag: &str, size: u64) -> Result<(), HubError> {
        let error = |source| HubError::Cache { path: path.into(), source };
        let bytes = fs::metadata(path).map_err(error)?.len();
        let (expected, found) = if bytes != size {
            (format!("{size} bytes"), format!("{bytes} bytes"))
        } else if is_sha256(etag) {
            (
                format!("SHA-256 {}", etag.to_ascii_lowercase()),
                format!("SHA-256 {}", sha256_of_file(path).map_err(error)?),
            )
        } else {
            return Ok(());
        };
        if expected == found { Ok(()) } else { Err(HubError::Damaged { url: self.url(file), expected, found }) }
    }

    fn at_commit(&self) -> Repo {
        Repo::with_revision(self.repo.to_owned(), RepoType::Model, self.commit.clone())
    }

    fn url(&self, file: &str) -> String {
        self.api.repo(self.at_commit()).url(file)
    }

    fn failure(&self, file: &str, error: ApiError) -> HubError {
        let url = self.url(file);
        let ApiError::RequestError(error) = error else {
            return HubError::Answer { url, reason: error.to_string() };
        };
        match *error {
            ureq::Error::StatusCode(status @ (401 | 403)) => HubError::Denied { url, status },
            ureq::Error::StatusCode(404) => {
                let (repo, revision, file) = (self.repo.to_owned(), self.commit.clone(), file.to_owned());
                HubError::NotFound { url, repo, revision, file }
            }
            ureq::Error::StatusCode(status) => HubError::Answer { url, reason: format!("HTTP {status}") },
            error => HubError::Unreachable { url, reason: error.to_string() },
        }
    }
}

/// Takes a file that is not there for an answer.
fn found(result: Result<(), HubError>) -> Result<bool, HubError> {
    match result {
        Ok(()) => Ok(true),
        Err(HubError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|data| data.len())
}

/// Removes a file that may be absent.
fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(HubError::Cache { path: path.into(), source }),
        _ => Ok(()),
    }
}
