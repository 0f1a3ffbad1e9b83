//! Studies: what a session can be asked for, from fitting directions to whole circuit analyses.
//!
//! A study is a specification: a plain struct with defaults, which reads and writes as TOML or JSON. It can say what it
//! will cost ([`Study::plan`]) and be run ([`Study::run`]): files go to the session's folder of results, and the outcome
//! is returned as values. Results that are there already, made of the same things, are kept and returned as well.
//!
//! ```
//! use actpatch::session::{Session, SessionOptions, Silent};
//! use actpatch::studies::{FitDirections, Study};
//! # let data = tempfile::tempdir()?;
//!
//! let options = SessionOptions { data_dir: data.path().into(), ..SessionOptions::default() };
//! let session = Session::open("demo", options)?;
//! let fit = FitDirections { methods: vec!["mean_diff".parse()?], layers: vec!["1".into()], ..Default::default() };
//! let fitted = fit.run(&session, &mut Silent)?;
//! assert_eq!(fitted.directions[0].name, "mean_diff_simple_train_ADJ_layer1");
//! # Ok::<(), anyhow::Error>(())
//! ```

mod ablation;
mod ablation_maps;
mod activation_patching_maps;
mod attention;
mod attribution_patching;
mod benchmark;
mod ccs;
mod circuit;
mod datasets;
mod demo;
mod faithfulness;
mod fields;
mod fits;
mod head_cosines;
mod heads;
mod logit_attribution;
mod logit_lens;
pub mod maps;
mod neuron_cosines;
mod overview;
mod patching_results;
mod patching_suite;
mod path_patching;
mod probing;
mod registry;
mod reproduce;
mod self_check;
mod stored_directions;
mod suite_tables;
mod sweep_merge;
mod sweep_status;
mod swept;
pub mod tables;
mod texts;
mod treebank_data_gen;
mod twins;
mod undefined;
pub mod verify;

pub use ablation::{Ablation, Attention};
pub use ablation_maps::{AblationMaps, Measure};
pub use activation_patching_maps::ActivationPatchingMaps;
pub use attention::{AttentionMaps, OverPrompts};
pub use attribution_patching::AttributionPatching;
pub use benchmark::{Benchmark, Timings};
pub use ccs::Ccs;
pub use circuit::{Circuit, Step, session_options};
pub use datasets::{
    CheckedFile, DatasetList, DatasetSummary, ShownDataset, ShownPair, ShownToken, check_datasets, list_datasets,
    show_dataset,
};
pub use demo::{Demo, DemoResults};
pub use faithfulness::Faithfulness;
pub use fields::from_settings;
pub use fits::{FitDirections, Fits, Fitted, RandomDirections, RandomWritten};
pub use head_cosines::HeadCosines;
pub use heads::{HeadAt, HeadAtPosition, HeadChoice};
pub use logit_attribution::LogitAttribution;
pub use logit_lens::{LogitLens, PredictedSet, Predictions};
pub use neuron_cosines::NeuronCosines;
#[cfg(feature = "cli")]
pub use overview::{Listening, PORT as OVERVIEW_PORT};
pub use overview::{Overview, Progress, WrittenOverview, write_overview};
pub use patching_results::{PatchingResults, SuiteResults, export_patching_values, patching_results};
pub use patching_suite::{Heads, PatchedLayers, PatchingSuite, Projection, Suite, SuiteCell};
pub use path_patching::{PathMethod, PathPatching};
pub use probing::Probing;
pub use registry::{AnyStudy, Report};
pub use reproduce::{Reproduce, Reproduced};
pub use self_check::{Checked, SelfCheck};
pub use stored_directions::{Cosines, Details, ImportDirections, Imported, Listing, Stored, StoredDirections};
pub use sweep_merge::{MergedModel, SweepMerge, merge_sweeps};
pub use sweep_status::{LedgerStatus, SweepStatus, sweep_status};
pub use texts::{COEFFICIENTS as STEERING_COEFFICIENTS, TEXT_METHODS};
pub use texts::{
    Coefficients, Corpus, LabelShares, LabelledShares, Negation, Negations, Neuroscope, Readings, ScoreRow,
    SteeredDirection, Steering, TextLoss, Texts,
};
pub use treebank_data_gen::{Filter, Generated, Joined, TreebankDataGen, TreebankDatasets, TreebankOfModels};
pub use twins::Twin;
pub use verify::Verify;

