//! `fit-directions`.

use super::choice::{choice, choice_of};
use super::common::{
    CompatArgs, ModelArgs, RunArgs, bar, build_prompts, bytes, distinct, note_skipped, planned_rows, print, print_json,
    processing_names, resolve_layers, resolve_positions,
};
use super::device::DeviceWork;
use super::fit_projections::{self, Embedded};
use super::fit_statistics::{self, Tested, test_position};
use super::random_directions;
use super::sweeping::forget;
use crate::backend::Backend;
use crate::compat::Compat;
use crate::datasets::treebank::{Scaffold, Split};
use crate::datasets::{Catalogue, PairedPrompts};
use crate::directions::das::{AdamSettings, TrainError, TrainSettings, Trained};
use crate::directions::{
    Direction, DirectionError, DirectionName, FitRecord, Method, Projection, RANDOM_DIRECTION_SEED, cosine,
    embedding_positions, fit,
};
use crate::engine::{Engine, Flops, Layout, PatchPositions};
use crate::experiments::chunks::embeddings_at;
use crate::experiments::das_fits::{DasJob, TrainPlan, train_all};
use crate::model::{Model, Source};
use crate::report::{FittingStats, Manifest, RunRecord, Table};
use crate::sweep::{CellId, Configuration, Shard, deal};
use crate::types::Matrix;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Arguments of `fit-directions`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch fit-directions --models gpt2-small --methods das --train-sets simple_train --layers 0..12
  actpatch fit-directions --models random:pythia-160m --methods kmeans,das --layers 6 --dry-run
  actpatch fit-directions --models ./my_model --positions ADJ,VRB --test-sets simple_test,simple_adverb
  actpatch fit-directions --models gpt2-small --methods das --test-sets simple_test,simple_adverb --early-stop 8
  actpatch fit-directions --models mistral-7b --compat trailing-space --weight-processing none --batch-size 16
  actpatch fit-directions --models gpt2-small --train-sets treebank_train --scaffold classification")]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    pub models: ModelArgs,
    /// Methods; all without it.
    #[arg(long, value_delimiter = ',', value_parser = choice_of(Method::of_fits()))]
    pub methods: Vec<Method>,
    /// Datasets to fit on.
    #[arg(long, value_delimiter = ',', default_value = "simple_train")]
    pub train_sets: Vec<String>,
    /// Datasets on which fits are tested: classifiers for their accuracy, DAS for its loss after every epoch. Tested is at
    /// the fit's own position where a dataset has it, else at its main one. Classifiers that exist already are only tested.
    #[arg(long, value_delimiter = ',')]
    pub test_sets: Vec<String>,
    /// Text around the Treebank's sentences: classification without it; all other datasets are plain.
    #[arg(long, value_parser = choice::<Scaffold>())]
    pub scaffold: Option<Scaffold>,
    /// Positions: placeholders of the template, END, ALL, or auto: the main placeholder, ALL on the Treebank.
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub positions: Vec<String>,
    /// Layers: `all`, numbers, ranges such as 2..5; layer n_layers is behind the last block.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub layers: Vec<String>,
    /// DAS: passes over the dataset: 64, or 1 on the Treebank, without it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: Option<u32>,
    /// DAS: prompts per step.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: u32,
    /// DAS: learning rate of Adam.
    #[arg(long, default_value_t = 1e-3, value_parser = learning_rate)]
    pub learning_rate: f64,
    /// DAS: stop when the mean loss on the test sets (without any, the training loss) has not become smaller for this many
    /// epochs, and keep the directions of the best epoch instead of the last.
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    pub early_stop: Option<u32>,
    /// Make only share I of N of the DAS fits, counted from 0 (share 0 also makes everything else); each is a file of its own
    /// in DATA_DIR/<model>, whichever share makes it.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    #[command(flatten)]
    #[serde(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunArgs,
}

/// A step size that can move a rotation towards a smaller loss.
fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("expected a finite number above zero".into()),
    }
}

/// One direction to fit.
#[derive(Debug, Clone)]
struct Job {
    name: DirectionName,
    method: Method,
    layer: usize,
    positions: PatchPositions,
    /// Does its direction exist and stay, so that only its tests are wanted?
    kept: bool,
}

/// The absolute cosine from which on two fits are the same: between devices only rounding differs.
const SAME_FIT: f64 = 0.9999;

