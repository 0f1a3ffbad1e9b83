//! A folder of results for a browser on this machine: its page as it is now, how sweeps come along, and its files.
//!
//! It listens on 127.0.0.1 alone and only reads. A page of somebody else that is open in the same browser can make requests
//! too: those that were not meant for this address (`Host`) are refused, and answers are for pages of this address.

use super::{INDEX, Overview, PROGRESS};
use crate::report::pages::html;
use crate::session::{Fault, Observer, Stopped};
use anyhow::{Context, Result, anyhow};
use percent_encoding::percent_decode_str;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

/// The port that is tried first where none is asked for.
pub const PORT: u16 = 8000;

/// How often it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Ledgers may be large: finding out how sweeps come along takes at most this share of the time.
const SHARE: u32 = 20;

/// Answers about the progress of sweeps are at least so old before they are made anew.
const YOUNGEST: Duration = Duration::from_millis(500);

/// A folder of results that is served.
pub struct Listening {
    server: Server,
    site: Arc<Site>,
}

impl Listening {
    /// Listens on a port of 127.0.0.1; 0 is any free one. Without a port it is [`PORT`], or any free one if that is taken.
    ///
    /// # Errors
    /// A port that is taken, or not allowed.
    pub fn on(overview: Overview, port: Option<u16>) -> Result<Self> {
        let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = match (bind(port.unwrap_or(PORT)), port) {
            (Err(error), None) if error.kind() == ErrorKind::AddrInUse => bind(0),
            (listener, _) => listener,
        };
        let wrong = |error| Fault::of("port", format!("127.0.0.1:{}: {error}", port.unwrap_or(PORT)));
        let listener = listener.map_err(wrong)?;
        let port = listener.local_addr().context("127.0.0.1")?.port();
        let server = Server::from_listener(listener, None).map_err(|error| anyhow!("127.0.0.1:{port}: {error}"))?;
        Ok(Self { server, site: Arc::new(Site { overview, port, progress: Mutex::default() }) })
    }

    /// Where a browser finds it.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/", self.site.port)
    }

    /// Answers until the observer ends it.
    ///
    /// # Errors
    /// [`Stopped`] in the end; a port that can no longer be listened on.
    pub fn serve(&self, observer: &mut dyn Observer) -> Result<()> {
        while !observer.cancelled() {
            let Some(request) = self.server.recv_timeout(LOOK).with_context(|| self.address())? else { continue };
            let site = self.site.clone();
            // A browser that reads slowly keeps no other waiting. A request that gets no thread is answered with an error.
            let _ = std::thread::Builder::new().spawn(move || respond(&site, request));
        }
        Err(Stopped { left: None }.into())
    }
}

/// What is served.
struct Site {
    overview: Overview,
    port: u16,
    /// The last answer about progress, when it was made, and how long that took.
    progress: Mutex<Option<(Instant, Duration, Vec<u8>)>>,
}

/// What a request is answered with.
struct Answer {
    status: u16,
    /// Its type, and the policy under which a browser may show it.
    kind: Kind,
    body: Box<dyn Read + Send>,
    length: usize,
}

/// A type of contents, and the security policy for it.
#[derive(Clone, Copy)]
struct Kind(&'static str, &'static str);

