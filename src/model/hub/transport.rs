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
use super::retry::{Attempts, retry_after};
use super::wire::{Access, Unmasking};
use crate::files::write_whole;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use ureq::http::header::{self, HeaderName};
use ureq::http::uri::Scheme;
use ureq::http::{HeaderMap, Method, Response, StatusCode, Uri};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Body};

/// The most redirects in a row.
const REDIRECTS: usize = 10;

/// The bytes that are moved at a time.
const PIECE: usize = 1 << 16;

/// What an attempt has to bring to be forgiven its failure.
const GOOD_PART: u64 = 1 << 20;

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection, or no answer over it.
    Unreachable {
        /// Why.
        reason: String,
        /// Another attempt would end the same way.
        lasting: bool,
    },
    /// An answer that is none of the expected ones.
    Status {
        /// The HTTP status.
        status: u16,
        /// The host that answered, if a redirect led to another one.
        elsewhere: Option<String>,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server asks for a longer wait than is allowed.
    Pause {
        /// The HTTP status.
        status: u16,
        /// The wait it asks for.
        asked: Duration,
        /// The longest one allowed.
        longest: Duration,
    },
    /// The transfer ended before the file did.
    Broken {
        /// The announced size.
        expected: u64,
        /// The bytes there are.
        found: u64,
        /// How it ended.
        reason: String,
    },
    /// More bytes are announced than the caller allows.
    TooLarge {
        /// The announced size.
        found: u64,
        /// The largest one allowed.
        largest: u64,
    },
    /// An answer that cannot be used, or an address that cannot be asked.
    Answer {
        /// What would do.
        expected: String,
        /// What there is.
        found: String,
    },
    /// The part cannot be written.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Failure {
    /// May another attempt end better?
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { lasting, .. } => !lasting,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::Broken { .. } => true,
            Self::Pause { .. } | Self::TooLarge { .. } | Self::Answer { .. } | Self::File { .. } => false,
        }
    }

    fn answer(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Answer { expected: expected.into(), found: found.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { reason, .. } => formatter.write_str(reason),
            Self::Status { status, elsewhere: None, .. } => write!(formatter, "HTTP {status}"),
            Self::Status { status, elsewhere: Some(host), .. } => write!(formatter, "HTTP {status} from {host}"),
            Self::Pause { status, asked, longest } => {
                let (asked, longest) = (humantime::format_duration(*asked), humantime::format_duration(*longest));
                write!(formatter, "HTTP {status}, and asks to wait {asked} (Retry-After), more than {longest}")
            }
            Self::Broken { expected, found, reason } => write!(formatter, "{found} of {expected} bytes came: {reason}"),
            Self::TooLarge { found, largest } => write!(formatter, "expected at most {largest} bytes, found {found}"),
            Self::Answer { expected, found } => write!(formatter, "expected {expected}, found {found}"),
            Self::File { path, source } => write!(formatter, "{}: {source}", path.display()),
        }
    }
}

/// What ended a request for good.
#[derive(Debug)]
pub(crate) struct TransferError {
    /// The address, as it may be shown.
    pub url: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub failure: Failure,
}

impl TransferError {
    /// The failure in words, with the number of attempts.
    pub fn reason(&self) -> String {
        match self.attempts {
            1 => self.failure.to_string(),
            attempts => format!("{}; {attempts} attempts", self.failure),
        }
    }
}

/// Who a token may be sent to: scheme, host and port, all three.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an address that can be asked.
    pub fn parse(address: &str) -> Option<Self> {
        Address::parse(address).ok().map(|address| address.origin)
    }

    /// The origin of an absolute address of http or https.
    pub fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme().filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme))?;
        let port = uri.port_u16().unwrap_or(if *scheme == Scheme::HTTPS { 443 } else { 80 });
        Some(Self { scheme: scheme.clone(), host: uri.host()?.to_ascii_lowercase(), port })
    }
}

