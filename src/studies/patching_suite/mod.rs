//! Directional activation patching: every direction on every dataset, at every position, under every metric.

mod plan;
mod target;
mod variant;

pub use target::{Heads, PatchedLayers};
pub(super) use variant::Variant;

use super::fields::{list, not_empty};
use super::suite_tables::write_tables;
use super::undefined::undefined_metric;
use super::{Notes, Plan, Study};
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Scaffold;
use crate::engine::{self, Baselines, Engine, Flops, Layout, Metric, Scores};
use crate::experiments::chunks;
use crate::report::results::ResultFile;
use crate::report::{CellKey, Manifest, RunRecord, SuiteName, SuiteRow, SuiteSite, Table};
use crate::session::{DeviceWork, Fault, Note, Observer, Progress, Session, distinct, wrong};
use crate::sweep::{Measured, Recorder, SweepSettings, finite};
use anyhow::{Context, Result};
use plan::{Divided, Job, passes};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use target::Target;

/// Patches along directions: model x direction x dataset x position x metric.
///
/// A value is in percent: 0 is the run that is patched, 100 (noising: -100) the run that activations are taken from.
/// Every value is a cell of the folder's ledger, of which the tables `direction_patching_<metric>_….csv` are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PatchingSuite {
    /// Direction files by name, `*` and `?` match anything.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// Datasets to patch.
    #[serde(deserialize_with = "list")]
    pub eval_sets: Vec<String>,
    /// Text around the Treebank's sentences; all other datasets are plain.
    pub scaffold: Scaffold,
    /// Metrics.
    #[serde(deserialize_with = "list")]
    pub metrics: Vec<Metric>,
    /// Positions: placeholders, ALL, or auto for the main placeholder.
    #[serde(deserialize_with = "list")]
    pub positions: Vec<String>,
    /// Patch at the direction's own layer, or in front of every block.
    pub layers: PatchedLayers,
    /// Patch the results of these heads, layer.head, at every position instead of the residual stream; `paper` for the
    /// paper's list (gpt2-small, pythia-2.8b).
    #[serde(deserialize_with = "heads")]
    pub heads: Option<Heads>,
    /// Keep only the part of the direction parallel or orthogonal to the one fitted on the evaluation dataset itself.
    pub projection: Option<Projection>,
    /// Shards and failures.
    #[serde(flatten)]
    pub sweep: SweepSettings,
}

impl Default for PatchingSuite {
    fn default() -> Self {
        Self {
            directions: vec!["*".into()],
            eval_sets: vec!["simple_test".into()],
            scaffold: Scaffold::Plain,
            metrics: vec![Metric::LogitDiff],
            positions: vec!["auto".into()],
            layers: PatchedLayers::Own,
            heads: None,
            projection: None,
            sweep: SweepSettings::default(),
        }
    }
}

/// Reads heads as one text, or as a list of texts. A number is neither: 9.1 and 9.10 are the same one, and two heads.
fn heads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Heads>, D::Error> {
    let text = match Value::deserialize(deserializer)? {
        Value::Null => return Ok(None),
        Value::Array(names) => serde_json::from_value::<Vec<String>>(names.into()).map(|names| names.join(",")),
        value => serde_json::from_value(value),
    };
    text.map_err(D::Error::custom)?.parse().map(Some).map_err(D::Error::custom)
}

choices! {
    /// Which part of a direction is patched.
    pub enum Projection {
        /// Parallel to the evaluation dataset's own direction.
        Parallel = "para",
        /// Orthogonal to it.
        Orthogonal = "ortho",
    }
}

/// What a suite came to on one model.
#[derive(Debug, Clone, Serialize)]
pub struct Suite {
    /// The model's name.
    pub model: String,
    /// Every cell that was asked for (of a shard: its own), those that were there already among them.
    pub cells: Vec<SuiteCell>,
    /// The manifest; none when nothing was to be done.
    pub manifest: Option<RunRecord>,
}

/// A value of the suite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SuiteCell {
    /// The direction's name, with a two-digit layer.
    pub direction: String,
    /// Dataset.
    pub prompt: String,
    /// Position.
    pub position: String,
    /// What is measured.
    pub metric: Metric,
    /// The value in percent; none where the metric is undefined.
    pub percent: Option<f64>,
}