use crate::engine::Flops;
use crate::session::{Note, Observer, Session};
use anyhow::Result;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;

/// Something that a session can be asked for.
pub trait Study: Serialize + DeserializeOwned + Default + Clone + Send + Sync {
    /// Its name on the command line, in manifests and in the steps of a circuit.
    const NAME: &'static str;
    /// Does a run that was stopped leave what the next one goes on from?
    const GOES_ON: bool = true;
    /// What comes of it.
    type Outcome: Outcome;

    /// Checks what needs no model.
    ///
    /// # Errors
    /// A [`crate::session::Fault`] that names the field.
    fn validate(&self) -> Result<()> {
        Ok(())
    }

    /// What running it will compute, without computing it.
    ///
    /// # Errors
    /// Whatever cannot be done with this model.
    fn plan(&self, session: &Session) -> Result<Plan>;

    /// Runs it, telling the observer how it comes along.
    ///
    /// # Errors
    /// Those of models, datasets, devices and files; [`crate::session::Stopped`] when the observer ends it.
    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Self::Outcome>;

    /// What failed of that which was checked, if anything did: such an outcome is no error, but no success either.
    fn failed(_outcome: &Self::Outcome) -> Option<String> {
        None
    }
}

/// What comes of a study: readable as text, and as JSON.
pub trait Outcome: Serialize + fmt::Display + Send {}

impl<T: Serialize + fmt::Display + Send> Outcome for T {}

/// What a study will compute.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    /// All of it, for people.
    pub text: String,
    /// The arithmetic, where it can be told beforehand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// Expected memory in bytes, where it can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<usize>,
    /// What [`Plan::timed`] has found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub least_seconds: Option<f64>,
    /// What there is already, and what may be wrong.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

impl Plan {
    /// A plan that is a text.
    pub(crate) fn of(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// The plan where everything that is asked for is there.
    pub(crate) fn nothing(session: &Session) -> Self {
        let text = format!("{}: everything is there, nothing is to be computed\n", session.model().name);
        Self::of(text).costing(Flops::default(), None)
    }

    /// The plan that says `text` of passes which keep so many values, with their arithmetic and memory below.
    pub(crate) fn of_passes(session: &Session, text: &str, flops: Flops, kept: usize) -> Self {
        let memory = session.planned_memory(kept + session.batch_tokens() * session.config().passing_values());
        let total = format!("total {flops}, about {} of memory", bytes(memory));
        Self::of(format!("{}\n{}\n{total}\n", session.model().name, text.trim_end())).costing(flops, Some(memory))
    }

    /// The same with its arithmetic and memory.
    pub(crate) fn costing(self, flops: Flops, memory_bytes: Option<usize>) -> Self {
        Self { operations: Some(flops.0), memory_bytes, ..self }
    }

    /// The same with the seconds that its arithmetic takes at the processor's peak, which is measured now; loading, and all
    /// that falls short of the peak, comes on top. Nothing is told of GPUs.
    #[must_use]
    pub fn timed(self, session: &Session) -> Self {
        let wanted = self.operations.filter(|operations| *operations > 0);
        let least_seconds = wanted.and_then(|operations| Some(operations as f64 / session.processor_peak()?));
        Self { least_seconds, ..self }
    }

    /// The same with what was noted on the way.
    pub(crate) fn with(self, notes: Notes) -> Self {
        Self { notes: notes.0, ..self }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Keeps the notes of a plan.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Note>);

impl Observer for Notes {
    fn note(&mut self, note: &Note) {
        self.0.push(note.clone());
    }
}

/// Bytes for people.
pub(crate) fn bytes(count: usize) -> String {
    match count {
        0..1_000_000 => format!("{:.0} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}
