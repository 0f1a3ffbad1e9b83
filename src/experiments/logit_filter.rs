//! Which prompts a model answers rightly.

use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Output};

/// The logit difference of every sequence at its last position, `logit[first] - logit[second]` of its answer pair.
///
/// # Errors
/// Those of [`Engine::run`].
pub fn logit_differences<B: Backend>(
    engine: &Engine<B>,
    sequences: &[Vec<u32>],
    (first, second): (u32, u32),
) -> Result<Vec<f64>, EngineError> {
    if sequences.is_empty() {
        return Ok(Vec::new());
    }
    let columns = engine.answer_columns(&[first, second])?;
    let run = engine.run(sequences, &[], &[], Output::Answers(&columns))?;
    let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "answer logits".into() })?;
    let difference = |row: usize| match logits.values.row(row) {
        [first, second] => f64::from(*first) - f64::from(*second),
        _ => f64::NAN,
    };
    Ok((0..sequences.len()).map(difference).collect())
}
