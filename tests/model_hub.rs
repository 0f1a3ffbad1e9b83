//! The Hub, played by a small server on this machine: downloads, the cache, and every way they can fail.

mod support;

use actpatch::model::hub::Token;
use actpatch::model::{HubSettings, LoadOptions, Model, Source};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use support::{Copy, offline};

const REPO: &str = "someone/gpt2-tiny";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server treats one file.
#[derive(Debug, Clone, Default)]
struct Served {
    bytes: Vec<u8>,
    /// Large files are answered with a redirect and named by their hash.
    large: bool,
    /// The connection ends after so many bytes of the body, once.
    cut_at: Option<usize>,
    /// Every `Range` that asks for a later part is ignored.
    without_later_parts: bool,
    /// A wrong byte is sent.
    damaged: bool,
    /// The commit is said to be this.
    commit: Option<&'static str>,
    /// This one file is answered with this status.
    refused: Option<u16>,
}

/// What a request was and what it carried.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    line: String,
    token: Option<String>,
    range: Option<String>,
}

impl Seen {
    /// Was this for the bytes of a file, not only for its size?
    fn transfers(&self, part: &str) -> bool {
        self.line.contains(part) && self.range.as_deref() != Some("bytes=0-0")
    }
}

#[derive(Debug, Default)]
struct State {
    files: Mutex<HashMap<String, Served>>,
    seen: Mutex<Vec<Seen>>,
    /// Answers everything with this status.
    refuse: Mutex<Option<u16>>,
    /// Only requests with this token are served.
    secret: Mutex<Option<String>>,
    ended: AtomicBool,
}

struct Hub {
    address: String,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    /// Serves the files of a folder; those over 10 kB as the Hub serves large files.
    fn serve(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let served = Served { large: bytes.len() > 10_000, bytes, ..Served::default() };
            state.files.lock().unwrap().insert(name, served);
        }
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    break;
                }
                let _ = answer(&shared, stream.unwrap());
            }
        });
        Self { address, state, thread: Some(thread) }
    }

    fn settings(&self, cache: &Path) -> HubSettings {
        let endpoint = format!("http://{}", self.address);
        HubSettings { cache: cache.into(), endpoint, token: None, offline: false }
    }

    fn change(&self, file: &str, change: impl FnOnce(&mut Served)) {
        change(self.state.files.lock().unwrap().get_mut(file).unwrap());
    }

    fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn answer(state: &State, stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let line = lines.next().transpose()?.unwrap_or_default();
    let mut headers = HashMap::new();
    while let Some(header) = lines.next().transpose()?.filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(": ").unwrap();
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let token = headers.get("authorization").cloned();
    let range = headers.get("range").cloned();
    state.seen.lock().unwrap().push(Seen { line: line.clone(), token: token.clone(), range: range.clone() });
    if let Some(status) = *state.refuse.lock().unwrap() {
        return send(stream, status, &[], b"");
    }
    let secret = state.secret.lock().unwrap().clone();
    if secret.is_some() && secret.map(|secret| format!("Bearer {secret}")) != token {
        return send(stream, 401, &[], b"");
    }
    let mut words = line.split(' ');
    let path = words.nth(1).unwrap();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    // A repository that was renamed: the Hub redirects within itself.
    if parts[..2] == ["someone", "old-name"] {
        let location = path.replace("old-name", "gpt2-tiny");
        return send(stream, 307, &[("Location", location.as_str())], b"");
    }
    let known = ["main", COMMIT, "v1", "refs%2Fpr%2F1"];
    let file = match parts.as_slice() {
        ["someone", "gpt2-tiny", "resolve", revision, file] if known.contains(revision) => file,
        ["contents", file] => file,
        _ => return send(stream, 404, &[], b""),
    };
    let mut files = state.files.lock().unwrap();
    let Some(served) = files.get_mut(*file) else {
        return send(stream, 404, &[], b"");
    };
    if let Some(status) = served.refused {
        return send(stream, status, &[], b"");
    }
    deliver(stream, path, file, served, range)
}

