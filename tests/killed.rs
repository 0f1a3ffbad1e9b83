//! Commands that are killed at random moments, and commands that run twice at once: what is there in the end is what one
//! undisturbed run leaves, byte for byte, with nothing beside it.
//!
//! Every command is killed `ACTPATCH_KILLS` times (once without it), each time in a fresh folder. `ACTPATCH_KILL_SEED` draws
//! other moments.

#[path = "support/program.rs"]
mod program;

use actpatch::sweep::{Ledger, Outcome};
use program::{all_files, files, folder_of, run_in};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Hands every command that writes results to a macro, by its name, with the rest of its line. `DATA` is the data folder.
macro_rules! commands {
    ($each:ident) => {
        $each! {
            fit_directions: "--train-sets simple_adverb --methods das,pca --layers 1,2 --epochs 2 --test-sets simple_test",
            random_directions: "--direction-seed 7 --overwrite",
            direction_patching_suite: "--directions mean_diff*,das_* --metrics logit_diff,logit_flip --batch-tokens 512",
            direction_patching_results: "",
            activation_patching_maps: "--maps z,resid_pre --batch-tokens 512",
            path_patching: "--receivers v:2.2,v:2.3 --batch-tokens 512",
            attribution_patching: "--maps z,post --exact",
            ablation_maps: "--maps z,mlp_out --methods zero,mean",
            ablation: "--nodes z:1.0,z:1.2,mlp_out:0 --methods zero,mean,resample",
            faithfulness: "--heads 1.0,1.2,2.2,2.3",
            logit_attribution: "--maps heads,neurons",
            logit_lens: "--prompts 0,1 --directions das_*layer1",
            attention: "--heads 2.2,2.3 --prompts 0 --to ADJ",
            head_cosines: "--nodes 1.0@END,2.2@END",
            neuron_cosines: "--directions pca_*_layer1",
            probing: "--components resid_post",
            ccs: "--epochs 20 --tries 2",
            neuroscope: "--corpus DATA/texts.txt --directions das_*layer1 --every-token --min-count 1",
            text_loss: "--corpus DATA/texts.txt --directions das_simple_train_ADJ_layer1 --methods zero --by-token 3",
            negation: "--directions das_*layer1,mean_diff*layer1",
            steering: "--directions das_simple_train_ADJ_layer1 --coefficients -4,4 --samples 2 --max-new-tokens 4",
            circuit: "--config DATA/analysis.toml --",
            merge: ""
        }
    };
}

/// A text, and an analysis of two steps.
const OWN: [(&str, &str); 2] = [
    ("texts.txt", "I loved it, and the plot was great.\nIt was awful, far too long, and I hated it.\n"),
    (
        "analysis.toml",
        "model = \"demo\"\n[[steps]]\ncommand = \"faithfulness\"\nheads = [\"1.0\", \"2.2\"]\n\
         [[steps]]\ncommand = \"logit-attribution\"\nmaps = [\"layers\"]\n",
    ),
];

/// A fresh data folder with directions, some results, a shard and texts.
fn prepared() -> tempfile::TempDir {
    static PREPARED: OnceLock<BTreeMap<PathBuf, Vec<u8>>> = OnceLock::new();
    let files = PREPARED.get_or_init(|| {
        let data = tempfile::tempdir().unwrap();
        run_in(data.path(), &["fit-directions", "--methods", "mean_diff,pca,das", "--epochs", "2"]).success();
        run_in(data.path(), &["direction-patching-suite", "--directions", "pca*"]).success();
        run_in(data.path(), &["activation-patching-maps", "--maps", "v", "--shard", "0/1"]).success();
        OWN.iter().for_each(|(name, text)| std::fs::write(data.path().join(name), text).unwrap());
        all_files(data.path())
    });
    folder_of(files)
}

/// A command as it is run in a data folder.
struct Line {
    name: String,
    rest: &'static str,
}

impl Line {
    fn new(function: &str, rest: &'static str) -> Self {
        Self { name: function.replace('_', "-"), rest }
    }

    fn words(&self, data: &Path) -> Vec<String> {
        let data = data.display().to_string();
        let rest = self.rest.split_whitespace().map(|word| word.replace("DATA", &data));
        [self.name.clone()].into_iter().chain(rest).collect()
    }

