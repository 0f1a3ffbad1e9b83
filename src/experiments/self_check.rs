//! Checks that a user can run on any model and dataset before trusting a number.

use super::patching_suite::{Cell, Layers, patched_scores};
use crate::backend::Backend;
use crate::directions::random_direction;
use crate::engine::{
    Engine, EngineError, Intervention, Metric, Mode, Op, Output, PairedRun, Part, Patch, PatchPositions, Resume, Site,
    Source,
};
use serde::Serialize;

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Largest deviation, relative to the largest logit (for the random direction: its share of the effect).
    pub deviation: f64,
    /// What the deviation may be.
    pub tolerance: f64,
}

impl Check {
    /// Did the check pass?
    pub fn passed(&self) -> bool {
        self.deviation <= self.tolerance
    }
}

/// f32 results of two orders of summation: 1e-5 of the largest logit.
const SAME: f64 = 1e-5;

/// Largest difference of two lists relative to the largest value.
fn deviation(found: &[f32], expected: &[f32]) -> f64 {
    let largest = expected.iter().fold(1e-9f64, |m, v| m.max(f64::from(v.abs())));
    found.iter().zip(expected).map(|(f, e)| f64::from((f - e).abs())).fold(0.0, f64::max) / largest
}

/// Runs every check at `layer`; `paired` must have captured it and run with [`PatchPositions::All`].
///
/// - patching clean activations into the clean run changes nothing;
/// - patching every position of the corrupted run with clean activations gives the clean run;
/// - rows resumed at the layer equal the full recomputation from tokens;
/// - a random direction moves next to nothing of the logit difference.
///
/// # Errors
/// Those of the engine.
pub fn self_check<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    layer: usize,
    seed: u64,
) -> Result<Vec<Check>, EngineError> {
    let mut checks = Vec::new();
    let clean = answer_logits(paired, &paired.prompts().clean)?;
    for (name, from_clean) in
        [("clean into clean changes nothing", true), ("all clean activations give the clean run", false)]
    {
        let patched = replace_everything(engine, paired, layer, from_clean)?;
        checks.push(Check { name, deviation: deviation(&patched, &clean), tolerance: SAME });
    }
    let full = engine.run(&paired.prompts().sequences, &[], &[], Output::Answers(paired.columns()))?;
    let again =
        engine.run(&paired.prompts().sequences, &[Site::FinalNormalized], &[], Output::Answers(paired.columns()))?;
    let values = |run: &crate::engine::Run<B>| run.logits().map(|l| l.values.data.clone()).unwrap_or_default();
    let name = "last positions alone equal the whole computation";
    checks.push(Check { name, deviation: deviation(&values(&full), &values(&again)), tolerance: SAME });
    let columns = random_direction(engine.config().d_model, layer, seed);
    let cell = Cell { columns, layers: Layers::Own(layer), positions: PatchPositions::All };
    let metrics = [Metric::LogitDiff];
    let scores = patched_scores(engine, paired, &[cell], Mode::Denoising, &metrics, |_| {})?;
    let effect = paired.baselines().evaluate(Metric::LogitDiff, &scores[0]).abs();
    checks.push(Check { name: "a random direction has next to no effect", deviation: effect, tolerance: 0.1 });
    Ok(checks)
}

fn answer_logits<B: Backend>(paired: &PairedRun<B>, sequences: &[usize]) -> Result<Vec<f32>, EngineError> {
    let missing = || EngineError::NotCaptured { site: "answer logits".into() };
    let logits = paired.run().logits().ok_or_else(missing)?;
    Ok(sequences.iter().flat_map(|&s| logits.values.row(s).to_vec()).collect())
}

/// Answer logits of the clean (or corrupted) run with the residual at `layer` replaced by the clean one everywhere.
fn replace_everything<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    layer: usize,
    from_clean: bool,
) -> Result<Vec<f32>, EngineError> {
    let prompts = paired.prompts();
    let run = paired.run();
    let mut rows = Vec::new();
    let mut patches = Vec::new();
    for (row, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
        rows.push((if from_clean { clean } else { corrupted }, 0));
        for position in 0..run.layout().len(clean) {
            patches.push(Patch { row, position, source: run.token(clean, position)?, basis: 0 });
        }
    }
    let site = Site::resid(layer, engine.config().n_layers);
    let replace = Intervention { site, part: Part::All, patches, op: Op::Replace(Source::Run(run)) };
    let resume = Resume { run, layer, rows: &rows };
    let patched = engine.resume(&resume, &[replace], &[], Output::Answers(paired.columns()))?;
    Ok(patched.logits().map(|l| l.values.data.clone()).unwrap_or_default())
}
