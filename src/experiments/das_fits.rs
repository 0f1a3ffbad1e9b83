//! Many subspaces trained on one dataset by DAS, watched on others.

use super::chunks::{Kept, baselines, part, stretches};
use super::devices::{locked, on_every_device};
use super::test_sets::TestSets;
use crate::backend::Backend;
use crate::directions::Method;
use crate::directions::das::{Rotation, TrainError, TrainSettings, Trained, Training, train};
use crate::engine::{Engine, EngineError, Needs, PairedRun, PatchPositions, Site};
use crate::model::ModelConfig;
use crate::types::{Matrix, PairedPrompts};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;

/// A subspace to train.
#[derive(Debug, Clone)]
pub struct DasJob {
    /// How many dimensions.
    pub method: Method,
    /// Where along the stack.
    pub layer: usize,
    /// Where along the prompt.
    pub positions: PatchPositions,
    /// Where along the prompts of each test set.
    pub test_positions: Vec<PatchPositions>,
}

/// How jobs are trained.
#[derive(Clone, Copy)]
pub struct TrainPlan<'a> {
    /// Epochs, batches, the optimiser.
    pub settings: &'a TrainSettings,
    /// Of the rotations' starts.
    pub seed: u64,
    /// Datasets whose loss is noted after every epoch.
    pub tests: &'a [PairedPrompts],
    /// Bytes that the datasets' activations may take.
    pub budget: usize,
    /// Are the trainings to stop? Asked in front of every step and between the batches of test sets, on every device.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// Trains every job; `finished` hears the job's number and what came of it.
///
/// A dataset that fits the budget is captured once, and one job is trained after the other. Of a larger one the jobs
/// take turns on each stretch, which is captured once per epoch for as many of them as their optimisers' memory allows.
/// The steps are the same either way: the same batches in the same order, and the whole dataset's baselines. The engine's
/// peers train their share of the jobs.
///
/// # Errors
/// Those of the engine in capturing a run, [`TrainError::Stopped`], and those of `finished`, which hears what else a single
/// training meets.
pub fn train_all<B: Backend, E: From<TrainError> + Send>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    jobs: &[DasJob],
    plan: &TrainPlan<'_>,
    finished: impl FnMut(usize, Result<Trained, TrainError>) -> Result<(), E> + Send,
) -> Result<(), E> {
    let finished = Mutex::new(finished);
    on_every_device(engine, jobs.len(), |engine, numbers| {
        let own: Vec<DasJob> = numbers.iter().map(|&number| jobs[number].clone()).collect();
        let told = |job: usize, trained| locked(&finished)(numbers[job], trained);
        train_share(engine, prompts, &own, plan, told)
    })
}

/// As [`train_all`], on one device.
fn train_share<B: Backend, E: From<TrainError>>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    jobs: &[DasJob],
    plan: &TrainPlan<'_>,
    mut finished: impl FnMut(usize, Result<Trained, TrainError>) -> Result<(), E>,
) -> Result<(), E> {
    let budget = plan.budget / (1 + plan.tests.len());
    let run = |range, jobs: &[DasJob]| captured(engine, part(prompts, range), jobs);
    let tests = TestSets::new(engine, plan, jobs, budget).map_err(TrainError::from)?;
    let whole = match pieces(engine.config(), prompts, jobs, plan.settings.batch_size, budget) {
        // Fewer jobs at a time need less.
        Err(EngineError::Memory { .. }) => Vec::new(),
        whole => whole.map_err(TrainError::from)?,
    };
    if let [all] = &whole[..] {
        let paired = run(all.clone(), jobs)?;
        for (number, job) in jobs.iter().enumerate() {
            let test = |columns: &Matrix| tests.losses(&[(job, columns)]).map(|mut all| all.pop().unwrap_or_default());
            let place = (job.layer, job.positions);
            let trained = start(job, engine.config().d_model, plan.seed)
                .and_then(|start| train(engine, &paired, place, &start, plan.settings, test, plan.stop));
            match trained {
                Err(TrainError::Stopped) => return Err(TrainError::Stopped.into()),
                trained => finished(number, trained)?,
            }
        }
        return Ok(());
    }
    let baselines = baselines(engine, prompts, budget).map_err(TrainError::from)?;
    // The triangle of the rotation and Adam's two moments of it, in f32.
    let optimiser = 6 * engine.config().d_model * engine.config().d_model;
    let size = (budget / optimiser.max(1)).max(1);
    for (group, members) in jobs.chunks(size).enumerate() {
        let begin = |job: &DasJob| {
            let rotation = start(job, engine.config().d_model, plan.seed)?;
            let place = (job.layer, job.positions);
            Training::new(engine.backend(), place, &rotation, plan.settings, &baselines, &prompts.name)
        };
        let mut turns: Vec<Turn<B>> = members.iter().map(|job| Turn { training: begin(job), runs: true }).collect();
        for _ in 0..plan.settings.epochs {
            let pieces = pieces(engine.config(), prompts, members, plan.settings.batch_size, budget);
            for range in pieces.map_err(TrainError::from)? {
                let paired = run(range, members)?;
                turns.iter_mut().try_for_each(|turn| turn.advance(engine, &paired, plan.stop))?;
            }
            end_epoch(&mut turns, members, &tests)?;
            if turns.iter().all(|turn| !turn.runs) {
                break;
            }
        }
        for (member, turn) in turns.into_iter().enumerate() {
            finished(group * size + member, turn.training.map(Training::finish))?;
        }
    }
    Ok(())
}

