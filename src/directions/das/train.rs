//! Training a rotation on a model: the loss of directional patching and its exact gradient.

use super::{AdamSettings, Das, Rotation};
use crate::backend::{Backend, SwapGradientRows};
use crate::directions::DirectionError;
use crate::engine::metrics::logit_difference_gradient;
use crate::engine::{
    Baselines, Engine, EngineError, Intervention, Op, PairedRun, Part, Patch, PatchPositions, Resume, Scores, Site,
    Source,
};
use crate::types::Matrix;

/// How long and in which steps to train.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSettings {
    /// Passes over the dataset.
    pub epochs: usize,
    /// Prompts per step.
    pub batch_size: usize,
    /// The optimiser.
    pub adam: AdamSettings,
    /// Stop after this many epochs in which the watched loss has not become smaller, and keep the columns that it was
    /// smallest with. Watched is the mean loss of the test sets, without any the training loss. `None`: all epochs, and
    /// the last one's columns.
    pub early_stop: Option<usize>,
}

impl Default for TrainSettings {
    /// 64 epochs of batches of 128 prompts, Adam as in the paper's code, the last epoch kept.
    fn default() -> Self {
        Self { epochs: 64, batch_size: 128, adam: AdamSettings::default(), early_stop: None }
    }
}

/// A trained subspace.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Orthonormal columns, `(d_model, k)`.
    pub columns: Matrix,
    /// Epochs that the columns have behind them: all there were, unless the training stopped early.
    pub kept_epoch: usize,
    /// The training loss of the epoch for which the columns were kept.
    pub final_loss: f64,
    /// Mean loss of every epoch, `1 -` the recovered share of the logit difference, before that epoch's steps moved
    /// the columns of its last batch.
    pub losses: Vec<f64>,
    /// Per epoch the loss of every test set with the columns behind that epoch.
    pub test_losses: Vec<Vec<f64>>,
}

/// Why a training gave no direction.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The optimiser failed.
    #[error(transparent)]
    Direction(#[from] DirectionError),
    /// The patch is behind the last block and not at the last position: no gradient would ever arrive.
    #[error("layer {layer}: a patch behind the last block reaches the logits only at the last position")]
    Unreachable {
        /// The layer.
        layer: usize,
    },
    /// It was asked to stop, and did, between two steps.
    #[error("the training was stopped between two steps")]
    Stopped,
    /// Clean and corrupted runs agree, so there is nothing to recover.
    #[error("{dataset}: clean and corrupted logit differences are both {value}, there is nothing to recover")]
    NoContrast {
        /// The dataset.
        dataset: String,
        /// The logit difference of both.
        value: f64,
    },
}

/// The part of a training that does not change from step to step: a batch of prompts, or a part of one.
struct Batch<B: Backend> {
    prompts: Vec<usize>,
    n_tokens: usize,
    /// Every step is the same but for the basis.
    recording: B::Recording,
    rows: Vec<(usize, usize)>,
    patches: Vec<Patch>,
    answers: Vec<Vec<(usize, usize)>>,
    /// Rows of the gradient, of the unpatched residual and of its source, one per patch.
    gradient: B::Indices,
    base: B::Indices,
    source: B::Indices,
}

/// The prompts of one run cut into the batches of a training's steps, each in parts that fit the device's memory.
pub struct Batches<B: Backend>(Vec<Vec<Batch<B>>>);

/// A training under way, fed with one run after the other: a dataset need not be captured as a whole.
pub struct Training<B: Backend> {
    das: Das<B>,
    /// The rotation's columns of this step, in an array that stays the same.
    basis: B::Tensor,
    layer: usize,
    positions: PatchPositions,
    batch_size: usize,
    /// Mean logit differences of the clean and the corrupted run over the whole dataset.
    clean: f64,
    corrupted: f64,
    /// Sum of the losses of this epoch's prompts, and their number.
    sum: (f64, usize),
    losses: Vec<f64>,
    test_losses: Vec<Vec<f64>>,
    early_stop: Option<EarlyStop>,
}

