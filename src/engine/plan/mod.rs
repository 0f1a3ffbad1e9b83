//! The plan of a sweep: every cell becomes rows, rows that enter the stack at the same place share batches.
//!
//! A cell is a list of edits patched together into one run. Its rows, one per prompt, enter at the lowest site and at
//! the first position that an edit changes; what lies before comes from the captured run. Rows of any cells that enter
//! at the same place stand in one batch, whatever they edit. Exactly the same numbers as one whole pass per cell.

mod cell;
mod groups;

pub use cell::{Cell, Change, Edit, Needs, Places, Values};

pub(super) use groups::Groups;

use super::paired::{Difference, sides};
use super::site::Entry;
use super::{Engine, EngineError, Flops, Layout, Metric, Mode, PairedRun, Pairs, Resume, Scores};
use crate::backend::Backend;
use crate::model::ModelConfig;
use crate::types::PairedPrompts;
use std::collections::BTreeMap;

/// One prompt of one cell.
#[derive(Debug, Clone, Copy)]
struct Row {
    cell: usize,
    prompt: usize,
    /// The patched run's sequence.
    sequence: usize,
    /// First computed position.
    start: usize,
}

/// Rows that resume together.
#[derive(Debug, Clone)]
struct Batch {
    entry: Entry,
    rows: Vec<Row>,
    flops: Flops,
}

/// How far a plan has come.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Share of the plan's arithmetic that is done.
    pub share: f64,
    /// Cells that the last batch has completed.
    pub finished: &'a [usize],
    /// Scores of all cells; of those that are not finished, partly the unpatched ones.
    pub scores: &'a [Scores],
}

/// Cells on a dataset, cut into batches. Made without running anything.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    cells: &'a [Cell],
    batches: Vec<Batch>,
    flops: Flops,
}

