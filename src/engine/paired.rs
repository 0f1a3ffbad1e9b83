//! Clean and corrupted prompts as one fused batch, and the rows and patches that cells of a sweep are made of.

use super::metrics::{AnswerIndices, Baselines, Metric, Mode, Scores};
use super::{AnswerColumns, Engine, EngineError, Output, Patch, Run, Site};
use crate::backend::Backend;
use crate::types::{Matrix, PairedPrompts};

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

/// A dataset run through a model once: its clean and corrupted prompts share one batch of distinct rows.
pub struct PairedRun<B: Backend> {
    prompts: PairedPrompts,
    run: Run<B>,
    columns: AnswerColumns<B>,
    answers: AnswerIndices,
    baselines: Baselines,
    /// Per prompt: first position at which clean and corrupted differ.
    first_difference: Vec<usize>,
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
    /// Runs the distinct prompts once, capturing the residual in front of each of `layers` (`n_layers`: behind the
    /// last block), and the keys and values that rows patched at `positions` start behind.
    ///
    /// # Errors
    /// Those of [`Engine::run`], and clean and corrupted prompts of different lengths.
    pub fn new(
        engine: &Engine<B>,
        prompts: PairedPrompts,
        layers: &[usize],
        positions: &[PatchPositions],
        with_probabilities: bool,
    ) -> Result<Self, EngineError> {
        let mut first_difference = Vec::with_capacity(prompts.clean.len());
        for (prompt, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
            let (clean, corrupted) = (&prompts.sequences[clean], &prompts.sequences[corrupted]);
            if clean.len() != corrupted.len() {
                return Err(EngineError::Mismatch {
                    what: format!("{}: tokens of the corrupted prompt {prompt}", prompts.name),
                    expected: clean.len().to_string(),
                    found: corrupted.len().to_string(),
                });
            }
            first_difference.push(clean.iter().zip(corrupted).take_while(|(a, b)| a == b).count());
        }
        let n_layers = engine.config().n_layers;
        let capture: Vec<Site> = layers.iter().map(|&layer| Site::resid(layer, n_layers)).collect();
        let keep = kept_positions(&prompts, positions, &first_difference);
        let (tokens, answers) = index_answers(&prompts);
        let columns = engine.answer_columns(&tokens)?;
        let output = answer_output(&columns, with_probabilities);
        let run = engine.run(&prompts.sequences, &capture, &keep, output)?;
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
        Ok(Self { prompts, run, columns, answers, baselines, first_difference })
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
        answer_output(&self.columns, metrics.contains(&Metric::ProbDiff))
    }

    /// Every prompt's answer pairs as columns of the answer logits.
    pub fn answers(&self) -> &AnswerIndices {
        &self.answers
    }

    /// Clean and corrupted scores.
    pub fn baselines(&self) -> &Baselines {
        &self.baselines
    }

    /// Number of prompts.
    pub fn n_prompts(&self) -> usize {
        self.prompts.clean.len()
    }

    /// The sequence a prompt's patched row starts from, and the one its new values come from.
    fn sides(&self, prompt: usize, mode: Mode) -> (usize, usize) {
        let (clean, corrupted) = (self.prompts.clean[prompt], self.prompts.corrupted[prompt]);
        match mode {
            Mode::Denoising => (corrupted, clean),
            Mode::Noising => (clean, corrupted),
        }
    }

    /// First and one behind the last position that a patch of `prompt` changes.
    fn span(&self, prompt: usize, positions: PatchPositions) -> (usize, usize) {
        let len = self.run.layout().len(self.prompts.clean[prompt]);
        match positions {
            PatchPositions::One(position) => (position, position + 1),
            PatchPositions::Last => (len - 1, len),
            PatchPositions::All => (self.first_difference[prompt].min(len - 1), len),
        }
    }

    /// Can a patch at this layer reach the logits of every prompt? Behind the last block only the last position can.
    pub fn reaches_logits(&self, layer: usize, positions: PatchPositions, n_layers: usize) -> bool {
        let last = |prompt: usize| self.run.layout().len(self.prompts.clean[prompt]) - 1;
        layer < n_layers || (0..self.n_prompts()).all(|prompt| self.span(prompt, positions).1 == last(prompt) + 1)
    }

    /// The row (sequence, first computed position) of `prompt` in a batch that resumes at `layer`.
    pub fn row(
        &self,
        prompt: usize,
        positions: PatchPositions,
        mode: Mode,
        layer: usize,
        n_layers: usize,
    ) -> (usize, usize) {
        let (base, _) = self.sides(prompt, mode);
        let (first, end) = self.span(prompt, positions);
        (base, if layer < n_layers { first } else { end - 1 })
    }

    /// The patches of `prompt` in row `row` of a batch that resumes at `layer`.
    pub fn patches(
        &self,
        (prompt, row, basis): (usize, usize, usize),
        positions: PatchPositions,
        mode: Mode,
        layer: usize,
        n_layers: usize,
    ) -> Result<Vec<Patch>, EngineError> {
        let (_, from) = self.sides(prompt, mode);
        let (first, end) = self.span(prompt, positions);
        let first = if layer < n_layers { first } else { end - 1 };
        (first..end)
            .map(|position| Ok(Patch { row, position, source: self.run.token(from, position)?, basis }))
            .collect()
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
fn kept_positions(prompts: &PairedPrompts, positions: &[PatchPositions], first_difference: &[usize]) -> Vec<usize> {
    let mut keep = vec![0; prompts.sequences.len()];
    for (prompt, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
        for wanted in positions {
            let start = match wanted {
                PatchPositions::One(position) => *position,
                PatchPositions::Last => usize::MAX,
                PatchPositions::All => first_difference[prompt],
            };
            for sequence in [clean, corrupted] {
                keep[sequence] = keep[sequence].max(start.min(prompts.sequences[sequence].len() - 1));
            }
        }
    }
    keep
}