/// The page of results: its own style and script, figures beside it, and progress.
const LIVE: Kind = Kind(
    "text/html; charset=utf-8",
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src 'self' data: blob:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Pages of results: their own style and scripts, and nothing else.
const PAGE: Kind = Kind(
    "text/html; charset=utf-8",
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// Everything else runs no script.
const INERT: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'; sandbox";

const TEXT: Kind = Kind("text/plain; charset=utf-8", INERT);

/// What a file is by its ending.
fn kind_of(path: &Path) -> Kind {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    match &*ending {
        "html" => PAGE,
        "svg" => Kind("image/svg+xml", INERT),
        "png" => Kind("image/png", INERT),
        "csv" => Kind("text/csv; charset=utf-8", INERT),
        "json" => Kind("application/json", INERT),
        "pdf" => Kind("application/pdf", INERT),
        "parquet" => Kind("application/vnd.apache.parquet", INERT),
        "npz" => Kind("application/zip", INERT),
        // As what they are a browser would save these: as text it shows them.
        "jsonl" | "md" | "toml" | "txt" => TEXT,
        // Arrays and weights, `npy` and `safetensors`, have no type of their own.
        _ => Kind("application/octet-stream", INERT),
    }
}

impl Answer {
    fn of(status: u16, kind: Kind, body: Vec<u8>) -> Self {
        Self { status, kind, length: body.len(), body: Box::new(Cursor::new(body)) }
    }

    fn text(status: u16, text: &str) -> Self {
        Self::of(status, TEXT, format!("{text}\n").into_bytes())
    }

    fn file(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // A file of more bytes than there are addresses is none of ours.
        let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        Ok(Self { status: 200, kind: kind_of(path), length, body: Box::new(file) })
    }
}

fn respond(site: &Site, request: Request) {
    let hosts =
        request.headers().iter().filter(|header| header.field.equiv("Host")).map(|header| header.value.as_str());
    let Answer { status, kind: Kind(kind, policy), body, length } =
        site.answer(request.method(), &hosts.collect::<Vec<_>>(), request.url());
    tracing::info!("{} {}: {status}", request.method(), request.url());
    let fields = [
        ("Content-Type", kind),
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
        ("Allow", "GET, HEAD"),
    ];
    let headers = fields.iter().filter_map(|(name, value)| Header::from_bytes(*name, *value).ok()).collect();
    let response =
        Response::new(StatusCode(status), headers, body, Some(length), None).with_chunked_threshold(usize::MAX);
    if let Err(error) = request.respond(response) {
        tracing::info!("a browser has gone away: {error}");
    }
}

impl Site {
    fn answer(&self, method: &Method, hosts: &[&str], url: &str) -> Answer {
        if !self.is_ours(hosts) {
            return Answer::text(403, "this address is not served under that name");
        }
        if !matches!(method, Method::Get | Method::Head) {
            return Answer::text(405, "only read");
        }
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let made = match path.strip_prefix('/') {
            Some("" | INDEX) => self.page().map(|page| Answer::of(200, LIVE, page)),
            Some(PROGRESS) => self.progress().map(|json| Answer::of(200, Kind("application/json", INERT), json)),
            // Every browser asks for it.
            Some("favicon.ico") => Ok(Answer::of(204, TEXT, Vec::new())),
            _ => match file_of(&self.overview.root, path).map(|file| Answer::file(&file)) {
                Some(Ok(file)) => Ok(file),
                _ => Ok(Answer::text(404, "not found")),
            },
        };
        made.unwrap_or_else(|error| Answer::text(500, &format!("{error:#}")))
    }

    /// Was the request meant for this address? Another name that was made to lead here (DNS rebinding) is refused.
    fn is_ours(&self, hosts: &[&str]) -> bool {
        let [host] = hosts else { return false };
        let ours = ["127.0.0.1", "localhost", "[::1]"];
        let with_port = |name: &&str| *host == format!("{name}:{}", self.port);
        ours.iter().any(with_port) || (self.port == 80 && ours.contains(host))
    }

    fn page(&self) -> Result<Vec<u8>> {
        Ok(html(&self.overview.page(true)?, "index")?.into_bytes())
    }

    fn progress(&self) -> Result<Vec<u8>> {
        let mut last = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, took, json)) = &*last
            && made.elapsed() < YOUNGEST.max(*took * SHARE)
        {
            return Ok(json.clone());
        }
        let begun = Instant::now();
        let json = serde_json::to_vec(&self.overview.progress()?)?;
        *last = Some((Instant::now(), begun.elapsed(), json.clone()));
        Ok(json)
    }
}

