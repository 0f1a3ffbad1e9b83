//! A Hub and the host that it keeps large files at, played by a thread on two ports; every fault can be ordered.

use actpatch::model::HubSettings;
use actpatch::model::hub::{Limits, Observer};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub const REPO: &str = "someone/gpt2-tiny";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What stands behind the `?` of the addresses of large files.
pub const SIGNATURE: &str = "signature-of-the-link";

/// What happens in the place of a proper answer, once.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// No answer; the connection stays open.
    Silence,
    /// The connection is closed without an answer.
    Closed,
    /// So many bytes of the body, and no more; the connection stays open.
    Stall(usize),
    /// So many bytes of the body, then the connection ends.
    Cut(usize),
    /// The body byte by byte, slowly.
    Drip,
    /// The proper body, so many bytes at a time, slowly.
    Slow(usize),
    /// A body without an announced length that does not end.
    Endless,
    /// Another length is announced.
    Announced(u64),
    /// No length is announced.
    Unannounced,
    /// A later part is asked for, another one comes, and is called so.
    OtherPart,
    /// A later part is asked for, the whole comes.
    Whole,
    /// A proper answer with one more header.
    With(&'static str, &'static str),
    /// A redirect to the same file at the other host.
    Elsewhere,
}

/// How the server treats one file.
#[derive(Debug, Clone, Default)]
pub struct Served {
    pub bytes: Vec<u8>,
    /// Large files are answered with a redirect to the other host and named by their SHA-256.
    pub large: bool,
    /// A wrong byte is sent.
    pub damaged: bool,
    /// The commit is said to be this.
    pub commit: Option<&'static str>,
    /// The etag is this, not the hash.
    pub etag: Option<&'static str>,
    /// Every request is answered with this status.
    pub refused: Option<u16>,
    /// The faults of the next questions about the file.
    pub of_heads: VecDeque<Fault>,
    /// The faults of the next transfers of its bytes.
    pub of_bodies: VecDeque<Fault>,
}

impl Served {
    /// The etag: as Git names small files, and the Hub large ones.
    pub fn etag(&self) -> String {
        if let Some(etag) = self.etag {
            return etag.to_owned();
        }
        if self.large { hex(&Sha256::digest(&self.bytes)) } else { git_hash(&self.bytes) }
    }
}

/// `git hash-object`.
pub fn git_hash(bytes: &[u8]) -> String {
    let mut digest = Sha1::new_with_prefix(format!("blob {}\0", bytes.len()));
    digest.update(bytes);
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a request was and what it carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Came to the other host.
    pub elsewhere: bool,
    pub line: String,
    pub token: Option<String>,
    pub range: Option<String>,
    pub if_range: Option<String>,
}

impl Seen {
    /// Was this for the bytes of a file, where they are?
    pub fn transfers(&self, file: &str) -> bool {
        self.line.starts_with("GET") && self.line.contains(file)
    }
}

#[derive(Debug, Default)]
struct State {
    files: Mutex<HashMap<String, Served>>,
    seen: Mutex<Vec<Seen>>,
    /// Answers everything with this status.
    refuse: Mutex<Option<u16>>,
    /// Only requests with this token are served by the Hub.
    secret: Mutex<Option<String>>,
    /// Connections that stay open.
    held: Mutex<Vec<TcpStream>>,
    /// The port of the host for large files.
    elsewhere: u16,
    ended: AtomicBool,
}

