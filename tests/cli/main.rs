//! The command line through its binary, and the numbers behind it through the library.

mod ablation;
mod attribution;
mod bad_files;
mod bad_input;
mod bench;
mod compat;
mod datasets;
mod directions;
mod grammar;
mod journey;
mod json;
mod logit_lens;
mod manifest;
mod maps;
mod overview;
mod reading;
mod reference;
mod renewed;
mod reproduce;
mod results;
mod same_numbers;
mod science;
mod steering;
mod sweeps;
mod tables;
mod tutorial;
mod undefined;
mod verify;

#[path = "../support/pages.rs"]
mod pages;
#[path = "../support/program.rs"]
mod program;

pub use program::*;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The manifests of the demo model's folder, oldest first.
pub fn manifests(data: &Path) -> Vec<serde_json::Value> {
    let all = all_files(&data.join("demo/manifests"));
    let own = all.iter().filter(|(path, _)| path.components().count() == 1);
    let mut found: Vec<serde_json::Value> = own.map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect();
    found.sort_by_key(|manifest| manifest["started"].as_str().unwrap().to_owned());
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
    folder_of(files)
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
