//! Requests to the Hub: what a file is (HEAD), and its contents (GET, resumed where an earlier attempt stopped).

use super::HubError;
use super::cache::RepoCache;
use super::settings::HubSettings;
use crate::model::names::is_commit;
use crate::model::provenance::{hexadecimal, is_sha256};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek};
use std::path::Path;
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, Uri};
use ureq::{Agent, Body, RequestBuilder};

/// Longest time without an answer, or without another byte.
const PATIENCE: Duration = Duration::from_secs(60);

/// Redirects within the Hub (a repository that was renamed) before giving up.
const HOPS: usize = 5;

/// What the Hub says about a file.
#[derive(Debug)]
pub(super) struct Remote {
    pub commit: String,
    pub etag: String,
    pub size: u64,
    url: String,
}

/// A connection to the Hub for one repository.
pub(super) struct Client<'a> {
    settings: &'a HubSettings,
    repo: &'a str,
    /// Follows redirects: contents are often kept at another host, which must not see the token.
    contents: Agent,
    /// Follows none: the answer that describes the file is the Hub's own, before it sends us elsewhere.
    description: Agent,
}

impl<'a> Client<'a> {
    pub fn new(settings: &'a HubSettings, repo: &'a str) -> Self {
        let agent = |redirects| {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(redirects)
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .timeout_connect(Some(PATIENCE))
                .timeout_recv_response(Some(PATIENCE))
                .timeout_per_read(Some(PATIENCE))
                .user_agent(concat!("actpatch/", env!("CARGO_PKG_VERSION")))
                .build()
                .new_agent()
        };
        Self { settings, repo, contents: agent(10), description: agent(0) }
    }

