//! What taking directions away costs a model on plain text: the change of its loss of the next token.

use super::ablation::Replacement;
use super::corpus::{CorpusError, Row};
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Intervention, Op, Output, Part, Patch, Run, Site, Source};
use crate::types::Matrix;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is taken away: at every position, in front of each block of the keys (behind the last one for `n_layers`).
#[derive(Debug, Clone, PartialEq)]
pub struct TextCondition {
    /// Unit columns by layer, `(d_model, k)` each.
    pub columns: BTreeMap<usize, Arc<Matrix>>,
    /// What takes the place of the component along them: [`Replacement::Zero`], or with [`Replacement::Resample`] that of
    /// another text at the same position (of its last token, if it is shorter), as it is in the clean run.
    pub replacement: Replacement,
}

/// Losses in nats, of all tokens together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TextLosses {
    /// Tokens that were predicted.
    pub tokens: usize,
    /// Mean loss of the model as it is.
    pub clean: f64,
    /// Mean loss under every condition.
    pub ablated: Vec<f64>,
}

/// Mean losses over a corpus, which passes through the model in batches of at least two rows. `told` hears how many tokens
/// have been predicted.
///
/// # Errors
/// Those of the corpus, of the engine and of `told`; a replacement that is neither zero nor resample; a corpus of a single
/// row, when another one is needed; rows of a single token alone.
pub fn text_losses<B: Backend, E: From<EngineError> + From<CorpusError>>(
    engine: &Engine<B>,
    rows: impl Iterator<Item = Result<Row, CorpusError>>,
    conditions: &[TextCondition],
    seed: u64,
    mut told: impl FnMut(usize) -> Result<(), E>,
) -> Result<TextLosses, E> {
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    // Full logits of a batch are on the host at once.
    let room = engine.memory_budget() / (4 * engine.config().d_vocab);
    let most = engine.max_tokens().min(room.max(1));
    let (mut tokens, mut sums) = (0, vec![0.0; conditions.len() + 1]);
    let mut rows = rows.map(|row| row.map(|row| row.tokens)).fuse();
    let mut waiting: Vec<Vec<u32>> = Vec::new();
    loop {
        // Two rows stay behind, unless these are the last: no batch is left with a single one.
        let mut batch = std::mem::take(&mut waiting);
        let mut last = false;
        while batch.len() < 4 || batch.iter().map(Vec::len).sum::<usize>() < most {
            match rows.next().transpose()? {
                Some(row) => batch.push(row),
                None => {
                    last = true;
                    break;
                }
            }
        }
        if !last {
            waiting = batch.split_off(batch.len() - 2);
        }
        let others = other_rows(batch.len(), &mut random);
        let found = batch_losses(engine, &batch, &others, conditions)?;
        sums.iter_mut().zip(&found).for_each(|(sum, found)| *sum += found);
        tokens += batch.iter().map(|row| row.len() - 1).sum::<usize>();
        told(tokens)?;
        if last {
            break;
        }
    }
    if tokens == 0 {
        return Err(mismatch("tokens to predict in the corpus", "at least one", 0).into());
    }
    let mut means = sums.into_iter().map(|sum| sum / tokens as f64);
    Ok(TextLosses { tokens, clean: means.next().unwrap_or_default(), ablated: means.collect() })
}

fn mismatch(what: &str, expected: &str, found: usize) -> EngineError {
    EngineError::Mismatch { what: what.into(), expected: expected.into(), found: found.to_string() }
}

/// For each row another one, every row once: the next in a random circle.
fn other_rows(count: usize, random: &mut ChaCha20Rng) -> Vec<usize> {
    let mut circle: Vec<usize> = (0..count).collect();
    circle.shuffle(random);
    let mut others = vec![0; count];
    for (place, &row) in circle.iter().enumerate() {
        others[row] = circle[(place + 1) % count];
    }
    others
}

/// Sums of the losses of a batch: of the model as it is, then under every condition. `others` names for each row the one
/// whose values it takes where it is resampled.
///
/// # Errors
/// As [`text_losses`].
pub fn batch_losses<B: Backend>(
    engine: &Engine<B>,
    rows: &[Vec<u32>],
    others: &[usize],
    conditions: &[TextCondition],
) -> Result<Vec<f64>, EngineError> {
    let n_layers = engine.config().n_layers;
    let resampled = conditions.iter().filter(|condition| condition.replacement == Replacement::Resample);
    let sites: BTreeSet<Site> =
        resampled.flat_map(|condition| condition.columns.keys()).map(|&layer| Site::resid(layer, n_layers)).collect();
    if !sites.is_empty() && rows.len() < 2 {
        return Err(mismatch("texts to resample from", "at least 2", rows.len()));
    }
    let sites: Vec<Site> = sites.into_iter().collect();
    let clean = engine.run(rows, &sites, &[], Output::All)?;
    let mut sums = vec![loss(&clean, rows)?];
    for condition in conditions {
        let bases: Vec<(Site, usize, B::Tensor)> = condition
            .columns
            .iter()
            .map(|(&layer, columns)| {
                let (k, data) = (columns.cols, &columns.data);
                let basis: Vec<f32> = (0..k).flat_map(|column| data.iter().skip(column).step_by(k).copied()).collect();
                Ok((Site::resid(layer, n_layers), columns.cols, engine.backend().upload(&basis)?))
            })
            .collect::<Result<_, EngineError>>()?;
        let source = |row: usize, position: usize| match condition.replacement {
            Replacement::Resample => clean.token(others[row], position.min(rows[others[row]].len() - 1)),
            _ => Ok(0),
        };
        let mut patches = Vec::new();
        for (row, tokens) in rows.iter().enumerate() {
            for position in 0..tokens.len() {
                patches.push(Patch { row, position, source: source(row, position)?, basis: 0 });
            }
        }
        let mut interventions = Vec::new();
        for (site, k, bases) in &bases {
            let source = match condition.replacement {
                Replacement::Resample => Source::Run(&clean),
                Replacement::Zero => Source::Zero,
                other => {
                    let (what, expected) = ("replacement on plain text".into(), "zero or resample".into());
                    return Err(EngineError::Mismatch { what, expected, found: other.to_string() });
                }
            };
            let op = Op::Swap { source, bases, k: *k };
            interventions.push(Intervention { site: *site, part: Part::All, patches: patches.clone(), op });
        }
        sums.push(loss(&engine.run_patched(rows, &interventions, &[], Output::All)?, rows)?);
    }
    Ok(sums)
}

/// The sum over all tokens behind each row's first of `log Σ exp` less the token's logit.
fn loss<B: Backend>(run: &Run<B>, rows: &[Vec<u32>]) -> Result<f64, EngineError> {
    let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "logits".into() })?;
    let of_row = |(row, tokens): (usize, &Vec<u32>)| -> Result<f64, EngineError> {
        let mut sum = 0.0;
        for (position, &next) in tokens.iter().skip(1).enumerate() {
            let values = logits.values.row(run.token(row, position)?);
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exponentials: f64 = values.iter().map(|value| f64::from(value - largest).exp()).sum();
            sum += exponentials.ln() + f64::from(largest) - f64::from(values[next as usize]);
        }
        Ok(sum)
    };
    // Summed in order, so that threads change nothing.
    let sums: Vec<f64> = rows.par_iter().enumerate().map(of_row).collect::<Result<_, _>>()?;
    Ok(sums.iter().sum())
}
