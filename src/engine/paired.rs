//! Clean and corrupted prompts as one fused batch, and the rows and patches that cells of a sweep are made of.

use super::metrics::{AnswerIndices, Baselines, Metric, Mode, Scores};
use super::{AnswerColumns, Engine, EngineError, Output, Patch, Run, Site};
use crate::backend::Backend;
use crate::types::{Matrix, PairedPrompts};
use std::ops::Range;

/// Which positions a cell patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PatchPositions {
    /// One position, the same in every prompt.
    One(usize),
    /// The last position of each prompt.
    Last,
    /// Every position; those before the first that differs between clean and corrupted hold equal values.
    All,
}

impl PatchPositions {
    /// The positions in a prompt of `len` tokens.
    pub(crate) fn range(self, len: usize) -> Range<usize> {
        match self {
            PatchPositions::One(position) => position..position + 1,
            PatchPositions::Last => len.saturating_sub(1)..len,
            PatchPositions::All => 0..len,
        }
    }

    /// Is the position there in prompt `prompt` of a dataset, which has `len` tokens?
    pub(crate) fn check(self, dataset: &str, prompt: usize, len: usize) -> Result<(), EngineError> {
        match self {
            PatchPositions::One(position) if position >= len => Err(EngineError::Mismatch {
                what: format!("{dataset}: patched position of prompt {prompt}"),
                expected: format!("0..{len}"),
                found: position.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// The sequences of a prompt: of the run that is patched, and of the other one, which new values come from.
pub(super) fn sides(prompts: &PairedPrompts, prompt: usize, mode: Mode) -> (usize, usize) {
    let (clean, corrupted) = (prompts.clean[prompt], prompts.corrupted[prompt]);
    match mode {
        Mode::Denoising => (corrupted, clean),
        Mode::Noising => (clean, corrupted),
    }
}

/// A row of a batch, as (sequence, first computed position), and its patches.
pub type PatchedRow = ((usize, usize), Vec<Patch>);

/// A dataset run through a model once: its clean and corrupted prompts share one batch of distinct rows.
pub struct PairedRun<B: Backend> {
    prompts: PairedPrompts,
    run: Run<B>,
    columns: AnswerColumns<B>,
    answers: AnswerIndices,
    baselines: Baselines,
}

/// The distinct answer tokens of a dataset in order of first use, and every prompt's pairs as columns of them.
fn index_answers(prompts: &PairedPrompts) -> (Vec<u32>, AnswerIndices) {
    let mut tokens: Vec<u32> = Vec::new();
    let mut column = |token: u32| {
        tokens.iter().position(|&known| known == token).unwrap_or_else(|| {
            tokens.push(token);
            tokens.len() - 1
        })
    };
    let indices = prompts
        .answers
        .iter()
        .map(|pairs| pairs.iter().map(|&(correct, incorrect)| (column(correct), column(incorrect))).collect())
        .collect();
    (tokens, indices)
}

impl<B: Backend> PairedRun<B> {
    /// Runs the distinct prompts once, capturing `sites`, and the keys and values that rows patched at `positions` start
    /// behind.
    ///
    /// # Errors
    /// Those of [`Engine::run`], clean and corrupted prompts of different lengths, positions outside a prompt.
    pub fn new(
        engine: &Engine<B>,
        prompts: PairedPrompts,
        sites: &[Site],
        positions: &[PatchPositions],
        with_probabilities: bool,
    ) -> Result<Self, EngineError> {
        for (prompt, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
            let (clean, corrupted) = (&prompts.sequences[clean], &prompts.sequences[corrupted]);
            if clean.len() != corrupted.len() {
                return Err(EngineError::Mismatch {
                    what: format!("{}: tokens of the corrupted prompt {prompt}", prompts.name),
                    expected: clean.len().to_string(),
                    found: corrupted.len().to_string(),
                });
            }
            positions.iter().try_for_each(|wanted| wanted.check(&prompts.name, prompt, clean.len()))?;
        }
        let keep = kept_positions(&prompts, positions);
        let (tokens, answers) = index_answers(&prompts);
        let columns = engine.answer_columns(&tokens)?;
        let output = answer_output(&columns, with_probabilities);
        let run = engine.run(&prompts.sequences, sites, &keep, output)?;
        let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "answer logits".into() })?;
        let of = |sequences: &[usize]| {
            let picked = pick_rows(logits, sequences);
            Scores::new(&picked, 0, &answers)
        };
        let baselines = Baselines {
            clean: of(&prompts.clean),
            corrupted: of(&prompts.corrupted),
            positive: prompts.positive.clone(),
        };
        Ok(Self { prompts, run, columns, answers, baselines })
    }

    /// The prompts.
    pub fn prompts(&self) -> &PairedPrompts {
        &self.prompts
    }

    /// The run over the distinct sequences.
    pub fn run(&self) -> &Run<B> {
        &self.run
    }

    /// The answers' columns of the unembedding.
    pub fn columns(&self) -> &AnswerColumns<B> {
        &self.columns
    }

    /// The output of a patched pass that `metrics` can be computed from.
    pub fn output(&self, metrics: &[Metric]) -> Output<'_, B> {
        answer_output(&self.columns, metrics.iter().any(|metric| metric.needs_probabilities()))
    }

    /// Every prompt's answer pairs as columns of the answer logits.
    pub fn answers(&self) -> &AnswerIndices {
        &self.answers
    }

    /// Clean and corrupted scores.
    pub fn baselines(&self) -> &Baselines {
        &self.baselines
    }

    /// The sequences of a prompt: of the run that is patched, and of the other one, which new values come from.
    pub fn sides(&self, prompt: usize, mode: Mode) -> (usize, usize) {
        sides(&self.prompts, prompt, mode)
    }

    /// Number of prompts.
    pub fn n_prompts(&self) -> usize {
        self.prompts.clean.len()
    }

    /// A patch of the residual of `prompt` in front of `layer` (`n_layers`: behind the last block), clean into corrupted:
    /// the row (sequence, first computed position), and the patches in row `row` of its batch. `None` when it cannot reach
    /// the logits: behind the last block only the last position can.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`].
    pub fn denoised_row(
        &self,
        (prompt, row): (usize, usize),
        positions: PatchPositions,
        layer: usize,
        n_layers: usize,
    ) -> Result<Option<PatchedRow>, EngineError> {
        let (own, other) = sides(&self.prompts, prompt, Mode::Denoising);
        let len = self.run.layout().len(own);
        let Range { mut start, end } = positions.range(len);
        if positions == PatchPositions::All {
            start = self.prompts.first_difference(prompt).min(len - 1);
        }
        if layer == n_layers {
            start = start.max(len - 1);
        }
        let patch = |position| Ok(Patch { row, position, source: self.run.token(other, position)?, basis: 0 });
        let patches: Vec<Patch> = (start..end).map(patch).collect::<Result<_, EngineError>>()?;
        Ok((!patches.is_empty()).then_some(((own, start), patches)))
    }

    /// The captured residual in front of `layer` at `positions[prompt]` of every clean prompt, `(prompts, d_model)` on
    /// the host.
    pub fn clean_residuals(
        &self,
        engine: &Engine<B>,
        layer: usize,
        positions: &[usize],
    ) -> Result<Matrix, EngineError> {
        let (backend, d_model) = (engine.backend(), engine.config().d_model);
        let tokens = self
            .prompts
            .clean
            .iter()
            .zip(positions)
            .map(|(&sequence, &position)| Ok(self.run.token(sequence, position)? as u32))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let source = self.run.site(Site::resid(layer, engine.config().n_layers))?;
        let mut rows = backend.tensor(tokens.len() * d_model)?;
        backend.gather_rows(source, d_model, &backend.upload_indices(&tokens)?, &mut rows)?;
        Ok(Matrix::new(tokens.len(), d_model, backend.download(&rows)?))
    }
}

fn answer_output<B: Backend>(columns: &AnswerColumns<B>, with_probabilities: bool) -> Output<'_, B> {
    if with_probabilities { Output::AnswersAndLogSumExp(columns) } else { Output::Answers(columns) }
}

fn pick_rows(logits: &super::Logits, rows: &[usize]) -> super::Logits {
    let data = rows.iter().flat_map(|&row| logits.values.row(row).iter().copied()).collect();
    super::Logits {
        values: Matrix::new(rows.len(), logits.values.cols, data),
        log_sum_exp: logits.log_sum_exp.as_ref().map(|sums| rows.iter().map(|&row| sums[row]).collect()),
    }
}

/// How many first positions of every sequence keep their keys: up to the latest start of a row patched there.
fn kept_positions(prompts: &PairedPrompts, positions: &[PatchPositions]) -> Vec<usize> {
    let mut keep = vec![0; prompts.sequences.len()];
    for (prompt, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
        for wanted in positions {
            let start = match wanted {
                PatchPositions::One(position) => *position,
                PatchPositions::Last => usize::MAX,
                PatchPositions::All => prompts.first_difference(prompt),
            };
            for sequence in [clean, corrupted] {
                keep[sequence] = keep[sequence].max(start.min(prompts.sequences[sequence].len() - 1));
            }
        }
    }
    keep
}
