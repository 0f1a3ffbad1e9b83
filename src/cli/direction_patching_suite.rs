//! `direction-patching-suite`.

use super::choice::choice;
use super::common::{
    CompatArgs, ModelArgs, RunArgs, bar, bytes, check_writable, distinct, print, print_json, resolve_positions,
};
use super::device::DeviceWork;
use super::suite_plan::{Divided, Job, SWEEP, SuitePlan};
use super::sweeping::{Recorder, SweepArgs, finite};
use crate::backend::Backend;
use crate::choice::{choices, serde_by_text};
use crate::datasets::treebank::Scaffold;
use crate::datasets::{Catalogue, PairedPrompts};
use crate::directions::DirectionName;
use crate::engine::{Baselines, Cell, Engine, Flops, Layout, Metric, Mode, PatchPositions, Plan, Scores};
use crate::experiments::chunks;
use crate::experiments::patching_suite::{Layers, head_results_cell, paper_heads, residual_cell};
use crate::model::Model;
use crate::report::{CellKey, Manifest, RunRecord, Table};
use crate::types::Matrix;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

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
    #[arg(long, value_parser = choice::<Scaffold>(), default_value = "plain")]
    pub scaffold: Scaffold,
    /// Metrics: logit_diff, logit_diff_noising, logit_flip (normalised, as in the paper), sign_flip (the literal share of
    /// prompts whose logit difference changes sign), prob_diff, log_prob, log_prob_noising.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff")]
    pub metrics: Vec<Metric>,
    /// Positions: placeholders, ALL, or auto for the main placeholder.
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub positions: Vec<String>,
    /// Patch at the direction's own layer, or in front of every block.
    #[arg(long, value_parser = choice::<LayerChoice>(), default_value = "own")]
    pub layers: LayerChoice,
    /// Patch the results of these heads, layer.head, at every position instead of the residual stream: for example
    /// 9.2,10.1, or `paper` for the paper's list (gpt2-small, pythia-2.8b).
    #[arg(long, conflicts_with = "layers")]
    pub heads: Option<Heads>,
    /// Keep only the part of the direction parallel or orthogonal to the one fitted on the evaluation dataset itself.
    #[arg(long, value_parser = choice::<Projection>())]
    pub projection: Option<Projection>,
    #[command(flatten)]
    #[serde(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub sweep: SweepArgs,
    #[command(flatten)]
    #[serde(flatten)]
    pub run: RunArgs,
}

choices! {
    /// Where cells patch.
    pub enum LayerChoice {
        /// At the direction's own layer.
        Own = "own",
        /// In front of every block.
        All = "all",
    }
}

/// Heads whose results are patched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heads {
    /// The paper's, of the models that it has a list for.
    Paper,
    /// These, as (layer, head).
    List(Vec<(usize, usize)>),
}

impl fmt::Display for Heads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |(layer, head): &(usize, usize)| format!("{layer}.{head}");
        match self {
            Heads::Paper => f.write_str("paper"),
            Heads::List(heads) => f.write_str(&heads.iter().map(name).collect::<Vec<_>>().join(",")),
        }
    }
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

serde_by_text!(Heads);

