//! `direction-patching-suite`.

use super::common::{
    CompatArgs, ModelArgs, RunArgs, bar, build_prompts, bytes, distinct, note_skipped, planned_values, print,
    print_json, processing_names, resolve_positions,
};
use super::device::DeviceWork;
use crate::backend::Backend;
use crate::compat::Compat;
use crate::datasets::treebank::Scaffold;
use crate::datasets::{Catalogue, PairedPrompts};
use crate::directions::{Direction, DirectionName, FitRecord, Method, list, projected, select};
use crate::engine::{Baselines, Cell, Engine, Flops, Layout, Metric, Mode, PatchPositions, Plan, Scores};
use crate::experiments::chunks::{self, MEMORY_BUDGET};
use crate::experiments::patching_suite::{Layers, head_results_cell, paper_heads, residual_cell};
use crate::model::{Model, Source};
use crate::report::{CellKey, Manifest, RunRecord, SuiteCsv, Table};
use crate::types::Matrix;
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Arguments of `direction-patching-suite`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch direction-patching-suite --models gpt2-small --directions 'das_*,kmeans_*' --eval-sets simple_test
  actpatch direction-patching-suite --positions ADJ,ALL --metrics logit_diff,logit_flip --layers all
  actpatch direction-patching-suite --eval-sets simple_adverb --projection ortho
  actpatch direction-patching-suite --eval-sets classification_4 --compat double-spaces,unprocessed-fits
  actpatch direction-patching-suite --models gpt2-small --directions 'das_*' --heads paper
  actpatch direction-patching-suite --eval-sets treebank_test --scaffold classification --positions END,ALL")]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    pub models: ModelArgs,
    /// Direction files by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    pub directions: Vec<String>,
    /// Datasets to patch.
    #[arg(long, value_delimiter = ',', default_value = "simple_test")]
    pub eval_sets: Vec<String>,
    /// Text around the Treebank's sentences; all other datasets are plain.
    #[arg(long, value_enum, default_value = "plain")]
    pub scaffold: Scaffold,
    /// Metrics: logit_diff, logit_diff_noising, logit_flip (normalised, as in the paper), sign_flip (the literal share of
    /// prompts whose logit difference changes sign), prob_diff.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff")]
    pub metrics: Vec<Metric>,
    /// Positions: placeholders, ALL, or auto for the main placeholder.
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub positions: Vec<String>,
    /// Patch at the direction's own layer, or in front of every block.
    #[arg(long, value_enum, default_value = "own")]
    pub layers: LayerChoice,
    /// Patch the results of these heads, layer.head, at every position instead of the residual stream: for example
    /// 9.2,10.1, or `paper` for the paper's list (gpt2-small, pythia-2.8b).
    #[arg(long, conflicts_with = "layers")]
    pub heads: Option<Heads>,
    /// Keep only the part of the direction parallel or orthogonal to the one fitted on the evaluation dataset itself.
    #[arg(long, value_enum)]
    pub projection: Option<Projection>,
    #[command(flatten)]
    #[serde(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunArgs,
}

/// Where cells patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerChoice {
    /// At the direction's own layer.
    Own,
    /// In front of every block.
    All,
}

/// Heads whose results are patched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Heads {
    /// The paper's, of the models that it has a list for.
    Paper,
    /// These, as (layer, head).
    List(Vec<(usize, usize)>),
}

impl FromStr for Heads {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "paper" {
            return Ok(Heads::Paper);
        }
        let head = |item: &str| {
            let (layer, head) = item.split_once('.')?;
            Some((layer.parse().ok()?, head.parse().ok()?))
        };
        let parsed =
            |item| head(item).ok_or_else(|| format!("expected layer.head such as 9.2, or paper, found {item:?}"));
        let heads: Vec<(usize, usize)> = text.split(',').map(parsed).collect::<Result<_, _>>()?;
        Ok(Heads::List(distinct(&heads)))
    }
}

