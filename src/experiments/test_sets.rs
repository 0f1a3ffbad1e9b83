//! Test sets of a training: datasets it does not learn from, whose loss is noted after every epoch.

use super::chunks::{Kept, Progress, patch_share, stretches};
use super::das_fits::{DasJob, TrainPlan};
use super::patching_suite::{Layers, residual_cell};
use crate::backend::Backend;
use crate::directions::das::TrainError;
use crate::engine::{
    Baselines, Cell, Engine, EngineError, Metric, Mode, PairedRun, PatchPositions, Plan, Scores, Site,
};
use crate::types::{Matrix, PairedPrompts};
use std::collections::BTreeSet;

/// Test sets ready to be patched again and again: those that fit the memory budget are captured once, the others in
/// stretches every time.
pub(super) struct TestSets<'a, B: Backend> {
    engine: &'a Engine<B>,
    sets: Vec<(&'a PairedPrompts, Option<PairedRun<B>>)>,
    budget: usize,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a, B: Backend> TestSets<'a, B> {
    /// Captures the test sets of `plan` for `jobs`; each of them may take `budget` bytes.
    ///
    /// # Errors
    /// Those of [`PairedRun::new`].
    pub fn new(
        engine: &'a Engine<B>,
        plan: &TrainPlan<'a>,
        jobs: &[DasJob],
        budget: usize,
    ) -> Result<Self, EngineError> {
        let n_layers = engine.config().n_layers;
        let sites: BTreeSet<Site> = jobs.iter().map(|job| Site::resid(job.layer, n_layers)).collect();
        let sites: Vec<Site> = sites.into_iter().collect();
        let capture = |(number, test): (usize, &'a PairedPrompts)| {
            let positions: BTreeSet<PatchPositions> =
                jobs.iter().filter_map(|job| job.test_positions.get(number).copied()).collect();
            let positions: Vec<PatchPositions> = positions.into_iter().collect();
            let kept = Kept { sites: &sites, positions: &positions };
            let fits = stretches(engine.config(), test, kept, 1, budget)?.len() == 1;
            let run = || PairedRun::new(engine, test.clone(), &sites, &positions, false);
            Ok((test, fits.then(run).transpose()?))
        };
        let sets = plan.tests.iter().enumerate().map(capture).collect::<Result<_, EngineError>>()?;
        Ok(Self { engine, sets, budget, stop: plan.stop })
    }

    /// Per job with its columns `(d_model, k)` the loss on every test set: `1 -` the recovered share of the logit
    /// difference.
    ///
    /// # Errors
    /// Those of the engine; [`TrainError::NoContrast`], [`TrainError::Stopped`].
    pub fn losses(&self, subspaces: &[(&DasJob, &Matrix)]) -> Result<Vec<Vec<f64>>, TrainError> {
        let mut losses = vec![Vec::with_capacity(self.sets.len()); subspaces.len()];
        if subspaces.is_empty() {
            return Ok(losses);
        }
        for (number, (prompts, captured)) in self.sets.iter().enumerate() {
            let n_layers = self.engine.config().n_layers;
            let cell = |&(job, columns): &(&DasJob, &Matrix)| {
                let positions = job.test_positions.get(number).copied().unwrap_or(job.positions);
                residual_cell(columns.clone(), Layers::Own(job.layer), positions, Mode::Denoising, n_layers)
            };
            let cells: Vec<Cell> = subspaces.iter().map(cell).collect();
            let (baselines, scores) = self.patched(prompts, captured.as_ref(), &cells)?;
            let (clean, corrupted) = baselines.logit_differences();
            if clean == corrupted {
                return Err(TrainError::NoContrast { dataset: prompts.name.clone(), value: clean });
            }
            for (losses, scores) in losses.iter_mut().zip(&scores) {
                losses.push(1.0 - baselines.evaluate(Metric::LogitDiff, scores));
            }
        }
        Ok(losses)
    }

    fn patched(
        &self,
        prompts: &PairedPrompts,
        captured: Option<&PairedRun<B>>,
        cells: &[Cell],
    ) -> Result<(Baselines, Vec<Scores>), TrainError> {
        let metrics = [Metric::LogitDiff];
        let go_on = || if (self.stop)() { Err(TrainError::Stopped) } else { Ok(()) };
        if let Some(paired) = captured {
            let plan = Plan::new(self.engine.config(), prompts, cells, self.engine.max_tokens())?;
            let scores = plan.run(self.engine, paired, &metrics, |_| go_on())?;
            return Ok((paired.baselines().clone(), scores));
        }
        let mut scores = vec![Scores::default(); cells.len()];
        // On this device alone: the others have fits of their own.
        let baselines = patch_share(self.engine, prompts, cells, &metrics, self.budget, |progress: Progress<'_>| {
            progress.finished.into_iter().for_each(|(cell, found)| scores[cell] = found);
            go_on()
        })?;
        Ok((baselines, scores))
    }
}
