//! The download of a repository's files at one commit into the cache.

use super::address::{Origin, shown};
use super::cache::{CachedRepo, in_cache};
use super::failure::{Failure, TransferError};
use super::integrity::{compare, compare_blob, is_hash};
use super::transport::{Client, Fetch};
use super::wire::Access;
use super::{HubError, HubSettings, Progress};
use crate::model::names::is_commit;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use ureq::http::HeaderMap;
use ureq::http::header::{CONTENT_LENGTH, ETAG, HeaderName};

/// The commit that an answer is of.
const COMMIT: HeaderName = HeaderName::from_static("x-repo-commit");

/// The etag of a file that lies elsewhere.
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");

/// Its size.
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");

/// What is written out in a part of an address.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The download of several files of one repository at one commit.
pub(super) struct Download<'a> {
    settings: &'a HubSettings,
    client: Client,
    cache: &'a CachedRepo,
    repo: &'a str,
    commit: String,
}

/// What the Hub says about a file.
struct Description {
    commit: String,
    /// Without quotation marks: the name of its blob.
    etag: String,
    size: Option<u64>,
}

impl<'a> Download<'a> {
    /// Asks which commit `revision` stands for now; `file` is one that every repository has.
    pub fn start(
        settings: &'a HubSettings,
        cache: &'a CachedRepo,
        repo: &'a str,
        revision: &str,
        file: &str,
    ) -> Result<Self, HubError> {
        let client = client(settings)?;
        let mut this = Self { settings, client, cache, repo, commit: revision.to_owned() };
        this.commit = this.describe(file)?.commit;
        Ok(this)
    }

    /// Reads the list of files at `revision`, of a repository that may lack any file.
    pub fn listed(
        settings: &'a HubSettings,
        cache: &'a CachedRepo,
        repo: &'a str,
        revision: &str,
    ) -> Result<(Self, Vec<String>), HubError> {
        let client = client(settings)?;
        let this = Self { settings, client, cache, repo, commit: revision.to_owned() };
        let (commit, files) = this.list()?;
        Ok((Self { commit, ..this }, files))
    }

    /// The commit and the names of all files at the top, sorted.
    pub fn list(&self) -> Result<(String, Vec<String>), HubError> {
        let revision = utf8_percent_encode(&self.commit, SEGMENT);
        let url = format!("{}/api/models/{}/revision/{revision}", self.settings.endpoint, self.repo);
        let folder = tempfile::tempdir().map_err(in_cache(&std::env::temp_dir()))?;
        let part = folder.path().join("list");
        let largest = self.settings.limits.small_file_bytes;
        let fetch = Fetch { url: &url, part: &part, size: None, largest, small: true, by_hash: false };
        self.client.fetch(&fetch, &mut |_, _| {}).map_err(|error| self.failure("list of files", error))?;
        let answer: Value = serde_json::from_slice(&fs::read(&part).map_err(in_cache(&part))?).unwrap_or_default();
        let commit = answer.get("sha").and_then(Value::as_str).filter(|commit| is_commit(commit));
        let files = answer.get("siblings").and_then(Value::as_array);
        let (Some(commit), Some(files)) = (commit, files) else {
            let reason = "expected the fields sha and siblings, found others".to_owned();
            return Err(HubError::Answer { url: shown(&url), reason });
        };
        let names = files.iter().filter_map(|file| file.get("rfilename")?.as_str());
        let mut names: Vec<String> = names.filter(|name| is_plain(name)).map(str::to_owned).collect();
        names.sort();
        Ok((commit.to_owned(), names))
    }

