//! The folder of a model's results: it belongs to one model, and several processes may work in it.

use super::{Fault, Mend, Session, processing_names};
use crate::files::{clear_unfinished, refuse_dangling, write_whole};
use crate::model::{FileRecord, Provenance as Files, Source};
use crate::report::{Manifest, ModelRecord, RunRecord, RunStart};
use crate::sweep::clear_marks;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The file that says whose results a folder holds.
pub(crate) const MODEL: &str = "model.json";

/// In the data folder: hashes of large weight files, see [`crate::model::Provenance::with_every_hash`].
const KNOWN_HASHES: &str = "weights_sha256.json";

/// The model that a folder of results belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    version: String,
    name: String,
    /// How it was asked for.
    pub asked: String,
    /// Where it came from.
    pub source: Source,
    /// What its weights are known by.
    pub weights: String,
}

impl Session {
    /// Where the hashes of large files are remembered.
    pub(super) fn known_hashes(&self) -> PathBuf {
        self.options.data_dir.join(KNOWN_HASHES)
    }

    /// The folder of the model's results, which must not be another model's. What killed processes have left in it is
    /// cleared.
    ///
    /// # Errors
    /// A folder that holds results of another model.
    pub fn results(&self) -> Result<PathBuf> {
        let folder = self.folder();
        self.loaded.cleared.call_once(|| {
            clear_unfinished(&folder);
            clear_marks(&folder);
        });
        if let Some(owner) = owner(&folder) {
            if owner.weights == self.weights()? {
                return Ok(folder);
            }
            let theirs = match owner.source == self.model().provenance.source {
                true => "the same place, whose files have changed since".to_owned(),
                false => format!("{} ({})", owner.asked, place(&owner.source)),
            };
            return Err(self.of_another(&folder, &theirs).into());
        }
        // Before folders had owners, manifests said which model they were of.
        for record in earlier_models(&folder) {
            if !self.is_of(&record.provenance)? {
                return Err(self.of_another(&folder, &place(&record.provenance.source)).into());
            }
        }
        Ok(folder)
    }

    /// Do these files, or this seed, make the session's weights?
    fn is_of(&self, theirs: &Files) -> Result<bool> {
        let ours = self.model().provenance.clone().with_every_hash(&self.known_hashes())?;
        if let (Source::Random { .. }, _) | (_, Source::Random { .. }) = (&ours.source, &theirs.source) {
            return Ok(ours.source == theirs.source);
        }
        let contents = |files: &[FileRecord]| -> Vec<_> {
            files.iter().map(|file| (file.name.clone(), file.sha256.clone())).collect()
        };
        Ok(contents(&ours.files) == contents(&theirs.files))
    }

    fn of_another(&self, folder: &Path, theirs: &str) -> Fault {
        let ours = place(&self.model().provenance.source);
        let place_asked = self.asked().strip_prefix(&format!("{}=", self.model().name)).unwrap_or(self.asked());
        let named = format!("NAME={place_asked} with another NAME");
        Fault::new(format!("{}: expected results of {ours}, found those of {theirs}", folder.display()))
            .mended_by(Mend::Set("models", named))
            .mended_by(Mend::Another("data_dir"))
    }

    /// Makes the folder of results this model's, and refuses one that cannot be written to before any work is done.
    pub(crate) fn claim(&self) -> Result<PathBuf> {
        let folder = self.folder();
        check_writable(&folder)?;
        self.locked(|| {
            self.results()?;
            if owner(&folder).is_none() {
                let model = self.model();
                let owner = Owner {
                    version: env!("CARGO_PKG_VERSION").into(),
                    name: model.name.clone(),
                    asked: self.asked().to_owned(),
                    source: model.provenance.source.clone(),
                    weights: self.weights()?.to_owned(),
                };
                let path = folder.join(MODEL);
                write_whole(&path, &serde_json::to_vec_pretty(&owner)?).with_context(|| path.display().to_string())?;
            }
            Ok(())
        })?;
        Ok(folder)
    }

    /// Does `work` while no other process that asks for this lock writes to the folder of results: for files that
    /// several runs add to.
    pub(crate) fn locked<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let path = self.folder().join("provenance").join("lock");
        let lock = || -> std::io::Result<File> {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            refuse_dangling(&path)?;
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        let _held = lock().with_context(|| path.display().to_string())?;
        work()
    }