/// The best columns so far.
struct EarlyStop {
    patience: usize,
    /// The columns that this epoch's training loss belongs to: those it began with.
    epoch_start: Matrix,
    best: Option<Best>,
}

struct Best {
    /// The watched loss, and the training loss of the same epoch.
    loss: f64,
    training_loss: f64,
    columns: Matrix,
    /// Epochs behind these columns, and epochs there had been when their loss was known.
    epoch: usize,
    known_at: usize,
}

impl EarlyStop {
    /// Hears the losses of epoch `epoch`, whose steps have led to `columns`.
    fn hear(&mut self, epoch: usize, training_loss: f64, tests: &[f64], columns: &Matrix) {
        let (loss, watched, behind) = match tests.len() {
            0 => (training_loss, &self.epoch_start, epoch - 1),
            count => (tests.iter().sum::<f64>() / count as f64, columns, epoch),
        };
        if self.best.as_ref().is_none_or(|best| loss < best.loss) {
            let columns = watched.clone();
            self.best = Some(Best { loss, training_loss, columns, epoch: behind, known_at: epoch });
        }
        self.epoch_start = columns.clone();
    }

    fn stops(&self, epoch: usize) -> bool {
        self.best.as_ref().is_some_and(|best| epoch - best.known_at >= self.patience)
    }
}

impl<B: Backend> Training<B> {
    /// Starts at `rotation`. `baselines` are those of the whole dataset, `dataset` is its name for errors.
    ///
    /// # Errors
    /// [`TrainError::NoContrast`], [`TrainError::Direction`].
    pub fn new(
        backend: &B,
        (layer, positions): (usize, PatchPositions),
        rotation: &Rotation,
        settings: &TrainSettings,
        baselines: &Baselines,
        dataset: &str,
    ) -> Result<Self, TrainError> {
        let (clean, corrupted) = baselines.logit_differences();
        if clean == corrupted {
            return Err(TrainError::NoContrast { dataset: dataset.into(), value: clean });
        }
        let das = Das::new(backend, rotation, settings.adam)?;
        let start = |patience| EarlyStop { patience, epoch_start: das.columns().clone(), best: None };
        let basis = backend.tensor(backend.len(das.rows())).map_err(EngineError::from)?;
        Ok(Self {
            early_stop: settings.early_stop.map(start),
            das,
            basis,
            layer,
            positions,
            batch_size: settings.batch_size.max(1),
            clean,
            corrupted,
            sum: (0.0, 0),
            losses: Vec::new(),
            test_losses: Vec::new(),
        })
    }

    /// The columns now, `(d_model, k)`.
    pub fn columns(&self) -> &Matrix {
        self.das.columns()
    }

    /// Mean loss of every epoch so far.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// Cuts a run's prompts into batches; the run must have captured the layer and kept the prefixes of the positions.
    ///
    /// # Errors
    /// [`TrainError::Unreachable`], [`TrainError::Engine`].
    pub fn batches(&self, engine: &Engine<B>, paired: &PairedRun<B>) -> Result<Batches<B>, TrainError> {
        let (layer, positions) = (self.layer, self.positions);
        let prompts: Vec<usize> = (0..paired.n_prompts()).collect();
        let whole = |prompts: &[usize]| Ok(vec![batch(engine, paired, layer, positions, prompts)?]);
        Ok(Batches(prompts.chunks(self.batch_size).map(whole).collect::<Result<_, TrainError>>()?))
    }

    /// One step per batch; in front of each, `stop` says whether the training is to stop.
    ///
    /// # Errors
    /// [`TrainError::Engine`], [`TrainError::Direction`], [`TrainError::Stopped`].
    pub fn pass(
        &mut self,
        engine: &Engine<B>,
        paired: &PairedRun<B>,
        batches: &mut Batches<B>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), TrainError> {
        let (clean, corrupted) = (self.clean, self.corrupted);
        for parts in &mut batches.0 {
            if stop() {
                return Err(TrainError::Stopped);
            }
            let n_prompts: usize = parts.iter().map(|part| part.prompts.len()).sum();
            let (difference, gradient) = self.evaluate(engine, paired, parts, n_prompts)?;
            self.das.step(engine.backend(), &gradient)?;
            self.sum.0 += (difference - clean) / (corrupted - clean) * n_prompts as f64;
            self.sum.1 += n_prompts;
        }
        Ok(())
    }

