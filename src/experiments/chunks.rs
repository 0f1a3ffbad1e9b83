//! Datasets that are too large to be captured at once: stretches of prompts, one after the other.
//!
//! A run keeps the residual of every token at every captured layer, and the keys and values that patched rows start
//! behind. The Treebank's 7864 training prompts at one layer of pythia-1.4b would be 2 GB of the former and, in front
//! of END, 100 GB of the latter. Prompts do not see each other, so any measurement can go through them in stretches.

use super::devices::{locked, on_every_device};
use crate::backend::Backend;
use crate::directions::embedding_positions;
use crate::engine::{
    Baselines, Cell, Engine, EngineError, Metric, Needs, Output, PairedRun, Pairs, PatchPositions, Plan, Scores, Site,
    Step,
};
use crate::model::ModelConfig;
use crate::types::{Matrix, PairedPrompts};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Cells that go together through the stretches of a dataset that has several: few enough that the first of them are
/// finished early, enough that capturing the stretches again for the next ones (which costs as much as one or two cells)
/// hardly counts.
const PORTION_OF_STRETCHES: usize = 64;

/// Cells that are planned together on a dataset that is captured once: enough to fill batches at every layer, few enough
/// that rows and scores of a hundred thousand cells are never in memory at once.
const PORTION: usize = 4096;

/// What is kept of every prompt while a stretch is in memory.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    /// Captured sites.
    pub sites: &'a [Site],
    /// Where rows will be patched.
    pub positions: &'a [PatchPositions],
}

/// Bytes that one prompt of a run needs: captured sites, keys and values in front of the patched positions, and the
/// values a patched row has at any one time.
fn prompt_bytes(config: &ModelConfig, pairs: &Pairs<'_>, prompt: usize, kept: Kept<'_>) -> usize {
    let clean = &pairs.prompts.sequences[pairs.prompts.clean[prompt]];
    let start = |positions: &PatchPositions| match positions {
        PatchPositions::One(position) => *position,
        PatchPositions::Last => clean.len(),
        PatchPositions::All => pairs.first_difference(prompt),
    };
    let prefix = kept.positions.iter().map(start).max().unwrap_or(0);
    let width = |site: &Site| match site {
        Site::Pattern(_) => config.n_heads * clean.len(),
        site => site.width(config),
    };
    let captured: usize = kept.sites.iter().map(width).sum();
    let passing = config.passing_values();
    let key_values = 2 * config.n_layers * config.n_kv_heads * config.d_head;
    // Corrupted prompts are the others' clean ones; twins are runs of their own.
    let runs = if pairs.twin.is_some() { 2 } else { 1 };
    4 * runs * (clean.len() * (captured + passing) + prefix * key_values)
}

/// Consecutive prompts in stretches that keep at most `budget` bytes and hold a multiple of `multiple` prompts each (the
/// last one the rest).
///
/// # Errors
/// [`EngineError::Memory`] when `multiple` prompts need more than the budget.
pub fn stretches<'p>(
    config: &ModelConfig,
    pairs: impl Into<Pairs<'p>>,
    kept: Kept<'_>,
    multiple: usize,
    budget: usize,
) -> Result<Vec<Range<usize>>, EngineError> {
    let pairs = pairs.into();
    let n_prompts = pairs.prompts.clean.len();
    let mut all: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for first in (0..n_prompts).step_by(multiple.max(1)) {
        let group = first..(first + multiple.max(1)).min(n_prompts);
        let needed: usize = group.clone().map(|prompt| prompt_bytes(config, &pairs, prompt, kept)).sum();
        if needed > budget {
            let what = format!("prompts {} to {} of {}", group.start, group.end - 1, pairs.prompts.name);
            return Err(EngineError::Memory { what, needed, budget });
        }
        match all.last_mut() {
            Some(last) if bytes + needed <= budget => {
                last.end = group.end;
                bytes += needed;
            }
            _ => {
                all.push(group);
                bytes = needed;
            }
        }
    }
    Ok(all)
}

/// The prompts of a range as a dataset of their own.
pub fn part(prompts: &PairedPrompts, range: Range<usize>) -> PairedPrompts {
    chosen(prompts, &range.collect::<Vec<_>>())
}