/// The file below `root`, which has no links in its path, that an address names; none for one that is hidden, is not there,
/// or lies elsewhere.
fn file_of(root: &Path, path: &str) -> Option<PathBuf> {
    let mut file = root.to_owned();
    for part in path.strip_prefix('/')?.split('/') {
        let name = percent_decode_str(part).decode_utf8().ok()?;
        let mut parts = Path::new(&*name).components();
        let only = parts.next().filter(|part| *part == Component::Normal(OsStr::new(&*name)));
        if only.is_none() || parts.next().is_some() || name.starts_with('.') || name.contains('\0') {
            return None;
        }
        file.push(&*name);
    }
    // Links may lead out.
    let file = file.canonicalize().ok()?;
    (file.starts_with(root) && file.is_file()).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Ends when it is told.
    struct Until(Arc<AtomicBool>);

    impl Observer for Until {
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// What is said to a server of a folder, in whole requests, and what it answers.
    fn served(folder: &Path, talk: impl FnOnce(u16)) {
        let listening = Listening::on(Overview::open(folder).unwrap(), Some(0)).unwrap();
        let (port, stop) = (listening.site.port, Arc::new(AtomicBool::new(false)));
        assert_eq!(listening.address(), format!("http://127.0.0.1:{port}/"));
        std::thread::scope(|scope| {
            let mut until = Until(stop.clone());
            let served = scope.spawn(move || listening.serve(&mut until).unwrap_err());
            let talked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| talk(port)));
            stop.store(true, Ordering::Relaxed);
            assert!(served.join().unwrap().is::<Stopped>());
            talked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }

    /// The head and the body of an answer.
    fn raw(port: u16, request: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
    }

    fn ask(port: u16, method: &str, url: &str) -> (String, Vec<u8>) {
        raw(port, &format!("{method} {url} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"))
    }

    fn status(port: u16, url: &str) -> u16 {
        let (head, _) = ask(port, "GET", url);
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn files_of_the_folder_are_served_with_their_types_and_policies() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("demo/figures")).unwrap();
        for (name, text) in [
            ("model.json", "{}"),
            ("a b_ü%2e.svg", "<svg/>"),
            ("figures/x.html", "<p>"),
            ("x.csv", "a,b\n"),
            ("x.npy", "\u{1}"),
            ("x.npz", "PK"),
            ("x.safetensors", "\u{8}"),
            ("x.parquet", "PAR1"),
            ("x.pdf", "%PDF"),
            ("x.PNG", "png"),
            ("x.toml", "a = 1\n"),
            ("x.md", "# a\n"),
            ("ledger.jsonl", ""),
        ] {
            std::fs::write(folder.path().join("demo").join(name), text).unwrap();
        }
        served(folder.path(), |port| {
            for (url, kind, body) in [
                ("/demo/a%20b_%C3%BC%252e.svg", "image/svg+xml", "<svg/>"),
                ("/demo/figures/x.html?a=b", "text/html; charset=utf-8", "<p>"),
                ("/demo/x.csv", "text/csv; charset=utf-8", "a,b\n"),
                ("/demo/x.npy", "application/octet-stream", "\u{1}"),
                ("/demo/x.npz", "application/zip", "PK"),
                ("/demo/x.safetensors", "application/octet-stream", "\u{8}"),
                ("/demo/x.parquet", "application/vnd.apache.parquet", "PAR1"),
                ("/demo/x.pdf", "application/pdf", "%PDF"),
                ("/demo/x.PNG", "image/png", "png"),
                ("/demo/model.json", "application/json", "{}"),
                ("/demo/x.toml", "text/plain; charset=utf-8", "a = 1\n"),
                ("/demo/x.md", "text/plain; charset=utf-8", "# a\n"),
                ("/demo/ledger.jsonl", "text/plain; charset=utf-8", ""),
            ] {
                let (head, found) = ask(port, "GET", url);
                assert!(head.starts_with("HTTP/1.1 200 "), "{url}: {head}");
                assert!(head.contains(&format!("\r\nContent-Type: {kind}\r\n")), "{url}: {head}");
                assert!(head.contains("\r\nX-Content-Type-Options: nosniff"), "{head}");
                assert!(head.contains("\r\nContent-Security-Policy: default-src 'none'; "), "{head}");
                assert_eq!(head.contains("script-src"), kind.starts_with("text/html"), "{head}");
                assert!(!head.contains("connect-src"), "{head}");
                assert_eq!(found, body.as_bytes(), "{url}");
            }
            let (head, body) = ask(port, "HEAD", "/demo/x.csv");
            assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nContent-Length: 4"), "{head}");
            assert!(body.is_empty());
        });
    }

    #[test]
    fn the_page_is_live_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("demo");
        std::fs::create_dir(&model).unwrap();
        std::fs::write(model.join("x.svg"), "<svg/>").unwrap();
        std::fs::write(model.join("running-abc.json"), "{}").unwrap();
        let ledger = crate::sweep::Ledger::open(&model, &Default::default()).unwrap();
        let names = || {
            let entries = std::fs::read_dir(&model).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        served(folder.path(), |port| {
            for url in ["/", "/index.html"] {
                let (head, body) = ask(port, "GET", url);
                let body = String::from_utf8(body).unwrap();
                assert!(
                    head.contains("connect-src 'self'") && body.contains(r#""progress":"progress.json""#),
                    "{head}"
                );
            }
            let (head, body) = ask(port, "GET", "/progress.json");
            assert!(head.contains("application/json"), "{head}");
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((&json["sweeps"][0]["name"], &json["sweeps"][0]["done"]), (&"demo".into(), &0.into()));
        });
        drop(ledger);
        assert_eq!(names(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the page is not written");
    }

    #[test]
    fn nothing_outside_the_folder_is_served() {
        let outside = tempfile::tempdir().unwrap();
        let folder = outside.path().join("data");
        std::fs::create_dir_all(folder.join("demo/.git")).unwrap();
        for path in ["secret.txt", "data/.hidden", "data/demo/.git/config", "data/demo/x.csv"] {
            std::fs::write(outside.path().join(path), "secret").unwrap();
        }
        #[cfg(unix)]
        for (target, link) in [
            (outside.path().join("secret.txt"), "demo/link.txt"),
            (outside.path().to_owned(), "demo/up"),
            (folder.join("demo/x.csv"), "demo/inside.csv"),
            (folder.join("nowhere"), "demo/dangling.txt"),
        ] {
            std::os::unix::fs::symlink(target, folder.join(link)).unwrap();
        }
        let absolute = outside.path().join("secret.txt").display().to_string();
        served(&folder, |port| {
            for url in [
                "/../secret.txt",
                "/demo/../../secret.txt",
                "/%2e%2e/secret.txt",
                "/demo/%2e%2e/%2e%2e/secret.txt",
                "/..%2fsecret.txt",
                "/demo/..%2F..%2Fsecret.txt",
                "/%252e%252e/secret.txt",
                "/..%5csecret.txt",
                "//secret.txt",
                "/demo//x.csv",
                "/./demo/x.csv",
                "/demo/x.csv/",
                "/demo%2Fx.csv",
                "/demo/x.csv%00",
                "/demo",
                "/demo/",
                "/demo/link.txt",
                "/demo/up/secret.txt",
                "/demo/dangling.txt",
                "/.hidden",
                "/demo/.git/config",
                "/%ff",
                "demo/x.csv",
                "http://127.0.0.1/demo/x.csv",
                &absolute,
                &format!("/{absolute}"),
                &absolute.replace('/', "%2f"),
            ] {
                assert_eq!(status(port, url), 404, "{url}");
            }
            assert_eq!(status(port, "/demo/x.csv"), 200);
            #[cfg(unix)]
            assert_eq!(status(port, "/demo/inside.csv"), 200, "a link that stays inside");
        });
    }

    #[test]
    fn only_requests_meant_for_this_address_are_answered_and_only_reading() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.csv"), "a\n").unwrap();
        served(folder.path(), |port| {
            let with = |hosts: &str| {
                let (head, _) = raw(port, &format!("GET /x.csv HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"));
                head.split(' ').nth(1).unwrap().to_owned()
            };
            for name in ["127.0.0.1", "localhost", "[::1]"] {
                assert_eq!(with(&format!("Host: {name}:{port}\r\n")), "200", "{name}");
                assert_eq!(with(&format!("Host: {name}\r\n")), "403", "{name}");
                assert_eq!(with(&format!("Host: {name}:{}\r\n", port ^ 1)), "403", "{name}");
            }
            assert_eq!(with(""), "403");
            assert_eq!(with(&format!("Host: evil.example:{port}\r\n")), "403");
            assert_eq!(with(&format!("Host: localhost:{port}\r\nHost: evil.example\r\n")), "403");
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "MOVE"] {
                let (head, _) = ask(port, method, "/x.csv");
                assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("\r\nAllow: GET, HEAD"), "{method}: {head}");
            }
            // What is no request at all ends neither the server nor its thread.
            for noise in ["\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\u{0}\r\n\r\n"] {
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
                stream.write_all(noise.as_bytes()).unwrap();
                let _ = stream.read_to_end(&mut Vec::new());
            }
            assert_eq!(status(port, "/x.csv"), 200);
        });
    }

    #[test]
    fn a_port_that_is_taken_is_named_or_passed_by() {
        let folder = tempfile::tempdir().unwrap();
        let on = |port| Listening::on(Overview::open(folder.path()).unwrap(), port);
        let first = on(Some(0)).unwrap();
        let error = on(Some(first.site.port)).err().unwrap().to_string();
        assert!(error.contains("port: 127.0.0.1:") && error.contains("in use"), "{error}");
        let (one, other) = (on(None).unwrap(), on(None).unwrap());
        assert_ne!(one.site.port, other.site.port);
    }
}