impl From<((Metric, CellKey), Option<f64>)> for SuiteCell {
    fn from(((metric, (direction, prompt, position)), percent): ((Metric, CellKey), Option<f64>)) -> Self {
        Self { direction, prompt, position, metric, percent }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["direction", "prompt", "position", "metric", "percent"]);
        for SuiteCell { direction, prompt, position, metric, percent } in &self.cells {
            let percent = percent.map_or("undefined".into(), |percent| format!("{percent:.2}"));
            table.push([direction.clone(), prompt.clone(), position.clone(), metric.to_string(), percent]);
        }
        write!(f, "{}\n{table}", self.model)
    }
}

impl PatchingSuite {
    /// The name of the table that holds a metric's values.
    pub fn table(&self, session: &Session, metric: Metric) -> SuiteName {
        let site = self.heads.as_ref().map_or(SuiteSite::Residual, Heads::site);
        let compat = session.options().compat().iter().map(ToString::to_string).collect();
        let variant = Variant { layers: self.layers, projection: self.projection, compat };
        SuiteName { metric, site, scaffold: self.scaffold, variant: variant.to_string() }
    }

    /// What the suite's tables hold of its datasets: a table for every metric.
    ///
    /// # Errors
    /// A table that is not there, or cannot be read.
    pub(super) fn results(&self, session: &Session) -> Result<Vec<ResultFile>> {
        let of_metric = |&metric: &Metric| {
            let path = session.folder().join(self.table(session, metric).to_string());
            let mut file =
                ResultFile::read(&session.model().name, &path)?.with_context(|| path.display().to_string())?;
            // Other runs may have added other datasets to the table.
            file.cells.retain(|cell| self.eval_sets.contains(&cell.patched.set));
            Ok(file)
        };
        self.metrics.iter().map(of_metric).collect()
    }
}

impl Study for PatchingSuite {
    const NAME: &'static str = "direction-patching-suite";
    type Outcome = Suite;

    fn validate(&self) -> Result<()> {
        if let (Some(heads), PatchedLayers::All) = (&self.heads, self.layers) {
            wrong!("heads", "{heads}, and layers all: expected one of them");
        }
        let (directions, sets) = (("directions", self.directions.len()), ("eval_sets", self.eval_sets.len()));
        Ok(not_empty(&[directions, sets, ("positions", self.positions.len()), ("metrics", self.metrics.len())])?)
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        self.validate()?;
        let config = session.config();
        let mut notes = Notes::default();
        let mut table = Table::new(["direction", "prompt", "position", "metrics", "arithmetic"]);
        let (mut total, mut activations) = (Flops::default(), 0);
        let Divided { target, work, left, .. } = Divided::new(self, session, &mut notes)?;
        if left == 0 {
            return Ok(Plan::nothing(session).with(notes));
        }
        for (prompts, jobs) in work.iter().filter(|(_, jobs)| !jobs.is_empty()) {
            let whole = Layout::whole(&prompts.sequences);
            total = total + Flops::forward(config, &whole, 0, 10);
            activations = activations.max(session.planned_values(&whole));
            for job in jobs {
                let (_, cells) = passes(std::slice::from_ref(job), &target);
                let flops = engine::Plan::new(config, prompts, &cells, session.batch_tokens())?.flops();
                total = total + flops;
                let (direction, set, position) = job.key.clone();
                let metrics: Vec<_> = job.metrics.iter().map(|(metric, _)| metric.to_string()).collect();
                table.push([direction, set, position, metrics.join(" "), flops.to_string()]);
            }
        }
        Ok(Plan::of_passes(session, &table.to_string(), total, activations).with(notes))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Suite> {
        self.validate()?;
        let Divided { configuration, target, wanted, own, work, left } = Divided::new(self, session, observer)?;
        let folder = session.claim()?;
        let mut recorder = Recorder::start(&folder, &self.sweep, &configuration, wanted, left)?;
        let (mut result, mut record) = (Ok(()), None);
        if left > 0 {
            let mut manifest = session.manifest(Self::NAME, self)?;
            let patching = Patching { suite: self, session, target, recorder: &mut recorder, manifest: &mut manifest };
            result = session.compute(observer, PatchModel { patching, work });
            if result.is_ok() {
                record = Some(manifest.finish()?);
            }
        }
        // Also when the sweep was stopped: what is done can be looked at. A shard has no tables: they are made when it
        // is merged.
        if self.sweep.shard.is_none() {
            let guard = session.options().csv_guard;
            recorder.with_state(|state| write_tables(&folder, &configuration, state, guard, |_| false))?;
        }
        result?;
        let found = recorder.results(&folder, &self.sweep, own)?;
        let cells: Vec<SuiteCell> =
            found.into_iter().map(|(key, measured)| SuiteCell::from((key, measured.value.as_f64()))).collect();
        check_any_defined(&cells)?;
        Ok(Suite { model: session.model().name.clone(), cells, manifest: record })
    }
}

/// The cells of one model that have to be computed: datasets with the jobs on each.
struct PatchModel<'a> {
    patching: Patching<'a>,
    work: Vec<(PairedPrompts, Vec<Job>)>,
}