/// The heads to patch in a model; none for the residual stream.
pub(super) fn resolve_heads(args: &Args, model: &Model) -> Result<Option<Vec<(usize, usize)>>> {
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
pub(super) fn wanted_positions(args: &Args, prompts: &PairedPrompts) -> Result<Vec<(String, PatchPositions)>> {
    if args.heads.is_none() {
        return resolve_positions(prompts, &args.positions);
    }
    if let Some(other) = args.positions.iter().find(|name| !["auto", "ALL"].contains(&name.as_str())) {
        bail!("--positions: with --heads every position is patched, expected ALL, found {other}");
    }
    Ok(vec![("ALL".into(), PatchPositions::All)])
}

choices! {
    /// Which part of a direction is patched.
    pub enum Projection {
        /// Parallel to the evaluation dataset's own direction.
        Para = "para",
        /// Orthogonal to it.
        Ortho = "ortho",
    }
}

/// A direction's name with a two-digit layer, as result files list it.
pub(super) fn label(name: &DirectionName) -> String {
    let text = name.to_string();
    let stem = text.rsplit_once("layer").map_or(text.as_str(), |(stem, _)| stem);
    format!("{stem}layer{:02}", name.layer())
}

/// The result file of a metric.
pub(super) fn file_name(args: &Args, metric: Metric) -> String {
    let layers = if args.layers == LayerChoice::All { "_all_layers" } else { "" };
    let site = match &args.heads {
        None => "resid".to_owned(),
        Some(Heads::Paper) => "attn_result".to_owned(),
        Some(heads @ Heads::List(_)) => format!("attn_result_{}", heads.to_string().replace(',', "-")),
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

/// The text of a dry run.
fn plan(args: &Args, catalogue: &Catalogue, model: &Model) -> Result<String> {
    let folder = args.run.folder(&model.name);
    let mut table = Table::new(["direction", "prompt", "position", "metrics", "arithmetic"]);
    let (mut total, mut activations) = (Flops::default(), 0);
    for (prompts, jobs) in SuitePlan::new(args, catalogue, model)?.divide(args, &folder).work {
        let whole = Layout::new(prompts.sequences.iter().map(|s| (0, s.len())));
        total = total + Flops::forward(&model.config, &whole, 0, 10);
        activations = activations.max(args.run.planned_values(&model.config, &whole));
        for job in jobs {
            let flops = planned_flops(args, &job, model, &prompts)?;
            total = total + flops;
            let metrics: Vec<_> = job.metrics.iter().map(|(metric, _)| metric.to_string()).collect();
            table.push([label(&job.direction), job.set, job.position, metrics.join(" "), flops.to_string()]);
        }
    }
    activations += args.run.batch_tokens as usize * model.config.passing_values();
    let memory = bytes(args.run.memory(&model.config, activations));
    Ok(format!("{}\n{table}total {total}, about {memory} of memory\n", model.name))
}

/// The arithmetic of a job.
fn planned_flops(args: &Args, job: &Job, model: &Model, prompts: &PairedPrompts) -> Result<Flops> {
    let modes = [Mode::Denoising, Mode::Noising].into_iter().filter(|mode| job.wants(*mode));
    let columns = Arc::new(Matrix::zeros(model.config.d_model, 1));
    let cells = modes.map(|mode| cell(args, model, job, mode, columns.clone())).collect::<Result<Vec<_>>>()?;
    Ok(Plan::new(&model.config, prompts, &cells, args.run.batch_tokens as usize)?.flops())
}

/// Computes every wanted cell of one model, updates the files, and returns all their selected cells; the manifest is
/// none when nothing was to be done.
pub(super) fn patch_model(args: &Args, catalogue: &Catalogue, model: Model) -> Result<(Results, Option<RunRecord>)> {
    let folder = args.run.folder(&model.name);
    let plan = SuitePlan::new(args, catalogue, &model)?;
    let configuration = plan.configuration.clone();
    let Divided { wanted, own, work, left } = plan.divide(args, &folder);
    check_writable(&folder)?;
    let mut recorder = Recorder::start(&folder, &args.sweep, &configuration, wanted, left)?;
    let (mut result, mut record) = (Ok(()), None);
    if left > 0 {
        let mut manifest = args.run.manifest(SWEEP, args, &folder, Some(&model))?;
        let work = PatchModel { args, folder: &folder, work, recorder: &mut recorder, manifest: &mut manifest };
        result = args.run.on_device(model, work);
        if result.is_ok() {
            record = Some(manifest.finish()?);
        }
    }
    // Also when the sweep was stopped: what is done can be looked at.
    recorder.write_files(&folder, &args.sweep)?;
    result?;
    Ok((recorder.results(&folder, &args.sweep, own)?, record))
}

/// The cells of one model: datasets with the jobs on each.
struct PatchModel<'a> {
    args: &'a Args,
    folder: &'a Path,
    work: Vec<(PairedPrompts, Vec<Job>)>,
    recorder: &'a mut Recorder,
    manifest: &'a mut Manifest,
}

impl DeviceWork for PatchModel<'_> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<()> {
        self.manifest.computed_on(engine);
        self.recorder.begin();
        for (prompts, jobs) in self.work.iter().filter(|(_, jobs)| !jobs.is_empty()) {
            self.manifest.saw(prompts)?;
            patch_dataset(self.args, engine, prompts, jobs, self.recorder)?;
            for job in jobs {
                let cell = format!("{} {} {}", label(&job.direction), job.set, job.position);
                for (metric, _) in &job.metrics {
                    let file = self.args.sweep.folder(self.folder).join(file_name(self.args, *metric));
                    self.manifest.wrote(&file, [cell.clone()]);
                }
            }
        }
        Ok(())
    }
}