/// What became of a job.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The direction.
    pub name: String,
    /// Its file, when one was written.
    pub path: Option<String>,
    /// Final loss of DAS, train accuracy of the others.
    pub final_metric: Option<f64>,
    /// The same on every test set.
    pub test_metrics: BTreeMap<String, f64>,
    /// Why there is no file, or no test.
    pub skipped: Option<String>,
}

/// Fits what the arguments name, for every model.
pub fn run(args: Args) -> Result<()> {
    if let Some(other) = args.compat.names().into_iter().find(|compat| !compat.changes_prompts()) {
        bail!(
            "--compat: {other} is about using directions, not about fitting them (fit with --weight-processing none)"
        );
    }
    let catalogue = args.compat.catalogue(&args.run)?;
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        if args.run.dry_run {
            print(&plan(&args, &catalogue, &model)?)?;
            continue;
        }
        let name = model.name.clone();
        let folder = args.run.folder(&name);
        let (outcomes, manifest) = args.run.in_pool(|| fit_model(&args, &catalogue, spec, model))?;
        if !args.run.json {
            print(&summary(&name, &folder, &outcomes))?;
        }
        let folder = folder.display().to_string();
        all.push(json!({ "model": name, "folder": folder, "directions": outcomes, "manifest": manifest }));
    }
    if args.run.json && !args.run.dry_run {
        print_json(&all)?;
    }
    Ok(())
}

/// Commit of a Hub model, for records.
pub(super) fn revision(model: &Model) -> Option<String> {
    match &model.provenance.source {
        Source::Hub { commit, .. } => Some(commit.clone()),
        _ => None,
    }
}

fn methods(args: &Args) -> Vec<Method> {
    if args.methods.is_empty() { Method::of_fits().to_vec() } else { args.methods.clone() }
}

/// The text around a dataset's prompts.
fn scaffold_of(args: &Args, set: &str) -> Scaffold {
    let usual = if Split::of_dataset(set).is_some() { Scaffold::Classification } else { Scaffold::Plain };
    args.scaffold.unwrap_or(usual)
}

/// Passes of DAS over a dataset.
fn epochs_of(args: &Args, set: &str) -> usize {
    let usual = if Split::of_dataset(set).is_some() { 1 } else { TrainSettings::default().epochs };
    args.epochs.map_or(usual, |epochs| epochs as usize)
}

/// File names tell neither the scaffold nor the prompts' ways: a direction of others must not pass for the wanted one.
fn check_kept(args: &Args, name: &DirectionName, set: &str, folder: &Path) -> Result<()> {
    let (Some(_), Ok(record)) = (name.dataset(), FitRecord::read(folder, name)) else { return Ok(()) };
    let differs = |field: &str, expected: &str, found: &str| -> Result<()> {
        let path = Direction::paths(folder, name).1;
        bail!("{}: {field}: expected {expected}, found {found}; use --overwrite or another --data-dir", path.display())
    };
    let shown = |names: &[Compat]| match names {
        [] => "none".to_owned(),
        names => names.iter().map(|compat| compat.name()).collect::<Vec<_>>().join(","),
    };
    let wanted = args.compat.names();
    if record.compat != wanted {
        return differs("compat", &shown(&wanted), &shown(&record.compat));
    }
    let scaffold = scaffold_of(args, set).name();
    match record.settings.get("scaffold").and_then(serde_json::Value::as_str) {
        Some(found) if Split::of_dataset(set).is_some() && found != scaffold => differs("scaffold", scaffold, found),
        _ => Ok(()),
    }
}

/// The jobs of one dataset, existing files left out unless they are to be replaced or lack tests.
fn jobs(args: &Args, model: &Model, prompts: &PairedPrompts, folder: &Path) -> Result<(Vec<Job>, usize)> {
    let layers = resolve_layers(&args.layers, model.config.n_layers)?;
    let stats = (!args.test_sets.is_empty()).then(|| FittingStats::read(folder)).transpose()?;
    let mut all: Vec<Job> = Vec::new();
    for (position, positions) in resolve_positions(prompts, &args.positions)? {
        for method in methods(args) {
            for &layer in &layers {
                let name = match method {
                    Method::RandomDirection => DirectionName::random(layer),
                    _ => DirectionName::fitted(method, &prompts.name, &position, layer)?,
                };
                let kept = !args.run.overwrite && Direction::paths(folder, &name).0.exists();
                if !all.iter().any(|job| job.name == name) {
                    all.push(Job { name, method, layer, positions, kept });
                }
            }
        }
    }
    let mut jobs = share(args, all);
    let kept: Vec<&Job> = jobs.iter().filter(|job| job.kept).collect();
    kept.iter().try_for_each(|job| check_kept(args, &job.name, &prompts.name, folder))?;
    let kept = kept.len();
    let untested = |stats: &FittingStats, job: &Job| fit_statistics::untested(stats, &job.name, &args.test_sets);
    jobs.retain(|job| !job.kept || stats.as_ref().is_some_and(|stats| untested(stats, job)));
    Ok((jobs, kept))
}

