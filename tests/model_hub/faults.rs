//! Servers that are silent, slow, endless, busy or wrong.

use super::server::{COMMIT, Fault, Hub, REPO, SIGNATURE};
use super::support::{Copy, offline};
use super::{complaint, hub_size, load, root};
use actpatch::model::HubSettings;
use actpatch::model::hub::Limits;
use std::path::Path;
use std::time::{Duration, Instant};

/// Settings of a client with little time.
fn hurried(hub: &Hub, cache: &Path, attempts: u32) -> HubSettings {
    let settings = hub.settings(cache);
    let limits = Limits { silence: Duration::from_secs(1), attempts, ..settings.limits };
    HubSettings { limits, ..settings }
}

fn started() -> (Copy, Hub, tempfile::TempDir) {
    let copy = Copy::of("gpt2-tiny");
    let hub = Hub::serve(copy.path());
    (copy, hub, tempfile::tempdir().unwrap())
}

/// Everything in the folder of contents.
fn blobs(cache: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root(cache).join("blobs")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn a_silent_server_is_given_up_and_a_passing_silence_survived() {
    let (_copy, hub, cache) = started();
    let settings = hurried(&hub, cache.path(), 2);
    hub.disturb_heads("config.json", [Fault::Silence, Fault::Silence]);
    let before = Instant::now();
    let message = complaint(REPO, &settings);
    assert!(before.elapsed() < Duration::from_secs(30), "{:?}", before.elapsed());
    contains(&message, &["/config.json: cannot be reached", "no byte came within 1s; 2 attempts", &hub.endpoint()]);
    hub.disturb_heads("config.json", [Fault::Silence]);
    hub.disturb("tokenizer.json", [Fault::Closed]);
    load(REPO, &settings).unwrap();
}

#[test]
fn a_transfer_that_falls_silent_is_continued() {
    let (copy, hub, cache) = started();
    hub.disturb("model.safetensors", [Fault::Stall(30_000)]);
    let message = complaint(REPO, &hurried(&hub, cache.path(), 1));
    let bytes = format!("expected {} bytes, received 30000 (no byte came within 1s)", hub_size(&copy));
    contains(&message, &["model.safetensors: incomplete", &bytes]);
    hub.disturb("model.safetensors", [Fault::Stall(10_000)]);
    load(REPO, &hurried(&hub, cache.path(), 2)).unwrap();
    let ranges = [None, Some("bytes=30000-".to_owned()), Some("bytes=40000-".to_owned())];
    assert_eq!(hub.ranges("model.safetensors"), ranges);
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn a_small_file_has_to_come_in_time() {
    let (_copy, hub, cache) = started();
    let settings = hub.strict(cache.path());
    let limits = Limits { small_file: Duration::from_secs(1), ..settings.limits };
    hub.disturb("config.json", [Fault::Drip]);
    let message = complaint(REPO, &HubSettings { limits, ..settings });
    contains(&message, &["config.json: incomplete", "not all came within 1s"]);
}

#[test]
fn no_more_is_taken_than_was_announced() {
    let (copy, hub, cache) = started();
    let settings = hub.settings(cache.path());
    let size = std::fs::metadata(copy.file("config.json")).unwrap().len();
    hub.disturb("config.json", [Fault::Endless]);
    let message = complaint(REPO, &settings);
    contains(&message, &["config.json", &format!("expected the announced {size} bytes, found more")]);
    assert_eq!(blobs(cache.path()), [""; 0], "nothing is left");
    hub.disturb("config.json", [Fault::Announced(6_000_000_000)]);
    let message = complaint(REPO, &settings);
    contains(&message, &[&format!("expected the announced {size} bytes, found 6000000000 bytes")]);
    // Neither the question nor the transfer tells a size.
    hub.disturb_heads("config.json", [Fault::Unannounced, Fault::Unannounced]);
    hub.disturb("config.json", [Fault::Unannounced]);
    let message = complaint(REPO, &settings);
    contains(&message, &["config.json", "expected its size in Content-Length, found none"]);
    // One of the two is enough.
    hub.disturb_heads("config.json", [Fault::Unannounced, Fault::Unannounced]);
    hub.disturb("tokenizer.json", [Fault::Unannounced]);
    load(REPO, &settings).unwrap();
}

#[test]
fn a_file_that_is_too_large_is_not_even_asked_for() {
    let (copy, hub, cache) = started();
    let settings = hub.settings(cache.path());
    let huge = || Fault::Announced(6_000_000_000);
    hub.disturb_heads("config.json", [huge(), huge()]);
    let message = complaint(REPO, &settings);
    contains(&message, &["config.json: too large: expected at most 134217728 bytes, found 6000000000"]);
    assert!(hub.ranges("config.json").is_empty());
    let limits = Limits { weights_bytes: 1_000, ..settings.limits.clone() };
    let message = complaint(REPO, &HubSettings { limits, ..settings });
    let found = format!("expected at most 1000 bytes, found {}", hub_size(&copy));
    contains(&message, &["model.safetensors: too large", &found]);
    assert!(hub.ranges("model.safetensors").is_empty());
}

#[test]
fn a_busy_server_is_waited_for_as_long_as_it_asks() {
    let (_copy, hub, cache) = started();
    let settings = hub.settings(cache.path());
    let asks = |text: &str| vec![("Retry-After", text.to_owned())];
    hub.disturb_heads("config.json", [Fault::Status(429, asks("1"))]);
    // A date a second later than the server's own clock, which is wrong.
    let mut dated = asks("Fri, 31 Dec 1999 23:59:59 GMT");
    dated.push(("Date", "Fri, 31 Dec 1999 23:59:58 GMT".to_owned()));
    hub.disturb("model.safetensors", [Fault::Status(503, dated)]);
    let before = Instant::now();
    load(REPO, &settings).unwrap();
    // By the clock here the date is long over, and one second would be waited.
    assert!(before.elapsed() >= Duration::from_secs(2), "{:?}", before.elapsed());
}

#[test]
fn a_server_that_asks_for_too_long_a_wait_is_an_error_that_names_it() {
    let (_copy, hub, cache) = started();
    let wait = vec![("Retry-After", "3600".to_owned())];
    hub.disturb_heads("config.json", [Fault::Status(429, wait)]);
    let message = complaint(REPO, &hub.settings(cache.path()));
    contains(&message, &["config.json: HTTP 429, and asks to wait 1h (Retry-After), more than the 5m that are waited"]);
    assert_eq!(hub.seen().len(), 1, "it is not asked again");
    // Without a wait it is as good as any failure that may pass.
    let soon = vec![("Retry-After", "soon".to_owned())];
    hub.disturb_heads("config.json", [Fault::Status(429, soon)]);
    load(REPO, &hub.settings(cache.path())).unwrap();
}

#[test]
fn errors_of_the_server_that_may_pass_are_tried_again() {
    let (_copy, hub, cache) = started();
    let settings = hub.settings(cache.path());
    let [failed, busy] = [500, 502].map(|status| Fault::Status(status, Vec::new()));
    hub.disturb("model.safetensors", [failed.clone(), busy.clone(), failed.clone()]);
    let message = complaint(REPO, &settings);
    contains(&message, &["model.safetensors: unexpected answer: HTTP 500 from 127.0.0.1:", "; 3 attempts"]);
    hub.disturb("model.safetensors", [failed, busy]);
    load(REPO, &settings).unwrap();
    assert_eq!(hub.ranges("model.safetensors").len(), 6);
}

#[test]
fn a_refusal_elsewhere_is_not_taken_for_one_of_the_hub() {
    let (_copy, hub, cache) = started();
    hub.disturb("model.safetensors", [Fault::Status(403, Vec::new())]);
    let message = complaint(REPO, &hub.settings(cache.path()));
    contains(&message, &["model.safetensors: unexpected answer: HTTP 403 from 127.0.0.1:"]);
    assert!(!message.contains("HF_TOKEN") && !message.contains(SIGNATURE), "{message}");
    assert_eq!(hub.ranges("model.safetensors").len(), 1, "it would be refused again");
}

#[test]
fn a_transfer_that_breaks_off_is_continued_at_once_and_by_the_next_process() {
    let (copy, hub, cache) = started();
    hub.disturb("model.safetensors", [Fault::Cut(30_000)]);
    hub.disturb("config.json", [Fault::Cut(100)]);
    let message = complaint(REPO, &hub.strict(cache.path()));
    contains(&message, &["config.json: incomplete: expected 816 bytes, received 100 (", "try again"]);
    let message = complaint(REPO, &hub.strict(cache.path()));
    contains(&message, &["model.safetensors", &format!("expected {} bytes, received 30000 (", hub_size(&copy))]);
    let message = complaint(&format!("{REPO}@{COMMIT}"), &offline(cache.path()));
    contains(&message, &["model.safetensors is not in the cache"]);
    hub.disturb("model.safetensors", [Fault::Cut(20_000)]);
    load(REPO, &hub.settings(cache.path())).unwrap();
    let asked = |from: &str| Some(format!("bytes={from}-"));
    assert_eq!(hub.ranges("config.json"), [None, asked("100")]);
    assert_eq!(hub.ranges("model.safetensors"), [None, asked("30000"), asked("50000")]);
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn attempts_that_bring_a_good_part_are_not_counted() {
    let (_copy, hub, cache) = started();
    // A configuration of 5 MB; white space ends it.
    hub.change("config.json", |served| served.bytes.resize(5 << 20, b' '));
    let settings = hurried(&hub, cache.path(), 2);
    let settings = HubSettings { limits: Limits { silence: Duration::from_secs(30), ..settings.limits }, ..settings };
    hub.disturb("config.json", [1_000, 1_000].map(Fault::Cut));
    let message = complaint(REPO, &settings);
    contains(&message, &["config.json: incomplete", "received 2000 ("]);
    hub.disturb("config.json", [(1 << 20) + 1; 4].map(Fault::Cut));
    load(REPO, &settings).unwrap();
    assert_eq!(hub.ranges("config.json").len(), 2 + 5);
}

#[test]
fn a_part_is_only_continued_by_exactly_its_rest() {
    for (fault, then) in [(Fault::OtherPart, Some(None)), (Fault::Whole, None)] {
        let (_copy, hub, cache) = started();
        hub.disturb("model.safetensors", [Fault::Cut(30_000), fault]);
        load(REPO, &hub.settings(cache.path())).unwrap();
        let mut expected = vec![None, Some("bytes=30000-".to_owned())];
        expected.extend(then);
        assert_eq!(hub.ranges("model.safetensors"), expected);
        load(REPO, &offline(cache.path())).unwrap();
    }
}

#[test]
fn a_part_with_wrong_bytes_is_found_out_and_all_fetched() {
    let (copy, hub, cache) = started();
    let part = root(cache.path()).join("blobs").join(format!("{}.incomplete", hub.etag("model.safetensors")));
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::fs::write(&part, [7; 500]).unwrap();
    load(REPO, &hub.settings(cache.path())).unwrap();
    assert_eq!(hub.ranges("model.safetensors"), [Some("bytes=500-".to_owned()), None]);
    assert!(!part.exists());
    // One of the right length, and one that is longer.
    for length in [0, 1] {
        let cache = tempfile::tempdir().unwrap();
        let part = cache.path().join(part.strip_prefix(part.ancestors().nth(3).unwrap()).unwrap());
        std::fs::create_dir_all(part.parent().unwrap()).unwrap();
        std::fs::write(&part, vec![7; hub_size(&copy) as usize + length]).unwrap();
        load(REPO, &hub.settings(cache.path())).unwrap();
        assert_eq!(hub.ranges("model.safetensors").last(), Some(&None));
    }
    assert_eq!(hub.ranges("model.safetensors").len(), 4);
}

#[test]
fn a_file_without_a_hash_is_continued_by_its_validator() {
    let (_copy, hub, cache) = started();
    hub.change("config.json", |served| served.etag = Some("5f3c-1a"));
    hub.disturb("config.json", [Fault::Cut(100)]);
    complaint(REPO, &hub.strict(cache.path()));
    // The name stays, the contents change, and the server knows.
    load(REPO, &hub.settings(cache.path())).unwrap();
    let seen = hub.seen();
    let transfers: Vec<_> = seen.iter().filter(|seen| seen.transfers("config.json")).collect();
    assert_eq!(transfers[1].range.as_deref(), Some("bytes=100-"));
    assert_eq!(transfers[1].if_range.as_deref(), Some("\"5f3c-1a\""));
    assert!(blobs(cache.path()).iter().all(|name| !name.contains("incomplete")), "{:?}", blobs(cache.path()));
}

#[test]
fn wrong_contents_are_thrown_away() {
    let (_copy, hub, cache) = started();
    for (file, kind) in [("config.json", "Git hash"), ("model.safetensors", "SHA-256")] {
        hub.change(file, |served| served.damaged = true);
        let message = complaint(REPO, &hub.settings(cache.path()));
        let expected = format!("damaged: expected {kind} {}, found {kind} ", hub.etag(file));
        contains(&message, &[file, &expected]);
        assert!(blobs(cache.path()).iter().all(|name| !name.contains(&hub.etag(file))), "{:?}", blobs(cache.path()));
        hub.change(file, |served| served.damaged = false);
    }
    load(REPO, &hub.settings(cache.path())).unwrap();
}

#[test]
fn answers_that_cannot_be_used() {
    let (_copy, hub, cache) = started();
    let settings = hub.settings(cache.path());
    hub.disturb("config.json", [Fault::With("Content-Encoding", "gzip")]);
    contains(&complaint(REPO, &settings), &["expected the file as it is, found Content-Encoding gzip"]);
    let home = format!("{}/{REPO}/resolve/main/config.json", hub.endpoint());
    let around = || Fault::Status(302, vec![("Location", home.clone())]);
    hub.disturb_heads("config.json", std::iter::repeat_with(around).take(11));
    contains(&complaint(REPO, &settings), &["config.json", "expected at most 10 redirects, found more"]);
    let secret = "http://name:secret@127.0.0.1/config.json?secret";
    hub.disturb_heads("config.json", [Fault::Status(302, vec![("Location", secret.to_owned())])]);
    let message = complaint(REPO, &settings);
    contains(&message, &["expected an address without user name and password, found http://127.0.0.1/config.json"]);
    assert!(!message.contains("secret"), "{message}");
    hub.change("config.json", |served| served.etag = Some("../../../elsewhere"));
    contains(&complaint(REPO, &settings), &["header etag: expected letters and digits"]);
}