pub struct Hub {
    address: String,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

impl Hub {
    /// Serves the files of a folder; those over 10 kB as the Hub serves large files.
    pub fn serve(folder: &Path) -> Self {
        let [hub, elsewhere] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = hub.local_addr().unwrap().to_string();
        let port = elsewhere.local_addr().unwrap().port();
        let state = Arc::new(State { elsewhere: port, ..State::default() });
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let served = Served { large: bytes.len() > 10_000, bytes, ..Served::default() };
            state.files.lock().unwrap().insert(name, served);
        }
        let threads = [(hub, false), (elsewhere, true)].map(|(listener, elsewhere)| {
            let state = Arc::clone(&state);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if state.ended.load(Ordering::SeqCst) {
                        break;
                    }
                    let _ = answer(&state, stream.unwrap(), elsewhere);
                }
            })
        });
        Self { address, state, threads: threads.into() }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Settings that ask this server, patiently but without long waits between attempts.
    pub fn settings(&self, cache: &Path) -> HubSettings {
        HubSettings {
            cache: cache.into(),
            endpoint: self.endpoint(),
            token: None,
            offline: false,
            limits: Limits { attempts: 3, first_wait: Duration::from_millis(1), ..Limits::default() },
            observer: Observer::default(),
        }
    }

    /// The same, but every failure counts.
    pub fn strict(&self, cache: &Path) -> HubSettings {
        let settings = self.settings(cache);
        HubSettings { limits: Limits { attempts: 1, ..settings.limits }, ..settings }
    }

    pub fn change(&self, file: &str, change: impl FnOnce(&mut Served)) {
        change(self.state.files.lock().unwrap().get_mut(file).unwrap());
    }

    /// Orders faults of the next questions about a file.
    pub fn disturb_heads(&self, file: &str, faults: impl IntoIterator<Item = Fault>) {
        self.change(file, |served| served.of_heads = faults.into_iter().collect());
    }

    /// Orders faults of the next transfers of a file.
    pub fn disturb(&self, file: &str, faults: impl IntoIterator<Item = Fault>) {
        self.change(file, |served| served.of_bodies = faults.into_iter().collect());
    }

    pub fn remove(&self, file: &str) {
        self.state.files.lock().unwrap().remove(file);
    }

    pub fn etag(&self, file: &str) -> String {
        self.state.files.lock().unwrap()[file].etag()
    }

    pub fn refuse(&self, status: Option<u16>) {
        *self.state.refuse.lock().unwrap() = status;
    }

    pub fn demand(&self, secret: Option<&str>) {
        *self.state.secret.lock().unwrap() = secret.map(str::to_owned);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The ranges of all requests for the bytes of a file that came to where they are.
    pub fn ranges(&self, file: &str) -> Vec<Option<String>> {
        let large = self.state.files.lock().unwrap()[file].large;
        let seen = self.seen().into_iter();
        seen.filter(|seen| seen.transfers(file) && seen.elsewhere == large).map(|seen| seen.range).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.state.held.lock().unwrap().clear();
        let _ = TcpStream::connect(&self.address);
        let _ = TcpStream::connect(("127.0.0.1", self.state.elsewhere));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn answer(state: &Arc<State>, stream: TcpStream, elsewhere: bool) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let line = lines.next().transpose()?.unwrap_or_default();
    let mut headers = HashMap::new();
    while let Some(header) = lines.next().transpose()?.filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(": ").unwrap();
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let [token, range, if_range] = ["authorization", "range", "if-range"].map(|name| headers.get(name).cloned());
    let seen = Seen { elsewhere, line: line.clone(), token: token.clone(), range, if_range };
    state.seen.lock().unwrap().push(seen.clone());
    let reply = Reply { state, stream, head_only: line.starts_with("HEAD") };
    if let Some(status) = *state.refuse.lock().unwrap() {
        return reply.send(status, &[], b"");
    }
    let secret = state.secret.lock().unwrap().clone();
    if !elsewhere && secret.is_some() && secret.map(|secret| format!("Bearer {secret}")) != token {
        return reply.send(401, &[], b"");
    }
    let path = line.split(' ').nth(1).unwrap().split('?').next().unwrap();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    // A repository that was renamed: the Hub redirects within itself.
    if parts[..2] == ["someone", "old-name"] {
        let location = path.replace("old-name", "gpt2-tiny");
        return reply.send(307, &[("Location", location)], b"");
    }
    let known = ["main", COMMIT, "v1", "refs%2Fpr%2F1"];
    if let ["api", "models", "someone", "gpt2-tiny", "revision", revision] = parts.as_slice()
        && known.contains(revision)
    {
        let files = state.files.lock().unwrap();
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let list = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return reply.send(200, &[], list.as_bytes());
    }
    let file = match parts.as_slice() {
        ["someone", "gpt2-tiny", "resolve", revision, file] if known.contains(revision) => file,
        ["contents", file] if elsewhere => file,
        _ => return reply.send(404, &[], b""),
    };
    let mut files = state.files.lock().unwrap();
    let Some(served) = files.get_mut(*file) else {
        return reply.send(404, &[], b"");
    };
    if let Some(status) = served.refused {
        return reply.send(status, &[], b"");
    }
    deliver(reply, file, served, &seen)
}

fn deliver(reply: Reply<'_>, file: &str, served: &mut Served, seen: &Seen) -> std::io::Result<()> {
    let mut headers = vec![("X-Repo-Commit", served.commit.unwrap_or(COMMIT).to_owned())];
    let etag = format!("\"{}\"", served.etag());
    let location = format!("http://127.0.0.1:{}/contents/{file}?{SIGNATURE}", reply.state.elsewhere);
    if served.large && !seen.elsewhere {
        let size = served.bytes.len().to_string();
        headers.extend([("X-Linked-Etag", etag), ("X-Linked-Size", size), ("Location", location)]);
        return reply.send(302, &headers, b"");
    }
    headers.push(("ETag", etag.clone()));
    let mut bytes = served.bytes.clone();
    if served.damaged {
        *bytes.last_mut().unwrap() ^= 1;
    }
    let fault = if reply.head_only { served.of_heads.pop_front() } else { served.of_bodies.pop_front() };
    let size = bytes.len();
    let asked = seen.range.as_deref().filter(|_| seen.if_range.as_ref().is_none_or(|validator| *validator == etag));
    let asked = asked.map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').parse::<usize>().unwrap());
    let Some(body) = bytes.get(asked.unwrap_or(0)..).filter(|body| !body.is_empty() || asked.is_none()) else {
        return reply.send(416, &headers, b"");
    };
    let status = if asked.is_some() { 206 } else { 200 };
    let range = |from: usize| ("Content-Range", format!("bytes {from}-{}/{size}", size - 1));
    headers.extend(asked.map(range));
    match fault {
        None => reply.send(status, &headers, body),
        Some(Fault::Status(status, more)) => reply.send(status, &more, b""),
        Some(Fault::Closed) => Ok(()),
        Some(Fault::Silence) => reply.hold(),
        Some(Fault::Elsewhere) => reply.send(302, &[("Location", location)], b""),
        Some(Fault::Cut(end)) => reply.begin(status, &headers, Some(body.len() as u64), &body[..end]).map(drop),
        Some(Fault::Stall(end)) => reply.begin(status, &headers, Some(body.len() as u64), &body[..end])?.hold(),
        Some(Fault::Announced(size)) => reply.begin(status, &headers, Some(size), b"")?.hold(),
        Some(Fault::Unannounced) => reply.begin(status, &headers, None, body).map(drop),
        Some(Fault::Endless) => reply.begin(200, &headers, None, &bytes)?.repeat(&[b' '; 1 << 16], Duration::ZERO),
        Some(Fault::Drip) => {
            let reply = reply.begin(status, &headers, Some(body.len() as u64), b"")?;
            reply.repeat(b"{", Duration::from_millis(20))
        }
        Some(Fault::Slow(piece)) => {
            let mut reply = reply.begin(status, &headers, Some(body.len() as u64), b"")?.stream;
            let body = body.to_vec();
            std::thread::spawn(move || {
                for piece in body.chunks(piece) {
                    std::thread::sleep(Duration::from_millis(20));
                    if reply.write_all(piece).is_err() {
                        break;
                    }
                }
            });
            Ok(())
        }
        Some(Fault::With(name, value)) => {
            headers.push((name, value.to_owned()));
            reply.send(status, &headers, body)
        }
        Some(Fault::Whole) => {
            headers.pop();
            reply.send(200, &headers, &bytes)
        }
        Some(Fault::OtherPart) => {
            headers.pop();
            headers.push(range(0));
            reply.send(206, &headers, &bytes)
        }
    }
}

/// The way back.
struct Reply<'a> {
    state: &'a Arc<State>,
    stream: TcpStream,
    head_only: bool,
}