fn deliver(
    stream: TcpStream,
    path: &str,
    file: &str,
    served: &mut Served,
    range: Option<String>,
) -> std::io::Result<()> {
    let hash: String = Sha256::digest(&served.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if served.large && !path.starts_with("/contents") {
        let (size, location) = (
            served.bytes.len().to_string(),
            format!("http://localhost:{}/contents/{file}", stream.local_addr()?.port()),
        );
        let etag = format!("\"{hash}\"");
        let headers =
            [("X-Repo-Commit", COMMIT), ("X-Linked-Etag", &etag), ("X-Linked-Size", &size), ("Location", &location)];
        return send(stream, 302, &headers, b"");
    }
    let etag = format!("\"{}\"", &hash[..40]);
    let headers = [("X-Repo-Commit", served.commit.unwrap_or(COMMIT)), ("ETag", etag.as_str())];
    let mut bytes = served.bytes.clone();
    if served.damaged {
        *bytes.last_mut().unwrap() ^= 1;
    }
    let size = bytes.len();
    // `bytes=first-` or `bytes=first-last`.
    let number = |text: &str| text.parse::<usize>().ok();
    let asked = range.as_deref().and_then(|range| range.trim_start_matches("bytes=").split_once('-'));
    let (mut from, mut until) =
        asked.map_or((0, size), |(first, last)| (number(first).unwrap(), number(last).map_or(size, |last| last + 1)));
    if from >= size {
        return send(stream, 416, &headers, b"");
    }
    if from > 0 && served.without_later_parts {
        (from, until) = (0, size);
    }
    let body = &bytes[from..until];
    let content_range = format!("bytes {from}-{}/{size}", until - 1);
    let headers = [headers[0], headers[1], ("Content-Range", content_range.as_str())];
    let status = if asked.is_some() { 206 } else { 200 };
    // What only asks how large the file is does not suffer.
    if body.len() <= 1 {
        return send(stream, status, &headers, body);
    }
    match served.cut_at.take() {
        Some(end) => {
            let mut stream = stream;
            head(stream.try_clone()?, status, &headers, body.len())?;
            stream.write_all(&body[..end])
        }
        None => send(stream, status, &headers, body),
    }
}

fn head(mut stream: TcpStream, status: u16, headers: &[(&str, &str)], length: usize) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Whatever\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    stream.write_all((text + "\r\n").as_bytes())
}

fn send(mut stream: TcpStream, status: u16, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<()> {
    head(stream.try_clone()?, status, headers, body.len())?;
    stream.write_all(body)
}

fn load(spec: &str, settings: &HubSettings) -> Result<Model, String> {
    Model::load_from(spec, &LoadOptions::default(), settings).map_err(|error| error.to_string())
}

fn complaint(spec: &str, settings: &HubSettings) -> String {
    load(spec, settings).map(|model| model.name).expect_err("must not load")
}

#[test]
fn downloads_once_and_then_needs_no_network() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let model = load(REPO, &hub.settings(cache.path())).unwrap();
    let source = Source::Hub { repo: REPO.into(), revision: "main".into(), commit: COMMIT.into() };
    assert_eq!((model.name.as_str(), &model.provenance.source), ("gpt2-tiny", &source));
    let requests = hub.seen().len();
    // The layout that the Hub's other clients read and write.
    let root = cache.path().join("models--someone--gpt2-tiny");
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let link = std::fs::read_link(root.join("snapshots").join(COMMIT).join("model.safetensors")).unwrap();
    assert!(link.starts_with("../../blobs"), "{link:?}");
    assert_eq!(
        std::fs::read(root.join("snapshots").join(COMMIT).join("model.safetensors")).unwrap(),
        std::fs::read(copy.file("model.safetensors")).unwrap()
    );
    // Only the first file is asked for by the branch; the others by its commit, so that all are of one commit.
    assert!(hub.seen()[1..].iter().all(|seen| !seen.line.contains("/main/")), "{:?}", hub.seen());

    load(REPO, &hub.settings(cache.path())).unwrap();
    assert_eq!(hub.seen().len(), requests, "the second load asked the server");
    drop(hub);
    let again = load(REPO, &offline(cache.path())).unwrap();
    assert_eq!(again.provenance, model.provenance);
    assert_eq!(again.layer(1).unwrap(), model.layer(1).unwrap());
    load(&format!("{REPO}@{COMMIT}"), &offline(cache.path())).unwrap();
}