    /// The commit that all files are of.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    /// The folder with the files.
    pub fn folder(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    /// What the Hub says about a file. Commit and etag become names in the cache, so they are checked.
    fn describe(&self, file: &str) -> Result<Description, HubError> {
        let url = self.url(file);
        let headers = self.client.head(&url, &COMMIT).map_err(|error| self.failure(file, error))?;
        let text = |name: HeaderName| text(&headers, &name);
        let commit = text(COMMIT).unwrap_or_default();
        let etag = text(LINKED_ETAG).or(text(ETAG)).unwrap_or_default();
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        let size = text(LINKED_SIZE).or(text(CONTENT_LENGTH));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let reason = if !is_commit(commit) {
            format!("header x-repo-commit: expected a commit hash of 40 digits, found {commit:?}")
        } else if etag.is_empty() || !etag.chars().all(plain) {
            format!("header etag: expected letters and digits, found {etag:?}")
        } else if size.is_some_and(|size| size.parse::<u64>().is_err()) {
            format!("header x-linked-size or content-length: expected a number, found {size:?}")
        } else {
            let size = size.and_then(|size| size.parse().ok());
            return Ok(Description { commit: commit.to_owned(), etag: etag.to_owned(), size });
        };
        Err(HubError::Answer { url: shown(&url), reason })
    }

    /// Is there such a file at the Hub?
    pub fn exists(&self, file: &str) -> Result<bool, HubError> {
        found(self.describe(file).map(drop))
    }

    /// Brings a file that the repository may lack; says whether it is there.
    pub fn optional(&self, file: &str) -> Result<bool, HubError> {
        found(self.required(file))
    }

    /// Notes in the cache that the commit has no such file.
    pub fn note_absent(&self, file: &str) -> Result<(), HubError> {
        self.cache.note_absent(&self.commit, file)
    }

    /// Brings a file into the cache unless it is there and whole.
    pub fn required(&self, file: &str) -> Result<(), HubError> {
        let pointer = self.folder().join(file);
        if self.is_whole(&pointer)? {
            return Ok(());
        }
        let description = self.describe(file)?;
        let blob = self.cache.blob(&description.etag);
        let _lock = self.cache.lock(&description.etag)?;
        // Another process, or another commit with the same file, may have brought it.
        if !self.is_whole(&blob)? {
            self.bring(file, &description, &blob)?;
        }
        self.cache.link(&self.commit, file, &description.etag)
    }

    /// Is this file of the cache there, and does it hold what its name says?
    fn is_whole(&self, path: &Path) -> Result<bool, HubError> {
        if !path.is_file() {
            return Ok(false);
        }
        let damage = compare_blob(path).map_err(in_cache(path))?;
        if let Some(damage) = &damage {
            let (expected, found) = (&damage.expected, &damage.found);
            tracing::warn!("{}: damaged: expected {expected}, found {found}; it is fetched again", path.display());
        }
        Ok(damage.is_none())
    }

    /// Fetches the contents of a blob and compares their hash; of a file that was not whole or not right nothing is
    /// left but the part that the next attempt continues.
    fn bring(&self, file: &str, description: &Description, blob: &Path) -> Result<(), HubError> {
        let Description { etag, size, .. } = description;
        let (url, part, limits) = (self.url(file), self.cache.part(etag), &self.settings.limits);
        // Everything but weights is JSON.
        let small = Path::new(file).extension().is_some_and(|ending| ending == "json");
        let largest = if small { limits.small_file_bytes } else { limits.weights_bytes };
        if let Some(found) = size.filter(|size| *size > largest) {
            return Err(HubError::TooLarge { url: shown(&url), found, largest });
        }
        if let Some(folder) = part.parent() {
            fs::create_dir_all(folder).map_err(in_cache(folder))?;
        }
        let (size, by_hash) = (*size, is_hash(etag));
        let fetch = Fetch { url: &url, part: &part, size, largest, small, by_hash };
        let mut tell = |bytes, total| self.settings.observer.tell(Progress { file, bytes, total });
        loop {
            let continued = self.client.fetch(&fetch, &mut tell).map_err(|error| self.failure(file, error))?;
            // Where locks are not kept, another process may have been faster.
            if !part.is_file() && self.is_whole(blob)? {
                return Ok(());
            }
            let Some(damage) = compare(&part, etag).map_err(in_cache(&part))? else { break };
            remove(&part)?;
            // The bytes of an earlier transfer may be the wrong ones: only a file in one piece tells.
            if !continued {
                return Err(HubError::Damaged { url: shown(&url), expected: damage.expected, found: damage.found });
            }
        }
        fetch.finish(blob).map_err(in_cache(blob))
    }

    fn url(&self, file: &str) -> String {
        let [commit, file] = [self.commit.as_str(), file].map(|part| utf8_percent_encode(part, SEGMENT));
        format!("{}/{}/resolve/{commit}/{file}", self.settings.endpoint, self.repo)
    }

    fn failure(&self, file: &str, error: TransferError) -> HubError {
        let (reason, url) = (error.reason(), error.url);
        match error.failure {
            Failure::Status { status: status @ (401 | 403), elsewhere: None, .. } => HubError::Denied { url, status },
            Failure::Status { status: 404, elsewhere: None, .. } => {
                let (repo, revision, file) = (self.repo.to_owned(), self.commit.clone(), file.to_owned());
                HubError::NotFound { url, repo, revision, file }
            }
            Failure::Status { .. } | Failure::Answer { .. } => HubError::Answer { url, reason },
            Failure::Unreachable { .. } => HubError::Unreachable { url, reason },
            Failure::Broken { expected, found, reason } => HubError::Incomplete { url, expected, found, reason },
            Failure::Pause { status, asked, longest } => HubError::Pause { url, status, asked, longest },
            Failure::TooLarge { found, largest } => HubError::TooLarge { url, found, largest },
            Failure::File { path, source } => HubError::Cache { path, source },
        }
    }
}

/// Is this the name of a file at the top of a repository?
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains(['/', '\\'])
}

/// The client that `settings` describe.
fn client(settings: &HubSettings) -> Result<Client, HubError> {
    let HubSettings { endpoint, token, limits, .. } = settings;
    let origin = Origin::parse(endpoint).ok_or_else(|| HubError::Setting {
        name: "HF_ENDPOINT",
        expected: "an address http:// or https:// without user name and password",
        found: shown(endpoint),
    })?;
    let Some(token) = token else { return Ok(Client::new(limits)) };
    match Access::new(origin, token.reveal()) {
        Some(access) => Ok(Client::with_access(limits, access)),
        None => Err(HubError::Setting {
            name: "HF_TOKEN, or the token's file",
            expected: "letters, digits and signs",
            found: "other characters, which are not shown".to_owned(),
        }),
    }
}

/// A header's value.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Takes a file that is not there for an answer.
fn found(result: Result<(), HubError>) -> Result<bool, HubError> {
    match result {
        Ok(()) => Ok(true),
        Err(HubError::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a file that may be absent.
fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(in_cache(path)(source)),
        _ => Ok(()),
    }
}