impl Reply<'_> {
    fn send(self, status: u16, headers: &[(&str, String)], body: &[u8]) -> std::io::Result<()> {
        self.begin(status, headers, Some(body.len() as u64), body).map(drop)
    }

    /// Sends the head and, unless only that was asked for, some of the body.
    fn begin(
        mut self,
        status: u16,
        headers: &[(&str, String)],
        length: Option<u64>,
        body: &[u8],
    ) -> std::io::Result<Self> {
        let mut text = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\n");
        if let Some(length) = length {
            text += &format!("Content-Length: {length}\r\n");
        }
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        self.stream.write_all((text + "\r\n").as_bytes())?;
        if !self.head_only {
            self.stream.write_all(body)?;
        }
        Ok(self)
    }

    /// Leaves the connection open.
    fn hold(self) -> std::io::Result<()> {
        self.state.held.lock().unwrap().push(self.stream);
        Ok(())
    }

    /// Sends the same again and again, until the other side has had enough.
    fn repeat(mut self, bytes: &'static [u8], wait: Duration) -> std::io::Result<()> {
        let state = Arc::clone(self.state);
        std::thread::spawn(move || {
            while !state.ended.load(Ordering::SeqCst) && self.stream.write_all(bytes).is_ok() {
                std::thread::sleep(wait);
            }
        });
        Ok(())
    }
}