#[test]
fn offline_without_a_copy() {
    let cache = tempfile::tempdir().unwrap();
    let message = complaint(REPO, &offline(cache.path()));
    for part in [REPO, "config.json", cache.path().to_str().unwrap(), "HF_HUB_OFFLINE"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn shards_revisions_and_renamed_repositories() {
    let (copy, cache) = (Copy::of("neox-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.shard().path());
    let settings = hub.settings(cache.path());
    let model = load(&format!("{REPO}@refs/pr/1"), &settings).unwrap();
    assert_eq!((model.name.as_str(), model.provenance.files.len()), ("gpt2-tiny@refs-pr-1", 3));
    let before = hub.seen().len();
    let options = LoadOptions { revision: Some("v1".into()), ..LoadOptions::default() };
    Model::load_from(REPO, &options, &settings).unwrap();
    // The same commit: only the name had to be looked up.
    assert_eq!(hub.seen().len(), before + 1, "{:?}", &hub.seen()[before..]);
    assert_eq!(load("someone/old-name", &settings).unwrap().name, "old-name");
    // A shard that is gone from the cache is fetched again.
    let shard = "model-00002-of-00002.safetensors";
    let root = cache.path().join("models--someone--gpt2-tiny");
    std::fs::remove_file(std::fs::canonicalize(root.join("snapshots").join(COMMIT).join(shard)).unwrap()).unwrap();
    let message = complaint(&format!("{REPO}@v1"), &offline(cache.path()));
    assert!(message.contains(shard), "{message}");
    load(&format!("{REPO}@v1"), &settings).unwrap();
    load(&format!("{REPO}@v1"), &offline(cache.path())).unwrap();
}

#[test]
fn tokens_are_sent_to_the_hub_but_not_with_transfers_from_elsewhere() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    *hub.state.secret.lock().unwrap() = Some("secret".into());
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("HTTP 401") && message.contains("HF_TOKEN"), "{message}");
    let wrong = HubSettings { token: Some(Token::new("wrong")), ..hub.settings(cache.path()) };
    let message = complaint(REPO, &wrong);
    assert!(message.contains("HTTP 401") && !message.contains("wrong"), "{message}");

    *hub.state.secret.lock().unwrap() = None;
    let settings = HubSettings { token: Some(Token::new("secret")), ..hub.settings(cache.path()) };
    load(REPO, &settings).unwrap();
    let seen = hub.seen();
    let (contents, own): (Vec<_>, Vec<_>) = seen[2..].iter().partition(|seen| seen.line.contains("/contents/"));
    assert!(own.iter().all(|seen| seen.token.as_deref() == Some("Bearer secret")), "{own:?}");
    // The contents are at another host name. hf-hub asks there for the size with the token, for the bytes without.
    let transfers: Vec<_> = contents.iter().filter(|seen| seen.transfers("")).collect();
    assert!(!transfers.is_empty() && transfers.iter().all(|seen| seen.token.is_none()), "{contents:?}");
}

#[test]
fn refusals_name_what_was_refused() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    let message = complaint("someone/else", &settings);
    assert!(message.contains("HTTP 404") && message.contains("someone/else"), "{message}");
    let message = complaint(&format!("{REPO}@v9"), &settings);
    assert!(message.contains("HTTP 404") && message.contains("someone/gpt2-tiny at v9"), "{message}");
    for (status, part) in [(403, "HTTP 403); check"), (403, "accept a gated model's conditions"), (500, "HTTP 500")] {
        *hub.state.refuse.lock().unwrap() = Some(status);
        let message = complaint(REPO, &settings);
        assert!(message.contains(part), "{message}");
    }
    *hub.state.refuse.lock().unwrap() = None;
    hub.state.files.lock().unwrap().remove("tokenizer.json");
    let message = complaint(REPO, &settings);
    assert!(message.contains("HTTP 404") && message.contains("no tokenizer.json"), "{message}");
    let refused = HubSettings { endpoint: "http://127.0.0.1:1".into(), ..settings };
    let message = complaint(REPO, &refused);
    assert!(message.contains("cannot be reached") && message.contains("127.0.0.1:1"), "{message}");
}

#[test]
fn a_commit_that_would_lead_out_of_the_cache() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    hub.change("config.json", |served| served.commit = Some("../../../../elsewhere"));
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("x-repo-commit: expected a commit hash"), "{message}");
    assert!(!cache.path().join("models--someone--gpt2-tiny").exists());
}

