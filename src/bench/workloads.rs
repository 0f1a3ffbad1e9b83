//! The workloads: what a sweep over layers, methods and datasets is made of, one at a time and as a whole.

use super::prompts::{Shape, prompts};
use crate::backend::Backend;
use crate::choice::{Malformed, serde_by_text};
use crate::directions::das::{Batches, Rotation, TrainError, TrainSettings, Training};
use crate::engine::{
    Cell, Edit, Engine, EngineError, Flops, Layout, Metric, Mode, Needs, Output, PairedRun, Part, PatchPositions, Plan,
    Site,
};
use crate::experiments::patching_suite::{Layers, residual_cell};
use crate::model::ModelConfig;
use crate::types::Matrix;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// Directions per layer in the sweep: as many as the paper has fitting methods.
const METHODS: usize = 5;
/// Datasets of the sweep.
const DATASETS: usize = 5;

/// One piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    /// All prompts through the model, the whole vocabulary's logits at their last position.
    Forward,
    /// The same, logits at every position.
    ForwardAllLogits,
    /// The clean and corrupted pass that all cells of a dataset share, with every layer's residual captured.
    Shared,
    /// One more directional cell of a sweep at a layer: one direction patched at one position.
    Cell(usize),
    /// One epoch of DAS at a layer, the whole dataset in one batch.
    Das(usize),
    /// One epoch of DAS at every block: a full fit of all layers is 64 of them.
    DasAll,
    /// Every layer, five directions a layer, five datasets, the shared passes included.
    Sweep,
    /// Every head's output, `attn.hook_z`, patched alone at all positions, the shared pass included.
    HeadMap,
    /// The residual in front of every block patched at every position alone, the shared pass included.
    ResidMap,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workload::Forward => f.write_str("forward"),
            Workload::ForwardAllLogits => f.write_str("forward-all-logits"),
            Workload::Shared => f.write_str("shared"),
            Workload::Cell(layer) => write!(f, "cell:{layer}"),
            Workload::Das(layer) => write!(f, "das:{layer}"),
            Workload::DasAll => f.write_str("das"),
            Workload::Sweep => f.write_str("sweep"),
            Workload::HeadMap => f.write_str("head-map"),
            Workload::ResidMap => f.write_str("resid-map"),
        }
    }
}

impl FromStr for Workload {
    type Err = Malformed;

    fn from_str(name: &str) -> Result<Self, Malformed> {
        let known = "forward, forward-all-logits, shared, cell:LAYER, das:LAYER, das, sweep, head-map or resid-map";
        let unknown = || Malformed::from(format!("expected {known}, found {name:?}"));
        Ok(match name.split_once(':') {
            None if name == "forward" => Workload::Forward,
            None if name == "forward-all-logits" => Workload::ForwardAllLogits,
            None if name == "shared" => Workload::Shared,
            None if name == "das" => Workload::DasAll,
            None if name == "sweep" => Workload::Sweep,
            None if name == "head-map" => Workload::HeadMap,
            None if name == "resid-map" => Workload::ResidMap,
            Some(("cell", layer)) => Workload::Cell(layer.parse().map_err(|_| unknown())?),
            Some(("das", layer)) => Workload::Das(layer.parse().map_err(|_| unknown())?),
            _ => return Err(unknown()),
        })
    }
}

serde_by_text!(Workload);

impl Workload {
    /// All workloads of a model, cells and epochs at its first, middle and last block.
    pub fn all(n_layers: usize) -> Vec<Self> {
        let mut layers = vec![0, n_layers / 2, n_layers - 1];
        layers.dedup();
        let mut all = vec![Workload::Forward, Workload::ForwardAllLogits, Workload::Shared];
        all.extend(layers.iter().map(|&layer| Workload::Cell(layer)));
        all.extend(layers.iter().map(|&layer| Workload::Das(layer)));
        all.extend([Workload::DasAll, Workload::Sweep, Workload::HeadMap, Workload::ResidMap]);
        all
    }

