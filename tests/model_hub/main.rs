//! The Hub, played by a small server on this machine: downloads, the cache, and every way they can fail.

mod cache;
mod faults;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod token;

use actpatch::model::hub::{Limits, Observer, Progress};
use actpatch::model::{HubSettings, LoadOptions, Model, Source};
use server::{COMMIT, Fault, Hub, REPO};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{Copy, offline, warnings};

fn load(spec: &str, settings: &HubSettings) -> Result<Model, String> {
    Model::load_from(spec, &LoadOptions::default(), settings).map_err(|error| error.to_string())
}

/// Settings for a server that is not this one, asked once.
fn asked_once(cache: &Path) -> HubSettings {
    let settings = offline(cache);
    HubSettings { offline: false, limits: Limits { attempts: 1, ..Limits::default() }, ..settings }
}

/// The folder of a cached file's repository.
fn root(cache: &Path) -> PathBuf {
    cache.join("models--someone--gpt2-tiny")
}

/// A file in the cache, as a model's folder has it.
fn cached(cache: &Path, file: &str) -> PathBuf {
    root(cache).join("snapshots").join(COMMIT).join(file)
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
    assert_eq!(std::fs::read_to_string(root(cache.path()).join("refs/main")).unwrap(), COMMIT);
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let link = std::fs::read_link(cached(cache.path(), file)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(hub.etag(file)));
        assert_eq!(std::fs::read(cached(cache.path(), file)).unwrap(), std::fs::read(copy.file(file)).unwrap());
    }
    let names = |folder: &str| {
        let entries = std::fs::read_dir(root(cache.path()).join(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut etags = ["config.json", "tokenizer.json", "model.safetensors"].map(|file| hub.etag(file));
    etags.sort();
    assert_eq!(names("blobs"), etags, "nothing but the files");
    assert_eq!((names("refs"), names("snapshots")), (vec!["main".to_owned()], vec![COMMIT.to_owned()]));
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
    std::fs::remove_file(std::fs::canonicalize(cached(cache.path(), shard)).unwrap()).unwrap();
    let message = complaint(&format!("{REPO}@v1"), &offline(cache.path()));
    assert!(message.contains(shard), "{message}");
    load(&format!("{REPO}@v1"), &settings).unwrap();
    load(&format!("{REPO}@v1"), &offline(cache.path())).unwrap();
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
        hub.refuse(Some(status));
        let message = complaint(REPO, &settings);
        assert!(message.contains(part), "{message}");
    }
    hub.refuse(None);
    hub.remove("tokenizer.json");
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
    let settings = HubSettings { endpoint: endpoint.clone(), ..asked_once(cache.path()) };
    let message = complaint(REPO, &settings);
    assert!(message.contains("cannot be reached") && message.contains(&endpoint), "{message}");
    // A record of type 22 (handshake) of TLS, whose versions all begin with 3.
    assert_eq!(first.join().unwrap().unwrap(), [22, 3]);
}

#[test]
fn an_encrypted_connection_that_is_not_answered_is_given_up() {
    let cache = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let settings = asked_once(cache.path());
    let limits = Limits { connect: Duration::from_millis(300), ..settings.limits };
    let message = complaint(REPO, &HubSettings { endpoint, limits, ..settings });
    assert!(message.contains("cannot be reached: no connection within 300ms"), "{message}");
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
    hub.remove("pytorch_model.bin");
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("no model.safetensors"), "{message}");
}

#[test]
fn a_model_in_one_file_is_found_and_one_of_several_has_to_be_named() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf");
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copy = |name: &str, to: &str| std::fs::copy(fixtures.join(name), folder.path().join(to)).unwrap();
    copy("llama.gguf", "tiny.Q8_0.gguf");
    let hub = Hub::serve(folder.path());
    let model = load(REPO, &hub.settings(cache.path())).unwrap();
    let source = Source::Hub { repo: REPO.into(), revision: "main".into(), commit: COMMIT.into() };
    assert_eq!((model.name.as_str(), &model.provenance.source), ("gpt2-tiny", &source));
    assert_eq!(model.provenance.files[0].name, "tiny.Q8_0.gguf");
    let requests = hub.seen().len();
    load(REPO, &hub.settings(cache.path())).unwrap();
    load(REPO, &offline(cache.path())).unwrap();
    assert_eq!(hub.seen().len(), requests, "it is in the cache");
    // What huggingface_hub, too, notes of files that a commit lacks.
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        std::fs::remove_file(root(cache.path()).join(".no_exist").join(COMMIT).join(name)).unwrap();
        let requests = hub.seen().len();
        load(REPO, &hub.settings(cache.path())).unwrap();
        assert!(hub.seen().len() > requests, "{name} might have come");
        assert_eq!(hub.ranges("tiny.Q8_0.gguf").len(), 1);
    }
    // Repositories of such files may have a configuration.
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let (hub, cache) = (Hub::serve(folder.path()), tempfile::tempdir().unwrap());
    load(REPO, &hub.settings(cache.path())).unwrap();
    copy("gpt2.gguf", "tiny.Q4_0.gguf");
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    let (hub, cache) = (Hub::serve(folder.path()), tempfile::tempdir().unwrap());
    let message = complaint(REPO, &hub.settings(cache.path()));
    assert!(message.contains("several GGUF files: tiny.Q4_0.gguf, tiny.Q8_0.gguf"), "{message}");
}

