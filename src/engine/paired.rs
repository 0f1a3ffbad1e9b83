//! Clean and corrupted prompts as one fused batch, and the rows and patches that cells of a sweep are made of.

use super::metrics::{AnswerIndices, Baselines, Metric, Mode, Scores};
use super::plan::Groups;
use super::site::Entry;
use super::{AnswerColumns, Cell, Engine, EngineError, Output, Patch, Run, Site, Values};
use crate::backend::Backend;
use crate::types::{Matrix, PairedPrompts, numbers};
use std::borrow::Cow;
use std::fmt;
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

/// The position's number, `last` or `all`, as records of results have it.
impl fmt::Display for PatchPositions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatchPositions::One(position) => write!(f, "{position}"),
            PatchPositions::Last => f.write_str("last"),
            PatchPositions::All => f.write_str("all"),
        }
    }
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
                expected: numbers(len),
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

/// Two runs that are compared: a dataset's clean and corrupted prompts, or its clean prompts and their twins, which are
/// the same prompts with some edits.
///
/// Twins stand where corrupted prompts do, as sequences of their own. Values go from them to the clean run alone: a patched
/// row of a twin would need the edits again.
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    /// The prompts.
    pub prompts: Cow<'a, PairedPrompts>,
    /// The edits that make the twins.
    pub twin: Option<Cell>,
}

/// From where on the two runs of a prompt can differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Difference {
    pub(super) entry: Entry,
    pub(super) position: usize,
}

impl<'a> From<&'a PairedPrompts> for Pairs<'a> {
    fn from(prompts: &'a PairedPrompts) -> Self {
        Self { prompts: Cow::Borrowed(prompts), twin: None }
    }
}

impl From<PairedPrompts> for Pairs<'static> {
    fn from(prompts: PairedPrompts) -> Self {
        Self { prompts: Cow::Owned(prompts), twin: None }
    }
}

impl<'a> From<&'a Pairs<'_>> for Pairs<'a> {
    fn from(pairs: &'a Pairs<'_>) -> Self {
        Self { prompts: Cow::Borrowed(&pairs.prompts), twin: pairs.twin.clone() }
    }
}

impl Pairs<'_> {
    /// The clean prompts of a dataset and their twins, made by the edits of `twin`.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] for values that come from a run: edits of twins have zero or given rows.
    pub fn twins(prompts: &PairedPrompts, twin: Cell) -> Result<Pairs<'static>, EngineError> {
        let from_run = |values: Option<&Values>| matches!(values, Some(Values::OtherRun | Values::OwnRun));
        if let Some(edit) = twin.edits.iter().find(|edit| from_run(edit.values())) {
            return Err(EngineError::Mismatch {
                what: format!("values at {} of the clean prompts' twins", edit.site),
                expected: "zero or given rows".into(),
                found: "those of a run".into(),
            });
        }
        let n = prompts.clean.len();
        let twice = || prompts.clean.iter().chain(&prompts.clean);
        let prompts = PairedPrompts {
            texts: twice().map(|&sequence| prompts.texts[sequence].clone()).collect(),
            sequences: twice().map(|&sequence| prompts.sequences[sequence].clone()).collect(),
            clean: (0..n).collect(),
            corrupted: (n..2 * n).collect(),
            ..prompts.clone()
        };
        Ok(Pairs { prompts: Cow::Owned(prompts), twin: Some(twin) })
    }

    /// The first position at which the runs of a prompt can differ; its length if they cannot.
    pub fn first_difference(&self, prompt: usize) -> usize {
        let Some(twin) = &self.twin else { return self.prompts.first_difference(prompt) };
        let len = self.prompts.sequences[self.prompts.clean[prompt]].len();
        twin.edits.iter().flat_map(|edit| edit.places.of(prompt, len)).min().unwrap_or(len)
    }

    /// The same, and the place of the stack.
    pub(super) fn difference(&self, prompt: usize, n_layers: usize) -> Difference {
        let start = Entry { layer: 0, behind_attention: false };
        let entry = self.twin.as_ref().map_or(start, |twin| twin.entry(n_layers));
        Difference { entry, position: self.first_difference(prompt) }
    }

    /// Runs all sequences, the twins with their edits.
    fn run<B: Backend>(
        &self,
        engine: &Engine<B>,
        sites: &[Site],
        keep: &[usize],
        output: Output<'_, B>,
    ) -> Result<Run<B>, EngineError> {
        let (prompts, config) = (&self.prompts, engine.config());
        let Some(twin) = &self.twin else { return engine.run(&prompts.sequences, sites, keep, output) };
        twin.edits.iter().try_for_each(|edit| edit.check(config))?;
        let mut groups = Groups::default();
        for (prompt, &row) in prompts.corrupted.iter().enumerate() {
            let len = prompts.sequences[row].len();
            twin.edits.iter().try_for_each(|edit| edit.places.check(&prompts.name, prompt, len))?;
            groups.add_twin(twin, (row, prompt), (len, config.n_layers))?;
        }
        let uploaded = groups.upload(engine)?;
        let edits = |rows| groups.interventions(None, &uploaded, rows);
        engine.run_edited(&prompts.sequences, edits, sites, keep, output)
    }
}