/// The jobs of this process's shard: its share of the DAS fits, and in the first shard everything else, which takes seconds
/// and shares a file of statistics.
fn share(args: &Args, mut jobs: Vec<Job>) -> Vec<Job> {
    let Some(shard) = args.shard else { return jobs };
    let unit = |job: &Job| {
        let name = [("direction".to_owned(), job.name.to_string())].into();
        CellId::of("fit-directions", &Configuration::new(), &name)
    };
    let units: Vec<CellId> = jobs.iter().filter(|job| job.method.is_das()).map(unit).collect();
    let mut shards = deal(&units, shard.count()).into_iter();
    jobs.retain(|job| {
        let own = if job.method.is_das() { shards.next() } else { Some(0) };
        own == Some(shard.index())
    });
    jobs
}

/// The text of a dry run: what would be fitted, with the arithmetic of the DAS steps and the memory.
fn plan(args: &Args, catalogue: &Catalogue, model: &Model) -> Result<String> {
    let mut table = Table::new(["direction", "arithmetic"]);
    let mut activations = 0;
    let mut total = Flops::default();
    let folder = args.run.folder(&model.name);
    for set in &distinct(&args.train_sets) {
        let prompts = build_prompts(&args.run, catalogue, set, scaffold_of(args, set), model)?;
        let (jobs, kept) = jobs(args, model, &prompts, &folder)?;
        note_skipped(kept, "directions", &folder);
        let whole = Layout::new(prompts.sequences.iter().map(|s| (0, s.len())));
        total = total + Flops::forward(&model.config, &whole, 0, 10);
        activations = activations.max(args.run.planned_values(&model.config, &whole));
        for job in jobs {
            let mut flops = Flops::default();
            if job.method.is_das() {
                let rows = planned_rows(&prompts, job.positions);
                let step = Flops::forward(&model.config, &rows, job.layer, 10)
                    + Flops::backward(&model.config, &rows, job.layer, 10);
                flops = Flops(step.0 * epochs_of(args, set) as u64);
            }
            total = total + flops;
            table.push([job.name.to_string(), flops.to_string()]);
        }
    }
    let memory = bytes(args.run.memory(&model.config, activations));
    Ok(format!("{}\n{table}total {total}, about {memory} of memory\n", model.name))
}

fn summary(model: &str, folder: &Path, outcomes: &[Outcome]) -> String {
    let tests: BTreeSet<&String> = outcomes.iter().flat_map(|outcome| outcome.test_metrics.keys()).collect();
    let heads = tests.iter().map(|test| format!("on {test}"));
    let mut table = Table::new(["direction".to_owned(), "final metric".to_owned()].into_iter().chain(heads));
    let number = |metric: Option<f64>| metric.map_or(String::new(), |metric| format!("{metric:.4}"));
    for outcome in outcomes {
        let metric = outcome.skipped.clone().unwrap_or_else(|| number(outcome.final_metric));
        let tested = tests.iter().map(|test| number(outcome.test_metrics.get(*test).copied()));
        table.push([outcome.name.clone(), metric].into_iter().chain(tested));
    }
    format!("{model}: {} directions into {}\n{table}", outcomes.len(), folder.display())
}