impl DeviceWork for PatchModel<'_> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<()> {
        let Self { mut patching, work } = self;
        patching.manifest.computed_on(engine);
        patching.recorder.begin();
        for (prompts, jobs) in work.iter().filter(|(_, jobs)| !jobs.is_empty()) {
            patching.patch(engine, prompts, jobs, observer).with_context(|| prompts.name.clone())?;
        }
        Ok(())
    }
}

/// What the datasets of one model share.
struct Patching<'a> {
    suite: &'a PatchingSuite,
    session: &'a Session,
    target: Target,
    recorder: &'a mut Recorder,
    manifest: &'a mut Manifest,
}

impl Patching<'_> {
    /// Patches a dataset and records every value.
    fn patch<B: Backend>(
        &mut self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        jobs: &[Job],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.manifest.saw(prompts)?;
        let (passes, cells) = passes(jobs, &self.target);
        let (metrics, recorder) = (&self.suite.metrics, &mut *self.recorder);
        let mut progress = Progress::of_shares(observer, format!("patching {}", prompts.name));
        let told = |step: chunks::Progress<'_>| -> Result<()> {
            let mut batch = Vec::new();
            for (finished, scores) in &step.finished {
                let (job, mode) = passes[*finished];
                let of_mode = job.metrics.iter().filter(|(metric, _)| metric.mode() == mode);
                batch.extend(of_mode.map(|(metric, id)| (*id, percent(step.baselines, *metric, scores))));
            }
            recorder.record(batch)?;
            recorder.go_on_unless(progress.cancelled())?;
            progress.counted_share(step.share);
            Ok(())
        };
        let baselines = chunks::patch_dataset(engine, prompts, &cells, metrics, engine.memory_budget(), told)?;
        note_baselines(&prompts.name, &baselines, metrics, &mut progress);
        self.note_written(jobs);
        Ok(())
    }

    /// Notes in the manifest which cells of which tables are new.
    fn note_written(&mut self, jobs: &[Job]) {
        let folder = self.suite.sweep.folder(&self.session.folder());
        for job in jobs {
            let (direction, set, position) = &job.key;
            for &(metric, _) in &job.metrics {
                let file = folder.join(self.suite.table(self.session, metric).to_string());
                self.manifest.wrote(&file, [format!("{direction} {set} {position}")]);
            }
        }
        if self.suite.sweep.shard.is_none() {
            self.manifest.wrote(&SuiteRow::path(&folder), []);
        }
    }
}

/// Refuses a suite none of whose values is defined.
fn check_any_defined(cells: &[SuiteCell]) -> Result<()> {
    if cells.is_empty() || cells.iter().any(|cell| cell.percent.is_some()) {
        return Ok(());
    }
    let reasons: BTreeSet<String> =
        cells.iter().map(|cell| format!("{}: {}", cell.prompt, undefined_metric(cell.metric))).collect();
    Err(Fault::new(reasons.into_iter().collect::<Vec<_>>().join("; ")).into())
}

/// Logs the baselines of a dataset, and warns of metrics that are undefined on it.
fn note_baselines(set: &str, baselines: &Baselines, metrics: &[Metric], progress: &mut Progress<'_>) {
    let (logit_differences, accuracy) = (baselines.logit_differences(), baselines.clean.accuracy());
    tracing::info!(dataset = set, ?logit_differences, accuracy);
    for metric in distinct(metrics).into_iter().filter(|metric| !baselines.defined(*metric)) {
        progress.note(&Note::Warning(format!("{set}: {}; its cells stay empty", undefined_metric(metric))));
    }
}