    fn start(&self, data: &Path) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_actpatch"));
        command.args(self.words(data)).args(["--data-dir", data.to_str().unwrap()]);
        command.env_remove("RUST_LOG").env("HF_HUB_OFFLINE", "1");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs it to its end.
    fn finish(&self, data: &Path) -> Left {
        let words = self.words(data);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let stdout = run_in(data, &words).success().stdout.replace(&data.display().to_string(), "DATA");
        // Merging tells what it has joined, and joins nothing twice.
        Left { stdout: if self.name == "merge" { String::new() } else { stdout }, ..Left::of(data) }
    }
}

/// What a command has left, without manifests and times.
#[derive(Debug, PartialEq)]
struct Left {
    stdout: String,
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// The cells of the sweeps: where they stand, and what became of them.
    cells: Vec<String>,
}

impl Left {
    fn of(data: &Path) -> Self {
        let shown = |outcome: &Outcome| match outcome {
            Outcome::Done { value, .. } => value.to_string(),
            Outcome::Failed(error) => error.clone(),
        };
        let ledger = Ledger::read(&data.join("demo")).unwrap();
        let cells = ledger.iter().flat_map(|(_, state)| state.cells());
        let mut cells: Vec<String> =
            cells.map(|(cell, outcome)| format!("{:?} {:?} {:?}", cell.id, cell.place, outcome.map(shown))).collect();
        cells.sort();
        for path in all_files(data).keys() {
            let name = path.file_name().unwrap().to_string_lossy();
            assert!(!name.starts_with('.') && !name.starts_with("running-"), "{} is left", path.display());
        }
        let strip = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) => text.replace(&data.display().to_string(), "DATA").into_bytes(),
            Err(other) => other.into_bytes(),
        };
        let files = files(data).into_iter().map(|(path, bytes)| (path, strip(bytes))).collect();
        Self { stdout: String::new(), files, cells }
    }

    #[track_caller]
    fn compare(&self, expected: &Self, what: &str) {
        let names = |left: &Self| left.files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(expected), "{what}");
        for (path, bytes) in &self.files {
            assert!(bytes == &expected.files[path], "{what}: {} differs", path.display());
        }
        assert_eq!(self.stdout, expected.stdout, "{what}");
        assert_eq!(self.cells, expected.cells, "{what}");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Kills a command, runs it again to its end, and compares.
fn kill(line: &Line) {
    let data = prepared();
    let begun = Instant::now();
    let expected = line.finish(data.path());
    let whole = begun.elapsed().as_micros() as u64;
    let mut random = ChaCha8Rng::seed_from_u64(number("ACTPATCH_KILL_SEED").unwrap_or(0));
    let (kills, mut amid) = (number("ACTPATCH_KILLS").unwrap_or(1), 0);
    for kill in 0..kills {
        let data = prepared();
        let mut child = line.start(data.path());
        let moment = Duration::from_micros(random.random_range(0..whole));
        std::thread::sleep(moment);
        amid += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        line.finish(data.path()).compare(&expected, &format!("{}, kill {kill} after {moment:?}", line.name));
    }
    println!("{}: {amid} of {kills} kills hit it at work, {:.1} s", line.name, whole as f64 / 1e6);
}

/// Runs a command twice at once, and compares.
fn twice(line: &Line) {
    let (alone, shared) = (prepared(), prepared());
    let expected = line.finish(alone.path());
    for child in [line.start(shared.path()), line.start(shared.path())] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}: {}", line.name, String::from_utf8_lossy(&output.stderr));
    }
    line.finish(shared.path()).compare(&expected, &line.name);
}

macro_rules! killed {
    ($($name:ident: $rest:literal),*) => {
        mod killed {
            $(
                #[test]
                fn $name() {
                    super::kill(&super::Line::new(stringify!($name), $rest));
                }
            )*
        }
    };
}

macro_rules! at_once {
    ($($name:ident: $rest:literal),*) => {
        mod at_once {
            $(
                #[test]
                fn $name() {
                    super::twice(&super::Line::new(stringify!($name), $rest));
                }
            )*
        }
    };
}

commands!(killed);
commands!(at_once);
