//! Everything that a user can feed the program, changed at random: it is read or refused with a message, without a panic,
//! without hanging, and without memory out of proportion.
//!
//! Every target runs for `ACTPATCH_MUTATION_SECONDS` (2 without it). `ACTPATCH_MUTATION_SEED` begins another sequence of
//! changes; what was fed last stands in the message of a failure.

use actpatch::datasets::{BuildOptions, Catalogue};
use actpatch::directions::{DirectionName, FitRecord, Wanted, read_files, select};
use actpatch::experiments::activation_maps::MapKind;
use actpatch::experiments::corpus::{RowShape, Rows};
use actpatch::experiments::path_patching::NodePattern;
use actpatch::model::{LoadOptions, Model, Tokenizer};
use actpatch::report::{GoldenFile, SteeredTexts, SuiteCsv, SuiteName};
use actpatch::session::{Device, layers};
use actpatch::studies::{AnyStudy, Circuit, Coefficients, HeadAt, HeadAtPosition, HeadChoice};
use actpatch::sweep::{Cell, CellId, Configuration, Ledger, Outcome, Place, Shard};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Remembers the largest piece of memory that was asked for.
struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static MEMORY: Watched = Watched;

/// More than any seed needs at once, and less than what a lying count asks for.
const MOST_MEMORY: usize = 64 << 20;

/// A change that takes longer to read than this hangs: seeds take milliseconds.
const LONGEST: Duration = Duration::from_secs(30);

/// Pieces that files lie with.
const PIECES: [&[u8]; 24] = [
    b"0",
    b"-1",
    b"1",
    b"18446744073709551615",
    b"-9223372036854775808",
    b"1e308",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\"\"",
    b"\"",
    b",",
    b":",
    b"[[",
    b"{\"",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"..",
    b"*",
    "é\u{202e}😀".as_bytes(),
];

/// One seed, or two of them spliced, with a few changes.
fn mutated(seeds: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let any = |random: &mut ChaCha8Rng| seeds[random.random_range(0..seeds.len())].clone();
    let mut bytes = any(random);
    if random.random_ratio(1, 10) {
        let other = any(random);
        let (end, start) = (random.random_range(0..=bytes.len()), random.random_range(0..=other.len()));
        bytes.truncate(end);
        bytes.extend(&other[start..]);
    }
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=bytes.len());
        let end = (at + random.random_range(0..=16)).min(bytes.len());
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            4 if at < bytes.len() => bytes[at] = random.next_u32() as u8,
            _ => {
                let piece = PIECES[random.random_range(0..PIECES.len())];
                let over = if random.random() { at..end } else { at..at };
                bytes.splice(over, piece.iter().copied());
            }
        }
    }
    bytes
}

/// Feeds `read` with changes of the seeds until the time is up.
#[track_caller]
fn feed(name: &str, seeds: &[Vec<u8>], mut read: impl FnMut(&[u8])) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse().ok());
    let seconds = Duration::from_secs(number("ACTPATCH_MUTATION_SECONDS").unwrap_or(2));
    let mut random = ChaCha8Rng::seed_from_u64(number("ACTPATCH_MUTATION_SEED").unwrap_or(0));
    seeds.iter().for_each(|seed| read(seed));
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < seconds {
        let bytes = mutated(seeds, &mut random);
        let begun = Instant::now();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&bytes)));
        let (taken, largest) = (begun.elapsed(), LARGEST.load(Ordering::Relaxed));
        let fed = || format!("{name}, change {count}: {:?}", String::from_utf8_lossy(&bytes));
        assert!(outcome.is_ok(), "a panic: {}", fed());
        assert!(taken < LONGEST, "{taken:?}: {}", fed());
        assert!(largest < MOST_MEMORY, "a piece of {largest} bytes: {}", fed());
        count += 1;
    }
    println!("{name}: {count} changes");
}