/// A metric in percent; null when it is undefined on this dataset.
fn percent(baselines: &Baselines, metric: Metric, scores: &Scores) -> Result<Measured, String> {
    if !baselines.defined(metric) {
        return Ok(Measured::default());
    }
    finite(100.0 * baselines.evaluate(metric, scores)).map(Measured::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{SessionOptions, Silent};
    use crate::studies::{RandomDirections, from_settings};
    use serde_json::json;

    fn read(settings: Value) -> Result<PatchingSuite> {
        let Value::Object(settings) = settings else { panic!("expected settings, found {settings}") };
        Ok(from_settings(settings)?)
    }

    #[test]
    fn settings_are_read_as_people_write_them() {
        let suite =
            read(json!({ "heads": ["2.0", "3.10"], "metrics": "logit_diff,logit_flip", "shard": "1/3" })).unwrap();
        assert_eq!(suite.heads, Some(Heads::List(vec![(2, 0), (3, 10)])));
        assert_eq!(suite.metrics, [Metric::LogitDiff, Metric::LogitFlip]);
        assert_eq!(suite.sweep.shard.map(|shard| shard.index()), Some(1));
        assert_eq!(read(serde_json::to_value(&suite).unwrap()).unwrap(), suite);
        assert_eq!(read(json!({ "heads": "paper" })).unwrap().heads, Some(Heads::Paper));
        assert_eq!(read(json!({ "heads": null })).unwrap(), PatchingSuite::default());
        // 3.10 and 3.1 would be the same number.
        for wrong in [json!(3.1), json!([3.1]), json!("3"), json!({})] {
            let message = read(json!({ "heads": wrong })).unwrap_err().to_string();
            assert!(message.starts_with("heads: "), "{message}");
        }
        let both = read(json!({ "heads": "2.0", "layers": "all" })).unwrap();
        assert_eq!(both.validate().unwrap_err().to_string(), "heads: 2.0, and layers all: expected one of them");
        let empty = PatchingSuite { positions: Vec::new(), ..PatchingSuite::default() };
        assert_eq!(empty.validate().unwrap_err().to_string(), "positions: expected at least one, found none");
    }

    #[test]
    fn tables_are_named_after_what_they_hold() {
        let options = SessionOptions { compat: vec![crate::compat::Compat::UnprocessedFits], ..Default::default() };
        let session = Session::open("demo", options).unwrap();
        let suite = PatchingSuite {
            layers: PatchedLayers::All,
            projection: Some(Projection::Orthogonal),
            ..PatchingSuite::default()
        };
        let name = suite.table(&session, Metric::LogitFlip).to_string();
        assert_eq!(name, "direction_patching_logit_flip_resid_plain_all_layers_ortho_compat_unprocessed-fits.csv");
        let usual = session.with(|options| options.compat.clear()).unwrap();
        let heads = PatchingSuite { heads: "2.0,2.1".parse().ok(), ..PatchingSuite::default() };
        let name = heads.table(&usual, Metric::LogitDiff).to_string();
        assert_eq!(name, "direction_patching_logit_diff_attn_result_2.0-2.1_plain.csv");
    }

    #[test]
    fn the_same_suite_again_gives_the_same_cells_without_computing_them() {
        let data = tempfile::tempdir().unwrap();
        let options = SessionOptions { data_dir: data.path().into(), ..SessionOptions::default() };
        let session = Session::open("demo", options).unwrap();
        RandomDirections::default().run(&session, &mut Silent).unwrap();
        let metrics = vec![Metric::LogitDiff, Metric::LogitDiffNoising];
        let suite = PatchingSuite { metrics, ..PatchingSuite::default() };
        let before = suite.plan(&session).unwrap();
        assert!(before.notes.is_empty() && before.operations > Some(0), "{before:?}");
        let first = suite.run(&session, &mut Silent).unwrap();
        assert_eq!(first.cells.len(), 2 * (session.config().n_layers + 1));
        assert!(first.manifest.is_some() && first.cells.iter().all(|cell| cell.percent.is_some_and(f64::is_finite)));
        let mut notes = Notes::default();
        let again = suite.run(&session, &mut notes).unwrap();
        assert_eq!((&again.cells, again.to_string()), (&first.cells, first.to_string()));
        assert!(again.manifest.is_none());
        let planned = suite.plan(&session).unwrap();
        assert!(matches!(&planned.notes[..], [Note::Kept { count: 10, what, .. }] if what == "cells"), "{planned:?}");
        assert_eq!(
            (planned.operations, &*planned.text),
            (Some(0), "demo: everything is there, nothing is to be computed\n")
        );
    }
}