/// The heads to patch in a model; none for the residual stream.
fn resolve_heads(args: &Args, model: &Model) -> Result<Option<Vec<(usize, usize)>>> {
    let heads = match &args.heads {
        None => return Ok(None),
        Some(Heads::List(heads)) => heads.clone(),
        Some(Heads::Paper) => match paper_heads(&model.name) {
            Some(heads) => heads.to_vec(),
            None => bail!("--heads: the paper has no list for {}; name heads, for example --heads 2.0,2.1", model.name),
        },
    };
    let (n_layers, n_heads) = (model.config.n_layers, model.config.n_heads);
    if let Some((layer, head)) = heads.iter().find(|(layer, head)| *layer >= n_layers || *head >= n_heads) {
        bail!("--heads: {}: expected layers 0..{n_layers} and heads 0..{n_heads}, found {layer}.{head}", model.name);
    }
    Ok(Some(heads))
}

/// The positions of a dataset that are patched: with heads, all of them.
fn wanted_positions(args: &Args, prompts: &PairedPrompts) -> Result<Vec<(String, PatchPositions)>> {
    if args.heads.is_none() {
        return resolve_positions(prompts, &args.positions);
    }
    if let Some(other) = args.positions.iter().find(|name| !["auto", "ALL"].contains(&name.as_str())) {
        bail!("--positions: with --heads every position is patched, expected ALL, found {other}");
    }
    Ok(vec![("ALL".into(), PatchPositions::All)])
}

/// Which part of a direction is patched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Projection {
    /// Parallel to the evaluation dataset's own direction.
    Para,
    /// Orthogonal to it.
    Ortho,
}

/// One direction on one dataset at one position, for the metrics that are still wanted.
struct Job {
    direction: DirectionName,
    set: String,
    position: String,
    positions: PatchPositions,
    metrics: Vec<Metric>,
}

impl Job {
    fn key(&self) -> CellKey {
        (label(&self.direction), self.set.clone(), self.position.clone())
    }

    /// Does a metric need a run patched this way?
    fn wants(&self, mode: Mode) -> bool {
        self.metrics.iter().any(|metric| metric.mode() == mode)
    }
}

/// A direction's name with a two-digit layer, as result files list it.
pub(super) fn label(name: &DirectionName) -> String {
    let text = name.to_string();
    let stem = text.rsplit_once("layer").map_or(text.as_str(), |(stem, _)| stem);
    format!("{stem}layer{:02}", name.layer())
}

/// The result file of a metric.
fn file_name(args: &Args, metric: Metric) -> String {
    let layers = if args.layers == LayerChoice::All { "_all_layers" } else { "" };
    let site = match &args.heads {
        None => "resid".to_owned(),
        Some(Heads::Paper) => "attn_result".to_owned(),
        Some(Heads::List(heads)) => {
            let heads: Vec<String> = heads.iter().map(|(layer, head)| format!("{layer}.{head}")).collect();
            format!("attn_result_{}", heads.join("-"))
        }
    };
    let projection = match args.projection {
        None => "",
        Some(Projection::Para) => "_para",
        Some(Projection::Ortho) => "_ortho",
    };
    format!("direction_patching_{metric}_{site}_{}{layers}{projection}{}.csv", args.scaffold, args.compat.ending())
}

/// Patches what the arguments name, for every model.
pub fn run(args: Args) -> Result<()> {
    let catalogue = args.compat.catalogue(&args.run)?;
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let name = model.name.clone();
        if args.run.dry_run {
            print(&plan(&args, &catalogue, &model)?)?;
            continue;
        }
        let (results, manifest) = args.run.in_pool(|| patch_model(&args, &catalogue, model))?;
        if !args.run.json {
            print(&summary(&name, &results))?;
        }
        let cells: Vec<_> = results
            .iter()
            .map(|((metric, key), percent)| {
                json!({ "direction": key.0, "prompt": key.1, "position": key.2, "metric": metric, "percent": percent })
            })
            .collect();
        all.push(json!({ "model": name, "cells": cells, "manifest": manifest }));
    }
    if args.run.json && !args.run.dry_run {
        print_json(&all)?;
    }
    Ok(())
}

/// Values in percent, per metric and cell; none where the metric is undefined.
pub(super) type Results = BTreeMap<(Metric, CellKey), Option<f64>>;

fn summary(model: &str, results: &Results) -> String {
    let mut table = Table::new(["direction", "prompt", "position", "metric", "percent"]);
    for ((metric, (direction, set, position)), percent) in results {
        let percent = percent.map_or("undefined".into(), |percent| format!("{percent:.2}"));
        table.push([direction.clone(), set.clone(), position.clone(), metric.to_string(), percent]);
    }
    format!("{model}\n{table}")
}

