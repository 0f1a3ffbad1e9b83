//! `fit-directions`.

use super::common::{
    ModelArgs, RunArgs, bar, build_prompts, bytes, distinct, note_skipped, print, print_json, processing_names,
    resolve_layers, resolve_position, resolve_positions,
};
use super::device::DeviceWork;
use super::random_directions;
use crate::backend::Backend;
use crate::datasets::{Catalogue, PairedPrompts};
use crate::directions::das::{AdamSettings, Rotation, TrainError, TrainSettings, train};
use crate::directions::{Direction, DirectionName, Fit, FitRecord, Method, RANDOM_DIRECTION_SEED, embeddings, fit};
use crate::engine::{Engine, Flops, Layout, PairedRun, PatchPositions};
use crate::model::{Model, Source};
use crate::report::{FittingStats, StatsRow, Table};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// Arguments of `fit-directions`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch fit-directions --models gpt2-small --methods das --train-sets simple_train --layers 0..12
  actpatch fit-directions --models random:pythia-160m --methods kmeans,das --layers 6 --dry-run
  actpatch fit-directions --models ./my_model --positions ADJ,VRB --test-sets simple_test,simple_adverb")]
pub struct Args {
    #[command(flatten)]
    pub models: ModelArgs,
    /// Methods; all without it.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub methods: Vec<Method>,
    /// Datasets to fit on.
    #[arg(long, value_delimiter = ',', default_value = "simple_train")]
    pub train_sets: Vec<String>,
    /// Datasets on which classifiers are tested; none without it.
    #[arg(long, value_delimiter = ',')]
    pub test_sets: Vec<String>,
    /// Positions: placeholders of the template, ALL, or auto for the main placeholder.
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub positions: Vec<String>,
    /// Layers: `all`, numbers, ranges such as 2..5; layer n_layers is behind the last block.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub layers: Vec<String>,
    /// DAS: passes over the dataset.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub epochs: u32,
    /// DAS: prompts per step.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_size: u32,
    /// DAS: learning rate of Adam.
    #[arg(long, default_value_t = 1e-3, value_parser = learning_rate)]
    pub learning_rate: f64,
    #[command(flatten)]
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
}

/// What became of a job.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The direction.
    pub name: String,
    /// Its file, when one was written.
    pub path: Option<String>,
    /// Final loss of DAS, train accuracy of the others.
    pub final_metric: Option<f64>,
    /// Why there is no file.
    pub skipped: Option<String>,
}

/// Fits what the arguments name, for every model.
pub fn run(args: Args) -> Result<()> {
    let catalogue = args.run.catalogue()?;
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        if args.run.dry_run {
            print(&plan(&args, &catalogue, &model)?)?;
            continue;
        }
        let name = model.name.clone();
        let folder = args.run.folder(&name);
        let outcomes = args.run.in_pool(|| fit_model(&args, &catalogue, spec, model))?;
        if !args.run.json {
            print(&summary(&name, &folder, &outcomes))?;
        }
        all.push(json!({ "model": name, "folder": folder.display().to_string(), "directions": outcomes }));
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
    if args.methods.is_empty() { Method::all().to_vec() } else { args.methods.clone() }
}

/// The jobs of one dataset, existing files left out unless they are to be replaced.
fn jobs(args: &Args, model: &Model, prompts: &PairedPrompts, folder: &Path) -> Result<(Vec<Job>, usize)> {
    let layers = resolve_layers(&args.layers, model.config.n_layers)?;
    let mut jobs = Vec::new();
    let mut kept = 0;
    for (position, positions) in resolve_positions(prompts, &args.positions)? {
        for method in methods(args) {
            for &layer in &layers {
                let name = match method {
                    Method::RandomDirection => DirectionName::random(layer),
                    _ => DirectionName::fitted(method, &prompts.name, &position, layer)?,
                };
                if !args.run.overwrite && Direction::paths(folder, &name).0.exists() {
                    kept += 1;
                } else if !jobs.iter().any(|job: &Job| job.name == name) {
                    jobs.push(Job { name, method, layer, positions });
                }
            }
        }
    }
    Ok((jobs, kept))
}