/// The rotation that a job starts from.
fn start(job: &DasJob, d_model: usize, seed: u64) -> Result<Rotation, TrainError> {
    Ok(Rotation::random(d_model, job.method.dimensions(), seed)?)
}

/// One of several trainings that take turns.
struct Turn<B: Backend> {
    training: Result<Training<B>, TrainError>,
    /// Not once it has failed or stopped early.
    runs: bool,
}

impl<B: Backend> Turn<B> {
    /// Trains on one stretch; a training that fails stays failed.
    ///
    /// # Errors
    /// [`TrainError::Stopped`] alone.
    fn advance(
        &mut self,
        engine: &Engine<B>,
        paired: &PairedRun<B>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), TrainError> {
        let (true, Ok(training)) = (self.runs, &mut self.training) else { return Ok(()) };
        let step = |training: &mut Training<B>| {
            let mut batches = training.batches(engine, paired)?;
            training.pass(engine, paired, &mut batches, stop)
        };
        match step(training) {
            Err(TrainError::Stopped) => return Err(TrainError::Stopped),
            Err(error) => self.training = Err(error),
            Ok(()) => {}
        }
        Ok(())
    }
}

/// Ends the epoch of every training that runs.
fn end_epoch<B: Backend>(turns: &mut [Turn<B>], jobs: &[DasJob], tests: &TestSets<'_, B>) -> Result<(), TrainError> {
    turns.iter_mut().for_each(|turn| turn.runs &= turn.training.is_ok());
    let running = turns.iter().zip(jobs).filter(|(turn, _)| turn.runs);
    let subspaces: Vec<(&DasJob, &Matrix)> =
        running.filter_map(|(turn, job)| Some((job, turn.training.as_ref().ok()?.columns()))).collect();
    let mut losses = tests.losses(&subspaces)?.into_iter();
    for turn in turns.iter_mut().filter(|turn| turn.runs) {
        if let Ok(training) = &mut turn.training {
            turn.runs = training.end_epoch(losses.next().unwrap_or_default());
        }
    }
    Ok(())
}

/// Stretches for the training of `jobs`, whole batches each.
fn pieces(
    config: &ModelConfig,
    prompts: &PairedPrompts,
    jobs: &[DasJob],
    batch_size: usize,
    budget: usize,
) -> Result<Vec<Range<usize>>, EngineError> {
    let Needs { sites, positions } = needs(jobs, config.n_layers);
    stretches(config, prompts, Kept { sites: &sites, positions: &positions }, batch_size, budget)
}

/// What the trainings of jobs need of a run.
fn needs(jobs: &[DasJob], n_layers: usize) -> Needs {
    let sites: BTreeSet<Site> = jobs.iter().map(|job| Site::resid(job.layer, n_layers)).collect();
    let positions: BTreeSet<PatchPositions> = jobs.iter().map(|job| job.positions).collect();
    Needs { sites: sites.into_iter().collect(), positions: positions.into_iter().collect() }
}

fn captured<B: Backend>(
    engine: &Engine<B>,
    prompts: PairedPrompts,
    jobs: &[DasJob],
) -> Result<PairedRun<B>, TrainError> {
    let Needs { sites, positions } = needs(jobs, engine.config().n_layers);
    Ok(PairedRun::new(engine, prompts, &sites, &positions, false)?)
}
