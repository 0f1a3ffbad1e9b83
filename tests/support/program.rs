//! The binary, run as a user would.
#![allow(dead_code, reason = "every test binary uses another part")]

use assert_cmd::Command;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The binary, out of reach of the caller's settings.
pub fn actpatch(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_actpatch"));
    command.args(arguments).env_remove("RUST_LOG").env("HF_HUB_OFFLINE", "1");
    command
}

/// What a run left behind.
#[derive(Debug)]
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

/// A folder of its own with these files.
pub fn folder_of(files: &BTreeMap<PathBuf, Vec<u8>>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
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
