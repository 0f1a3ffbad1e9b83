//! The same work on two devices, or in two number formats, side by side: what a GPU or bf16 costs in exactness.

use super::patching_suite::{Layers, residual_cell};
use super::self_check::{Check, deviation};
use crate::backend::{Backend, Dtype};
use crate::directions::das::{Rotation, TrainError, TrainSettings, train};
use crate::directions::{cosine, random_direction};
use crate::engine::metrics::logit_difference_gradient;
use crate::engine::{Engine, EngineError, Mode, Output, PairedRun, PatchPositions, Plan, Resume, Site};
use crate::types::PairedPrompts;

/// Epochs of the fit that is compared: enough to move the rotation, too few for two fits to part by chance.
const EPOCHS: usize = 4;

/// What an engine has computed of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Answer logits of every distinct prompt, unpatched.
    pub answer_logits: Vec<f32>,
    /// Logit differences of the corrupted prompts, patched along a random direction at all positions.
    pub patched: Vec<f32>,
    /// Gradient of the mean logit difference with respect to the residual of the corrupted prompts.
    pub gradient: Vec<f32>,
    /// Losses of a short DAS fit.
    pub losses: Vec<f32>,
    /// The direction that it found.
    pub direction: Vec<f32>,
}

/// Runs a dataset, patches it, differentiates it and fits a direction to it, all at `layer`, which is in front of a block.
///
/// # Errors
/// Those of the engine and of the training.
pub fn measure<B: Backend>(
    engine: &Engine<B>,
    prompts: PairedPrompts,
    layer: usize,
    seed: u64,
) -> Result<Measured, TrainError> {
    let (config, all) = (engine.config(), PatchPositions::All);
    let site = Site::resid(layer, config.n_layers);
    let paired = PairedRun::new(engine, prompts, &[site], &[all], false)?;
    let missing = || EngineError::NotCaptured { site: "answer logits".into() };
    let answer_logits = paired.run().logits().ok_or_else(missing)?.values.data.clone();

    let columns = random_direction(config.d_model, layer, seed);
    let cells = [residual_cell(columns, Layers::Own(layer), all, Mode::Denoising, config.n_layers)];
    let plan = Plan::new(config, paired.prompts(), &cells, engine.max_tokens())?;
    let scores = plan.run(engine, &paired, &[], |_| Ok::<(), EngineError>(()))?;
    let patched = scores[0].logit_differences.iter().map(|value| *value as f32).collect();

    let rotation = Rotation::random(config.d_model, 1, seed)?;
    let settings = TrainSettings { epochs: EPOCHS, ..TrainSettings::default() };
    let trained = train(engine, &paired, (layer, all), &rotation, &settings, |_| Ok(Vec::new()), &|| false)?;
    Ok(Measured {
        answer_logits,
        patched,
        gradient: gradient(engine, &paired, layer)?,
        losses: trained.losses.iter().map(|loss| *loss as f32).collect(),
        direction: trained.columns.data,
    })
}

fn gradient<B: Backend>(engine: &Engine<B>, paired: &PairedRun<B>, layer: usize) -> Result<Vec<f32>, EngineError> {
    // Whole rows: clean and corrupted prompts of which one is the other's beginning would have no patched one.
    let rows: Vec<_> = paired.prompts().corrupted.iter().map(|&sequence| (sequence, 0)).collect();
    let resume = Resume { run: paired.run(), layer, rows: &rows };
    let (_, tape) = engine.resume_with_tape(&resume, &[], Output::Answers(paired.columns()))?;
    let d_logits = logit_difference_gradient(paired.answers(), paired.columns().tokens().len(), 1.0);
    Ok(engine.backend().download(&engine.backward(&resume, &tape, paired.columns(), &d_logits)?)?)
}

/// How far results in `dtype` lie from the reference in f32, each relative to the largest value, and how far they may:
/// f32 results differ by the order of sums through all layers, others by the rounding of every product's inputs.
pub fn compare(found: &Measured, reference: &Measured, dtype: Dtype) -> Vec<Check> {
    let (value, slope) = match dtype {
        Dtype::F32 => (1e-4, 1e-3),
        Dtype::Tf32 | Dtype::F16 => (1e-2, 5e-2),
        Dtype::Bf16 => (5e-2, 2e-1),
    };
    let check = |name, deviation, tolerance| Check { name, deviation, tolerance: Some(tolerance) };
    vec![
        check(
            "answer logits equal those of the processor",
            deviation(&found.answer_logits, &reference.answer_logits),
            value,
        ),
        check(
            "patched logit differences equal those of the processor",
            deviation(&found.patched, &reference.patched),
            value,
        ),
        check("gradients equal those of the processor", deviation(&found.gradient, &reference.gradient), slope),
        check("losses of a DAS fit equal those of the processor", deviation(&found.losses, &reference.losses), slope),
        check(
            "its direction equals that of the processor",
            1.0 - cosine(&found.direction, &reference.direction),
            slope,
        ),
    ]
}