/// The same of pairs.
pub fn part_of_pairs(pairs: &Pairs<'_>, range: Range<usize>) -> Pairs<'static> {
    let twin = pairs.twin.as_ref().map(|twin| twin.part(&range));
    Pairs { prompts: Cow::Owned(part(&pairs.prompts, range)), twin }
}

/// Some prompts, by number, as a dataset of their own.
pub fn chosen(prompts: &PairedPrompts, numbers: &[usize]) -> PairedPrompts {
    let mut place: HashMap<usize, usize> = HashMap::new();
    let (mut texts, mut sequences) = (Vec::new(), Vec::new());
    let mut move_in = |&sequence: &usize| {
        *place.entry(sequence).or_insert_with(|| {
            texts.push(prompts.texts[sequence].clone());
            sequences.push(prompts.sequences[sequence].clone());
            sequences.len() - 1
        })
    };
    let (mut clean, mut corrupted) = (Vec::new(), Vec::new());
    for &prompt in numbers {
        clean.push(move_in(&prompts.clean[prompt]));
        corrupted.push(move_in(&prompts.corrupted[prompt]));
    }
    PairedPrompts {
        name: prompts.name.clone(),
        texts,
        sequences,
        clean,
        corrupted,
        positive: numbers.iter().map(|&prompt| prompts.positive[prompt]).collect(),
        has_classes: prompts.has_classes,
        answers: numbers.iter().map(|&prompt| prompts.answers[prompt].clone()).collect(),
        positions: prompts.positions.clone(),
    }
}

/// Scores of consecutive stretches as one.
pub fn joined_scores(parts: Vec<Scores>) -> Scores {
    let mut all = Scores::default();
    parts.iter().for_each(|part| all.extend(part));
    all
}

/// Baselines of consecutive stretches as one.
pub fn joined_baselines(parts: Vec<Baselines>) -> Baselines {
    let positive = parts.iter().flat_map(|part| part.positive.iter().copied()).collect();
    let (clean, corrupted) = parts.into_iter().map(|part| (part.clean, part.corrupted)).unzip();
    Baselines { clean: joined_scores(clean), corrupted: joined_scores(corrupted), positive }
}

/// Clean and corrupted scores of a whole dataset, nothing captured.
///
/// # Errors
/// Those of [`PairedRun::new`].
pub fn baselines<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    budget: usize,
) -> Result<Baselines, EngineError> {
    let kept = Kept { sites: &[], positions: &[] };
    let mut parts = Vec::new();
    for range in stretches(engine.config(), prompts, kept, 1, budget)? {
        parts.push(PairedRun::new(engine, part(prompts, range), &[], &[], false)?.baselines().clone());
    }
    Ok(joined_baselines(parts))
}

/// How far the cells of a dataset have come.
pub struct Progress<'a> {
    /// Share of the work that is done.
    pub share: f64,
    /// Cells that have become complete, by their places in the list of cells, with their scores over the whole dataset.
    pub finished: Vec<(usize, Scores)>,
    /// Baselines of the stretches that have been run; of the whole dataset as soon as a cell is finished.
    pub baselines: &'a Baselines,
}

/// Patches every cell into a dataset and returns its baselines; the cells' scores go to `told`, which hears of every
/// finished batch and whose error ends the work. The dataset goes through the model in stretches that keep at most
/// `budget` bytes (on each device), and the cells in portions, so memory does not grow with either; the engine's peers do
/// their share of the cells.
///
/// # Errors
/// Those of [`Plan::new`], [`Plan::run`], [`PairedRun::new`], [`stretches`] and of `told`.
pub fn patch_dataset<'p, B: Backend, E: From<EngineError> + Send>(
    engine: &Engine<B>,
    pairs: impl Into<Pairs<'p>>,
    cells: &[Cell],
    metrics: &[Metric],
    budget: usize,
    told: impl FnMut(Progress<'_>) -> Result<(), E> + Send,
) -> Result<Baselines, E> {
    let pairs = pairs.into();
    if cells.is_empty() || engine.with_its_peers().len() == 1 {
        return patch_share(engine, &pairs, cells, metrics, budget, told);
    }
    let all = Mutex::new((no_baselines(), 0.0, told));
    on_every_device(engine, cells.len(), |engine, numbers| -> Result<(), E> {
        let own: Vec<Cell> = numbers.iter().map(|&number| cells[number].clone()).collect();
        let weight = own.len() as f64 / cells.len() as f64;
        let mut before = 0.0;
        let baselines = patch_share(engine, &pairs, &own, metrics, budget, |progress| {
            let (_, share, told) = &mut *locked(&all);
            *share += weight * (progress.share - before);
            before = progress.share;
            let finished = progress.finished.into_iter().map(|(cell, scores)| (numbers[cell], scores)).collect();
            told(Progress { share: *share, finished, baselines: progress.baselines })
        })?;
        locked(&all).0 = baselines;
        Ok(())
    })?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner).0)
}

/// As [`patch_dataset`], for cells whose scores are all wanted at once: they are returned in the order of the cells, and
/// `told` hears the share of the work that is done.
///
/// # Errors
/// Those of [`patch_dataset`].
pub fn patched_scores<B: Backend, E: From<EngineError> + Send>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    cells: &[Cell],
    metrics: &[Metric],
    budget: usize,
    mut told: impl FnMut(f64) -> Result<(), E> + Send,
) -> Result<(Baselines, Vec<Scores>), E> {
    let mut scores = vec![Scores::default(); cells.len()];
    let baselines = patch_dataset(engine, prompts, cells, metrics, budget, |progress: Progress<'_>| {
        progress.finished.into_iter().for_each(|(cell, found)| scores[cell] = found);
        told(progress.share)
    })?;
    Ok((baselines, scores))
}