/// The directions that the patterns select.
fn selected(args: &Args, folder: &Path) -> Result<Vec<DirectionName>> {
    let names = match list(folder) {
        Ok(names) => names,
        Err(_) if !folder.exists() => {
            bail!("{}: no such folder; fit directions first (actpatch fit-directions)", folder.display())
        }
        Err(error) => return Err(error.into()),
    };
    Ok(select(&args.directions, &names)?)
}

/// The cells of one dataset that are wanted and not there yet.
fn jobs(
    args: &Args,
    prompts: &PairedPrompts,
    directions: &[DirectionName],
    files: &BTreeMap<Metric, SuiteCsv>,
) -> Result<(Vec<Job>, usize)> {
    let mut jobs = Vec::new();
    let mut kept = 0;
    for (position, positions) in wanted_positions(args, prompts)? {
        for direction in directions {
            let mut job = Job {
                direction: direction.clone(),
                set: prompts.name.clone(),
                position: position.clone(),
                positions,
                metrics: Vec::new(),
            };
            let key = job.key();
            let wanted = |metric: &Metric| args.run.overwrite || !files[metric].contains(&key);
            job.metrics = files.keys().copied().filter(|metric| wanted(metric)).collect();
            kept += files.len() - job.metrics.len();
            if !job.metrics.is_empty() {
                jobs.push(job);
            }
        }
    }
    Ok((jobs, kept))
}

/// The text of a dry run.
fn plan(args: &Args, catalogue: &Catalogue, model: &Model) -> Result<String> {
    let folder = args.run.folder(&model.name);
    let directions = selected(args, &folder)?;
    check_records(args, &folder, &directions, model)?;
    resolve_heads(args, model)?;
    let files = read_files(args, &folder)?;
    let mut table = Table::new(["direction", "prompt", "position", "metrics", "arithmetic"]);
    let (mut total, mut activations) = (Flops::default(), 0);
    for set in &distinct(&args.eval_sets) {
        let prompts = build_prompts(&args.run, catalogue, set, args.scaffold, model)?;
        let whole = Layout::new(prompts.sequences.iter().map(|s| (0, s.len())));
        total = total + Flops::forward(&model.config, &whole, 0, 10);
        activations = activations.max(planned_values(&model.config, &whole));
        let (jobs, kept) = jobs(args, &prompts, &directions, &files)?;
        note_skipped(kept, "cells", &folder);
        for job in jobs {
            let flops = planned_flops(args, &job, model, &prompts)?;
            total = total + flops;
            let metrics: Vec<_> = job.metrics.iter().map(Metric::to_string).collect();
            table.push([label(&job.direction), job.set, job.position, metrics.join(" "), flops.to_string()]);
        }
    }
    activations += args.run.batch_tokens as usize * (8 * model.config.d_model + 2 * model.config.d_mlp);
    let memory = bytes(args.run.memory(&model.config, activations));
    Ok(format!("{}\n{table}total {total}, about {memory} of memory\n", model.name))
}

/// The arithmetic of a job.
fn planned_flops(args: &Args, job: &Job, model: &Model, prompts: &PairedPrompts) -> Result<Flops> {
    let modes = [Mode::Denoising, Mode::Noising].into_iter().filter(|mode| job.wants(*mode));
    let columns = || Matrix::zeros(model.config.d_model, 1);
    let cells = modes.map(|mode| cell(args, model, job, mode, columns())).collect::<Result<Vec<_>>>()?;
    Ok(Plan::new(&model.config, prompts, &cells, args.run.batch_tokens as usize)?.flops())
}

fn read_files(args: &Args, folder: &Path) -> Result<BTreeMap<Metric, SuiteCsv>> {
    let read =
        |metric: &Metric| -> Result<_> { Ok((*metric, SuiteCsv::read(&folder.join(file_name(args, *metric)))?)) };
    args.metrics.iter().map(read).collect()
}