/// Fits everything of one model; the manifest is none when nothing was to be done.
pub(super) fn fit_model(
    args: &Args,
    catalogue: &Catalogue,
    spec: &str,
    model: Model,
) -> Result<(Vec<Outcome>, Option<RunRecord>)> {
    let folder = args.run.folder(&model.name);
    let mut work = Vec::new();
    for set in &distinct(&args.train_sets) {
        let prompts = build_prompts(&args.run, catalogue, set, scaffold_of(args, set), &model)?;
        let (jobs, kept) = jobs(args, &model, &prompts, &folder)?;
        note_skipped(kept, "directions", &folder);
        if !jobs.is_empty() {
            work.push((prompts, jobs));
        }
    }
    if work.is_empty() {
        return Ok((Vec::new(), None));
    }
    let tests = distinct(&args.test_sets)
        .iter()
        .map(|set| build_prompts(&args.run, catalogue, set, scaffold_of(args, set), &model))
        .collect::<Result<Vec<PairedPrompts>>>()?;
    let mut manifest = args.run.manifest("fit-directions", args, &folder, Some(&model))?;
    // Before the fits: results must never outlive the direction they were measured with.
    let refitted = work.iter().flat_map(|(_, jobs)| jobs).filter(|job| !job.kept);
    forget(&folder, &refitted.map(|job| format!("{}.npy", job.name)).collect())?;
    let outcomes =
        args.run.on_device(model, FitModel { args, spec, folder: &folder, tests, work, manifest: &mut manifest })?;
    Ok((outcomes, Some(manifest.finish()?)))
}

/// The fits of one model: datasets with the jobs on each.
struct FitModel<'a> {
    args: &'a Args,
    spec: &'a str,
    folder: &'a Path,
    tests: Vec<PairedPrompts>,
    work: Vec<(PairedPrompts, Vec<Job>)>,
    manifest: &'a mut Manifest,
}

impl DeviceWork for FitModel<'_> {
    type Output = Vec<Outcome>;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Vec<Outcome>> {
        self.manifest.computed_on(engine);
        self.tests.iter().try_for_each(|test| self.manifest.saw(test))?;
        let mut outcomes = Vec::new();
        for (prompts, jobs) in self.work {
            self.manifest.saw(&prompts)?;
            let fitted = fit_dataset(self.args, engine, self.spec, prompts, &self.tests, jobs, self.folder)?;
            let files = fitted.iter().filter_map(|outcome| outcome.path.as_ref());
            files.for_each(|file| self.manifest.wrote(Path::new(file), []));
            outcomes.extend(fitted);
        }
        Ok(outcomes)
    }
}

/// What all fits on one dataset share.
struct Fitting<'a, B: Backend> {
    args: &'a Args,
    engine: &'a Engine<B>,
    spec: &'a str,
    prompts: &'a PairedPrompts,
    folder: &'a Path,
}

/// Fits all jobs of one dataset.
fn fit_dataset<B: Backend>(
    args: &Args,
    engine: &Engine<B>,
    spec: &str,
    prompts: PairedPrompts,
    tests: &[PairedPrompts],
    jobs: Vec<Job>,
    folder: &Path,
) -> Result<Vec<Outcome>> {
    let fitting = Fitting { args, engine, spec, prompts: &prompts, folder };
    let mut stats = FittingStats::read(folder)?;
    let progress = bar(jobs.len(), format!("fitting on {}", prompts.name));
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    let random = |job: &Job| job.method == Method::RandomDirection;
    for (number, job) in jobs.iter().enumerate().filter(|(_, job)| random(job)) {
        let path = random_directions::write(folder, engine.model(), spec, job.layer, RANDOM_DIRECTION_SEED)?;
        outcomes.insert(number, Outcome::of(job, Some(&path), None, BTreeMap::new()));
        progress.inc(1);
    }
    let classical = |job: &Job| !job.method.is_das() && !random(job);
    let classical: Vec<(usize, &Job)> = jobs.iter().enumerate().filter(|(_, job)| classical(job)).collect();
    fitting.fit_classical(&classical, tests, &mut stats, |number, outcome| {
        outcomes.insert(number, outcome);
        progress.inc(1);
    })?;
    let das: Vec<(usize, &Job)> = jobs.iter().enumerate().filter(|(_, job)| job.method.is_das()).collect();
    fitting.fit_das(&das, tests, |number, outcome| {
        outcomes.insert(number, outcome);
        progress.inc(1);
    })?;
    progress.finish_and_clear();
    Ok(outcomes.into_values().collect())
}

impl Outcome {
    fn of(job: &Job, path: Option<&Path>, final_metric: Option<f64>, test_metrics: BTreeMap<String, f64>) -> Self {
        let path = path.map(|path| path.display().to_string());
        Self { name: job.name.to_string(), path, final_metric, test_metrics, skipped: None }
    }

