//! The Treebank: files, join, pairs and dataset files against an independent script
//! (`tests/reference/make_treebank_fixtures.py`), broken files, the download against a server on this machine, and the
//! journey from files to patched cells on the demo model.

use actpatch::datasets::treebank::{
    Archive, Loss, Scaffold, Split, Treebank, TreebankError, TreebankFiles, answer_tokens, encode, pair,
};
use actpatch::model::Tokenizer;
use actpatch::model::hub::Limits;
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/treebank")
}

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture().join("expected.json")).unwrap()).unwrap()
}

fn demo_tokenizer() -> Tokenizer {
    Tokenizer::from_file(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/models/demo/tokenizer.json"), Some(0))
        .unwrap()
}

fn read(folder: &Path, repair: bool) -> Result<Treebank, TreebankError> {
    Treebank::read(&TreebankFiles::find(folder).unwrap(), repair)
}

/// A folder with the fixture's files that a test may change.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

#[test]
fn the_join_equals_the_reference() {
    let (treebank, expected) = (read(&fixture(), false).unwrap(), expected());
    let found: Vec<Value> =
        treebank.sentences.iter().map(|s| serde_json::json!([s.text, u8::from(s.positive), s.split.name()])).collect();
    assert_eq!(Value::from(found), expected["sentences"]);
    let losses: Vec<Value> =
        treebank.losses.iter().map(|(index, _, loss)| serde_json::json!([index, loss.name()])).collect();
    assert_eq!(Value::from(losses), expected["losses"]);
    let label = |text: &str| treebank.sentences.iter().find(|s| s.text == text).unwrap().positive;
    assert!(!label("A film of two halves .") && label("A barely better film ."), "0.5 is negative");
}

#[test]
fn repair_finds_brackets_and_doubly_encoded_letters() {
    let treebank = read(&fixture(), true).unwrap();
    let counts = serde_json::json!([treebank.sentences.len(), treebank.losses.len()]);
    assert_eq!(counts, expected()["repaired"]);
    for text in ["( A great film ) .", "La fiancée is dreadful ."] {
        assert!(treebank.sentences.iter().any(|sentence| sentence.text == text), "{text}");
    }
    assert!(treebank.losses.iter().any(|(_, text, loss)| text.contains("Nobody") && *loss == Loss::NoPhrase));
}

#[test]
fn pairs_equal_the_reference_and_have_equal_lengths() {
    let (treebank, expected, tokenizer) = (read(&fixture(), false).unwrap(), expected(), demo_tokenizer());
    for split in Split::ALL {
        for scaffold in Scaffold::ALL {
            let rows = pair(&encode(treebank.split(split), scaffold, &tokenizer).unwrap(), split).unwrap();
            let found: Vec<Value> = rows
                .iter()
                .map(|r| serde_json::json!([r.text, u8::from(r.positive), r.corrupted_text, r.token_count]))
                .collect();
            assert_eq!(Value::from(found), expected["rows"][format!("{split}_{scaffold}")], "{split} {scaffold}");
            for (index, row) in rows.iter().enumerate() {
                assert_eq!(row.positive, index % 2 == 0);
                let length = |text: &str| 1 + tokenizer.encode(&scaffold.apply(text)).unwrap().len();
                assert_eq!([length(&row.text), length(&row.corrupted_text)], [row.token_count; 2]);
            }
        }
    }
}

#[test]
fn broken_lines_are_named_with_file_line_and_field() {
    let cases = [
        ("datasetSentences.txt", "1 no tab", "two fields"),
        ("datasetSentences.txt", "x1\tA film .", "sentence_index"),
        ("datasetSentences.txt", "1\tA film .", "no earlier line"),
        ("datasetSentences.txt", "999\t ", "sentence: expected a text"),
        ("dictionary.txt", "a phrase without id", "two fields"),
        ("dictionary.txt", "a phrase|x", "phrase id"),
        ("dictionary.txt", "a phrase|0", "no earlier line"),
        ("sentiment_labels.txt", "5000|1.5", "number from 0 to 1"),
        ("sentiment_labels.txt", "5000|NaN", "number from 0 to 1"),
        ("sentiment_labels.txt", "5000|", "number from 0 to 1"),
        ("sentiment_labels.txt", "-3|0.5", "phrase id"),
        ("sentiment_labels.txt", "0|0.5", "no earlier line"),
        ("datasetSplit.txt", "5000,4", "1 (train), 2 (test) or 3 (dev)"),
        ("datasetSplit.txt", "1,1", "no earlier line"),
        ("datasetSplit.txt", "5000;1", "two fields"),
    ];
    for (file, line, says) in cases {
        let folder = copy();
        let path = folder.path().join(file);
        let mut text = std::fs::read_to_string(&path).unwrap().trim_end().to_owned() + "\n";
        let number = text.lines().count() + 1;
        text += &format!("{line}\r\n");
        std::fs::write(&path, text).unwrap();
        let message = read(folder.path(), false).unwrap_err().to_string();
        let place = format!("{file}, line {number}: ");
        assert!(message.contains(&place) && message.contains(says), "{line:?}: {message}");
    }
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_line() {
    let folder = copy();
    let path = folder.path().join("dictionary.txt");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(b"caf\xe9|7000\n");
    let line = bytes.iter().filter(|byte| **byte == b'\n').count();
    std::fs::write(&path, bytes).unwrap();
    let message = read(folder.path(), false).unwrap_err().to_string();
    assert!(message.contains(&format!("dictionary.txt, line {line}: text: expected UTF-8")), "{message}");
}

#[test]
fn corrected_files_are_preferred_and_missing_ones_named() {
    let folder = copy();
    let text = std::fs::read_to_string(folder.path().join("dictionary.txt")).unwrap();
    std::fs::write(folder.path().join("dictionary_fixed.txt"), text).unwrap();
    let files = TreebankFiles::find(folder.path()).unwrap();
    assert!(files.dictionary.ends_with("dictionary_fixed.txt") && files.sentences.ends_with("datasetSentences.txt"));
    std::fs::remove_file(folder.path().join("datasetSplit.txt")).unwrap();
    std::fs::remove_file(folder.path().join("datasetSentences.txt")).unwrap();
    let url = "https://example.org/x.zip".into();
    let archive = Archive { url, sha256: None, offline: true, limits: Limits::default() };
    let message = archive.provide(folder.path(), |_, _| {}).unwrap_err().to_string();
    for part in ["datasetSentences_fixed.txt or datasetSentences.txt", "datasetSplit.txt", "https://example.org/x.zip"]
    {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("dictionary") && !message.contains("sentiment_labels"), "{message}");
}

#[test]
fn sentences_that_find_no_partner_are_an_error_only_when_all_do() {
    let (treebank, tokenizer) = (read(&fixture(), false).unwrap(), demo_tokenizer());
    let all = encode(treebank.split(Split::Dev), Scaffold::Plain, &tokenizer).unwrap();
    let positive: Vec<_> = all.into_iter().filter(|one| one.positive).collect();
    let message = pair(&positive, Split::Dev).unwrap_err().to_string();
    assert!(message.contains("treebank_dev") && message.contains(&format!("{} positive, 0 negative", positive.len())));
    assert!(answer_tokens(Scaffold::Classification, &tokenizer).is_ok());
}

/// What the server does with the archive.
#[derive(Default)]
struct Served {
    bytes: Vec<u8>,
    etag: String,
    /// Close the connection after so many bytes of the next answer.
    cut: Option<usize>,
    /// What the next answers begin with, in the place of the archive.
    refusals: VecDeque<String>,
    /// `If-Range` is not looked at.
    careless: bool,
    /// Range headers of all requests.
    ranges: Vec<Option<String>>,
}

/// A server of one file that understands Range and If-Range.
struct Server {
    address: String,
    served: Arc<Mutex<Served>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(bytes: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = Arc::new(Mutex::new(Served { bytes, etag: "\"one\"".into(), ..Served::default() }));
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(&served), Arc::clone(&ended));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let _ = answer(&mut shared.lock().unwrap(), stream.unwrap());
            }
        });
        Self { address, served, ended, thread: Some(thread) }
    }

    /// The archive, asked for once.
    fn archive(&self) -> Archive {
        let url = format!("http://{}/sst.zip", self.address);
        Archive { url, sha256: None, offline: false, limits: Limits { attempts: 1, ..Limits::default() } }
    }

    /// The archive, asked for again and again.
    fn patient(&self) -> Archive {
        let limits = Limits { attempts: 3, first_wait: Duration::from_millis(1), ..Limits::default() };
        Archive { limits, ..self.archive() }
    }

    fn change(&self, change: impl FnOnce(&mut Served)) {
        change(&mut self.served.lock().unwrap());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn answer(served: &mut Served, mut stream: TcpStream) -> std::io::Result<()> {
    let (mut range, mut condition) = (None, None);
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?;
        match line.to_ascii_lowercase().split_once(": ") {
            Some(("range", value)) => range = Some(value.to_owned()),
            Some(("if-range", value)) => condition = Some(value.to_owned()),
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    served.ranges.push(range.clone());
    if let Some(refusal) = served.refusals.pop_front() {
        return write!(stream, "HTTP/1.1 {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let total = served.bytes.len();
    let from = range.filter(|_| served.careless || condition.is_none_or(|etag| etag == served.etag));
    let start: usize =
        from.map_or(0, |range| range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap());
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {}\r\n", total - start, served.etag)?;
    if start > 0 {
        write!(stream, "Content-Range: bytes {start}-{}/{total}\r\n", total - 1)?;
    }
    write!(stream, "Connection: close\r\n\r\n")?;
    let end = served.cut.take().map_or(total, |cut| (start + cut).min(total));
    stream.write_all(&served.bytes[start..end])
}

/// An archive like the official one, with members that must not be taken out.
fn zipped(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        writer.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn official() -> Vec<u8> {
    let file = |name: &str| std::fs::read(fixture().join(name)).unwrap();
    zipped(&[
        ("stanfordSentimentTreebank/README.txt", b"not needed".to_vec()),
        ("__MACOSX/stanfordSentimentTreebank/._dictionary.txt", b"junk".to_vec()),
        ("__MACOSX/stanfordSentimentTreebank/dictionary.txt", b"junk".to_vec()),
        ("stanfordSentimentTreebank/datasetSentences.txt", file("datasetSentences.txt")),
        ("stanfordSentimentTreebank/dictionary.txt", file("dictionary.txt")),
        ("../../sentiment_labels.txt", file("sentiment_labels.txt")),
        ("/etc/datasetSplit.txt", file("datasetSplit.txt")),
    ])
}

#[test]
fn the_archive_is_downloaded_once_and_only_its_needed_files_taken_out() {
    let (server, folder) = (Server::start(official()), tempfile::tempdir().unwrap());
    let root = folder.path().join("deep/root");
    let mut seen = Vec::new();
    let files = server.archive().provide(&root, |done, total| seen.push((done, total))).unwrap();
    let total = official().len() as u64;
    assert_eq!(seen.last(), Some(&(total, total)));
    assert_eq!(Treebank::read(&files, false).unwrap(), read(&fixture(), false).unwrap());
    let mut names: Vec<_> =
        std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let archive = "stanfordSentimentTreebank.zip";
    let note = format!("{archive}.sha256");
    let wanted = ["datasetSentences.txt", "datasetSplit.txt", "dictionary.txt", "sentiment_labels.txt", archive, &note];
    assert_eq!(names, wanted);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside the root");
    let note = std::fs::read_to_string(root.join(note)).unwrap();
    assert!(note.split(' ').next().unwrap().len() == 64 && note.ends_with(&format!("  {archive}\n")), "{note}");
    server.archive().provide(&root, |_, _| {}).unwrap();
    assert_eq!(server.served.lock().unwrap().ranges.len(), 1, "files that are there are not downloaded again");
}

#[test]
fn an_interrupted_download_continues_and_a_changed_file_starts_anew() {
    for changed in [false, true] {
        let (server, folder) = (Server::start(official()), tempfile::tempdir().unwrap());
        server.change(|served| served.cut = Some(700));
        let message = server.archive().provide(folder.path(), |_, _| {}).unwrap_err().to_string();
        assert!(message.contains(&format!("of {} bytes", official().len())), "{message}");
        assert!(TreebankFiles::find(folder.path()).is_err(), "a part is never taken for the whole");
        if changed {
            server.change(|served| served.etag = "\"two\"".into());
        }
        server.archive().provide(folder.path(), |_, _| {}).unwrap();
        let ranges = server.served.lock().unwrap().ranges.clone();
        assert_eq!(ranges, [None, Some("bytes=700-".to_owned())]);
        assert_eq!(std::fs::read(folder.path().join("stanfordSentimentTreebank.zip")).unwrap(), official());
    }
}

#[test]
fn a_changed_file_is_noticed_whatever_the_server_looks_at() {
    let (server, folder) = (Server::start(official()), tempfile::tempdir().unwrap());
    server.change(|served| served.cut = Some(700));
    server.archive().provide(folder.path(), |_, _| {}).unwrap_err();
    server.change(|served| (served.careless, served.etag) = (true, "\"two\"".into()));
    server.patient().provide(folder.path(), |_, _| {}).unwrap();
    let ranges = server.served.lock().unwrap().ranges.clone();
    assert_eq!(ranges, [None, Some("bytes=700-".to_owned()), None]);
    assert_eq!(std::fs::read(folder.path().join("stanfordSentimentTreebank.zip")).unwrap(), official());
}

#[test]
fn a_download_goes_on_by_itself_and_waits_for_a_busy_server() {
    let (server, folder) = (Server::start(official()), tempfile::tempdir().unwrap());
    let refusals = ["500 Whatever", "302 Whatever\r\nLocation: /elsewhere"].map(str::to_owned);
    server.change(|served| (served.cut, served.refusals) = (Some(700), refusals.into()));
    server.patient().provide(folder.path(), |_, _| {}).unwrap();
    let ranges = server.served.lock().unwrap().ranges.clone();
    assert_eq!(ranges, [None, None, None, Some("bytes=700-".to_owned())]);

    let folder = tempfile::tempdir().unwrap();
    server.change(|served| served.refusals = ["429 Whatever\r\nRetry-After: 86400".to_owned()].into());
    let message = server.patient().provide(folder.path(), |_, _| {}).unwrap_err().to_string();
    for part in ["datasetSplit.txt", "HTTP 429, and asks to wait 1day (Retry-After), more than 5m"] {
        assert!(message.contains(part), "{message}");
    }
    server.change(|served| served.refusals = std::iter::repeat_n("503 Whatever".to_owned(), 3).collect());
    let message = server.patient().provide(folder.path(), |_, _| {}).unwrap_err().to_string();
    assert!(message.contains("HTTP 503; 3 attempts"), "{message}");
}

#[test]
fn several_at_once_download_one_archive() {
    let (server, folder) = (Server::start(official()), tempfile::tempdir().unwrap());
    std::thread::scope(|scope| {
        let provided: Vec<_> =
            (0..4).map(|_| scope.spawn(|| server.archive().provide(folder.path(), |_, _| {}).unwrap())).collect();
        provided.into_iter().for_each(|files| assert!(files.join().unwrap().sentences.is_file()));
    });
    assert_eq!(server.served.lock().unwrap().ranges.len(), 1);
    let litter = |name: &str| name.ends_with(".lock") || name.ends_with(".part") || name.ends_with(".etag");
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| litter(name.to_str().unwrap())), "{names:?}");
}

#[test]
fn a_wrong_hash_and_a_damaged_archive_are_errors() {
    let (server, folder) = (Server::start(official()), tempfile::tempdir().unwrap());
    let wrong = Archive { sha256: Some("0".repeat(64)), ..server.archive() };
    let message = wrong.provide(folder.path(), |_, _| {}).unwrap_err().to_string();
    assert!(message.contains("expected SHA-256 000") && message.contains("remove it"), "{message}");
    assert!(TreebankFiles::find(folder.path()).is_err());

    let mut damaged = official();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 40].fill(0x55);
    let twice = zipped(&[("a/dictionary.txt", b"x|1".to_vec()), ("b/dictionary.txt", b"x|1".to_vec())]);
    for (bytes, says) in [(damaged, ""), (twice, "two files dictionary.txt"), (b"<html>".to_vec(), "")] {
        let (server, folder) = (Server::start(bytes), tempfile::tempdir().unwrap());
        let message = server.archive().provide(folder.path(), |_, _| {}).unwrap_err().to_string();
        assert!(message.contains("expected a whole zip archive") && message.contains(says), "{message}");
    }
    let incomplete = zipped(&[("a/dictionary.txt", b"x|1".to_vec())]);
    let (server, folder) = (Server::start(incomplete), tempfile::tempdir().unwrap());
    let message = server.archive().provide(folder.path(), |_, _| {}).unwrap_err().to_string();
    assert!(message.contains("datasetSplit.txt") && !message.contains("dictionary_fixed.txt"), "{message}");
}

#[test]
fn a_server_that_is_not_there_gives_the_error_with_the_missing_files() {
    // A port that nothing listens on any more.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let limits = Limits { attempts: 2, first_wait: Duration::from_millis(1), ..Limits::default() };
    let archive = Archive { url: format!("http://{address}/x.zip"), sha256: None, offline: false, limits };
    let folder = tempfile::tempdir().unwrap();
    let message = archive.provide(folder.path(), |_, _| {}).unwrap_err().to_string();
    assert!(message.contains("datasetSplit.txt") && message.contains("the download from http://127"), "{message}");
}