impl<'a> Plan<'a> {
    /// Plans `cells` on prompts in batches of at most `max_tokens` tokens (a single longer row still runs whole).
    ///
    /// # Errors
    /// A site, head, neuron or position that is not there, a direction or vector of another width than its site's; a cell
    /// that patches the clean prompts' twins.
    pub fn new<'p>(
        config: &ModelConfig,
        pairs: impl Into<Pairs<'p>>,
        cells: &'a [Cell],
        max_tokens: usize,
    ) -> Result<Self, EngineError> {
        let (pairs, n_layers) = (pairs.into(), config.n_layers);
        let prompts: &PairedPrompts = &pairs.prompts;
        let mut by_entry: BTreeMap<Entry, Vec<Row>> = BTreeMap::new();
        let differences: Vec<Difference> = (0..prompts.clean.len()).map(|p| pairs.difference(p, n_layers)).collect();
        for (index, cell) in cells.iter().enumerate() {
            cell.edits.iter().try_for_each(|edit| edit.check(config))?;
            if pairs.twin.is_some() && cell.mode == Mode::Denoising {
                return Err(EngineError::Mismatch {
                    what: format!("{}: what is patched beside twins of the clean prompts", prompts.name),
                    expected: "the clean run (noising)".into(),
                    found: "the twins (denoising)".into(),
                });
            }
            for (prompt, &difference) in differences.iter().enumerate() {
                let (sequence, _) = sides(prompts, prompt, cell.mode);
                let len = prompts.sequences[sequence].len();
                cell.edits.iter().try_for_each(|edit| edit.places.check(&prompts.name, prompt, len))?;
                // A patch that cannot reach the logits leaves the unpatched scores: nothing to compute.
                if let Some(start) = cell.first_position(prompt, len, difference, n_layers) {
                    let row = Row { cell: index, prompt, sequence, start };
                    by_entry.entry(cell.entry(n_layers)).or_default().push(row);
                }
            }
        }
        let mut batches: Vec<Batch> = Vec::new();
        for (entry, rows) in by_entry {
            for rows in cut(rows, prompts, max_tokens) {
                let layout = layout(prompts, &rows);
                // An answer pair costs two columns; which of them are shared does not matter to the total.
                let answers = prompts.answers.first().map_or(0, |pairs| 2 * pairs.len());
                let flops = Flops::resumed(config, &layout, (entry.layer, entry.behind_attention), answers);
                batches.push(Batch { entry, rows, flops });
            }
        }
        let flops = batches.iter().map(|batch| batch.flops).sum();
        Ok(Self { cells, batches, flops })
    }

    /// The prompts whose logits a cell can change.
    pub fn reached(&self, cell: usize) -> Vec<usize> {
        let rows = self.batches.iter().flat_map(|batch| &batch.rows);
        rows.filter(|row| row.cell == cell).map(|row| row.prompt).collect()
    }

    /// The arithmetic of all batches.
    pub fn flops(&self) -> Flops {
        self.flops
    }

    /// Computes every cell's scores, in the order of the cells; `told` hears of every batch.
    ///
    /// `paired` is a run over the plan's prompts that captured what the cells need ([`Needs::of`]) and what `metrics`
    /// are computed from.
    ///
    /// # Errors
    /// Those of the engine and of `told`, whose error ends the run.
    pub fn run<B: Backend, E: From<EngineError>>(
        &self,
        engine: &Engine<B>,
        paired: &PairedRun<B>,
        metrics: &[Metric],
        mut told: impl FnMut(Step<'_>) -> Result<(), E>,
    ) -> Result<Vec<Scores>, E> {
        let unpatched = |cell: &Cell| match cell.mode {
            Mode::Denoising => paired.baselines().corrupted.clone(),
            Mode::Noising => paired.baselines().clean.clone(),
        };
        let mut scores: Vec<Scores> = self.cells.iter().map(unpatched).collect();
        let mut left = vec![0usize; self.cells.len()];
        self.batches.iter().flat_map(|batch| &batch.rows).for_each(|row| left[row.cell] += 1);
        let untouched: Vec<usize> = (0..left.len()).filter(|&cell| left[cell] == 0).collect();
        told(Step { share: 0.0, finished: &untouched, scores: &scores })?;
        let mut done = 0;
        let mut recording = B::Recording::default();
        for (number, batch) in self.batches.iter().enumerate() {
            // A recording is for batches of one shape, which follow each other.
            let shape = |batch: &Batch| (batch.entry, batch.rows.len(), batch.flops.0);
            if number > 0 && shape(&self.batches[number - 1]) != shape(batch) {
                recording = B::Recording::default();
            }
            let found = self.run_rows(engine, paired, (batch.entry, &batch.rows), metrics, &mut recording)?;
            let mut finished = Vec::new();
            for (index, row) in batch.rows.iter().enumerate() {
                scores[row.cell].set(row.prompt, &found, index);
                left[row.cell] -= 1;
                if left[row.cell] == 0 {
                    finished.push(row.cell);
                }
            }
            done += batch.flops.0;
            let share = done as f64 / self.flops.0.max(1) as f64;
            told(Step { share, finished: &finished, scores: &scores })?;
        }
        Ok(scores)
    }

    /// The scores of rows that enter at one place, one after the other: in one batch, or in two halves when the memory is
    /// full or was found to be too small for this many tokens.
    fn run_rows<B: Backend>(
        &self,
        engine: &Engine<B>,
        paired: &PairedRun<B>,
        (entry, rows): (Entry, &[Row]),
        metrics: &[Metric],
        recording: &mut B::Recording,
    ) -> Result<Scores, EngineError> {
        let tokens = layout(paired.prompts(), rows).n_tokens();
        if rows.len() == 1 || tokens <= engine.max_tokens() {
            let run = || self.run_batch(engine, paired, (entry, rows), metrics);
            match engine.backend().repeat(recording, run) {
                Err(error) if rows.len() > 1 && engine.halves_batches(&error, tokens) => {}
                result => return result,
            }
        }
        let (first, second) = rows.split_at(rows.len() / 2);
        let mut scores = self.run_rows(engine, paired, (entry, first), metrics, &mut B::Recording::default())?;
        scores.extend(&self.run_rows(engine, paired, (entry, second), metrics, &mut B::Recording::default())?);
        Ok(scores)
    }

    /// The scores of rows that enter at one place, one after the other.
    fn run_batch<B: Backend>(
        &self,
        engine: &Engine<B>,
        paired: &PairedRun<B>,
        (entry, rows): (Entry, &[Row]),
        metrics: &[Metric],
    ) -> Result<Scores, EngineError> {
        let mut groups = Groups::default();
        for (index, row) in rows.iter().enumerate() {
            groups.add(&self.cells[row.cell], (index, row), paired, (entry, engine.config().n_layers))?;
        }
        let uploaded = groups.upload(engine)?;
        let interventions = groups.interventions(Some(paired.run()), &uploaded, 0..rows.len());
        let starts: Vec<_> = rows.iter().map(|row| (row.sequence, row.start)).collect();
        let resume = Resume { run: paired.run(), layer: entry.layer, rows: &starts };
        let output = paired.output(metrics);
        let run = match entry.behind_attention {
            true => engine.resume_behind_attention(&resume, &interventions, output)?,
            false => engine.resume(&resume, &interventions, &[], output)?,
        };
        let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "answer logits".into() })?;
        let answers: Vec<_> = rows.iter().map(|row| paired.answers()[row.prompt].clone()).collect();
        Ok(Scores::new(logits, 0, &answers))
    }
}

fn layout(prompts: &PairedPrompts, rows: &[Row]) -> Layout {
    Layout::new(rows.iter().map(|row| (row.start, prompts.sequences[row.sequence].len())))
}

/// Cuts rows into batches of at most `max_tokens` tokens.
fn cut(rows: Vec<Row>, prompts: &PairedPrompts, max_tokens: usize) -> Vec<Vec<Row>> {
    let mut batches: Vec<Vec<Row>> = Vec::new();
    let mut tokens = 0;
    for row in rows {
        let needed = prompts.sequences[row.sequence].len() - row.start;
        match batches.last_mut() {
            Some(batch) if tokens + needed <= max_tokens => batch.push(row),
            _ => {
                batches.push(vec![row]);
                tokens = 0;
            }
        }
        tokens += needed;
    }
    batches
}
