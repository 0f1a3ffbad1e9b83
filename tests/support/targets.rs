//! Everything that a user can feed the program, as targets of changed input: what may be fed, and what reads it.
//!
//! `tests/mutated.rs` feeds them changes of their seeds; `fuzz/` has each of them as a target of cargo-fuzz.
#![allow(dead_code, reason = "every binary uses another part")]

use actpatch::datasets::{BuildOptions, Catalogue};
use actpatch::directions::{DirectionName, FitRecord, Wanted, read_files, select};
use actpatch::experiments::activation_maps::MapKind;
use actpatch::experiments::corpus::{RowShape, Rows};
use actpatch::experiments::path_patching::NodePattern;
use actpatch::model::{LoadOptions, Model, Tokenizer};
use actpatch::report::{GoldenFile, SteeredTexts, SuiteCsv, SuiteName};
use actpatch::session::{Device, layers};
use actpatch::studies::{AnyStudy, Circuit, Coefficients, HeadAt, HeadAtPosition, HeadChoice};
use actpatch::sweep::{Cell, CellId, Configuration, Ledger, Outcome, Parts, Place, Shard};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads any bytes, and says whether they were taken for what they should be.
pub type Read = Box<dyn FnMut(&[u8]) -> bool>;

/// One kind of input.
pub struct Target {
    /// Input as it should be, to change.
    pub seeds: Vec<Vec<u8>>,
    /// What reads it; it takes at least one of the seeds.
    pub read: Read,
}

/// Hands the names of all targets, which are those of the functions below, to a macro.
macro_rules! targets {
    ($each:ident) => {
        $each! {
            config, weights, weights_index, tokenizer, tokenizer_config, vocabulary, merges, gguf, npy, npz,
            direction_tensors, direction_list, direction_record, ledger, dataset_toml, dataset_csv, dataset_jsonl,
            circuit, settings, corpus_text, corpus_jsonl, corpus_npy, golden, steered_texts, suite_table, names
        }
    };
}

macro_rules! listed {
    ($($target:ident),*) => {
        /// Every target by its name.
        pub const ALL: &[(&str, fn() -> Target)] = &[$((stringify!($target), $target)),*];
    };
}
targets!(listed);

/// The target of this name.
pub fn named(name: &str) -> Target {
    ALL.iter().find(|(target, _)| *target == name).unwrap_or_else(|| panic!("no target is called {name}")).1()
}

