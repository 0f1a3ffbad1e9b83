//! The guarded way to a server, over ureq, for the Hub and for the Treebank.
//!
//! - Every wait has a limit: for a connection, for the next byte, and for all of a small file ([`Limits`]).
//! - No more bytes are taken than were announced, and no more are announced than the caller allows.
//! - What may pass (429, 5xx, no connection, a transfer that breaks off) is tried again, see [`super::retry`].
//! - The bytes of a file gather in a part beside it. The next attempt, or the next process, asks for the rest alone;
//!   the part is only continued when the server answers with exactly that rest of the same file.
//! - Redirects are followed here, one by one, so that the token goes to its own origin only; a step from https to http
//!   is refused. How the token stays out of ureq's log: [`super::wire`].
//! - Addresses with a user name or password are refused, and addresses in messages end before the `?`, where the Hub
//!   puts signatures.

use super::Limits;
use super::address::{Address, shown};
use super::failure::{Failure, TransferError};
use super::retry::{Attempts, retry_after};
use super::wire::{Access, Unmasking};
use crate::files::write_whole;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use ureq::http::header::{self, HeaderName};
use ureq::http::{HeaderMap, Method, Response, StatusCode};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Body};

/// The most redirects in a row.
const REDIRECTS: usize = 10;

/// The bytes that are moved at a time.
const PIECE: usize = 1 << 16;

/// What an attempt has to bring to be forgiven its failure.
const GOOD_PART: u64 = 1 << 20;

/// A file to be brought.
#[derive(Debug)]
pub(crate) struct Fetch<'a> {
    /// Its address.
    pub url: &'a str,
    /// Where its bytes gather. The caller sees to it that no other process writes there, compares the hash of what
    /// came, and renames it.
    pub part: &'a Path,
    /// The announced size, where it is known; else the server has to tell.
    pub size: Option<u64>,
    /// The most bytes that are taken.
    pub largest: u64,
    /// All of it has to come within [`Limits::small_file`].
    pub small: bool,
    /// The part's name stands for its contents, and their hash is compared in the end: a part is continued as it is.
    /// Otherwise only with a strong `ETag` that the server confirms (`If-Range`); it is kept in `<part>.etag`.
    pub by_hash: bool,
}

/// A client of one server, and of those that it redirects to.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    limits: Limits,
    access: Option<Arc<Access>>,
}

impl Client {
    /// A client that sends no token.
    pub fn new(limits: &Limits) -> Self {
        Self::with(limits, None)
    }

    /// A client that sends a token to the one origin that may see it.
    pub(super) fn with_access(limits: &Limits, access: Access) -> Self {
        Self::with(limits, Some(Arc::new(access)))
    }

