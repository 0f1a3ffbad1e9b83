//! The residual vectors that directions are fitted to.

use crate::backend::Backend;
use crate::engine::{Engine, EngineError, PairedRun, PatchPositions};
use crate::types::{Matrix, PairedPrompts};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One residual vector per clean prompt, `(prompts, d_model)`, from in front of `layer`.
///
/// At the positions of [`embedding_positions`].
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
    paired.clean_residuals(engine, layer, &embedding_positions(paired.prompts(), positions, seed))
}

/// Per prompt the position whose residual is its embedding: the given one, or with [`PatchPositions::All`] one that is
/// drawn (from `seed`) among those where not all prompts hold the same token, counted from the first as well as from the
/// last position, so that it lies outside a common beginning and a common end.
pub fn embedding_positions(prompts: &PairedPrompts, positions: PatchPositions, seed: u64) -> Vec<usize> {
    let clean = prompts.clean.iter().map(|&sequence| &prompts.sequences[sequence]);
    match positions {
        PatchPositions::One(position) => vec![position; prompts.clean.len()],
        PatchPositions::Last => clean.map(|sequence| sequence.len().saturating_sub(1)).collect(),
        PatchPositions::All => sampled_positions(&clean.collect::<Vec<_>>(), seed),
    }
}

fn sampled_positions(sequences: &[&Vec<u32>], seed: u64) -> Vec<usize> {
    let longest = sequences.iter().map(|sequence| sequence.len()).max().unwrap_or(0);
    let varies = |token: &dyn Fn(&Vec<u32>) -> Option<u32>| {
        sequences.windows(2).any(|neighbours| token(neighbours[0]) != token(neighbours[1]))
    };
    let from_start: Vec<bool> = (0..longest).map(|i| varies(&|s| s.get(i).copied())).collect();
    let from_end: Vec<bool> = (0..longest).map(|i| varies(&|s| s.iter().rev().nth(i).copied())).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |sequence: &&Vec<u32>| {
        let len = sequence.len();
        let candidates: Vec<usize> = (0..len).filter(|&p| from_start[p] && from_end[len - 1 - p]).collect();
        // Prompts that differ in no position still have a last one.
        let fallback = len.saturating_sub(1);
        if candidates.is_empty() { fallback } else { candidates[random.random_range(0..candidates.len())] }
    };
    sequences.iter().map(&mut draw).collect()
}

/// The cosine between two vectors; NaN when one of them is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