#[test]
fn encrypted_connections_are_built_in() {
    let cache = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let first = std::thread::spawn(move || {
        let mut bytes = [0; 2];
        listener.accept().unwrap().0.read_exact(&mut bytes).map(|()| bytes)
    });
    let settings = HubSettings { endpoint: endpoint.clone(), offline: false, ..offline(cache.path()) };
    let message = complaint(REPO, &settings);
    assert!(message.contains("cannot be reached") && message.contains(&endpoint), "{message}");
    // A record of type 22 (handshake) of TLS, whose versions all begin with 3.
    assert_eq!(first.join().unwrap().unwrap(), [22, 3]);
}

#[test]
fn the_cache_folder_may_be_relative() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let here = std::env::current_dir().unwrap();
    let up = here.components().skip(1).map(|_| "..").collect::<std::path::PathBuf>();
    let relative = up.join(cache.path().strip_prefix("/").unwrap());
    load(REPO, &hub.settings(&relative)).unwrap();
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn weights_in_the_other_format_only() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    std::fs::rename(copy.file("model.safetensors"), copy.file("pytorch_model.bin")).unwrap();
    let hub = Hub::serve(copy.path());
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("pytorch_model.bin but no model.safetensors"), "{message}");
    hub.state.files.lock().unwrap().remove("pytorch_model.bin");
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("no model.safetensors"), "{message}");
}

#[test]
fn a_transfer_that_breaks_off_is_continued_and_never_taken_for_whole() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let size = std::fs::metadata(copy.file("model.safetensors")).unwrap().len();
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    hub.change("model.safetensors", |served| served.cut_at = Some(30_000));
    let message = complaint(REPO, &settings);
    assert!(
        message.contains(&format!("expected {size} bytes, received 30000 (")) && message.contains("model.safetensors"),
        "{message}"
    );
    let message = complaint(REPO, &offline(cache.path()));
    assert!(message.contains("is not in the cache"), "{message}");
    load(REPO, &settings).unwrap();
    let last = hub.seen().into_iter().last().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=30000-"));
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn a_file_without_a_hash_starts_anew() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    hub.change("config.json", |served| served.cut_at = Some(100));
    let message = complaint(REPO, &settings);
    assert!(message.contains("config.json: incomplete") && message.contains("received 100 ("), "{message}");
    load(REPO, &settings).unwrap();
    let seen = hub.seen();
    let ranges: Vec<_> = seen.iter().filter(|seen| seen.transfers("config.json")).map(|seen| &seen.range).collect();
    assert_eq!(ranges, [&Some("bytes=0-".to_owned()); 2]);
}