/// A row of a batch, as (sequence, first computed position), and its patches.
pub type PatchedRow = ((usize, usize), Vec<Patch>);

/// A dataset run through a model once: its clean and corrupted prompts share one batch of distinct rows.
pub struct PairedRun<B: Backend> {
    pairs: Pairs<'static>,
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
    /// Those of [`Engine::run`], clean and corrupted prompts of different lengths, positions outside a prompt, edits of
    /// twins that do not fit their site.
    pub fn new(
        engine: &Engine<B>,
        pairs: impl Into<Pairs<'static>>,
        sites: &[Site],
        positions: &[PatchPositions],
        with_probabilities: bool,
    ) -> Result<Self, EngineError> {
        let pairs = pairs.into();
        let prompts = &pairs.prompts;
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
        let keep = kept_positions(&pairs, positions);
        let (tokens, answers) = index_answers(prompts);
        let columns = engine.answer_columns(&tokens)?;
        let output = answer_output(&columns, with_probabilities);
        let run = pairs.run(engine, sites, &keep, output)?;
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
        Ok(Self { pairs, run, columns, answers, baselines })
    }

    /// The prompts; where corrupted ones are twins, as [`Pairs::twins`] lists them.
    pub fn prompts(&self) -> &PairedPrompts {
        &self.pairs.prompts
    }

    /// The prompts, and what makes twins of the corrupted ones.
    pub fn pairs(&self) -> &Pairs<'static> {
        &self.pairs
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
        sides(self.prompts(), prompt, mode)
    }

    /// Number of prompts.
    pub fn n_prompts(&self) -> usize {
        self.prompts().clean.len()
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
        let (own, other) = sides(self.prompts(), prompt, Mode::Denoising);
        let len = self.run.layout().len(own);
        let Range { mut start, end } = positions.range(len);
        if positions == PatchPositions::All {
            start = self.pairs.first_difference(prompt).min(len - 1);
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
            .prompts()
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
fn kept_positions(pairs: &Pairs<'_>, positions: &[PatchPositions]) -> Vec<usize> {
    let prompts = &pairs.prompts;
    let mut keep = vec![0; prompts.sequences.len()];
    for (prompt, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
        for wanted in positions {
            let start = match wanted {
                PatchPositions::One(position) => *position,
                PatchPositions::Last => usize::MAX,
                PatchPositions::All => pairs.first_difference(prompt),
            };
            for sequence in [clean, corrupted] {
                keep[sequence] = keep[sequence].max(start.min(prompts.sequences[sequence].len() - 1));
            }
        }
    }
    keep
}
