//! Run manifests: what a command that writes results was told, with which program and model it ran, which tokens the
//! model saw, and what was written.
//!
//! A manifest lies in `manifests/` of the folder it tells of, named by command, time and a random number, so that runs
//! side by side never write the same file. It is there from the start, `finished: false`, and complete in the end; a
//! run that fails leaves what it had written until then. The prompts are a file of their own, named by its SHA-256, that
//! all runs on the same tokens share.

use super::ReportError;
use super::error::write_whole;
use crate::backend::Backend;
use crate::engine::Engine;
use crate::files::sha256;
use crate::model::{Model, Provenance};
use crate::types::PairedPrompts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The contents of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Name of the command whose results these are.
    pub command: String,
    /// The command line.
    pub arguments: Vec<String>,
    /// Every option with its value, defaults filled in.
    pub configuration: serde_json::Value,
    /// Version of this crate.
    pub version: String,
    /// Commit of the program's sources, `-dirty` behind it when they were changed; `unknown` in debug builds and
    /// outside the repository.
    pub commit: String,
    /// Start of the run, UTC.
    pub started: String,
    /// Seconds from the start to the last time this manifest was written.
    pub wall_seconds: f64,
    /// Did the run come to its end?
    pub finished: bool,
    /// Device and number format, as the backend describes them; none when nothing was computed.
    pub device: Option<String>,
    /// Threads of the processor.
    pub threads: usize,
    /// The model; none for a command that needs none.
    pub model: Option<ModelRecord>,
    /// The engine never pads: always `none`.
    pub padding: String,
    /// The datasets and texts that the model saw.
    pub prompts: Vec<PromptsRecord>,
    /// The files written, relative to the folder, with the cells that are new in each; a direction has no cells.
    pub written: BTreeMap<String, Vec<String>>,
}

impl RunRecord {
    /// The folder of the manifests, in the folder that they tell of.
    pub const FOLDER: &'static str = "manifests";
}

/// The model of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// Its name, also of its folder of results.
    pub name: String,
    /// Where its files came from, and their hashes.
    #[serde(flatten)]
    pub provenance: Provenance,
    /// Rewrites of its weights that were done.
    pub weight_processing: Vec<String>,
    /// Id of its beginning-of-sequence token.
    pub bos: Option<u32>,
}

/// The prompts of one dataset, or plain texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptsRecord {
    /// Its name.
    pub dataset: String,
    /// How many there are.
    #[serde(flatten)]
    pub count: PromptsCount,
    /// Does every prompt begin with BOS?
    pub begins_with_bos: bool,
    /// SHA-256 of `manifests/prompts/<sha256>.json`, which holds texts and token ids; of a dataset also answers and
    /// positions.
    pub sha256: String,
}

/// How many prompts there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptsCount {
    /// Pairs of a clean and a corrupted prompt.
    Pairs(usize),
    /// Texts without counterparts.
    Texts(usize),
}

/// Plain texts as the model sees them.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SeenTexts<'a> {
    /// What they are called.
    pub name: &'a str,
    /// The texts.
    pub texts: &'a [String],
    /// Token ids of every text.
    pub sequences: &'a [Vec<u32>],
}

/// What a manifest knows before the run.
#[derive(Debug)]
pub struct RunStart<'a> {
    /// Name of the command.
    pub command: &'a str,
    /// The command line.
    pub arguments: Vec<String>,
    /// The resolved options.
    pub configuration: serde_json::Value,
    /// The model.
    pub model: Option<ModelRecord>,
}

impl ModelRecord {
    /// Records a model. Hashes of large files are remembered in `hashes` ([`Provenance::with_every_hash`]);
    /// `weight_processing` names the rewrites that were done.
    ///
    /// # Errors
    /// Those of [`Provenance::with_every_hash`].
    pub fn new(model: &Model, weight_processing: Vec<String>, hashes: &Path) -> Result<Self, crate::model::ModelError> {
        let provenance = model.provenance.clone().with_every_hash(hashes)?;
        Ok(Self { name: model.name.clone(), provenance, weight_processing, bos: model.tokenizer.bos() })
    }
}

/// A manifest in the making.
#[derive(Debug)]
pub struct Manifest {
    folder: PathBuf,
    path: PathBuf,
    clock: Instant,
    record: RunRecord,
}