    fn with(limits: &Limits, access: Option<Arc<Access>>) -> Self {
        let config = Agent::config_builder()
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_send_request(Some(limits.silence))
            .timeout_recv_response(Some(limits.silence))
            .timeout_per_read(Some(limits.silence))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("actpatch/", env!("CARGO_PKG_VERSION")))
            // A compressed transfer would have another length than the file.
            .accept_encoding("identity")
            .build();
        let connector = DefaultConnector::new().chain(Unmasking(access.clone()));
        let agent = Agent::with_parts(config, connector, DefaultResolver::default());
        Self { agent, limits: limits.clone(), access }
    }

    /// The headers that tell about a file, of all answers on the way to it, later ones before earlier ones. The way
    /// ends where a redirect leads to another origin after an answer that had the header `settled`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn head(&self, url: &str, settled: &HeaderName) -> Result<HeaderMap, TransferError> {
        let mut attempts = Attempts::new(&self.limits);
        loop {
            match self.try_head(url, settled) {
                Ok(headers) => return Ok(headers),
                Err(failure) => self.again(&mut attempts, failure, url)?,
            }
        }
    }

    fn try_head(&self, url: &str, settled: &HeaderName) -> Result<HeaderMap, Failure> {
        let deadline = self.deadline();
        let (mut known, mut address) = (HeaderMap::new(), Address::parse(url)?);
        for _ in 0..=REDIRECTS {
            let response = self.send(&Method::HEAD, &address, &[], deadline)?;
            let next = redirect(&response, &address)?;
            if next.is_none() && !response.status().is_success() {
                return Err(self.refusal(&response, url, &address));
            }
            let about_file = |name: &HeaderName| next.is_none() || *name != header::CONTENT_LENGTH;
            for (name, value) in response.headers().iter().filter(|(name, _)| about_file(name)) {
                known.insert(name.clone(), value.clone());
            }
            match next {
                Some(next) if next.origin == address.origin || !known.contains_key(settled) => address = next,
                _ => return Ok(known),
            }
        }
        Err(Failure::answer(format!("at most {REDIRECTS} redirects"), "more"))
    }

    /// Brings all of a file into its part; `progress` hears the bytes there are and those there will be. Says whether
    /// the bytes are of more than one transfer.
    ///
    /// # Errors
    /// See [`Failure`]. What came is kept for the next attempt unless it cannot be of any use.
    pub fn fetch(&self, fetch: &Fetch<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<bool, TransferError> {
        let mut attempts = Attempts::new(&self.limits);
        loop {
            let before = length(fetch.part).unwrap_or(0);
            match self.try_fetch(fetch, progress) {
                Ok(continued) => return Ok(continued),
                Err(failure) => {
                    if length(fetch.part).is_some_and(|bytes| bytes >= before + GOOD_PART) {
                        attempts.forgive();
                    }
                    self.again(&mut attempts, failure, fetch.url)?;
                }
            }
        }
    }

    /// Waits before another attempt, or ends with the failure.
    fn again(&self, attempts: &mut Attempts<'_>, failure: Failure, url: &str) -> Result<(), TransferError> {
        let url = shown(url);
        attempts.wait_after(failure, &url).map_err(|failure| TransferError { url, attempts: attempts.made, failure })
    }

    fn try_fetch(&self, fetch: &Fetch<'_>, progress: &mut dyn FnMut(u64, u64)) -> Result<bool, Failure> {
        let (have, validator) = fetch.there();
        if fetch.by_hash && have > 0 && fetch.size == Some(have) {
            return Ok(true);
        }
        let deadline = if fetch.small { self.deadline() } else { None };
        let mut headers = Vec::new();
        if have > 0 {
            headers.push((header::RANGE, format!("bytes={have}-")));
            headers.extend(validator.iter().map(|etag| (header::IF_RANGE, etag.clone())));
        }
        let (response, address) = self.get(fetch.url, &headers, deadline)?;
        let (start, total) = match response.status() {
            StatusCode::OK => (0, fetch.total(&response)?),
            // Out of range: the part is as long as the file, or longer.
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                (have, fetch.total_with_rest(&response, have, validator.as_deref())?)
            }
            _ => return Err(self.refusal(&response, fetch.url, &address)),
        };
        if total > fetch.largest {
            return Err(Failure::TooLarge { found: total, largest: fetch.largest });
        }
        let mut file = fetch.open(start, text(&response, header::ETAG))?;
        let bounded = text(&response, header::CONTENT_LENGTH).is_some();
        let mut body = response.into_body().into_reader();
        self.copy(&mut body, &mut file, (start, total), fetch.part, progress)?;
        if !bounded && matches!(body.read(&mut [0]), Ok(1)) {
            remove(fetch.part)?;
            return Err(Failure::answer(format!("the announced {total} bytes"), "more"));
        }
        Ok(start > 0)
    }

    /// When a small file has to be there.
    fn deadline(&self) -> Option<Instant> {
        Instant::now().checked_add(self.limits.small_file)
    }

    /// Moves the bytes from `start` to `total`.
    fn copy(
        &self,
        body: &mut impl Read,
        file: &mut File,
        (start, total): (u64, u64),
        part: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Failure> {
        let disk = |source| Failure::File { path: part.into(), source };
        let (mut rest, mut piece, mut done) = (body.take(total - start), vec![0; PIECE], start);
        progress(done, total);
        while done < total {
            let reason = match rest.read(&mut piece) {
                Ok(0) => "the server closed the connection".to_owned(),
                Ok(read) => {
                    file.write_all(&piece[..read]).map_err(disk)?;
                    done += read as u64;
                    progress(done, total);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                    Some(inner) => self.describe(inner),
                    None => error.to_string(),
                },
            };
            return Err(Failure::Broken { expected: total, found: done, reason });
        }
        file.sync_all().map_err(disk)
    }

    /// Asks for a file's bytes, wherever redirects lead.
    fn get(
        &self,
        url: &str,
        headers: &[(HeaderName, String)],
        deadline: Option<Instant>,
    ) -> Result<(Response<Body>, Address), Failure> {
        let mut address = Address::parse(url)?;
        for _ in 0..=REDIRECTS {
            let response = self.send(&Method::GET, &address, headers, deadline)?;
            match redirect(&response, &address)? {
                Some(next) => address = next,
                None => return Ok((response, address)),
            }
        }
        Err(Failure::answer(format!("at most {REDIRECTS} redirects"), "more"))
    }

    /// One request and its answer.
    fn send(
        &self,
        method: &Method,
        address: &Address,
        headers: &[(HeaderName, String)],
        deadline: Option<Instant>,
    ) -> Result<Response<Body>, Failure> {
        let uri = address.uri.clone();
        let mut request = if *method == Method::HEAD { self.agent.head(uri) } else { self.agent.get(uri) };
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(access) = self.access.as_ref().filter(|access| access.origin == address.origin) {
            request = request.header(header::AUTHORIZATION, &access.mask);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let request = request.config().timeout_global(left).build();
        request.call().map_err(|error| {
            let lasting = match &error {
                ureq::Error::Io(error) => error.kind() == io::ErrorKind::InvalidData,
                ureq::Error::Timeout(_)
                | ureq::Error::HostNotFound
                | ureq::Error::ConnectionFailed
                | ureq::Error::ConnectProxyFailed(_) => false,
                _ => true,
            };
            Failure::Unreachable { reason: self.describe(&error), lasting }
        })
    }

    /// What went wrong on the way, in words.
    fn describe(&self, error: &ureq::Error) -> String {
        let limits = &self.limits;
        let (what, limit) = match error {
            ureq::Error::Timeout(ureq::Timeout::Resolve | ureq::Timeout::Connect) => ("no connection", limits.connect),
            ureq::Error::Timeout(ureq::Timeout::Global | ureq::Timeout::PerCall) => ("not all came", limits.small_file),
            ureq::Error::Timeout(_) => ("no byte came", limits.silence),
            ureq::Error::Io(error) => return error.to_string(),
            other => return other.to_string(),
        };
        format!("{what} within {}", humantime::format_duration(limit))
    }

    /// The failure that an answer with an unexpected status is.
    fn refusal(&self, response: &Response<Body>, url: &str, address: &Address) -> Failure {
        let own = Address::parse(url).is_ok_and(|asked| asked.origin == address.origin);
        Failure::Status {
            status: response.status().as_u16(),
            elsewhere: address.uri.authority().filter(|_| !own).map(ToString::to_string),
            retry_after: retry_after(response.headers(), SystemTime::now()),
        }
    }
}

impl Fetch<'_> {
    /// The bytes that may be continued, and the validator to continue them with.
    fn there(&self) -> (u64, Option<String>) {
        let bytes = length(self.part).filter(|bytes| self.size.is_none_or(|size| *bytes <= size)).unwrap_or(0);
        if self.by_hash {
            return (bytes, None);
        }
        match fs::read_to_string(self.validator()) {
            Ok(etag) if !etag.is_empty() => (bytes, Some(etag)),
            _ => (0, None),
        }
    }

    /// The file's size, from an answer that brings all of it.
    fn total(&self, response: &Response<Body>) -> Result<u64, Failure> {
        if let Some(encoding) = text(response, header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            return Err(Failure::answer("the file as it is", format!("Content-Encoding {encoding}")));
        }
        let found = match text(response, header::CONTENT_LENGTH).map(str::parse) {
            None => self.size.ok_or_else(|| Failure::answer("its size in Content-Length", "none"))?,
            Some(found) => found.map_err(|_| Failure::answer("a number of bytes in Content-Length", "another text"))?,
        };
        match self.size.filter(|size| *size != found) {
            Some(size) => Err(Failure::answer(format!("the announced {size} bytes"), format!("{found} bytes"))),
            None => Ok(found),
        }
    }

    /// The file's size, from an answer that brings the rest of it from `start` on. Of another answer nothing is used,
    /// nor is the part: the next attempt asks for all.
    fn total_with_rest(&self, response: &Response<Body>, start: u64, validator: Option<&str>) -> Result<u64, Failure> {
        let same = |size: &u64| {
            let length = text(response, header::CONTENT_LENGTH).map(str::parse);
            let changed =
                validator.is_some() && text(response, header::ETAG).is_some_and(|etag| Some(etag) != validator);
            let encoded = text(response, header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity");
            self.size.is_none_or(|announced| announced == *size)
                && length.is_none_or(|length| length == Ok(*size - start))
                && !changed
                && !encoded
        };
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let range = text(response, header::CONTENT_RANGE).filter(|_| partial);
        match range.and_then(|range| rest_from(range, start)).filter(same) {
            Some(size) => Ok(size),
            None => {
                remove(self.part)?;
                let reason = "the server did not go on where the part ends, which is deleted".to_owned();
                Err(Failure::Broken { expected: self.size.unwrap_or(start), found: 0, reason })
            }
        }
    }

    /// Where the validator of the part's bytes is.
    fn validator(&self) -> PathBuf {
        let mut name = self.part.as_os_str().to_owned();
        name.push(".etag");
        name.into()
    }

    /// The part, ready for the bytes from `start` on, whose validator is `etag`.
    ///
    /// Not every file system keeps locks between machines. So bytes are written at their places and not behind those of
    /// others, and what starts anew is another file: at worst two processes write the same bytes to the same places.
    fn open(&self, start: u64, etag: Option<&str>) -> Result<File, Failure> {
        let disk = |source| Failure::File { path: self.part.into(), source };
        if start == 0 {
            remove(self.part)?;
        }
        let mut file =
            OpenOptions::new().write(true).create(start == 0).truncate(false).open(self.part).map_err(disk)?;
        file.seek(SeekFrom::Start(start)).map_err(disk)?;
        // After the removal: at no time do old bytes stand beside a new validator.
        if start == 0 && !self.by_hash {
            let strong = etag.filter(|etag| !etag.starts_with("W/")).unwrap_or_default();
            let path = self.validator();
            write_whole(&path, strong.as_bytes()).map_err(|source| Failure::File { path, source })?;
        }
        Ok(file)
    }

    /// Gives the part, which is whole and right, its name.
    ///
    /// # Errors
    /// Any of the file system.
    pub fn finish(&self, path: &Path) -> io::Result<()> {
        fs::rename(self.part, path)?;
        match fs::remove_file(self.validator()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Where an answer redirects to.
fn redirect(response: &Response<Body>, address: &Address) -> Result<Option<Address>, Failure> {
    let Some(location) = response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection()) else {
        return Ok(None);
    };
    let location = location.to_str().map_err(|_| Failure::answer("a redirect to an address", "other characters"))?;
    address.join(location).map(Some)
}

/// A header's value.
fn text(response: &Response<Body>, name: HeaderName) -> Option<&str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// The file's size if `range` (`bytes first-last/size`) is all of it from `start` on.
fn rest_from(range: &str, start: u64) -> Option<u64> {
    let (span, size) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first == start && last >= first && last.checked_add(1)? == size).then_some(size)
}

/// The size of a file, if there is one.
fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|data| data.len())
}

/// Removes a part that is of no use.
fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Failure::File { path: path.into(), source }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_begins_where_the_part_ends_and_reaches_the_end() {
        assert_eq!(rest_from("bytes 5-9/10", 5), Some(10));
        for wrong in ["bytes 4-9/10", "bytes 5-8/10", "bytes 5-9/*", "bytes 5-18446744073709551615/1", "5-9/10", ""] {
            assert_eq!(rest_from(wrong, 5), None, "{wrong}");
        }
    }
}