/// Computes every wanted cell of one model, updates the files, and returns all their selected cells; the manifest is
/// none when nothing was to be done.
pub(super) fn patch_model(args: &Args, catalogue: &Catalogue, model: Model) -> Result<(Results, Option<RunRecord>)> {
    let folder = args.run.folder(&model.name);
    let directions = selected(args, &folder)?;
    check_records(args, &folder, &directions, &model)?;
    resolve_heads(args, &model)?;
    let mut files = read_files(args, &folder)?;
    let mut work = Vec::new();
    let mut shown = Vec::new();
    for set in &distinct(&args.eval_sets) {
        let prompts = build_prompts(&args.run, catalogue, set, args.scaffold, &model)?;
        let (jobs, kept) = jobs(args, &prompts, &directions, &files)?;
        note_skipped(kept, "cells", &folder);
        for (position, _) in wanted_positions(args, &prompts)? {
            shown.push((prompts.name.clone(), position));
        }
        if !jobs.is_empty() {
            work.push((prompts, jobs));
        }
    }
    let mut record = None;
    if !work.is_empty() {
        let mut manifest = args.run.manifest("direction-patching-suite", args, &folder, Some(&model))?;
        let work = PatchModel { args, folder: &folder, work, files: &mut files, manifest: &mut manifest };
        args.run.on_device(model, work)?;
        record = Some(manifest.finish()?);
    }
    let mut results = Results::new();
    for (metric, file) in &files {
        for direction in directions.iter().map(label) {
            for (set, position) in &shown {
                let key = (direction.clone(), set.clone(), position.clone());
                let percent = file.cells().get(&key).copied();
                results.insert((*metric, key), percent);
            }
        }
    }
    Ok((results, record))
}

/// The cells of one model: datasets with the jobs on each. Files are written after every dataset.
struct PatchModel<'a> {
    args: &'a Args,
    folder: &'a Path,
    work: Vec<(PairedPrompts, Vec<Job>)>,
    files: &'a mut BTreeMap<Metric, SuiteCsv>,
    manifest: &'a mut Manifest,
}

impl DeviceWork for PatchModel<'_> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<()> {
        self.manifest.computed_on(engine);
        for (prompts, jobs) in self.work {
            self.manifest.saw(&prompts)?;
            patch_dataset(self.args, engine, prompts, &jobs, self.folder, self.files)?;
            for (metric, file) in &*self.files {
                file.write()?;
                let new = jobs.iter().filter(|job| job.metrics.contains(metric) && file.contains(&job.key()));
                let cell = |job: &Job| format!("{} {} {}", label(&job.direction), job.set, job.position);
                self.manifest.wrote(file.path(), new.map(cell));
            }
        }
        Ok(())
    }
}

/// A direction needs a layer of the model, and lives in the basis of the weights it was fitted with: their processing,
/// and a random model's seed.
fn check_records(args: &Args, folder: &Path, directions: &[DirectionName], model: &Model) -> Result<()> {
    let (n_layers, seed) = (model.config.n_layers, args.run.seed);
    if let Some(name) = directions.iter().find(|name| name.layer() > n_layers) {
        bail!("{name}: layer: expected 0..{n_layers} for {}, found {}", model.name, name.layer());
    }
    let ours = processing_names(model.processing);
    let mut without_record = 0;
    for name in directions.iter().filter(|name| name.method() != Method::RandomDirection) {
        let path = Direction::paths(folder, name).1;
        if !path.exists() {
            without_record += 1;
            continue;
        }
        let record = FitRecord::read(folder, name)?;
        if record.weight_processing != ours && !args.compat.has(Compat::UnprocessedFits) {
            let show = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(",") };
            bail!(
                "{}: weight_processing: expected {}, found {}; run with --weight-processing {}",
                path.display(),
                show(&ours),
                show(&record.weight_processing),
                show(&record.weight_processing)
            );
        }
        if matches!(model.provenance.source, Source::Random { .. }) && record.seed != seed {
            bail!(
                "{}: seed: expected {seed}, the seed of the random weights, found {}; run with --seed {}",
                path.display(),
                record.seed,
                record.seed
            );
        }
    }
    if without_record > 0 {
        tracing::warn!("{without_record} directions have no record of their fit: their weight processing is unknown");
    }
    Ok(())
}

