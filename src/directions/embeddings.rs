//! The residual vectors that directions are fitted to.

use crate::backend::Backend;
use crate::engine::{Engine, EngineError, PairedRun, PatchPositions};
use crate::types::Matrix;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One residual vector per clean prompt, `(prompts, d_model)`, from in front of `layer`.
///
/// At one position, or with [`PatchPositions::All`] at a position drawn per prompt (from `seed`) among those where not
/// all prompts hold the same token.
///
/// # Errors
/// Those of the engine; `paired` must have captured `layer`.
pub fn embeddings<B: Backend>(
    engine: &Engine<B>,
    paired: &PairedRun<B>,
    layer: usize,
    positions: PatchPositions,
    seed: u64,
) -> Result<Matrix, EngineError> {
    let positions: Vec<usize> = match positions {
        PatchPositions::One(position) => vec![position; paired.n_prompts()],
        PatchPositions::All => sampled_positions(paired, seed),
    };
    paired.clean_residuals(engine, layer, &positions)
}

fn sampled_positions<B: Backend>(paired: &PairedRun<B>, seed: u64) -> Vec<usize> {
    let prompts = paired.prompts();
    let sequence = |prompt: usize| &prompts.sequences[prompts.clean[prompt]];
    let first = sequence(0);
    let varies =
        |position: usize| (1..prompts.clean.len()).any(|prompt| sequence(prompt).get(position) != first.get(position));
    let longest = (0..prompts.clean.len()).map(|prompt| sequence(prompt).len()).max().unwrap_or(0);
    let varying: Vec<bool> = (0..longest).map(varies).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..prompts.clean.len())
        .map(|prompt| {
            let candidates: Vec<usize> = (0..sequence(prompt).len()).filter(|&p| varying[p]).collect();
            // Prompts that differ in no position still have a last one.
            let fallback = sequence(prompt).len() - 1;
            if candidates.is_empty() { fallback } else { candidates[random.random_range(0..candidates.len())] }
        })
        .collect()
}

/// The cosine between two vectors; NaN when one of them is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