/// The text of a dry run: what would be fitted, with the arithmetic of the DAS steps and the memory.
fn plan(args: &Args, catalogue: &Catalogue, model: &Model) -> Result<String> {
    let mut table = Table::new(["direction", "arithmetic"]);
    let mut activations = 0;
    let mut total = Flops::default();
    let folder = args.run.folder(&model.name);
    for set in &distinct(&args.train_sets) {
        let prompts = build_prompts(catalogue, set, model)?;
        let (jobs, kept) = jobs(args, model, &prompts, &folder)?;
        note_skipped(kept, "directions", &folder);
        let length = prompts.sequences.first().map_or(0, Vec::len);
        let whole = Layout::new(prompts.sequences.iter().map(|s| (0, s.len())));
        total = total + Flops::forward(&model.config, &whole, 0, 10);
        activations = activations.max(whole.n_tokens() * model.config.d_model * (3 * model.config.n_layers + 20));
        for job in jobs {
            let mut flops = Flops::default();
            if job.method.is_das() {
                let start = if let PatchPositions::One(position) = job.positions { position } else { 0 };
                let rows = Layout::new(prompts.clean.iter().map(|_| (start, length)));
                let step = Flops::forward(&model.config, &rows, job.layer, 10)
                    + Flops::backward(&model.config, &rows, job.layer, 10);
                flops = Flops(step.0 * u64::from(args.epochs));
            }
            total = total + flops;
            table.push([job.name.to_string(), flops.to_string()]);
        }
    }
    let memory = bytes(args.run.memory(&model.config, activations));
    Ok(format!("{}\n{table}total {total}, about {memory} of memory\n", model.name))
}

fn summary(model: &str, folder: &Path, outcomes: &[Outcome]) -> String {
    let mut table = Table::new(["direction", "final metric"]);
    for outcome in outcomes {
        let metric = outcome.final_metric.map_or(String::new(), |metric| format!("{metric:.4}"));
        table.push([outcome.name.clone(), outcome.skipped.clone().unwrap_or(metric)]);
    }
    format!("{model}: {} directions into {}\n{table}", outcomes.len(), folder.display())
}

/// Fits everything of one model.
pub(super) fn fit_model(args: &Args, catalogue: &Catalogue, spec: &str, model: Model) -> Result<Vec<Outcome>> {
    let folder = args.run.folder(&model.name);
    let mut work = Vec::new();
    for set in &distinct(&args.train_sets) {
        let prompts = build_prompts(catalogue, set, &model)?;
        let (jobs, kept) = jobs(args, &model, &prompts, &folder)?;
        note_skipped(kept, "directions", &folder);
        if !jobs.is_empty() {
            work.push((prompts, jobs));
        }
    }
    if work.is_empty() {
        return Ok(Vec::new());
    }
    let tests = distinct(&args.test_sets)
        .iter()
        .map(|set| build_prompts(catalogue, set, &model))
        .collect::<Result<Vec<PairedPrompts>>>()?;
    args.run.check_writable(&folder)?;
    args.run.on_device(model, FitModel { args, spec, folder: &folder, tests, work })
}

/// The fits of one model: datasets with the jobs on each.
struct FitModel<'a> {
    args: &'a Args,
    spec: &'a str,
    folder: &'a Path,
    tests: Vec<PairedPrompts>,
    work: Vec<(PairedPrompts, Vec<Job>)>,
}

impl DeviceWork for FitModel<'_> {
    type Output = Vec<Outcome>;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for (prompts, jobs) in self.work {
            outcomes.extend(fit_dataset(self.args, engine, self.spec, prompts, &self.tests, jobs, self.folder)?);
        }
        Ok(outcomes)
    }
}