    /// Asks what `file` is at `revision`; `None` when the repository has no such file.
    pub fn describe(&self, revision: &str, file: &str) -> Result<Option<Remote>, HubError> {
        match self.require(revision, file) {
            Ok(remote) => Ok(Some(remote)),
            Err(HubError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks what `file` is at `revision`.
    pub fn require(&self, revision: &str, file: &str) -> Result<Remote, HubError> {
        let HubSettings { endpoint, .. } = self.settings;
        let revision_part = revision.replace('/', "%2F");
        let mut url = format!("{endpoint}/{}/resolve/{revision_part}/{file}", self.repo);
        for _ in 0..HOPS {
            let response = self.authorised(self.description.head(&url)).call().map_err(|e| unreachable(&url, &e))?;
            match response.status().as_u16() {
                300..=399 => match redirect_within(&url, header(&response, "location").unwrap_or_default()) {
                    Some(next) => url = next,
                    None => return remote(url, &response),
                },
                200..=299 => return remote(url, &response),
                status => return Err(self.refusal(url, status, revision, file, &response)),
            }
        }
        Err(HubError::Unreachable { url, reason: format!("more than {HOPS} redirects") })
    }

    /// Brings the contents of `remote` into the cache unless they are there, and links them as `file`.
    pub fn download(&self, cache: &RepoCache, remote: &Remote, file: &str) -> Result<(), HubError> {
        let blob = cache.blob(&remote.etag);
        let error = |path: &Path, source| HubError::Cache { path: path.into(), source };
        for path in [&blob, &cache.lock(&remote.etag)] {
            let folder = path.parent().unwrap_or(path);
            fs::create_dir_all(folder).map_err(|source| error(folder, source))?;
        }
        let lock_path = cache.lock(&remote.etag);
        let lock = File::create(&lock_path).map_err(|source| error(&lock_path, source))?;
        // Another process that loads the same model waits here and finds the blob afterwards.
        lock.lock().map_err(|source| error(&lock_path, source))?;
        if fs::metadata(&blob).map_or(0, |data| data.len()) != remote.size || !blob.is_file() {
            // Not a temporary name: the next attempt continues this very file.
            let partial = cache.blob(&format!("{}.incomplete", remote.etag));
            self.receive(remote, file, &partial)?;
            fs::rename(&partial, &blob).map_err(|source| error(&blob, source))?;
        }
        cache.link(&remote.commit, file, &remote.etag)
    }

    /// Completes `partial` and checks its size, and its hash where the Hub gives one.
    fn receive(&self, remote: &Remote, file: &str, partial: &Path) -> Result<(), HubError> {
        let Remote { size, etag, url, .. } = remote;
        let error = |source| HubError::Cache { path: partial.into(), source };
        let mut target = OpenOptions::new().create(true).append(true).read(true).open(partial).map_err(error)?;
        let mut have = target.metadata().map_err(error)?.len();
        if have > *size {
            target.set_len(0).map_err(error)?;
            have = 0;
        }
        let mut reason = String::new();
        if have < *size {
            reason = self.append(remote, file, &mut target, have)?.map_or_else(String::new, |e| format!(" ({e})"));
        }
        target.sync_all().map_err(error)?;
        let found = target.metadata().map_err(error)?.len();
        if found < *size {
            return Err(HubError::Incomplete { url: url.clone(), expected: *size, found, reason });
        }
        // The etag of a large file is its SHA-256; a small one's is a Git hash, for which the size has to do.
        let mut digest = Sha256::new();
        if found == *size && is_sha256(etag) {
            target.rewind().and_then(|()| io::copy(&mut target, &mut HashWriter(&mut digest))).map_err(error)?;
        }
        let hash = hexadecimal(&digest.finalize());
        if found > *size || (is_sha256(etag) && !etag.eq_ignore_ascii_case(&hash)) {
            fs::remove_file(partial).map_err(error)?;
            let found = if found > *size { format!("{found} bytes in place of {size}") } else { hash };
            return Err(HubError::Checksum { url: url.clone(), expected: etag.clone(), found });
        }
        Ok(())
    }

    /// Appends the bytes from `have` on; the error that ended the transfer, if one did, is for the message only.
    fn append(&self, remote: &Remote, file: &str, target: &mut File, have: u64) -> Result<Option<io::Error>, HubError> {
        let url = &remote.url;
        let error = |source| HubError::Cache { path: file.into(), source };
        let mut request = self.authorised(self.contents.get(url));
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let response = request.call().map_err(|e| unreachable(url, &e))?;
        match response.status().as_u16() {
            206 => {}
            // The whole file, whatever was asked for.
            200 => target.set_len(0).map_err(error)?,
            status => return Err(self.refusal(url.clone(), status, &remote.commit, file, &response)),
        }
        let bar = progress_bar(remote.size, target.metadata().map_err(error)?.len(), file);
        let mut body = bar.wrap_read(response.into_body().into_reader());
        let result = io::copy(&mut body, target);
        bar.finish_and_clear();
        Ok(result.err())
    }

    fn authorised<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        // Sizes are those of the file, not of a compressed transfer.
        let request = request.header("Accept-Encoding", "identity");
        match &self.settings.token {
            Some(token) => request.header("Authorization", format!("Bearer {}", token.reveal())),
            None => request,
        }
    }

    fn refusal(&self, url: String, status: u16, revision: &str, file: &str, response: &Response<Body>) -> HubError {
        let said = ["x-error-code", "x-error-message"].into_iter().filter_map(|name| header(response, name));
        let detail: String = said.map(|text| format!(", {text}")).collect();
        match status {
            401 | 403 => {
                let hint = match (detail.contains("Gated"), self.settings.token.is_some()) {
                    (true, true) => "accept the model's conditions on its page with the account of this token",
                    (true, false) => "accept the model's conditions on its page, then set HF_TOKEN",
                    (false, true) => "check the model's name and whether this token may read it",
                    (false, false) => "check the model's name; a private or gated model needs HF_TOKEN",
                };
                HubError::Denied { url, status, detail, hint }
            }
            404 => HubError::NotFound {
                url,
                detail,
                repo: self.repo.to_owned(),
                revision: revision.to_owned(),
                file: file.to_owned(),
            },
            _ => HubError::Status { url, status, detail },
        }
    }
}

/// Feeds a hash.
struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn progress_bar(size: u64, have: u64, file: &str) -> ProgressBar {
    let bar = ProgressBar::new(size);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ({eta})") {
        bar.set_style(style);
    }
    bar.set_message(file.to_owned());
    bar.set_position(have);
    bar
}

fn unreachable(url: &str, error: &ureq::Error) -> HubError {
    HubError::Unreachable { url: url.to_owned(), reason: error.to_string() }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The address of a redirect that stays at the same host; `None` for one that leads to where the contents are kept.
fn redirect_within(url: &str, location: &str) -> Option<String> {
    let from: Uri = url.parse().ok()?;
    let to: Uri = location.parse().ok()?;
    let authority = to.authority().or(from.authority())?;
    if from.authority() != Some(authority) {
        return None;
    }
    let scheme = to.scheme_str().or(from.scheme_str())?;
    Some(format!("{scheme}://{authority}{}", to.path_and_query()?))
}

/// Reads the headers that describe a file. Commit and etag become names in the cache, so they are checked.
fn remote(url: String, response: &Response<Body>) -> Result<Remote, HubError> {
    let first =
        |names: [&'static str; 2]| names.into_iter().find_map(|name| header(response, name)).unwrap_or_default();
    let error =
        |header, expected, found: &str| HubError::Header { url: url.clone(), header, expected, found: found.into() };
    let commit = header(response, "x-repo-commit").unwrap_or_default();
    if !is_commit(commit) {
        return Err(error("x-repo-commit", "a commit hash of 40 digits", commit));
    }
    let etag = first(["x-linked-etag", "etag"]).trim_start_matches("W/").trim_matches('"');
    if etag.is_empty() || !etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(error("etag", "letters and digits", etag));
    }
    let size = first(["x-linked-size", "content-length"]);
    let Ok(size) = size.parse() else { return Err(error("content-length", "a number of bytes", size)) };
    Ok(Remote { commit: commit.to_owned(), etag: etag.to_owned(), size, url })
}