    /// Arithmetic of one repetition, counted from shapes: patched rows from the patched position and layer on.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn flops(self, config: &ModelConfig, shape: Shape) -> Result<Flops, EngineError> {
        let rows = |start| Layout::new((0..shape.prompts).map(|_| (start, shape.tokens)));
        let answers = 2 * shape.answer_pairs;
        let pass = |answers| Flops::forward(config, &rows(0), 0, answers);
        let unembedding = |rows: usize| Flops(2 * (rows * config.d_model * config.d_vocab) as u64);
        let patched = rows(shape.patched_position());
        Ok(match self {
            Workload::Forward => pass(0) + unembedding(shape.prompts),
            Workload::ForwardAllLogits => pass(0) + unembedding(shape.prompts * shape.tokens),
            Workload::Shared => pass(answers),
            Workload::Cell(_) => self.planned(config, shape)?,
            Workload::Das(layer) => {
                Flops::forward(config, &patched, layer, answers) + Flops::backward(config, &patched, layer, answers)
            }
            Workload::DasAll => {
                let epochs: Result<Vec<Flops>, _> =
                    (0..config.n_layers).map(|layer| Workload::Das(layer).flops(config, shape)).collect();
                epochs?.into_iter().sum()
            }
            Workload::Sweep => Flops(DATASETS as u64 * (pass(answers).0 + self.planned(config, shape)?.0)),
            Workload::HeadMap | Workload::ResidMap => pass(answers) + self.planned(config, shape)?,
        })
    }

    fn planned(self, config: &ModelConfig, shape: Shape) -> Result<Flops, EngineError> {
        let set = prompts(shape, config.d_vocab, 0);
        Ok(Plan::new(config, &set, &self.cells(config, shape), usize::MAX)?.flops())
    }

    /// The cells on one dataset; none of workloads that are no sweep.
    fn cells(self, config: &ModelConfig, shape: Shape) -> Vec<Cell> {
        let at = PatchPositions::One(shape.patched_position());
        let swap = |layer: usize, method: usize| {
            let columns = direction(config.d_model, 1 + METHODS * layer + method);
            residual_cell(columns, Layers::Own(layer), at, Mode::Denoising, config.n_layers)
        };
        let replace =
            |site, part, positions| Cell { mode: Mode::Denoising, edits: vec![Edit::replace(site, part, positions)] };
        let pairs = |first: usize, second: usize| (0..first).flat_map(move |a| (0..second).map(move |b| (a, b)));
        match self {
            Workload::Cell(layer) => vec![swap(layer, 0)],
            Workload::Sweep => pairs(config.n_layers + 1, METHODS).map(|(layer, method)| swap(layer, method)).collect(),
            Workload::HeadMap => pairs(config.n_layers, config.n_heads)
                .map(|(layer, head)| replace(Site::Z(layer), Part::Head(head), PatchPositions::All))
                .collect(),
            Workload::ResidMap => pairs(config.n_layers, shape.tokens)
                .map(|(layer, position)| replace(Site::ResidPre(layer), Part::All, PatchPositions::One(position)))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Why a workload did not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// A layer that the model does not have.
    #[error("workload {workload}: the model has blocks 0 to {last}")]
    Layer {
        /// Name of the workload.
        workload: String,
        /// The last block.
        last: usize,
    },
}

/// A value between -1 and 1 that any program can compute.
fn value(index: usize, seed: usize) -> f32 {
    ((index * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0
}

/// Unit direction number `seed`, `(d_model, 1)`.
pub fn direction(d_model: usize, seed: usize) -> Matrix {
    let values: Vec<f32> = (0..d_model).map(|index| value(index, seed)).collect();
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    Matrix::new(d_model, 1, values.iter().map(|v| v / length).collect())
}

/// Where DAS starts: a lower triangle with entries of the size that a Haar-random orthogonal matrix has.
pub fn rotation_start(d_model: usize) -> Matrix {
    let size = (3.0 / d_model as f32).sqrt();
    let entry = |at: usize| {
        let (row, column) = (at / d_model, at % d_model);
        // The square keeps neighbouring rows from being multiples of each other.
        if column < row { size * value(row * row + 613 * column + row * column, 1) } else { 0.0 }
    };
    Matrix::new(d_model, d_model, (0..d_model * d_model).map(entry).collect())
}

/// A DAS training that goes on from repetition to repetition.
struct Fit<B: Backend> {
    training: Training<B>,
    batches: Batches<B>,
}

/// A model on a device, ready for any workload.
pub struct Bench<'a, B: Backend> {
    engine: &'a Engine<B>,
    shape: Shape,
    paired: PairedRun<B>,
    fits: HashMap<usize, Fit<B>>,
}

impl<'a, B: Backend> Bench<'a, B> {
    /// Runs the shared pass of dataset 0.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn new(engine: &'a Engine<B>, shape: Shape) -> Result<Self, BenchError> {
        // Every layer's residual: what any workload resumes from.
        let paired = shared(engine, shape, &Workload::Sweep.cells(engine.config(), shape), 0)?;
        Ok(Self { engine, shape, paired, fits: HashMap::new() })
    }

    fn positions(&self) -> PatchPositions {
        PatchPositions::One(self.shape.patched_position())
    }

    fn check(&self, workload: Workload) -> Result<(), BenchError> {
        let last = self.engine.config().n_layers - 1;
        match workload {
            Workload::Cell(layer) | Workload::Das(layer) if layer > last => {
                Err(BenchError::Layer { workload: workload.to_string(), last })
            }
            _ => Ok(()),
        }
    }

    /// What is done once before the repetitions of a workload.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn prepare(&mut self, workload: Workload) -> Result<(), BenchError> {
        self.check(workload)?;
        if workload == Workload::DasAll {
            return (0..self.engine.config().n_layers).try_for_each(|layer| self.prepare(Workload::Das(layer)));
        }
        let Workload::Das(layer) = workload else { return Ok(()) };
        let rotation =
            Rotation::from_lower(1, &rotation_start(self.engine.config().d_model)).map_err(TrainError::from)?;
        let settings = TrainSettings { batch_size: self.shape.prompts, ..TrainSettings::default() };
        let name = &self.paired.prompts().name;
        let (place, baselines) = ((layer, self.positions()), self.paired.baselines());
        let training = Training::new(self.engine.backend(), place, &rotation, &settings, baselines, name)?;
        let batches = training.batches(self.engine, &self.paired)?;
        self.fits.insert(layer, Fit { training, batches });
        Ok(())
    }

    /// As [`Bench::prepare`], unless it was done before.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn prepare_once(&mut self, workload: Workload) -> Result<(), BenchError> {
        let ready = match workload {
            Workload::Das(layer) => self.fits.contains_key(&layer),
            Workload::DasAll => self.fits.len() == self.engine.config().n_layers,
            _ => false,
        };
        if ready { Ok(()) } else { self.prepare(workload) }
    }

    /// One repetition; the numbers it found: logit differences, metrics, or the loss.
    ///
    /// # Errors
    /// [`BenchError`].
    pub fn run(&mut self, workload: Workload) -> Result<Vec<f64>, BenchError> {
        match workload {
            Workload::Forward => self.forward(Output::Last),
            Workload::ForwardAllLogits => self.forward(Output::All),
            Workload::Shared => {
                let every = Workload::Sweep.cells(self.engine.config(), self.shape);
                let paired = shared(self.engine, self.shape, &every, 0)?;
                Ok(paired.baselines().clean.logit_differences.clone())
            }
            Workload::Cell(_) => {
                run_cells(self.engine, &self.paired, &workload.cells(self.engine.config(), self.shape))
            }
            Workload::Das(layer) => self.epoch(layer),
            Workload::DasAll => {
                let epochs: Result<Vec<_>, _> = (0..self.engine.config().n_layers).map(|l| self.epoch(l)).collect();
                Ok(epochs?.concat())
            }
            Workload::Sweep => self.sweep(workload, DATASETS),
            Workload::HeadMap | Workload::ResidMap => self.sweep(workload, 1),
        }
    }

    fn forward(&self, output: Output<'_, B>) -> Result<Vec<f64>, BenchError> {
        let run = self.engine.run(&self.paired.prompts().sequences, &[], &[], output)?;
        let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "logits".into() })?;
        let per_row = logits.values.rows / self.shape.prompts;
        let answers = self.paired.prompts().answers.iter().enumerate();
        Ok(answers
            .map(|(prompt, pairs)| {
                let row = logits.values.row((prompt + 1) * per_row - 1);
                let differences = pairs.iter().map(|&(right, wrong)| row[right as usize] - row[wrong as usize]);
                f64::from(differences.sum::<f32>()) / pairs.len() as f64
            })
            .collect())
    }

    fn epoch(&mut self, layer: usize) -> Result<Vec<f64>, BenchError> {
        self.prepare_once(Workload::Das(layer))?;
        let Some(fit) = self.fits.get_mut(&layer) else { return Ok(Vec::new()) };
        fit.training.pass(self.engine, &self.paired, &mut fit.batches, &|| false)?;
        fit.training.end_epoch(Vec::new());
        Ok(fit.training.losses().last().copied().into_iter().collect())
    }

    fn sweep(&self, workload: Workload, datasets: usize) -> Result<Vec<f64>, BenchError> {
        let cells = workload.cells(self.engine.config(), self.shape);
        let mut values = Vec::new();
        for seed in 0..datasets {
            let paired = shared(self.engine, self.shape, &cells, seed)?;
            values.extend(run_cells(self.engine, &paired, &cells)?);
        }
        Ok(values)
    }
}