#[test]
fn a_whole_file_after_a_part_is_not_taken_for_it() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let size = std::fs::metadata(copy.file("model.safetensors")).unwrap().len();
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    hub.change("model.safetensors", |served| (served.cut_at, served.without_later_parts) = (Some(20_000), true));
    complaint(REPO, &settings);
    // Asked for the rest, the server sends everything.
    let message = complaint(REPO, &settings);
    let expected = format!("expected {size} bytes, found {} bytes", size + 20_000);
    assert!(message.contains("damaged") && message.contains(&expected), "{message}");
    let message = complaint(&format!("{REPO}@{COMMIT}"), &offline(cache.path()));
    assert!(message.contains("model.safetensors is not in the cache"), "{message}");
    load(REPO, &settings).unwrap();
}

#[test]
fn a_part_that_is_whole_is_fetched_again() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    load(REPO, &settings).unwrap();
    // As if the program had ended just before the file got its name.
    let root = cache.path().join("models--someone--gpt2-tiny");
    let blob = std::fs::canonicalize(root.join("snapshots").join(COMMIT).join("model.safetensors")).unwrap();
    std::fs::rename(&blob, blob.with_extension("part")).unwrap();
    load(REPO, &settings).unwrap();
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn damaged_contents_are_thrown_away() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    hub.change("model.safetensors", |served| served.damaged = true);
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("damaged: expected SHA-256"), "{message}");
    hub.change("model.safetensors", |served| served.damaged = false);
    load(REPO, &hub.settings(cache.path())).unwrap();
}

#[test]
fn a_download_that_ends_between_files_goes_on_with_the_next() {
    let (copy, cache) = (Copy::of("neox-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.shard().path());
    let settings = hub.settings(cache.path());
    let [first, second] = [1, 2].map(|shard| format!("model-0000{shard}-of-00002.safetensors"));
    for (status, part) in [(403, "accept a gated model's conditions"), (503, "HTTP 503"), (404, "HTTP 404")] {
        hub.change(&second, |served| served.refused = Some(status));
        let message = complaint(REPO, &settings);
        assert!(message.contains(part) && message.contains(&second), "{message}");
        // Neither the branch nor the commit passes for a whole repository.
        for spec in [REPO.to_owned(), format!("{REPO}@{COMMIT}")] {
            let message = complaint(&spec, &offline(cache.path()));
            assert!(message.contains("is not in the cache"), "{message}");
        }
    }
    hub.change(&second, |served| served.refused = None);
    load(REPO, &settings).unwrap();
    let transfers = |file: &str| hub.seen().iter().filter(|seen| seen.transfers(&format!("/contents/{file}"))).count();
    assert_eq!((transfers(&first), transfers(&second)), (1, 1), "what is there is not fetched again");
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn a_small_file_that_breaks_off_is_not_taken_for_whole() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    hub.change("config.json", |served| served.cut_at = Some(40));
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("config.json") && message.contains("incomplete"), "{message}");
    let message = complaint(REPO, &offline(cache.path()));
    assert!(message.contains("config.json is not in the cache"), "{message}");
    load(REPO, &hub.settings(cache.path())).unwrap();
}

#[test]
fn two_at_once_download_once() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..3).map(|_| scope.spawn(|| load(REPO, &settings).unwrap().name)).collect();
        loads.into_iter().for_each(|load| assert_eq!(load.join().unwrap(), "gpt2-tiny"));
    });
    assert_eq!(hub.seen().iter().filter(|seen| seen.transfers("/contents/model.safetensors")).count(), 1);
}

#[test]
fn tokenizers_for_random_models() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let options = LoadOptions { tokenizer: Some(REPO.into()), ..LoadOptions::default() };
    let model = Model::load_from("random:pythia-14m", &options, &hub.settings(cache.path())).unwrap();
    assert_eq!(model.tokenizer.bos(), Some(0));
    assert!(hub.seen().iter().all(|seen| !seen.line.contains("safetensors")));
}