fn patch_dataset<B: Backend>(
    args: &Args,
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    jobs: &[Job],
    recorder: &mut Recorder,
) -> Result<()> {
    // One cell of the plan per job and patching direction: metrics of one direction share their pass.
    let of_mode = |mode| jobs.iter().filter(move |job| job.wants(mode)).map(move |job| (job, mode));
    let work: Vec<(&Job, Mode)> = of_mode(Mode::Denoising).chain(of_mode(Mode::Noising)).collect();
    let as_cell = |&(job, mode): &(&Job, Mode)| cell(args, engine.model(), job, mode, job.subspace.columns.clone());
    let cells: Vec<Cell> = work.iter().map(as_cell).collect::<Result<_>>()?;
    let name = prompts.name.clone();
    let progress = bar(1000, format!("patching {name}"));
    let told = |step: chunks::Progress<'_>| -> Result<()> {
        let mut batch = Vec::new();
        for (finished, scores) in &step.finished {
            let (job, mode) = work[*finished];
            let of_mode = job.metrics.iter().filter(|(metric, _)| metric.mode() == mode);
            batch.extend(of_mode.map(|(metric, id)| (*id, percent(step.baselines, *metric, scores))));
        }
        recorder.record(batch)?;
        progress.set_position((1000.0 * step.share) as u64);
        Ok(())
    };
    let budget = engine.memory_budget();
    let baselines =
        chunks::patch_dataset(engine, prompts, &cells, &args.metrics, budget, told).with_context(|| name.clone())?;
    tracing::info!(dataset = name, logit_differences = ?baselines.logit_differences(), accuracy = baselines.clean.accuracy());
    for metric in args.metrics.iter().filter(|metric| !baselines.defined(**metric)) {
        let warning = format!(
            "warning: {name}: {metric} is undefined, its cells stay empty: clean and corrupted runs do not differ in it, or \
             all prompts are of one class"
        );
        progress.suspend(|| writeln!(std::io::stderr(), "{warning}")).context("stderr")?;
    }
    progress.finish_and_clear();
    Ok(())
}

/// A metric in percent; null when it is undefined on this dataset.
fn percent(baselines: &Baselines, metric: Metric, scores: &Scores) -> Result<Value, String> {
    if !baselines.defined(metric) {
        return Ok(Value::Null);
    }
    finite(100.0 * baselines.evaluate(metric, scores))
}

/// The cell of a job in one patching direction, along `columns`, `(d_model, k)`.
fn cell(args: &Args, model: &Model, job: &Job, mode: Mode, columns: Arc<Matrix>) -> Result<Cell> {
    if let Some(heads) = resolve_heads(args, model)? {
        return Ok(head_results_cell(columns, &heads, mode));
    }
    let layers = match args.layers {
        LayerChoice::Own => Layers::Own(job.direction.layer()),
        LayerChoice::All => Layers::All,
    };
    Ok(residual_cell(columns, layers, job.positions, mode, model.config.n_layers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_recorded_as_the_option_takes_them() {
        for name in ["paper", "9.2", "9.2,10.1"] {
            let heads: Heads = serde_json::from_value(name.into()).unwrap();
            assert_eq!(serde_json::to_value(&heads).unwrap(), name);
        }
    }
}
