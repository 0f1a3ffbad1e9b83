//! Checks that a user can run on any model and dataset before trusting a number.

use super::patching_suite::{Layers, residual_cell};
use crate::backend::Backend;
use crate::directions::random_direction;
use crate::engine::{
    Engine, EngineError, Intervention, Metric, Mode, Op, Output, PairedRun, Part, Patch, PatchPositions, Plan, Resume,
    Run, Site, Source,
};
use serde::Serialize;

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: &'static str,
    /// Largest deviation, relative to the largest logit (for the random direction: its share of the effect).
    pub deviation: f64,
    /// What the deviation may be; none for what is only shown.
    pub tolerance: Option<f64>,
}

impl Check {
    /// Did the check pass? What is only shown must still be a number.
    pub fn passed(&self) -> bool {
        self.tolerance.map_or(self.deviation.is_finite(), |tolerance| self.deviation <= tolerance)
    }
}

/// f32 results of two orders of summation: 1e-5 of the largest logit.
const SAME: f64 = 1e-5;

/// Largest difference of two lists relative to the largest value; infinite when they are no two versions of the same.
pub(super) fn deviation(found: &[f32], expected: &[f32]) -> f64 {
    if found.len() != expected.len() || found.is_empty() {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(1e-9f64, |m, v| m.max(f64::from(v.abs())));
    let difference = |(f, e): (&f32, &f32)| f64::from((f - e).abs());
    // The maximum of the standard library would pass over a NaN.
    found.iter().zip(expected).map(difference).fold(0.0, |m, v| if v > m || v.is_nan() { v } else { m }) / largest
}

/// Runs every check at `layer`; `paired` must have captured it and run with [`PatchPositions::All`].
///
/// - patching clean activations into the clean run changes nothing;
/// - patching every position of the corrupted run with clean activations gives the clean run;
/// - rows resumed at the layer behind a captured prefix equal the full recomputation from tokens under the same patch;
/// - the last block, computed at last positions alone, equals the one computed everywhere;
/// - the share of the logit difference that a random direction moves, which is shown beside them: about `1 / d_model`
///   where the effect lies along what differs, and anything in a narrow model where it does not.
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
        checks.push(Check { name, deviation: deviation(&patched, &clean), tolerance: Some(SAME) });
    }
    let (resumed, recomputed) = one_position_replaced(engine, paired, layer)?;
    let name = "resumed rows equal the recomputation from tokens";
    checks.push(Check { name, deviation: deviation(&resumed, &recomputed), tolerance: Some(SAME) });
    let output = Output::Answers(paired.columns());
    let last = engine.run(&paired.prompts().sequences, &[], &[], output)?;
    let whole = engine.run(&paired.prompts().sequences, &[Site::FinalNormalized], &[], output)?;
    let name = "last positions alone equal the whole computation";
    checks.push(Check { name, deviation: deviation(values(&last)?, values(&whole)?), tolerance: Some(SAME) });
    let (config, metrics) = (engine.config(), [Metric::LogitDiff]);
    let columns = random_direction(config.d_model, layer, seed);
    let layers = Layers::Own(layer);
    let cells = [residual_cell(columns, layers, PatchPositions::All, Mode::Denoising, config.n_layers)];
    let plan = Plan::new(config, paired.prompts(), &cells, engine.max_tokens())?;
    let scores = plan.run(engine, paired, &metrics, |_| Ok::<(), EngineError>(()))?;
    let effect = paired.baselines().evaluate(Metric::LogitDiff, &scores[0]).abs();
    checks.push(Check { name: "share of the effect along a random direction", deviation: effect, tolerance: None });
    Ok(checks)
}

/// The answer logits of a run, row after row.
fn values<B: Backend>(run: &Run<B>) -> Result<&[f32], EngineError> {
    let missing = || EngineError::NotCaptured { site: "answer logits".into() };
    Ok(&run.logits().ok_or_else(missing)?.values.data)
}

/// The answer logits of some sequences of the unpatched run.
fn answer_logits<B: Backend>(paired: &PairedRun<B>, sequences: &[usize]) -> Result<Vec<f32>, EngineError> {
    let (all, width) = (values(paired.run())?, paired.columns().tokens().len());
    Ok(sequences.iter().flat_map(|&s| all[s * width..(s + 1) * width].iter().copied()).collect())
}

/// Answer logits of the corrupted run with the clean residual at `layer` in the first position that differs, where it
/// changes most: resumed behind the captured prefix, and recomputed from the tokens.
fn one_position_replaced<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    layer: usize,
) -> Result<(Vec<f32>, Vec<f32>), EngineError> {
    let (prompts, run) = (paired.prompts(), paired.run());
    let mut rows = Vec::new();
    let mut patches = Vec::new();
    for (row, (&clean, &corrupted)) in prompts.clean.iter().zip(&prompts.corrupted).enumerate() {
        let pairs = prompts.sequences[clean].iter().zip(&prompts.sequences[corrupted]);
        let position = pairs.take_while(|(a, b)| a == b).count().min(run.layout().len(clean) - 1);
        rows.push((corrupted, position));
        patches.push(Patch { row, position, source: run.token(clean, position)?, basis: 0 });
    }
    let sequences: Vec<_> = rows.iter().map(|&(sequence, _)| prompts.sequences[sequence].clone()).collect();
    let site = Site::resid(layer, engine.config().n_layers);
    let replace = [Intervention { site, part: Part::All, patches, op: Op::Replace(Source::Run(run)) }];
    let output = Output::Answers(paired.columns());
    let resumed = engine.resume(&Resume { run, layer, rows: &rows }, &replace, &[], output)?;
    let recomputed = engine.run_patched(&sequences, &replace, &[], output)?;
    Ok((values(&resumed)?.to_vec(), values(&recomputed)?.to_vec()))
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
    Ok(values(&patched)?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_compared_fails() {
        assert_eq!(deviation(&[1.0, 2.0], &[1.0, 4.0]), 0.5);
        assert_eq!(deviation(&[], &[]), f64::INFINITY);
        assert_eq!(deviation(&[1.0], &[1.0, 2.0]), f64::INFINITY);
        for found in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
            let check = Check { name: "x", deviation: deviation(&found, &[1.0, 1.0]), tolerance: Some(SAME) };
            assert!(!check.passed(), "{found:?}");
        }
    }

    #[test]
    fn what_is_only_shown_passes_with_any_number() {
        let shown = |deviation| Check { name: "x", deviation, tolerance: None };
        // In a narrow model a random direction may carry all of the effect.
        assert!(shown(1.5).passed());
        assert!(!shown(f64::NAN).passed());
    }
}