/// The same for files of this name in a folder of their own, which may hold others too.
#[track_caller]
fn feed_files(name: &str, others: &[(&str, Vec<u8>)], seeds: &[Vec<u8>], mut read: impl FnMut(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    for (other, bytes) in others {
        std::fs::write(folder.path().join(other), bytes).unwrap();
    }
    let path = folder.path().join(name);
    feed(name, seeds, |bytes| {
        // A new file: what was read of the old one may be mapped.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, bytes).unwrap();
        read(&path);
    });
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn contents(path: &str) -> Vec<u8> {
    std::fs::read(here(path)).unwrap()
}

/// All files of a folder whose name ends so.
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

/// Feeds one file of a small model's folder.
#[track_caller]
fn feed_model(file: &str, more: &[Vec<u8>]) {
    const FOLDER: &str = "tests/fixtures/folders/008-llama";
    let names =
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"];
    let others: Vec<(&str, Vec<u8>)> =
        names.iter().filter(|name| **name != file).map(|name| (*name, contents(&format!("{FOLDER}/{name}")))).collect();
    let own = here(FOLDER).join(file);
    let mut seeds = more.to_vec();
    seeds.extend(own.is_file().then(|| std::fs::read(own).unwrap()));
    feed_files(file, &others, &seeds, |path| {
        if let Ok(model) = Model::load(path.parent().unwrap().to_str().unwrap(), &LoadOptions::default()) {
            let _ = model.tokenizer.encode("The film was not great.");
        }
    });
}

#[test]
fn configurations_of_models() {
    let folders = std::fs::read_dir(here("tests/fixtures/folders")).unwrap().map(|entry| entry.unwrap().path());
    let configs = folders.filter_map(|folder| std::fs::read(folder.join("config.json")).ok());
    feed_model("config.json", &configs.collect::<Vec<_>>());
}

#[test]
fn weights() {
    feed_model("model.safetensors", &[]);
}

#[test]
fn indices_of_weights() {
    let index = r#"{"metadata": {"total_size": 10}, "weight_map": {"model.embed_tokens.weight": "model.safetensors"}}"#;
    feed_model("model.safetensors.index.json", &texts(&[index]));
}

#[test]
fn tokenizers() {
    feed_model("tokenizer.json", &[]);
    feed_model("tokenizer_config.json", &[]);
}

#[test]
fn arrays_of_directions() {
    for (ending, name) in [
        (".npy", "probe_layer1.npy"),
        (".npz", "probe_layer1.npz"),
        (".safetensors", "probe_layer1.safetensors"),
        (".json", "probe_layer1.json"),
    ] {
        let seeds = all_of("tests/fixtures/directions/files", ending);
        feed_files(name, &[], &seeds, |path| {
            let wanted = Wanted { patterns: &["*".to_owned()], layer: Some(1), d_model: 4, n_layers: 4 };
            let _ = read_files(path, wanted);
        });
    }
}

#[test]
fn records_of_fits() {
    let name: DirectionName = "das_simple_train_ADJ_layer1".parse().unwrap();
    let mut record = serde_json::to_value(FitRecord::of(&name)).unwrap();
    record["settings"] = serde_json::json!({ "epochs": 64, "adam": { "learning_rate": 1e-3 } });
    let seeds = [serde_json::to_vec_pretty(&record).unwrap()];
    feed_files("das_simple_train_ADJ_layer1.json", &[], &seeds, |path| {
        let _ = FitRecord::read(path.parent().unwrap(), &name);
    });
}

#[test]
fn ledgers() {
    let folder = tempfile::tempdir().unwrap();
    let configuration: Configuration =
        [("model", "demo"), ("dtype", "f32")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let cell = |number: usize| Cell {
        id: CellId::of("suite", &configuration, &[("number".to_owned(), number.to_string())].into()),
        place: Place { file: "x.csv".into(), at: ["das_layer01", "simple", "ADJ"].map(Into::into).into() },
        inputs: Arc::default(),
        texts: Arc::new([("simple".into(), "00".into())].into()),
        settings: Default::default(),
        shard: None,
    };
    let mut ledger = Ledger::open(folder.path(), &configuration).unwrap();
    ledger.want([0, 1, 2].map(cell)).unwrap();
    let done = |number: usize| (cell(number).id, Outcome::Done { value: 12.5.into(), seconds: 0.1 });
    ledger.record([0, 1].map(done)).unwrap();
    let written = std::fs::read(ledger.path()).unwrap();
    feed_files(Ledger::FILE, &[], &[written], |path| {
        let _ = Ledger::read(path.parent().unwrap());
    });
}

/// The demo model's tokenizer.
fn tokenizer() -> Tokenizer {
    Model::load("demo", &LoadOptions::default()).unwrap().tokenizer
}

#[test]
fn datasets() {
    let (tokenizer, catalogue) = (tokenizer(), Catalogue::load(None).unwrap());
    let check = |path: &Path| {
        for fault in catalogue.check(path, &tokenizer, &BuildOptions::default(), &[]).faults {
            assert!(!fault.to_string().is_empty());
        }
    };
    let toml = "[mine]\nlabel = \"positive\"\nprompts = [\n    { clean = \"I loved it\", corrupted = \"I hated it\", \
                correct = \" great\", incorrect = \" bad\" },\n]\n";
    let built_in = String::from_utf8(contents("data/datasets.toml")).unwrap();
    let template = built_in.split("\n\n").find(|part| part.contains("[simple_test]")).unwrap();
    feed_files("mine.toml", &[], &texts(&[toml, template]), check);
    let csv = "clean,corrupted,answer,wrong_answer,class,position_VRB\nI loved it,I hated it, great, bad,positive,loved\n\
               \"It \"\"was\"\" good\",\"It \"\"was\"\" dull\", great, bad,negative,was\n";
    feed_files("mine.csv", &[], &texts(&[csv]), check);
    let jsonl = "{\"clean\": \"I loved it\", \"corrupted\": \"I hated it\", \"answer\": \" great\", \"wrong_answer\": \" bad\"}\n";
    feed_files("mine.jsonl", &[], &texts(&[jsonl]), check);
}

#[test]
fn analyses() {
    let seeds = all_of("data/experiments", ".toml");
    feed_files("analysis.toml", &[], &seeds, |path| {
        if let Ok(circuit) = Circuit::read(path) {
            let _ = circuit.steps(circuit.model(), &[]);
        }
    });
}

#[test]
fn settings_of_studies() {
    let seeds = AnyStudy::NAMES.iter().map(|name| serde_json::to_vec(&AnyStudy::settings(name).unwrap()).unwrap());
    let seeds: Vec<Vec<u8>> = seeds.collect();
    feed("settings", &seeds, |bytes| {
        let Ok(serde_json::Value::Object(settings)) = serde_json::from_slice(bytes) else { return };
        for name in AnyStudy::NAMES {
            let _ = AnyStudy::new(name, settings.clone());
        }
    });
}

#[test]
fn corpora() {
    let tokenizer = tokenizer();
    let read = |path: &Path| {
        let shape = RowShape { tokenizer: &tokenizer, length: 16, d_vocab: 2000 };
        if let Ok(rows) = Rows::of_file(path, shape) {
            let _ = rows.take(100).collect::<Result<Vec<_>, _>>();
        }
    };
    feed_files("corpus.txt", &[], &texts(&["I loved it.\nThe plot was awful, and far too long.\n"]), read);
    feed_files("corpus.jsonl", &[], &texts(&["{\"text\": \"I loved it.\"}\n{\"tokens\": [1, 2, 3]}\n"]), read);
    let mut array = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    array.extend(format!("{:<117}\n", "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 3), }").into_bytes());
    array.extend((0..6i64).flat_map(i64::to_le_bytes));
    feed_files("corpus.npy", &[], &[array], read);
}

#[test]
fn results_that_are_read_again() {
    feed_files("golden.toml", &[], &all_of("data/golden", ".toml"), |path| {
        let _ = GoldenFile::read(path);
    });
    let text = r#"{"direction":"das_a_ADJ_layer1","sites":["blocks.0.hook_resid_pre"],"prompt":"I","temperature":1.0,"top_k":10,"max_new_tokens":4,"seed":0,"coefficient":4.0,"sample":0,"text":" am","tokens":[1],"log_probabilities":[-1.0],"log_probability":-1.0,"ended":false,"provenance":"00"}"#;
    feed_files("steering_das_a_ADJ_layer1.jsonl", &[], &texts(&[text]), |path| {
        let _ = SteeredTexts::read(path);
    });
    let table =
        ",simple_test,simple_test\n,ADJ,ALL\ndas_simple_train_ADJ_layer01,12.5,50\nrandom_direction_layer01,,0.1\n";
    feed_files("direction_patching_logit_diff_resid_plain.csv", &[], &texts(&[table]), |path| {
        let _ = SuiteCsv::read(path);
    });
}

#[test]
fn names() {
    let seeds = [
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
    ];
    feed("names", &texts(&seeds), |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Ok(name) = text.parse::<DirectionName>() {
            assert_eq!(name.to_string().parse::<DirectionName>().unwrap(), name);
        }
        let _ = select(std::slice::from_ref(&text), &[]);
        let _ = layers("layers", std::slice::from_ref(&text), 12);
        drop((text.parse::<NodePattern>(), text.parse::<MapKind>(), text.parse::<Device>(), text.parse::<Shard>()));
        drop((text.parse::<HeadAt>(), text.parse::<HeadAtPosition>(), text.parse::<HeadChoice>()));
        drop((text.parse::<Coefficients>(), text.parse::<SuiteName>()));
    });
}