/// The pass over dataset `seed` that `cells` share.
fn shared<B: Backend>(
    engine: &Engine<B>,
    shape: Shape,
    cells: &[Cell],
    seed: usize,
) -> Result<PairedRun<B>, EngineError> {
    let needs = Needs::of(cells, engine.config().n_layers);
    PairedRun::new(engine, prompts(shape, engine.config().d_vocab, seed), &needs.sites, &needs.positions, false)
}

fn run_cells<B: Backend>(engine: &Engine<B>, paired: &PairedRun<B>, cells: &[Cell]) -> Result<Vec<f64>, BenchError> {
    let metric = Metric::LogitDiff;
    let plan = Plan::new(engine.config(), paired.prompts(), cells, engine.max_tokens())?;
    let scores = plan.run(engine, paired, &[metric], |_| Ok::<(), EngineError>(()))?;
    Ok(scores.iter().map(|scores| paired.baselines().evaluate(metric, scores)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for workload in Workload::all(12) {
            assert_eq!(workload.to_string().parse(), Ok(workload));
            let recorded = serde_json::to_value(workload).unwrap();
            assert_eq!(recorded, workload.to_string());
            assert_eq!(serde_json::from_value::<Workload>(recorded).unwrap(), workload);
        }
        assert_eq!(Workload::all(1).len(), 9);
        for wrong in ["", "cell", "cell:x", "das:-1", "sweep:2", "train"] {
            assert!(wrong.parse::<Workload>().unwrap_err().to_string().contains("das:LAYER"), "{wrong}");
        }
    }
}