/// An absolute address of http or https without user name and password.
#[derive(Debug, Clone)]
struct Address {
    uri: Uri,
    origin: Origin,
}

impl Address {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || Failure::answer("an address http:// or https:// with a host", shown(text));
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Failure::answer("an address without user name and password", shown(text)));
        }
        Ok(Self { origin: Origin::of(&uri).ok_or_else(wrong)?, uri })
    }

    /// Where a redirect from here leads: an address, or a path at the same origin.
    fn join(&self, location: &str) -> Result<Self, Failure> {
        let (scheme, path) = (&self.origin.scheme, self.uri.path());
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let next = if location.contains("://") && !location.starts_with('/') {
            Self::parse(location)?
        } else if location.starts_with("//") {
            Self::parse(&format!("{scheme}:{location}"))?
        } else if location.starts_with('/') {
            Self::parse(&format!("{scheme}://{authority}{location}"))?
        } else {
            Self::parse(&format!("{scheme}://{authority}{folder}/{location}"))?
        };
        if *scheme == Scheme::HTTPS && next.origin.scheme == Scheme::HTTP {
            return Err(Failure::answer("a redirect to https", shown(location)));
        }
        Ok(next)
    }
}

/// An address as it may be shown: without user name, password and what follows a `?` or `#`.
pub(crate) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    let (before, rest) = plain.split_at(plain.find("//").map_or(0, |start| start + 2));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{before}{host}{path}")
}

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

    fn origin(url: &str) -> Origin {
        Address::parse(url).unwrap().origin
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.example/a?b"), origin("https://hub.example:443/c"));
        for other in ["http://hub.example", "https://hub.example:8443", "https://cdn.hub.example"] {
            assert_ne!(origin("https://hub.example/a"), origin(other));
        }
        for wrong in ["hub.example/a", "/a", "ftp://hub.example", "", "https://", "https://a b/"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn redirects_lead_to_addresses_and_paths_but_not_out_of_https() {
        let here = Address::parse("https://hub.example:8443/a/b?c=d").unwrap();
        for (location, expected) in [
            ("/x?y=1", "https://hub.example:8443/x?y=1"),
            ("x", "https://hub.example:8443/a/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("https://cdn.example/x?to=http://y", "https://cdn.example/x?to=http://y"),
            ("/x?to=http://y", "https://hub.example:8443/x?to=http://y"),
        ] {
            assert_eq!(here.join(location).unwrap().uri.to_string(), expected);
        }
        assert!(here.join("http://hub.example:8443/x").is_err());
        assert!(here.join("https://name:secret@cdn.example/x").is_err());
        assert!(Address::parse("http://a/").unwrap().join("https://a/").is_ok());
    }

    #[test]
    fn addresses_are_shown_without_secrets() {
        for (url, expected) in [
            ("https://name:secret@hub.example/a/b?signature=secret#secret", "https://hub.example/a/b"),
            ("https://hub.example", "https://hub.example"),
            ("//secret@cdn.example/a?secret", "//cdn.example/a"),
            ("name:secret@hub.example/a", "hub.example/a"),
            ("/a/b@v1?secret", "/a/b@v1"),
        ] {
            assert_eq!(shown(url), expected);
        }
        let Failure::Answer { expected, found } = Address::parse("https://name:secret@hub.example/a").unwrap_err()
        else {
            panic!("another failure")
        };
        assert_eq!(
            (expected.as_str(), found.as_str()),
            ("an address without user name and password", "https://hub.example/a")
        );
    }

    #[test]
    fn a_rest_begins_where_the_part_ends_and_reaches_the_end() {
        assert_eq!(rest_from("bytes 5-9/10", 5), Some(10));
        for wrong in ["bytes 4-9/10", "bytes 5-8/10", "bytes 5-9/*", "bytes 5-18446744073709551615/1", "5-9/10", ""] {
            assert_eq!(rest_from(wrong, 5), None, "{wrong}");
        }
    }
}