fn patch_dataset<B: Backend>(
    args: &Args,
    engine: &Engine<B>,
    prompts: PairedPrompts,
    jobs: &[Job],
    folder: &Path,
    files: &mut BTreeMap<Metric, SuiteCsv>,
) -> Result<()> {
    // One cell per job and patching direction.
    let of_mode = |mode| jobs.iter().filter(move |job| job.wants(mode)).map(move |job| (job, mode));
    let work: Vec<(&Job, Mode)> = of_mode(Mode::Denoising).chain(of_mode(Mode::Noising)).collect();
    let read = |&(job, mode): &(&Job, Mode)| cell(args, engine.model(), job, mode, columns(args, engine, job, folder)?);
    let cells: Vec<Cell> = work.iter().map(read).collect::<Result<_>>()?;
    let name = prompts.name.clone();
    let progress = bar(1000, format!("patching {name}"));
    let told = |step: chunks::Progress<'_>| -> Result<()> {
        progress.set_position((1000.0 * step.share) as u64);
        Ok(())
    };
    let (baselines, scores) = chunks::patch_dataset(engine, &prompts, &cells, &args.metrics, MEMORY_BUDGET, told)
        .with_context(|| name.clone())?;
    tracing::info!(dataset = name, logit_differences = ?baselines.logit_differences(), accuracy = baselines.clean.accuracy());
    for ((job, mode), scores) in work.iter().zip(&scores) {
        for metric in job.metrics.iter().filter(|metric| metric.mode() == *mode) {
            let percent = percent(&baselines, *metric, scores);
            let Some(file) = files.get_mut(metric) else { continue };
            match percent.with_context(|| format!("{name}: {metric}: {}", job.direction))? {
                Some(percent) => file.insert(job.key(), percent),
                None => file.remove(&job.key()),
            }
        }
    }
    for metric in files.keys().filter(|metric| !baselines.defined(**metric)) {
        let warning = format!(
            "warning: {name}: {metric} is undefined, its cells stay empty: clean and corrupted runs do not differ in it, or \
             all prompts are of one class"
        );
        progress.suspend(|| writeln!(std::io::stderr(), "{warning}")).context("stderr")?;
    }
    progress.finish_and_clear();
    Ok(())
}

/// A metric in percent; none when it is undefined on this dataset.
fn percent(baselines: &Baselines, metric: Metric, scores: &Scores) -> Result<Option<f64>> {
    if !baselines.defined(metric) {
        return Ok(None);
    }
    let value = 100.0 * baselines.evaluate(metric, scores);
    if !value.is_finite() {
        bail!("expected a finite number, found {value}");
    }
    Ok(Some(value))
}

/// The cell of a job in one patching direction.
fn cell(args: &Args, model: &Model, job: &Job, mode: Mode, columns: Matrix) -> Result<Cell> {
    if let Some(heads) = resolve_heads(args, model)? {
        return Ok(head_results_cell(columns, &heads, mode));
    }
    let layers = match args.layers {
        LayerChoice::Own => Layers::Own(job.direction.layer()),
        LayerChoice::All => Layers::All,
    };
    Ok(residual_cell(columns, layers, job.positions, mode, model.config.n_layers))
}

/// The unit columns of a job's direction, projected if the arguments say so.
fn columns<B: Backend>(args: &Args, engine: &Engine<B>, job: &Job, folder: &Path) -> Result<Matrix> {
    let d_model = engine.config().d_model;
    let direction = Direction::read(folder, &job.direction, d_model)?;
    let Some(projection) = args.projection else { return Ok(direction.unit_columns()) };
    if job.direction.method() == Method::RandomDirection {
        bail!(
            "--projection: {} has no counterpart fitted on {}; leave it out with --directions",
            job.direction,
            job.set
        );
    }
    let own = DirectionName::fitted(job.direction.method(), &job.set, &job.position, job.direction.layer())?;
    let path: PathBuf = Direction::paths(folder, &own).0;
    if !path.exists() {
        bail!(
            "--projection: {} is missing; fit it with --methods {} --train-sets {} --positions {} --layers {}",
            path.display(),
            job.direction.method(),
            job.set,
            job.position,
            job.direction.layer()
        );
    }
    let own = Direction::read(folder, &own, d_model)?;
    Ok(projected(&direction.columns, &own.columns, projection == Projection::Para))
}