    /// Claims the folder of results and begins the manifest of a study that will write to it.
    ///
    /// # Errors
    /// Those of [`Session::results`]; a folder that cannot be written to.
    pub(crate) fn manifest(&self, study: &str, spec: &impl Serialize) -> Result<Manifest> {
        let folder = self.claim()?;
        let model = self.model();
        let record = ModelRecord::new(model, processing_names(model.processing), &self.known_hashes())?;
        let mut configuration = serde_json::Map::from_iter([("models".to_owned(), vec![self.asked()].into())]);
        for part in [serde_json::to_value(&*self.options)?, serde_json::to_value(spec)?] {
            if let serde_json::Value::Object(fields) = part {
                configuration.extend(fields);
            }
        }
        start_manifest(&folder, study, configuration.into(), self.options.arguments.clone(), Some(record))
    }
}

/// Begins the manifest of a study that will write to `folder`, with or without a model.
pub(crate) fn start_manifest(
    folder: &Path,
    study: &str,
    configuration: serde_json::Value,
    arguments: Vec<String>,
    model: Option<ModelRecord>,
) -> Result<Manifest> {
    check_writable(folder)?;
    Ok(Manifest::start(folder, RunStart { command: study, arguments, configuration, model })?)
}

impl Owner {
    /// The owner of a folder of results; none where nothing says so.
    ///
    /// # Errors
    /// What is wrong with a damaged record.
    pub fn read(folder: &Path) -> serde_json::Result<Option<Self>> {
        let Ok(bytes) = std::fs::read(folder.join(MODEL)) else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some)
    }
}

/// The owner of a folder of results; a damaged record is none, and is written again.
fn owner(folder: &Path) -> Option<Owner> {
    let path = folder.join(MODEL);
    let warn = |error: &serde_json::Error| tracing::warn!("{} is damaged ({error}) and is not trusted", path.display());
    Owner::read(folder).inspect_err(warn).ok().flatten()
}

/// The models that the manifests of a folder name.
fn earlier_models(folder: &Path) -> Vec<ModelRecord> {
    let Ok(entries) = std::fs::read_dir(folder.join("manifests")) else { return Vec::new() };
    let model = |entry: std::io::Result<std::fs::DirEntry>| {
        let bytes = std::fs::read(entry.ok()?.path()).ok()?;
        serde_json::from_slice::<RunRecord>(&bytes).ok()?.model
    };
    let mut found: Vec<ModelRecord> = Vec::new();
    for record in entries.filter_map(model) {
        if !found.contains(&record) {
            found.push(record);
        }
    }
    found
}

/// A model's source for people.
pub(crate) fn place(source: &Source) -> String {
    match source {
        Source::Embedded => "the demo model".into(),
        Source::Folder { path } | Source::File { path } => path.clone(),
        Source::Hub { repo, revision, commit } => format!("{repo}@{revision} (commit {commit})"),
        Source::Random { shape, seed } => format!("random:{shape} with seed {seed}"),
    }
}

/// Refuses a folder that cannot be written to before any work is done.
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    let fault = |what: &str, error: std::io::Error| {
        Fault::of("data_dir", format!("cannot {what} {}: {error}", folder.display()))
    };
    std::fs::create_dir_all(folder).map_err(|error| fault("make", error))?;
    tempfile::tempfile_in(folder).map_err(|error| fault("write to", error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionOptions;

    fn open(data: &Path, model: &str) -> Session {
        Session::open(model, SessionOptions { data_dir: data.into(), ..SessionOptions::default() }).unwrap()
    }

    #[test]
    fn a_folder_of_results_belongs_to_one_model() {
        let data = tempfile::tempdir().unwrap();
        let demo = open(data.path(), "demo");
        assert!(demo.results().is_ok());
        demo.claim().unwrap();
        demo.claim().unwrap();
        let other = open(data.path(), "demo=random:pythia-14m");
        assert_eq!(other.folder(), demo.folder());
        let message = other.claim().unwrap_err().to_string();
        for word in ["expected results of random:pythia-14m", "those of demo", "models = NAME=", "another data_dir"] {
            assert!(message.contains(word), "{word}: {message}");
        }
        // What a killed process has left half is neither trusted nor in the way.
        std::fs::write(demo.folder().join(MODEL), "{").unwrap();
        demo.claim().unwrap();
        assert!(owner(&demo.folder()).is_some());
    }

    #[test]
    fn manifests_of_earlier_versions_say_whose_folder_it_is() {
        let data = tempfile::tempdir().unwrap();
        let demo = open(data.path(), "demo");
        demo.manifest("ablation", &serde_json::json!({})).unwrap().finish().unwrap();
        std::fs::remove_file(demo.folder().join(MODEL)).unwrap();
        assert!(demo.results().is_ok());
        let other = open(data.path(), "demo=random:pythia-14m");
        assert!(other.results().unwrap_err().to_string().contains("found those of the demo model"));
    }
}
