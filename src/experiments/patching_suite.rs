//! Directional activation patching: many cells (direction, layer, positions) as rows of few batches.
//!
//! A cell moves the residual of one run along a subspace to its value in the other: `r := r + R Rᵀ (source - r)` with
//! unit columns `R` (arXiv 2310.15154, section 2). Cells that resume at the same layer share batches, whatever their
//! direction or positions; every row starts at its own first patched position.

use super::chunks::{Kept, joined_baselines, joined_scores, part, stretches};
use crate::backend::Backend;
use crate::engine::{
    Baselines, Engine, EngineError, Flops, Intervention, Layout, Metric, Mode, Op, PairedRun, Part, PatchPositions,
    Resume, Scores, Site, Source,
};
use crate::types::{Matrix, PairedPrompts};
use std::collections::{BTreeMap, BTreeSet};

/// At which layers a cell patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layers {
    /// In front of this block; `n_layers`: behind the last one.
    Own(usize),
    /// In front of every block.
    All,
}

impl Layers {
    /// The layer where a row of this cell resumes.
    pub fn start(self) -> usize {
        match self {
            Layers::Own(layer) => layer,
            Layers::All => 0,
        }
    }

    /// The layers that are patched in a model of `n_layers`.
    fn patched(self, n_layers: usize) -> std::ops::Range<usize> {
        match self {
            Layers::Own(layer) => layer..layer + 1,
            Layers::All => 0..n_layers,
        }
    }
}

/// One cell of the suite on a given dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Unit columns of the subspace, `(d_model, k)`; zero columns change nothing.
    pub columns: Matrix,
    /// Where along the stack.
    pub layers: Layers,
    /// Where along the prompt.
    pub positions: PatchPositions,
}

/// Cells that can share batches.
type Group = (Layers, usize);

/// The scores of every cell under one patching direction, in the order of `cells`. `done` hears how many cells each
/// finished batch held.
///
/// # Errors
/// Those of the engine; a subspace of another width than the model's.
pub fn patched_scores<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    cells: &[Cell],
    mode: Mode,
    metrics: &[Metric],
    mut done: impl FnMut(usize),
) -> Result<Vec<Scores>, EngineError> {
    let n_layers = engine.config().n_layers;
    let unpatched = match mode {
        Mode::Denoising => &paired.baselines().corrupted,
        Mode::Noising => &paired.baselines().clean,
    };
    let mut scores = vec![unpatched.clone(); cells.len()];
    let mut groups: BTreeMap<Group, Vec<usize>> = BTreeMap::new();
    for (index, cell) in cells.iter().enumerate() {
        if cell.columns.rows != engine.config().d_model {
            return Err(EngineError::Mismatch {
                what: format!("length of the direction of cell {index}"),
                expected: engine.config().d_model.to_string(),
                found: cell.columns.rows.to_string(),
            });
        }
        // A patch that cannot reach the logits leaves the unpatched scores: nothing to compute.
        if paired.reaches_logits(cell.layers.start(), cell.positions, n_layers) {
            groups.entry((cell.layers, cell.columns.cols)).or_default().push(index);
        } else {
            done(1);
        }
    }
    for ((layers, k), members) in groups {
        for batch in batches(engine, paired, cells, &members, layers, mode) {
            let found = run_batch(engine, paired, cells, &batch, (layers, k), mode, metrics)?;
            for (&cell, found) in batch.iter().zip(found) {
                scores[cell] = found;
            }
            done(batch.len());
        }
    }
    Ok(scores)
}

/// Cells patched in one direction, and the metrics wanted of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// Which run is patched.
    pub mode: Mode,
    /// The cells.
    pub cells: Vec<Cell>,
    /// Metrics whose scores are needed.
    pub metrics: Vec<Metric>,
}