/// Runs one dataset once and fits all its jobs on what was captured.
fn fit_dataset<B: Backend>(
    args: &Args,
    engine: &Engine<B>,
    spec: &str,
    prompts: PairedPrompts,
    tests: &[PairedPrompts],
    jobs: Vec<Job>,
    folder: &Path,
) -> Result<Vec<Outcome>> {
    let mut layers: Vec<usize> = jobs.iter().map(|job| job.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let mut positions: Vec<PatchPositions> = jobs.iter().map(|job| job.positions).collect();
    positions.sort_unstable();
    positions.dedup();
    let paired = PairedRun::new(engine, prompts, &layers, &positions, false)?;
    let mut tested = Vec::new();
    for test in tests {
        let (name, position) = resolve_position(test, "auto")?;
        tested.push((PairedRun::new(engine, test.clone(), &layers, &[], false)?, name, position));
    }
    let mut stats = FittingStats::read(folder)?;
    let progress = bar(jobs.len(), format!("fitting on {}", paired.prompts().name));
    let mut outcomes = Vec::new();
    for job in &jobs {
        tracing::info!(direction = %job.name, "fitting");
        outcomes.push(fit_one(args, engine, spec, &paired, job, folder, |fit, embeddings, labels| {
            // Before the direction, and at once: a run that ends early leaves no direction without its statistics.
            add_stats(engine, &mut stats, &paired, job, fit, embeddings, labels, &tested)?;
            Ok(stats.write()?)
        })?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(outcomes)
}

/// Fits and writes one direction; `with_fit` sees the classifier of the methods that have one.
fn fit_one<B: Backend>(
    args: &Args,
    engine: &Engine<B>,
    spec: &str,
    paired: &PairedRun<B>,
    job: &Job,
    folder: &Path,
    with_fit: impl FnOnce(&Fit, &crate::types::Matrix, &[bool]) -> Result<()>,
) -> Result<Outcome> {
    let seed = args.run.seed;
    let mut record = FitRecord {
        name: job.name.to_string(),
        model: spec.into(),
        revision: revision(engine.model()),
        weight_processing: processing_names(engine.model().processing),
        method: job.method,
        dataset: job.name.dataset().map(Into::into),
        position: job.name.position().map(Into::into),
        layer: job.layer,
        seed,
        settings: json!({ "dtype": args.run.dtype().to_string() }),
        loss_curve: Vec::new(),
        final_metric: None,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let outcome = |path, final_metric, skipped| Outcome { name: job.name.to_string(), path, final_metric, skipped };
    if job.method == Method::RandomDirection {
        random_directions::write(folder, engine.model(), spec, job.layer, RANDOM_DIRECTION_SEED, true)?;
        return Ok(outcome(Some(Direction::paths(folder, &job.name).0.display().to_string()), None, None));
    }
    let columns = if job.method.is_das() {
        let adam = AdamSettings { learning_rate: args.learning_rate, ..AdamSettings::default() };
        let settings = TrainSettings { epochs: args.epochs as usize, batch_size: args.batch_size as usize, adam };
        record.settings = json!({ "epochs": settings.epochs, "batch_size": settings.batch_size, "adam": adam,
                                  "dtype": args.run.dtype().to_string() });
        let rotation = Rotation::random(engine.config().d_model, job.method.dimensions(), seed)?;
        match train(engine, paired, job.layer, job.positions, rotation, &settings, |_| {}) {
            Ok(trained) => {
                record.final_metric = trained.losses.last().copied();
                record.loss_curve = trained.losses;
                trained.columns
            }
            Err(error @ TrainError::Unreachable { .. }) => return Ok(outcome(None, None, Some(error.to_string()))),
            Err(error) => return Err(error).context(job.name.to_string()),
        }
    } else {
        let embeddings = embeddings(engine, paired, job.layer, job.positions, seed)?;
        let labels = &paired.prompts().positive;
        let Some(fit) = fit(job.method, &embeddings, labels).with_context(|| job.name.to_string())? else {
            anyhow::bail!("{}: {} has no fit", job.name, job.method);
        };
        record.final_metric = Some(fit.train_accuracy.share());
        with_fit(&fit, &embeddings, labels)?;
        fit.direction
    };
    let metric = record.final_metric;
    let path = Direction { name: job.name.clone(), columns }.write(folder, &record)?;
    Ok(outcome(Some(path.display().to_string()), metric, None))
}

/// A dataset that classifiers are tested on, with the name and place of its position.
type Tested<B> = (PairedRun<B>, String, PatchPositions);

/// Adds the statistics of one fit: on its own dataset, and on every test set.
#[allow(clippy::too_many_arguments)]
fn add_stats<B: Backend>(
    engine: &Engine<B>,
    stats: &mut FittingStats,
    paired: &PairedRun<B>,
    job: &Job,
    fit: &Fit,
    train: &crate::types::Matrix,
    labels: &[bool],
    tested: &[Tested<B>],
) -> Result<()> {
    let own = job.name.position().unwrap_or_default().to_owned();
    let mut row = |set: &str, position: &str, accuracy: crate::directions::Accuracy, similarity: f64| {
        stats.insert(StatsRow {
            train_set: paired.prompts().name.clone(),
            train_layer: job.layer,
            train_pos: own.clone(),
            test_set: set.to_owned(),
            test_layer: job.layer,
            test_pos: position.to_owned(),
            method: job.method.to_string(),
            correct: accuracy.correct,
            total: accuracy.total,
            accuracy: accuracy.share(),
            similarity,
        });
    };
    row(&paired.prompts().name, &own, fit.accuracy(train, labels)?, 1.0);
    for (test, position, place) in tested {
        let embeddings = embeddings(engine, test, job.layer, *place, 0)?;
        let labels = &test.prompts().positive;
        let similarity = match crate::directions::fit(job.method, &embeddings, labels)? {
            Some(other) => crate::directions::cosine(&fit.direction.data, &other.direction.data),
            None => f64::NAN,
        };
        row(&test.prompts().name, position, fit.accuracy(&embeddings, labels)?, similarity);
    }
    Ok(())
}