    /// The mean logit difference of a batch and the gradient of its loss with respect to the basis: sums over its parts.
    /// A part that finds the memory full becomes two.
    fn evaluate(
        &mut self,
        engine: &Engine<B>,
        paired: &PairedRun<B>,
        parts: &mut Vec<Batch<B>>,
        n_prompts: usize,
    ) -> Result<(f64, B::Tensor), TrainError> {
        let backend = engine.backend();
        backend.copy_into(self.das.rows(), &mut self.basis, 0).map_err(EngineError::from)?;
        let mut sums: Option<(f64, B::Tensor)> = None;
        let mut index = 0;
        while index < parts.len() {
            let part = &mut parts[index];
            let share = part.prompts.len() as f64 / n_prompts as f64;
            let scale = share / (self.corrupted - self.clean);
            let mut recording = std::mem::take(&mut part.recording);
            let found = backend.repeat(&mut recording, || step(engine, paired, self.layer, part, &self.basis, scale));
            part.recording = recording;
            match found {
                Ok((difference, gradient)) => {
                    let sum = match sums.take() {
                        None => (share * difference, gradient),
                        Some((before, mut all)) => {
                            backend.add(&gradient, &mut all).map_err(EngineError::from)?;
                            (before + share * difference, all)
                        }
                    };
                    sums = Some(sum);
                    index += 1;
                }
                Err(error) if part.prompts.len() > 1 && engine.halves_batches(&error, part.n_tokens) => {
                    let prompts = std::mem::take(&mut part.prompts);
                    let half = |prompts| batch(engine, paired, self.layer, self.positions, prompts);
                    let (first, second) = prompts.split_at(prompts.len() / 2);
                    parts.splice(index..=index, [half(first)?, half(second)?]);
                }
                Err(error) => return Err(error.into()),
            }
        }
        sums.ok_or_else(|| EngineError::NotCaptured { site: "a batch without prompts".into() }.into())
    }

    /// Ends an epoch; `tests` are the losses of the test sets with [`Training::columns`]. Says whether training goes on.
    pub fn end_epoch(&mut self, tests: Vec<f64>) -> bool {
        let (sum, count) = std::mem::take(&mut self.sum);
        let loss = sum / count as f64;
        self.losses.push(loss);
        let epoch = self.losses.len();
        let goes_on = self.early_stop.as_mut().is_none_or(|early| {
            early.hear(epoch, loss, &tests, self.das.columns());
            !early.stops(epoch)
        });
        self.test_losses.push(tests);
        goes_on
    }

    /// What has been found.
    pub fn finish(self) -> Trained {
        let Self { das, losses, test_losses, early_stop, .. } = self;
        let (columns, kept_epoch, final_loss) = match early_stop.and_then(|early| early.best) {
            Some(Best { columns, epoch, training_loss, .. }) => (columns, epoch, training_loss),
            None => (das.columns().clone(), losses.len(), losses.last().copied().unwrap_or(f64::NAN)),
        };
        Trained { columns, kept_epoch, final_loss, losses, test_losses }
    }
}