/// A target of files of this name in a folder of their own, which may hold others too.
fn of_files(
    name: &'static str,
    others: &[(String, Vec<u8>)],
    seeds: Vec<Vec<u8>>,
    mut read: impl FnMut(&Path) -> bool + 'static,
) -> Target {
    let folder = tempfile::tempdir().unwrap();
    for (other, bytes) in others {
        std::fs::write(folder.path().join(other), bytes).unwrap();
    }
    let read = move |bytes: &[u8]| {
        let path = folder.path().join(name);
        // A new file: what was read of the old one may be mapped.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    };
    Target { seeds, read: Box::new(read) }
}

/// A path of this repository, of which `fuzz/` is a part.
fn here(path: &str) -> PathBuf {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.find(|folder| folder.join("tests/fixtures").is_dir()).unwrap().join(path)
}

fn contents(path: &str) -> Vec<u8> {
    std::fs::read(here(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of a folder whose names end so, by name.
fn all_of(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(here(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    paths.sort();
    assert!(!paths.is_empty(), "{folder} has no {ending}");
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Reads all that there is of a model.
fn read_model(place: &Path) -> bool {
    let Ok(model) = Model::load(place.to_str().unwrap(), &LoadOptions::default()) else { return false };
    let _ = model.tokenizer.encode("The film w1 w2<s>was not great.").map(|tokens| model.tokenizer.decode(&tokens));
    for layer in 0..model.config.n_layers {
        let _ = model.layer(layer);
    }
    let _ = model.embed(&[0, 1]);
    model.unembed_columns(&[0]).is_ok()
}

/// A target of one file of a small model's folder, which is as it should be otherwise.
fn of_model(folder: &str, file: &'static str, mut seeds: Vec<Vec<u8>>) -> Target {
    let paths: Vec<PathBuf> = std::fs::read_dir(here(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (own, others): (Vec<_>, Vec<_>) = paths.iter().partition(|path| path.ends_with(file));
    let read = |path: &&PathBuf| std::fs::read(path).unwrap();
    seeds.extend(own.iter().map(read));
    let name = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let others: Vec<(String, Vec<u8>)> = others.iter().map(|path| (name(path), read(path))).collect();
    of_files(file, &others, seeds, |path| read_model(path.parent().unwrap()))
}

/// A model that loads, of one file of weights and a tokenizer.
const WHOLE: &str = "tests/fixtures/folders/062-llama";

/// One that loads, of two files of weights.
const IN_PARTS: &str = "tests/fixtures/folders/132-gpt2";

/// One that loads, of a bare vocabulary (whose family's pattern is compiled once, not with every change).
const BARE_VOCABULARY: &str = "tests/fixtures/folders/138-gpt2";

/// The files of this name of all model folders.
fn of_all_folders(name: &str) -> Vec<Vec<u8>> {
    let folders = std::fs::read_dir(here("tests/fixtures/folders")).unwrap();
    let mut paths: Vec<PathBuf> = folders.map(|folder| folder.unwrap().path().join(name)).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

pub fn config() -> Target {
    of_model(WHOLE, "config.json", of_all_folders("config.json"))
}

pub fn weights() -> Target {
    of_model(WHOLE, "model.safetensors", Vec::new())
}

pub fn weights_index() -> Target {
    of_model(IN_PARTS, "model.safetensors.index.json", Vec::new())
}

pub fn tokenizer() -> Target {
    of_model(WHOLE, "tokenizer.json", of_all_folders("tokenizer.json"))
}

pub fn tokenizer_config() -> Target {
    of_model(WHOLE, "tokenizer_config.json", of_all_folders("tokenizer_config.json"))
}

pub fn vocabulary() -> Target {
    of_model(BARE_VOCABULARY, "vocab.json", Vec::new())
}

pub fn merges() -> Target {
    of_model(BARE_VOCABULARY, "merges.txt", Vec::new())
}

pub fn gguf() -> Target {
    let names = ["type-q4_0", "tokens-llama", "tokens-smollm", "gpt2-own-head", "gptneox-parallel", "llama"];
    let seeds = names.iter().map(|name| contents(&format!("tests/fixtures/gguf/{name}.gguf")));
    of_files("model.gguf", &[], seeds.collect(), read_model)
}

/// A target of files that hold directions.
fn of_directions(name: &'static str, ending: &str) -> Target {
    of_files(name, &[], all_of("tests/fixtures/directions/files", ending), |path| {
        let wanted = Wanted { patterns: &["*".to_owned()], layer: Some(1), d_model: 128, n_layers: 4 };
        read_files(path, wanted).is_ok()
    })
}

pub fn npy() -> Target {
    of_directions("probe_layer1.npy", ".npy")
}

pub fn npz() -> Target {
    of_directions("probe_layer1.npz", ".npz")
}

pub fn direction_tensors() -> Target {
    of_directions("probe_layer1.safetensors", ".safetensors")
}

pub fn direction_list() -> Target {
    of_directions("probe_layer1.json", ".json")
}

pub fn direction_record() -> Target {
    let name: DirectionName = "das_simple_train_ADJ_layer1".parse().unwrap();
    let mut record = serde_json::to_value(FitRecord::of(&name)).unwrap();
    record["settings"] = serde_json::json!({ "epochs": 64, "adam": { "learning_rate": 1e-3 } });
    let seeds = vec![serde_json::to_vec_pretty(&record).unwrap()];
    of_files("das_simple_train_ADJ_layer1.json", &[], seeds, move |path| {
        FitRecord::read(path.parent().unwrap(), &name).is_ok()
    })
}

pub fn ledger() -> Target {
    let folder = tempfile::tempdir().unwrap();
    let configuration: Configuration =
        [("model", "demo"), ("dtype", "f32")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let cell = |number: usize| Cell {
        id: CellId::of("suite", &configuration, &[("number".to_owned(), number.to_string())].into()),
        place: Place { file: "x.csv".into(), at: ["das_layer01", "simple", "ADJ"].map(Into::into).into() },
        inputs: Arc::default(),
        texts: Arc::new([("simple".into(), "00".into())].into()),
        settings: Arc::default(),
        shard: None,
    };
    let mut ledger = Ledger::open(folder.path(), &configuration).unwrap();
    ledger.want([0, 1, 2].map(cell)).unwrap();
    let done = |number: usize| {
        (cell(number).id, Outcome::Done { value: 12.5.into(), parts: Parts::new([12.0, 13.0]), seconds: 0.1 })
    };
    ledger.record([0, 1].map(done)).unwrap();
    let written = std::fs::read(ledger.path()).unwrap();
    of_files(Ledger::FILE, &[], vec![written], |path| Ledger::read(path.parent().unwrap()).is_ok())
}

/// The demo model's tokenizer.
fn demo_tokenizer() -> Tokenizer {
    Model::load("demo", &LoadOptions::default()).unwrap().tokenizer
}

/// A target of dataset files.
fn of_datasets(name: &'static str, seeds: &[&str]) -> Target {
    let (tokenizer, catalogue) = (demo_tokenizer(), Catalogue::load(None).unwrap());
    of_files(name, &[], texts(seeds), move |path| {
        let faults = catalogue.check(path, &tokenizer, &BuildOptions::default(), &[]).faults;
        assert!(faults.iter().all(|fault| !fault.to_string().is_empty()));
        faults.is_empty()
    })
}

pub fn dataset_toml() -> Target {
    let toml = "[mine]\nlabel = \"positive\"\nprompts = [\n    { clean = \"I loved it\", corrupted = \"I hated it\", \
                correct = \" great\", incorrect = \" bad\" },\n]\n";
    let built_in = String::from_utf8(contents("data/datasets.toml")).unwrap();
    let template = built_in.split("\n\n").find(|part| part.contains("[simple_test]")).unwrap();
    of_datasets("mine.toml", &[toml, template])
}

pub fn dataset_csv() -> Target {
    let csv = "clean,corrupted,answer,wrong_answer,class,position_VRB\nI loved it,I hated it, great, bad,positive,loved\n\
               \"I hated it\",\"I loved it\", bad, great,negative,hated\n";
    of_datasets("mine.csv", &[csv])
}

pub fn dataset_jsonl() -> Target {
    let jsonl = "{\"clean\": \"I loved it\", \"corrupted\": \"I hated it\", \"answer\": \" great\", \"wrong_answer\": \" bad\"}\n";
    of_datasets("mine.jsonl", &[jsonl])
}

pub fn circuit() -> Target {
    of_files("analysis.toml", &[], all_of("data/experiments", ".toml"), |path| {
        Circuit::read(path).is_ok_and(|circuit| circuit.steps(circuit.model(), &[]).is_ok())
    })
}

pub fn settings() -> Target {
    let seeds = AnyStudy::NAMES.iter().map(|name| serde_json::to_vec(&AnyStudy::settings(name).unwrap()).unwrap());
    let read = |bytes: &[u8]| {
        let Ok(serde_json::Value::Object(settings)) = serde_json::from_slice(bytes) else { return false };
        AnyStudy::NAMES.iter().filter(|name| AnyStudy::new(name, settings.clone()).is_ok()).count() > 0
    };
    Target { seeds: seeds.collect(), read: Box::new(read) }
}

/// A target of texts.
fn of_corpora(name: &'static str, seeds: Vec<Vec<u8>>) -> Target {
    let tokenizer = demo_tokenizer();
    of_files(name, &[], seeds, move |path| {
        let shape = RowShape { tokenizer: &tokenizer, length: 16, d_vocab: 2000 };
        Rows::of_file(path, shape).is_ok_and(|rows| rows.take(100).collect::<Result<Vec<_>, _>>().is_ok())
    })
}

pub fn corpus_text() -> Target {
    of_corpora("corpus.txt", texts(&["I loved it.\nThe plot was awful, and far too long.\n"]))
}

pub fn corpus_jsonl() -> Target {
    of_corpora("corpus.jsonl", texts(&["{\"text\": \"I loved it.\"}\n{\"tokens\": [1, 2, 3]}\n"]))
}

pub fn corpus_npy() -> Target {
    let mut array = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    array.extend(format!("{:<117}\n", "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }").into_bytes());
    array.extend((0..6i64).flat_map(i64::to_le_bytes));
    of_corpora("corpus.npy", vec![array])
}

pub fn golden() -> Target {
    of_files("golden.toml", &[], all_of("data/golden", ".toml"), |path| GoldenFile::read(path).is_ok())
}

pub fn steered_texts() -> Target {
    let text = r#"{"direction":"das_a_ADJ_layer1","sites":["blocks.0.hook_resid_pre"],"prompt":"I","temperature":1.0,"top_k":10,"max_new_tokens":4,"seed":0,"coefficient":4.0,"sample":0,"text":" am","tokens":[1],"log_probabilities":[-1.0],"log_probability":-1.0,"ended":false,"provenance":"00"}"#;
    of_files("steering_das_a_ADJ_layer1.jsonl", &[], texts(&[text]), |path| SteeredTexts::read(path).is_ok())
}

pub fn suite_table() -> Target {
    let table =
        ",simple_test,simple_test\n,ADJ,ALL\ndas_simple_train_ADJ_layer01,12.5,50\nrandom_direction_layer01,,0.1\n";
    of_files("direction_patching_logit_diff_resid_plain.csv", &[], texts(&[table]), |path| SuiteCsv::read(path).is_ok())
}

pub fn names() -> Target {
    let seeds = texts(&[
        "das_simple_train_ADJ_layer6",
        "random_direction_layer06.npy",
        "my-probe_layer3",
        "das_*_layer?",
        "z:9.2",
        "9.2",
        "post:3.17",
        "9.2@ADJ+END",
        "top:6",
        "all",
        "9.2,10.4",
        "-20..20:5",
        "0..1:0.25",
        "cuda:0,cuda:1",
        "0/4",
        "z_by_position",
        "-3..",
        "..4",
        "6..9",
        "direction_patching_logit_diff_resid_plain_all_layers.csv",
    ]);
    let read = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let name = text.parse::<DirectionName>();
        if let Ok(name) = &name {
            assert_eq!(&name.to_string().parse::<DirectionName>().unwrap(), name);
        }
        let _ = select(std::slice::from_ref(&text), &[]);
        let _ = layers("layers", std::slice::from_ref(&text), 12);
        drop((text.parse::<NodePattern>(), text.parse::<MapKind>(), text.parse::<Device>(), text.parse::<Shard>()));
        drop((text.parse::<HeadAt>(), text.parse::<HeadAtPosition>(), text.parse::<HeadChoice>()));
        drop((text.parse::<Coefficients>(), text.parse::<SuiteName>()));
        name.is_ok()
    };
    Target { seeds, read: Box::new(read) }
}