/// Baselines of a dataset and the scores of every cell of every sweep, in order. The dataset goes through the model in
/// stretches that keep at most `budget` bytes; `done` hears the share of the cells that each finished batch was.
///
/// # Errors
/// Those of [`patched_scores`] and [`PairedRun::new`].
pub fn patch_dataset<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    sweeps: &[Sweep],
    budget: usize,
    mut done: impl FnMut(f64),
) -> Result<(Baselines, Vec<Vec<Scores>>), EngineError> {
    let n_layers = engine.config().n_layers;
    let cells = || sweeps.iter().flat_map(|sweep| &sweep.cells);
    let starts = cells().flat_map(|cell| cell.layers.patched(n_layers));
    let layers: Vec<usize> = starts.collect::<BTreeSet<_>>().into_iter().collect();
    let positions: Vec<_> = cells().map(|cell| cell.positions).collect::<BTreeSet<_>>().into_iter().collect();
    let probabilities = sweeps.iter().any(|sweep| sweep.metrics.contains(&Metric::ProbDiff));
    let kept = Kept { layers: layers.len(), positions: &positions };
    let ranges = stretches(engine.config(), prompts, kept, 1, budget);
    let share = 1.0 / ranges.len().max(1) as f64;
    let mut baselines = Vec::new();
    let mut scores: Vec<Vec<Vec<Scores>>> =
        sweeps.iter().map(|sweep| vec![Vec::with_capacity(ranges.len()); sweep.cells.len()]).collect();
    for range in ranges {
        let paired = PairedRun::new(engine, part(prompts, range), &layers, &positions, probabilities)?;
        baselines.push(paired.baselines().clone());
        for (sweep, scores) in sweeps.iter().zip(&mut scores) {
            let told = |cells| done(cells as f64 * share);
            let found = patched_scores(engine, &paired, &sweep.cells, sweep.mode, &sweep.metrics, told)?;
            scores.iter_mut().zip(found).for_each(|(all, found)| all.push(found));
        }
    }
    let join = |cells: Vec<Vec<Scores>>| cells.into_iter().map(joined_scores).collect();
    Ok((joined_baselines(baselines), scores.into_iter().map(join).collect()))
}

/// Number of computed tokens of a cell.
fn cell_layout<B: Backend>(engine: &Engine<B>, paired: &PairedRun<B>, cell: &Cell, mode: Mode) -> Layout {
    let n_layers = engine.config().n_layers;
    Layout::new((0..paired.n_prompts()).map(|prompt| {
        let (sequence, start) = paired.row(prompt, cell.positions, mode, cell.layers.start(), n_layers);
        (start, paired.run().layout().len(sequence))
    }))
}

/// The arithmetic of a cell's patched rows.
pub fn cell_flops<B: Backend>(engine: &Engine<B>, paired: &PairedRun<B>, cell: &Cell, mode: Mode) -> Flops {
    let layout = cell_layout(engine, paired, cell, mode);
    Flops::forward(engine.config(), &layout, cell.layers.start(), paired.columns().tokens().len())
}

/// Cuts a group into batches of at most [`Engine::max_tokens`] tokens, whole cells each.
fn batches<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    cells: &[Cell],
    members: &[usize],
    layers: Layers,
    mode: Mode,
) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = usize::MAX;
    for &index in members {
        debug_assert_eq!(cells[index].layers, layers);
        let needed = cell_layout(engine, paired, &cells[index], mode).n_tokens();
        match batches.last_mut() {
            Some(batch) if tokens.saturating_add(needed) <= engine.max_tokens() => {
                batch.push(index);
                tokens += needed;
            }
            _ => {
                batches.push(vec![index]);
                tokens = needed;
            }
        }
    }
    batches
}

fn run_batch<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    cells: &[Cell],
    batch: &[usize],
    (layers, k): Group,
    mode: Mode,
    metrics: &[Metric],
) -> Result<Vec<Scores>, EngineError> {
    let n_layers = engine.config().n_layers;
    let (start, n_prompts) = (layers.start(), paired.n_prompts());
    let mut rows = Vec::with_capacity(batch.len() * n_prompts);
    let mut patches = Vec::new();
    let mut bases = Vec::with_capacity(batch.len() * k * engine.config().d_model);
    for (basis, &index) in batch.iter().enumerate() {
        let cell = &cells[index];
        for prompt in 0..n_prompts {
            patches.extend(paired.patches((prompt, rows.len(), basis), cell.positions, mode, start, n_layers)?);
            rows.push(paired.row(prompt, cell.positions, mode, start, n_layers));
        }
        bases.extend((0..k).flat_map(|j| (0..cell.columns.rows).map(move |i| cell.columns.data[i * k + j])));
    }
    let bases = engine.backend().upload(&bases)?;
    let interventions: Vec<_> = layers
        .patched(n_layers)
        .map(|layer| Intervention {
            site: Site::resid(layer, n_layers),
            part: Part::All,
            patches: patches.clone(),
            op: Op::Swap { source: Source::Run(paired.run()), bases: &bases, k },
        })
        .collect();
    let resume = Resume { run: paired.run(), layer: start, rows: &rows };
    let run = engine.resume(&resume, &interventions, &[], paired.output(metrics))?;
    let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "answer logits".into() })?;
    Ok((0..batch.len()).map(|cell| Scores::new(logits, cell * n_prompts, paired.answers())).collect())
}
