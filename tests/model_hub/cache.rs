//! The cache: files that others have damaged, several processes at once, and processes that end in the middle.

use super::server::{COMMIT, Fault, Hub, REPO};
use super::support::{Copy, offline};
use super::{cached, complaint, load, root};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

fn blob(cache: &Path, file: &str) -> std::path::PathBuf {
    fs::canonicalize(cached(cache, file)).unwrap()
}

#[test]
fn a_damaged_file_is_refused_offline_and_fetched_again_online() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    load(REPO, &settings).unwrap();
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    let empty = |bytes: &mut Vec<u8>| bytes.clear();
    for damage in [flip, cut, empty as fn(&mut Vec<u8>)] {
        for file in FILES {
            let blob = blob(cache.path(), file);
            let whole = fs::read(&blob).unwrap();
            let mut bytes = whole.clone();
            damage(&mut bytes);
            fs::write(&blob, bytes).unwrap();
            let message = complaint(REPO, &offline(cache.path()));
            let path = cached(cache.path(), file);
            for part in
                [path.to_str().unwrap(), "damaged: expected", &hub.etag(file), "HF_HUB_OFFLINE is set: unset it"]
            {
                assert!(message.contains(part), "{message}");
            }
            let before = FILES.map(|file| hub.ranges(file).len());
            load(REPO, &settings).unwrap();
            let after = FILES.map(|name| hub.ranges(name).len() - usize::from(name == file));
            assert_eq!(before, after, "only what is damaged is fetched");
            assert_eq!(fs::read(&blob).unwrap(), whole);
            load(REPO, &offline(cache.path())).unwrap();
        }
    }
}

#[test]
fn a_damaged_file_stays_until_its_successor_is_there() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    load(REPO, &hub.settings(cache.path())).unwrap();
    let blob = blob(cache.path(), "config.json");
    fs::write(&blob, "{").unwrap();
    hub.disturb("config.json", [Fault::Cut(10)]);
    complaint(REPO, &hub.strict(cache.path()));
    assert_eq!(fs::read_to_string(&blob).unwrap(), "{");
    load(REPO, &hub.settings(cache.path())).unwrap();
}

#[test]
fn refs_are_read_as_other_tools_write_them() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    load(REPO, &hub.settings(cache.path())).unwrap();
    let requests = hub.seen().len();
    for text in [format!("{COMMIT}\n"), format!("{COMMIT} \r\n\n"), format!(" {COMMIT}")] {
        fs::write(root(cache.path()).join("refs/main"), text).unwrap();
        load(REPO, &offline(cache.path())).unwrap();
        load(REPO, &hub.settings(cache.path())).unwrap();
    }
    assert_eq!(hub.seen().len(), requests, "nothing is asked for");
    fs::write(root(cache.path()).join("refs/main"), "../../../../elsewhere").unwrap();
    let message = complaint(REPO, &offline(cache.path()));
    assert!(message.contains("config.json is not in the cache"), "{message}");
    load(REPO, &hub.settings(cache.path())).unwrap();
    assert_eq!(fs::read_to_string(root(cache.path()).join("refs/main")).unwrap(), COMMIT);
}

#[test]
fn contents_that_another_commit_has_brought_are_only_linked() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    load(REPO, &hub.settings(cache.path())).unwrap();
    fs::remove_dir_all(root(cache.path()).join("snapshots")).unwrap();
    load(REPO, &hub.settings(cache.path())).unwrap();
    assert_eq!(FILES.map(|file| hub.ranges(file).len()), [1; 3]);
    // A file without links, as where links are not to be had, is taken as it is.
    let config = cached(cache.path(), "config.json");
    let text = fs::read(&config).unwrap();
    fs::remove_file(&config).unwrap();
    fs::write(&config, text).unwrap();
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn several_at_once_download_once() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4).map(|_| scope.spawn(|| load(REPO, &settings).unwrap().name)).collect();
        loads.into_iter().for_each(|load| assert_eq!(load.join().unwrap(), "gpt2-tiny"));
    });
    assert_eq!(FILES.map(|file| hub.ranges(file).len()), [1; 3]);
}

#[test]
fn a_file_that_another_tool_is_downloading_is_waited_for() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    // huggingface_hub's lock.
    let locks = cache.path().join(".locks/models--someone--gpt2-tiny");
    fs::create_dir_all(&locks).unwrap();
    let lock = File::create(locks.join(format!("{}.lock", hub.etag("model.safetensors")))).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| load(REPO, &settings).map(|model| model.name));
        let deadline = Instant::now() + Duration::from_secs(20);
        let asked = || hub.seen().iter().any(|seen| seen.line.contains("model.safetensors"));
        while !asked() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        std::thread::sleep(Duration::from_millis(200));
        assert!(!waits.is_finished() && hub.ranges("model.safetensors").is_empty());
        // It brings the file and gives up its lock.
        let blob = root(cache.path()).join("blobs").join(hub.etag("model.safetensors"));
        fs::copy(copy.file("model.safetensors"), blob).unwrap();
        drop(lock);
        waits.join().unwrap().unwrap();
    });
    assert!(hub.ranges("model.safetensors").is_empty(), "it is there");
}

/// Another process that loads the model.
fn process(hub: &Hub, cache: &Path, data: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpatch"));
    command.args(["self-check", "--device", "cpu", "--models", REPO, "--data-dir"]).arg(data);
    command.env("HF_ENDPOINT", hub.endpoint()).env("HF_HUB_CACHE", cache).env_remove("HF_HUB_OFFLINE");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn a_process_that_is_killed_leaves_a_part_that_the_next_one_continues() {
    let (copy, cache, data) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    hub.disturb("model.safetensors", [Fault::Stall(40_000)]);
    let mut child = process(&hub, cache.path(), data.path());
    let part = root(cache.path()).join("blobs").join(format!("{}.incomplete", hub.etag("model.safetensors")));
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&part).map_or(0, |data| data.len()) < 40_000 {
        assert!(Instant::now() < deadline, "the part does not grow");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let message = complaint(REPO, &offline(cache.path()));
    assert!(message.contains("is not in the cache"), "{message}");
    load(REPO, &hub.settings(cache.path())).unwrap();
    assert_eq!(hub.ranges("model.safetensors"), [None, Some("bytes=40000-".to_owned())]);
    assert!(!part.exists());
}

#[test]
fn without_locks_two_write_the_same_bytes_to_the_same_places() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let settings = hub.settings(cache.path());
    hub.disturb("model.safetensors", [Fault::Slow(500)]);
    let etag = hub.etag("model.safetensors");
    let part = root(cache.path()).join("blobs").join(format!("{etag}.incomplete"));
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| load(REPO, &settings).map(|model| model.name));
        let deadline = Instant::now() + Duration::from_secs(20);
        while fs::metadata(&part).map_or(0, |data| data.len()) < 10_000 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Who comes now takes a lock of its own.
        fs::remove_file(cache.path().join(".locks/models--someone--gpt2-tiny").join(format!("{etag}.lock"))).unwrap();
        load(REPO, &settings).unwrap();
        slow.join().unwrap().unwrap();
    });
    assert_eq!(hub.ranges("model.safetensors").len(), 2);
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn two_processes_do_not_damage_each_other() {
    let (copy, cache, data) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let mut children = [(); 2].map(|()| process(&hub, cache.path(), data.path()));
    for child in &mut children {
        child.wait().unwrap();
    }
    load(REPO, &offline(cache.path())).unwrap();
    assert_eq!(FILES.map(|file| hub.ranges(file).len()), [1; 3]);
}
