//! The command line through its binary, and the numbers behind it through the library.

mod ablation;
mod attribution;
mod bad_files;
mod bad_input;
mod bench;
mod compat;
mod directions;
mod journey;
mod manifest;
mod maps;
mod reading;
mod renewed;
mod results;
mod same_numbers;
mod science;
mod steering;
mod sweeps;
mod verify;

use assert_cmd::Command;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The binary, out of reach of the caller's settings.
pub fn actpatch(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpatch"));
    command.args(arguments).env_remove("RUST_LOG").env("HF_HUB_OFFLINE", "1");
    command
}

/// What a run left behind.
pub struct Finished {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the binary with `--data-dir data`.
pub fn run_in(data: &Path, arguments: &[&str]) -> Finished {
    finish(actpatch(arguments).arg("--data-dir").arg(data))
}

/// Runs a command to its end; a panic is a failure whatever the test looks for.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let finished = Finished {
        code: output.status.code().expect("no signal ends it"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    };
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    finished
}

impl Finished {
    /// The run itself, when it succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Checks that the run failed with this exit code and one error that holds every one of `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        let errors = self.stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(errors, 1, "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {}", self.stderr);
        }
    }

    /// The JSON on stdout.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// The results below a folder: every file with its bytes, but for the manifests and ledgers, which tell each run from
/// another.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = all_files(folder);
    found.retain(|path, _| !path.iter().any(|part| part == "manifests" || part == "ledger.jsonl"));
    found
}

/// The manifests of the demo model's folder, oldest first.
pub fn manifests(data: &Path) -> Vec<serde_json::Value> {
    let all = all_files(&data.join("demo/manifests"));
    let own = all.iter().filter(|(path, _)| path.components().count() == 1);
    let mut found: Vec<serde_json::Value> = own.map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect();
    found.sort_by_key(|manifest| manifest["started"].as_str().unwrap().to_owned());
    found
}

/// Every file below a folder with its bytes.
pub fn all_files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Methods of [`fitted`].
pub const METHODS: &str = "mean_diff,pca,random,das,das2d";

/// A copy of a data folder that holds directions of the demo model, fitted once per test run.
pub fn fitted() -> tempfile::TempDir {
    static FITTED: OnceLock<BTreeMap<PathBuf, Vec<u8>>> = OnceLock::new();
    let files = FITTED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        run_in(folder.path(), &["fit-directions", "--methods", METHODS]).success();
        all_files(folder.path())
    });
    let copy = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = copy.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    copy
}

/// The result file of a metric in the demo model's folder.
pub fn result_file(data: &Path, metric: &str, ending: &str) -> PathBuf {
    data.join(format!("demo/direction_patching_{metric}_resid_plain{ending}.csv"))
}

/// A value of a result file, in percent.
#[track_caller]
pub fn value(path: &Path, direction: &str, set: &str, position: &str) -> f64 {
    let file = actpatch::report::SuiteCsv::read(path).unwrap();
    let key = (direction.to_owned(), set.to_owned(), position.to_owned());
    *file.cells().get(&key).unwrap_or_else(|| panic!("{key:?} is not in {}", path.display()))
}