    fn skipped(job: &Job, why: String) -> Self {
        Self { skipped: Some(why), ..Self::of(job, None, None, BTreeMap::new()) }
    }
}

impl<B: Backend> Fitting<'_, B> {
    fn record(&self, job: &Job, mut settings: serde_json::Value) -> FitRecord {
        let Self { args, engine, spec, prompts, .. } = *self;
        settings["dtype"] = json!(args.run.dtype.to_string());
        if Split::of_dataset(&prompts.name).is_some() {
            settings["scaffold"] = json!(scaffold_of(args, &prompts.name));
        }
        FitRecord {
            name: job.name.to_string(),
            model: spec.into(),
            revision: revision(engine.model()),
            weight_processing: processing_names(engine.model().processing),
            method: job.method,
            dataset: job.name.dataset().map(Into::into),
            position: job.name.position().map(Into::into),
            layer: job.layer,
            seed: args.run.seed,
            compat: args.compat.names(),
            settings,
            loss_curve: Vec::new(),
            test_loss_curves: BTreeMap::new(),
            final_metric: None,
            version: env!("CARGO_PKG_VERSION").into(),
            imported: None,
        }
    }

    /// Fits the jobs that need one residual vector per prompt, as many layers at a time as fit in memory.
    fn fit_classical(
        &self,
        jobs: &[(usize, &Job)],
        tests: &[PairedPrompts],
        stats: &mut FittingStats,
        mut done: impl FnMut(usize, Outcome),
    ) -> Result<()> {
        let prompts = self.prompts;
        let place = |job: &Job| (job.name.position().unwrap_or_default().to_owned(), job.positions, job.layer);
        let places: BTreeSet<(String, PatchPositions, usize)> = jobs.iter().map(|(_, job)| place(job)).collect();
        let places: Vec<(String, PatchPositions, usize)> = places.into_iter().collect();
        let rows: usize = prompts.clean.len() + tests.iter().map(|test| test.clean.len()).sum::<usize>();
        let at_once = (self.engine.memory_budget() / (4 * self.engine.config().d_model * rows.max(1))).max(1);
        for same_position in places.chunk_by(|a, b| a.0 == b.0) {
            for group in same_position.chunks(at_once) {
                let layers: Vec<usize> = group.iter().map(|(_, _, layer)| *layer).collect();
                let of = |set, positions, seed| {
                    embeddings_at(self.engine, set, &layers, positions, seed, self.engine.memory_budget())
                };
                let train = of(prompts, group[0].1, self.args.run.seed)?;
                let mut tested = Vec::new();
                for test in tests {
                    let (position, place) = test_position(test, &group[0].0)?;
                    let at = embedding_positions(test, place, 0);
                    tested.push(Tested { prompts: test, position, at, embeddings: of(test, place, 0)? });
                }
                for &(number, job) in jobs.iter().filter(|(_, job)| group.contains(&place(job))) {
                    done(number, self.fit_one(job, &train[&job.layer], &tested, stats)?);
                }
            }
        }
        Ok(())
    }

    /// Fits, tests and writes one direction from its embeddings; one that is kept is only tested.
    fn fit_one(&self, job: &Job, train: &Matrix, tested: &[Tested], stats: &mut FittingStats) -> Result<Outcome> {
        tracing::info!(direction = %job.name, "fitting");
        let labels = &self.prompts.positive;
        let fit = match fit(job.method, train, labels) {
            Ok(Some(fit)) => fit,
            Ok(None) => bail!("{}: {} has no fit", job.name, job.method),
            Err(error @ DirectionError::Degenerate { .. }) => return Ok(Outcome::skipped(job, error.to_string())),
            Err(error) => return Err(error).context(job.name.to_string()),
        };
        if job.kept {
            let kept = Direction::read(self.folder, &job.name, self.engine.config().d_model)?;
            let cosine = cosine(&kept.columns.data, &fit.direction.data).abs();
            if cosine.is_nan() || cosine < SAME_FIT {
                let why = format!("not tested: another fit's direction is kept (cosine {cosine:.4})");
                return Ok(Outcome::skipped(job, why));
            }
        } else {
            fit_statistics::forget_others(stats, &job.name, tested);
        }
        // Before the direction, and at once: a run that ends early leaves no direction without its statistics.
        let test_metrics = fit_statistics::add(stats, &job.name, self.prompts, &fit, train, tested)?;
        stats.write()?;
        if let Some(plane) = &fit.projection {
            self.write_projections(job, plane, train, tested)?;
        }
        let metric = Some(fit.train_accuracy.share());
        if job.kept {
            return Ok(Outcome::of(job, None, metric, test_metrics));
        }
        let mut record = self.record(job, json!({}));
        record.final_metric = metric;
        let path = Direction { name: job.name.clone(), columns: fit.direction }.write(self.folder, &record)?;
        Ok(Outcome::of(job, Some(&path), metric, test_metrics))
    }

    /// Writes where the prompts of a fit and of its tests lie in its plane.
    fn write_projections(&self, job: &Job, plane: &Projection, train: &Matrix, tested: &[Tested]) -> Result<()> {
        let at = embedding_positions(self.prompts, job.positions, self.args.run.seed);
        let position = job.name.position().unwrap_or_default();
        let mut sets = vec![Embedded { prompts: self.prompts, position, at: &at, embeddings: train }];
        sets.extend(tested.iter().map(|test| {
            let embeddings = &test.embeddings[&job.layer];
            Embedded { prompts: test.prompts, position: &test.position, at: &test.at, embeddings }
        }));
        fit_projections::write(self.folder, &job.name, plane, &self.engine.model().tokenizer, &sets, job.kept)
    }

    /// Trains the jobs of DAS.
    fn fit_das(
        &self,
        jobs: &[(usize, &Job)],
        tests: &[PairedPrompts],
        mut done: impl FnMut(usize, Outcome) + Send,
    ) -> Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        let (args, prompts) = (self.args, self.prompts);
        let settings = TrainSettings {
            epochs: epochs_of(args, &prompts.name),
            batch_size: args.batch_size as usize,
            adam: AdamSettings { learning_rate: args.learning_rate, ..AdamSettings::default() },
            early_stop: args.early_stop.map(|epochs| epochs as usize),
        };
        let as_das = |&(_, job): &(usize, &Job)| -> Result<DasJob> {
            let own = job.name.position().unwrap_or_default();
            let test_positions = tests.iter().map(|test| Ok(test_position(test, own)?.1)).collect::<Result<_>>()?;
            Ok(DasJob { method: job.method, layer: job.layer, positions: job.positions, test_positions })
        };
        let das = jobs.iter().map(as_das).collect::<Result<Vec<_>>>()?;
        let plan = TrainPlan { settings: &settings, seed: args.run.seed, tests, budget: self.engine.memory_budget() };
        train_all(self.engine, prompts, &das, &plan, |index, trained| -> Result<()> {
            let (number, job) = jobs[index];
            done(number, self.write_das(job, &plan, trained)?);
            Ok(())
        })
    }

    /// Writes what a training has found.
    fn write_das(&self, job: &Job, plan: &TrainPlan<'_>, trained: Result<Trained, TrainError>) -> Result<Outcome> {
        let trained = match trained {
            Ok(trained) => trained,
            Err(error @ TrainError::Unreachable { .. }) => return Ok(Outcome::skipped(job, error.to_string())),
            Err(error) => return Err(error).context(job.name.to_string()),
        };
        let TrainSettings { epochs, batch_size, adam, early_stop } = plan.settings;
        let mut settings = json!({ "epochs": epochs, "batch_size": batch_size, "adam": adam });
        if let Some(patience) = early_stop {
            let watched = if plan.tests.is_empty() { "training loss" } else { "mean test loss" };
            settings["early_stop"] =
                json!({ "patience": patience, "watched": watched, "kept_epoch": trained.kept_epoch });
        }
        let mut record = self.record(job, settings);
        let curve =
            |number: usize| trained.test_losses.iter().filter_map(|losses| losses.get(number).copied()).collect();
        let names = plan.tests.iter().map(|test| test.name.clone());
        record.test_loss_curves = names.enumerate().map(|(number, name)| (name, curve(number))).collect();
        record.final_metric = Some(trained.final_loss);
        record.loss_curve = trained.losses;
        let kept = |curve: &Vec<f64>| curve.get(trained.kept_epoch.saturating_sub(1)).copied();
        let tested = record.test_loss_curves.iter();
        let test_metrics = tested.filter_map(|(name, curve)| Some((name.clone(), kept(curve)?))).collect();
        let path = Direction { name: job.name.clone(), columns: trained.columns }.write(self.folder, &record)?;
        Ok(Outcome::of(job, Some(&path), record.final_metric, test_metrics))
    }
}