impl Manifest {
    /// Begins the manifest of a run whose results go to `folder`.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn start(folder: &Path, start: RunStart<'_>) -> Result<Self, ReportError> {
        let started = timestamp(SystemTime::now());
        let time = started.replace(['-', ':'], "");
        let name = format!("{}-{time}-{:016x}.json", start.command, rand::random::<u64>());
        let record = RunRecord {
            command: start.command.into(),
            arguments: start.arguments,
            configuration: start.configuration,
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("ACTPATCH_COMMIT").into(),
            started,
            wall_seconds: 0.0,
            finished: false,
            device: None,
            threads: rayon::current_num_threads(),
            model: start.model,
            padding: "none".into(),
            prompts: Vec::new(),
            written: BTreeMap::new(),
        };
        let path = folder.join(RunRecord::FOLDER).join(name);
        let mut manifest = Self { folder: folder.into(), path, clock: Instant::now(), record };
        manifest.save()?;
        Ok(manifest)
    }

    /// Notes where the run computes.
    pub fn computed_on<B: Backend>(&mut self, engine: &Engine<B>) {
        self.record.device = Some(engine.backend().describe());
        self.record.threads = rayon::current_num_threads();
    }

    /// Notes a dataset that the model sees, and writes its prompts unless an earlier run has.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn saw(&mut self, prompts: &PairedPrompts) -> Result<(), ReportError> {
        let count = PromptsCount::Pairs(prompts.clean.len());
        self.saw_sequences(&prompts.name, count, &prompts.sequences, prompts)
    }

    /// Notes plain texts that the model sees, and writes them unless an earlier run has.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn saw_texts(&mut self, seen: &SeenTexts<'_>) -> Result<(), ReportError> {
        self.saw_sequences(seen.name, PromptsCount::Texts(seen.texts.len()), seen.sequences, seen)
    }

    fn saw_sequences(
        &mut self,
        name: &str,
        count: PromptsCount,
        sequences: &[Vec<u32>],
        contents: &impl Serialize,
    ) -> Result<(), ReportError> {
        let folder = self.folder.join(RunRecord::FOLDER).join("prompts");
        let text = serde_json::to_vec(contents)
            .map_err(|error| ReportError::Io { path: folder.clone(), source: error.into() })?;
        let sha256 = sha256(&text);
        let path = folder.join(format!("{sha256}.json"));
        if !path.is_file() {
            write_whole(&path, &text)?;
        }
        let bos = self.record.model.as_ref().and_then(|model| model.bos);
        let begins_with_bos = sequences.iter().all(|tokens| bos.is_some() && tokens.first() == bos.as_ref());
        let record = PromptsRecord { dataset: name.into(), count, begins_with_bos, sha256 };
        if !self.record.prompts.contains(&record) {
            self.record.prompts.push(record);
        }
        Ok(())
    }

    /// Notes a file that was written, and the cells that are new in it.
    pub fn wrote(&mut self, file: &Path, cells: impl IntoIterator<Item = String>) {
        let name = file.strip_prefix(&self.folder).unwrap_or(file).display().to_string();
        self.record.written.entry(name).or_default().extend(cells);
    }

    /// Writes the complete manifest and returns it.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn finish(mut self) -> Result<RunRecord, ReportError> {
        self.record.finished = true;
        self.save()?;
        Ok(self.record.clone())
    }

    fn save(&mut self) -> Result<(), ReportError> {
        self.record.wall_seconds = self.clock.elapsed().as_secs_f64();
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|error| ReportError::Io { path: self.path.clone(), source: error.into() })?;
        write_whole(&self.path, &text)
    }
}

/// A time in whole seconds, such as `2026-11-30T12:00:00Z`. Clocks that stand before 1970 or behind 9999 are wrong, and no
/// reason to lose a run: the nearest of these years is written.
fn timestamp(time: SystemTime) -> String {
    /// Seconds from 1970 to the last of the year 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

impl Drop for Manifest {
    /// A run that ends early leaves what it knows.
    fn drop(&mut self) {
        if !self.record.finished
            && let Err(error) = self.save()
        {
            tracing::warn!("the manifest of this run is incomplete: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_no_reason_to_stop() {
        let (day, ages) = (Duration::from_secs(86_400), Duration::from_secs(1 << 40));
        assert_eq!(timestamp(UNIX_EPOCH + day), "1970-01-02T00:00:00Z");
        assert_eq!(timestamp(UNIX_EPOCH - day), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(UNIX_EPOCH + ages), "9999-12-31T23:59:59Z");
    }
}