fn no_baselines() -> Baselines {
    joined_baselines(Vec::new())
}

/// As [`patch_dataset`], on one device.
pub(super) fn patch_share<'p, B: Backend, E: From<EngineError>>(
    engine: &Engine<B>,
    pairs: impl Into<Pairs<'p>>,
    cells: &[Cell],
    metrics: &[Metric],
    budget: usize,
    mut told: impl FnMut(Progress<'_>) -> Result<(), E>,
) -> Result<Baselines, E> {
    let pairs = pairs.into();
    let Needs { sites, positions } = Needs::of(cells, engine.config().n_layers);
    let ranges = stretches(engine.config(), &pairs, Kept { sites: &sites, positions: &positions }, 1, budget)?;
    let size = if ranges.len() == 1 { PORTION } else { PORTION_OF_STRETCHES };
    let portions = cells.len().div_ceil(size).max(1);
    let mut baselines = no_baselines();
    let mut captured = None;
    for portion in 0..portions {
        let first = portion * size;
        let members = &cells[first..(first + size).min(cells.len())];
        let mut scores = vec![Scores::default(); members.len()];
        baselines = no_baselines();
        for (number, range) in ranges.iter().enumerate() {
            let paired = match captured.take() {
                // The only stretch serves every portion.
                Some(paired) if ranges.len() == 1 => paired,
                _ => {
                    let part = part_of_pairs(&pairs, range.clone());
                    PairedRun::new(engine, part, &sites, &positions, metrics.iter().any(|m| m.needs_probabilities()))?
                }
            };
            baselines = joined_baselines(vec![baselines, paired.baselines().clone()]);
            let members: Vec<Cell> = members.iter().map(|cell| cell.part(range)).collect();
            let plan = Plan::new(engine.config(), paired.pairs(), &members, engine.max_tokens())?;
            let last = number + 1 == ranges.len();
            let found = plan.run(engine, &paired, metrics, |step: Step<'_>| {
                let share = (number as f64 + step.share) / ranges.len() as f64;
                let share = (portion as f64 + share) / portions as f64;
                let whole = |&cell: &usize| {
                    let mut all = std::mem::take(&mut scores[cell]);
                    all.extend(&step.scores[cell]);
                    (first + cell, all)
                };
                let finished = if last { step.finished.iter().map(whole).collect() } else { Vec::new() };
                told(Progress { share, finished, baselines: &baselines })
            })?;
            if !last {
                scores.iter_mut().zip(&found).for_each(|(all, found)| all.extend(found));
            }
            captured = Some(paired);
        }
    }
    Ok(baselines)
}

/// One residual vector per clean prompt, `(prompts, d_model)`, from in front of each of `layers`, at the positions of
/// [`embedding_positions`].
///
/// # Errors
/// Those of [`Engine::run`].
pub fn embeddings_at<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    layers: &[usize],
    positions: PatchPositions,
    seed: u64,
    budget: usize,
) -> Result<BTreeMap<usize, Matrix>, EngineError> {
    let (backend, config) = (engine.backend(), engine.config());
    let at = embedding_positions(prompts, positions, seed);
    let sites: Vec<Site> = layers.iter().map(|&layer| Site::resid(layer, config.n_layers)).collect();
    let mut found: BTreeMap<usize, Vec<f32>> = layers.iter().map(|&layer| (layer, Vec::new())).collect();
    let kept = Kept { sites: &sites, positions: &[] };
    for range in stretches(config, prompts, kept, 1, budget)? {
        let sequences: Vec<Vec<u32>> =
            prompts.clean[range.clone()].iter().map(|&sequence| prompts.sequences[sequence].clone()).collect();
        let run = engine.run(&sequences, &sites, &[], Output::None)?;
        let token = |(row, &position): (usize, &usize)| Ok(run.token(row, position)? as u32);
        let tokens = at[range].iter().enumerate().map(token).collect::<Result<Vec<u32>, EngineError>>()?;
        let indices = backend.upload_indices(&tokens)?;
        for (layer, site) in layers.iter().zip(&sites) {
            let mut rows = backend.tensor(tokens.len() * config.d_model)?;
            backend.gather_rows(run.site(*site)?, config.d_model, &indices, &mut rows)?;
            found.entry(*layer).or_default().extend(backend.download(&rows)?);
        }
    }
    let rows = prompts.clean.len();
    Ok(found.into_iter().map(|(layer, data)| (layer, Matrix::new(rows, config.d_model, data))).collect())
}