#[test]
fn a_cached_file_of_a_repository_with_unquantised_weights_is_taken_offline_only() {
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf/llama.gguf");
    for shards in [false, true] {
        let (copy, cache) = (Copy::of("neox-tiny"), tempfile::tempdir().unwrap());
        if shards {
            copy.shard();
        }
        std::fs::copy(&gguf, copy.file("tiny.gguf")).unwrap();
        let hub = Hub::serve(copy.path());
        // Another tool has brought this file, and looked for the single one in vain where there are several.
        let write = |path: std::path::PathBuf, bytes: &[u8]| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        write(cached(cache.path(), "tiny.gguf"), &std::fs::read(&gguf).unwrap());
        write(root(cache.path()).join("refs/main"), COMMIT.as_bytes());
        if shards {
            write(root(cache.path()).join(".no_exist").join(COMMIT).join("model.safetensors"), b"");
        }
        let weights = |settings| {
            let (model, said) = warnings(|| load(REPO, &settings).unwrap());
            (model.provenance.files.into_iter().map(|file| file.name).collect::<Vec<_>>(), said)
        };
        let (files, said) = weights(offline(cache.path()));
        assert_eq!(files, ["tiny.gguf"]);
        assert!(said.contains("tiny.gguf: taken as the model's weights"), "{said}");
        let (files, said) = weights(hub.settings(cache.path()));
        assert!(files.iter().any(|name| name.ends_with(".safetensors")) && said.is_empty(), "{files:?} {said}");
        let (files, said) = weights(offline(cache.path()));
        assert!(!files.contains(&"tiny.gguf".to_owned()) && said.is_empty(), "{files:?} {said}");
    }
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
    let transfers = |file: &str| hub.ranges(file).len();
    assert_eq!((transfers(&first), transfers(&second)), (1, 1), "what is there is not fetched again");
    load(REPO, &offline(cache.path())).unwrap();
}

#[test]
fn progress_is_heard_of_every_file() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    hub.disturb("model.safetensors", [Fault::Cut(30_000)]);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    let observer = Observer::new(move |Progress { file, bytes, total }| {
        ear.lock().unwrap().push((file.to_owned(), bytes, total));
    });
    load(REPO, &HubSettings { observer, ..hub.settings(cache.path()) }).unwrap();
    let heard = heard.lock().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let size = std::fs::metadata(copy.file(file)).unwrap().len();
        let steps: Vec<u64> =
            heard.iter().filter(|(name, _, total)| name == file && *total == size).map(|step| step.1).collect();
        assert!(steps.is_sorted() && steps[0] == 0 && steps.last() == Some(&size), "{file}: {steps:?}");
    }
    assert!(heard.contains(&("model.safetensors".to_owned(), 30_000, hub_size(&copy))));
}

/// The size of the weights.
fn hub_size(copy: &Copy) -> u64 {
    std::fs::metadata(copy.file("model.safetensors")).unwrap().len()
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

#[test]
fn a_shape_needs_the_configuration_alone() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let shape = Model::shape_from(REPO, None, &hub.settings(cache.path())).unwrap();
    assert!(hub.seen().iter().all(|seen| seen.line.contains("config.json")), "{:?}", hub.seen());
    assert_eq!(Model::shape_from(REPO, None, &offline(cache.path())).unwrap(), shape);
    assert_eq!(Model::shape_from(copy.path().to_str().unwrap(), None, &offline(cache.path())).unwrap(), shape);
    // What is lacking is brought when the model is loaded.
    assert_eq!(load(REPO, &hub.settings(cache.path())).unwrap().config, shape);
    let demo = Model::shape_from("demo", None, &offline(cache.path())).unwrap();
    assert_eq!(demo, load("demo", &offline(cache.path())).unwrap().config);
}

#[test]
fn a_snapshot_given_as_a_folder_is_filed_as_its_repository() {
    let (copy, cache) = (Copy::of("gpt2-tiny"), tempfile::tempdir().unwrap());
    let hub = Hub::serve(copy.path());
    let model = load(REPO, &hub.settings(cache.path())).unwrap();
    let folder = cached(cache.path(), "config.json").parent().unwrap().to_owned();
    let same = load(folder.to_str().unwrap(), &offline(cache.path())).unwrap();
    assert_eq!((&same.name, same.layer(1).unwrap()), (&model.name, model.layer(1).unwrap()));
}