/// Trains the rotation that starts at `rotation` so that patching clean residuals at `place` (a layer, and positions) along
/// its first `k` columns into the corrupted run restores the clean logit difference (arXiv 2310.15154, section 2.3; Geiger
/// et al. 2023, arXiv 2303.02536).
///
/// The loss of a batch is `(LD_patched - LD_clean) / (LD_corrupted - LD_clean)`. `tests` gives the losses of the test sets
/// with the columns of every epoch's end; `stop` says, in front of every step, whether the training is to stop.
///
/// # Errors
/// [`TrainError`]; `paired` must have captured the layer and kept the prefixes of the positions.
pub fn train<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    place: (usize, PatchPositions),
    rotation: &Rotation,
    settings: &TrainSettings,
    mut tests: impl FnMut(&Matrix) -> Result<Vec<f64>, TrainError>,
    stop: &dyn Fn() -> bool,
) -> Result<Trained, TrainError> {
    let dataset = &paired.prompts().name;
    let mut training = Training::new(engine.backend(), place, rotation, settings, paired.baselines(), dataset)?;
    let mut batches = training.batches(engine, paired)?;
    for _ in 0..settings.epochs {
        training.pass(engine, paired, &mut batches, stop)?;
        let losses = tests(training.columns())?;
        if !training.end_epoch(losses) {
            break;
        }
    }
    Ok(training.finish())
}

fn batch<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    layer: usize,
    positions: PatchPositions,
    prompts: &[usize],
) -> Result<Batch<B>, TrainError> {
    let (backend, n_layers) = (engine.backend(), engine.config().n_layers);
    let mut rows = Vec::new();
    let mut patches = Vec::new();
    for (row, &prompt) in prompts.iter().enumerate() {
        let (start, places) =
            paired.denoised_row((prompt, row), positions, layer, n_layers)?.ok_or(TrainError::Unreachable { layer })?;
        rows.push(start);
        patches.extend(places);
    }
    let layout = crate::engine::Layout::new(rows.iter().map(|&(s, start)| (start, paired.run().layout().len(s))));
    let mut gradient = Vec::new();
    let mut base = Vec::new();
    for patch in &patches {
        gradient.extend(layout.token(patch.row, patch.position).map(|token| token as u32));
        base.push(paired.run().token(rows[patch.row].0, patch.position)? as u32);
    }
    let source: Vec<u32> = patches.iter().map(|patch| patch.source as u32).collect();
    Ok(Batch {
        prompts: prompts.to_vec(),
        n_tokens: layout.n_tokens(),
        recording: B::Recording::default(),
        answers: prompts.iter().map(|&prompt| paired.answers()[prompt].clone()).collect(),
        gradient: backend.upload_indices(&gradient).map_err(EngineError::from)?,
        base: backend.upload_indices(&base).map_err(EngineError::from)?,
        source: backend.upload_indices(&source).map_err(EngineError::from)?,
        rows,
        patches,
    })
}

/// One forward and backward pass: the patched logit difference, and `scale` times its gradient with respect to the
/// basis, `(k, d_model)`.
fn step<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    layer: usize,
    batch: &Batch<B>,
    basis: &B::Tensor,
    scale: f64,
) -> Result<(f64, B::Tensor), EngineError> {
    let (backend, d_model) = (engine.backend(), engine.config().d_model);
    let k = backend.len(basis) / d_model;
    let site = Site::resid(layer, engine.config().n_layers);
    let swap = Intervention {
        site,
        part: Part::All,
        patches: batch.patches.clone(),
        op: Op::Swap { source: Source::Run(paired.run()), bases: basis, k },
    };
    let resume = Resume { run: paired.run(), layer, rows: &batch.rows };
    let (run, tape) = engine.resume_with_tape(&resume, &[swap], paired.output(&[]))?;
    let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "answer logits".into() })?;
    let difference = Scores::new(logits, 0, &batch.answers).logit_difference();
    let d_logits = logit_difference_gradient(&batch.answers, logits.values.cols, scale);
    let d_resid = engine.backward(&resume, &tape, paired.columns(), &d_logits)?;
    let residuals = paired.run().site(site)?;
    let rows = SwapGradientRows { gradient: &batch.gradient, base: &batch.base, source: &batch.source };
    let mut d_basis = backend.tensor(k * d_model)?;
    // The residual is both the unpatched value and, at the clean rows, its source.
    backend.patch_swap_backward(&d_resid, residuals, residuals, rows, basis, d_model, &mut d_basis)?;
    Ok((difference, d_basis))
}
