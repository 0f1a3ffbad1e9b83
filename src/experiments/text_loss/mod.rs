//! What ablating the residual stream costs a model on plain text: the change of its loss of the next token, token by token.
//!
//! Residuals, whole or only along directions, are replaced at every token or only at some, at commas for example. Where only
//! some are ablated, the loss that is predicted from one of them is not counted, as in the paper's code: what counts is
//! what later tokens read there.

mod means;

pub use means::{TextMeans, text_means};

use super::ablation::Replacement;
use super::corpus::{CorpusError, Row};
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Intervention, Op, Output, Part, Patch, Run, Site, Source};
use crate::model::ModelConfig;
use crate::types::Matrix;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The tokens of a text at which something is ablated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextPlaces {
    /// What they are called.
    pub name: String,
    /// Their ids; without them every token.
    pub tokens: Option<BTreeSet<u32>>,
}

impl TextPlaces {
    fn has(&self, token: u32) -> bool {
        self.tokens.as_ref().is_none_or(|tokens| tokens.contains(&token))
    }

    /// Their positions.
    pub fn of(&self, text: &[u32]) -> Vec<usize> {
        (0..text.len()).filter(|&position| self.has(text[position])).collect()
    }

    /// Does the loss count that is predicted from this token?
    pub fn counts(&self, token: u32) -> bool {
        self.tokens.is_none() || !self.has(token)
    }

    /// How many of the losses that count can change: those predicted from behind an ablated token; all of them where every
    /// token is ablated.
    pub fn reached(&self, text: &[u32]) -> usize {
        let predicting = &text[..text.len().saturating_sub(1)];
        let first = predicting.iter().position(|&token| self.has(token)).unwrap_or(predicting.len());
        predicting[first..].iter().filter(|&&token| self.counts(token)).count()
    }
}

/// What is ablated together, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TextCondition {
    /// Layers, in front of whose block (behind the last one for `n_layers`) the residual is replaced: along these unit
    /// columns, `(d_model, k)`, or as a whole.
    pub ablated: BTreeMap<usize, Option<Arc<Matrix>>>,
    /// At which tokens.
    pub places: TextPlaces,
    /// What takes its place: [`Replacement::Zero`]; with [`Replacement::Resample`] another text's residual at the same
    /// position (of its last token, if it is shorter), as it is in the clean run; with [`Replacement::MeanOverPlaces`] the
    /// layer's mean over all such tokens of a corpus.
    pub replacement: Replacement,
}

impl TextCondition {
    fn check(&self, config: &ModelConfig) -> Result<(), EngineError> {
        use Replacement::{MeanOverPlaces, Resample, Zero};
        if ![Zero, Resample, MeanOverPlaces].contains(&self.replacement) {
            return Err(EngineError::Mismatch {
                what: "replacement on plain text".into(),
                expected: "zero, resample or mean_over_places".into(),
                found: self.replacement.to_string(),
            });
        }
        if self.places.tokens.is_some() && self.ablated.keys().all(|&layer| layer >= config.n_layers) {
            let reason = format!("no block is left in which other tokens read {}", self.places.name);
            return Err(self.never_fires(config, reason));
        }
        Ok(())
    }

    fn never_fires(&self, config: &ModelConfig, reason: String) -> EngineError {
        let first = self.ablated.keys().next().copied().unwrap_or_default();
        EngineError::NeverFires { site: Site::resid(first, config.n_layers).to_string(), reason }
    }

    /// The error for a corpus in which it changes nothing that counts.
    fn changes_nothing(&self, config: &ModelConfig) -> EngineError {
        match self.places.tokens {
            None => mismatch("tokens to predict in the corpus", "at least one", 0),
            Some(_) => {
                let reason = format!("no text of the corpus has a token {} with others behind it", self.places.name);
                self.never_fires(config, reason)
            }
        }
    }
}

/// Losses in nats of all tokens that count together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TextLoss {
    /// Tokens that were predicted, from tokens that count.
    pub tokens: usize,
    /// How many of them the condition can change ([`TextPlaces::reached`]).
    pub reached: usize,
    /// Mean loss of the model as it is.
    pub clean: f64,
    /// Mean loss under the condition.
    pub ablated: f64,
}

impl TextLoss {
    /// Adds the losses of a batch to sums.
    fn add(&mut self, places: &TextPlaces, rows: &[Vec<u32>], clean: &[Vec<f64>], ablated: &[Vec<f64>]) {
        for (number, text) in rows.iter().enumerate() {
            self.reached += places.reached(text);
            let (mut sums, counted) = ([0.0; 2], |position: &usize| places.counts(text[*position]));
            for position in (0..clean[number].len()).filter(counted) {
                self.tokens += 1;
                sums[0] += clean[number][position];
                sums[1] += ablated[number][position];
            }
            self.clean += sums[0];
            self.ablated += sums[1];
        }
    }

    /// Sums as means.
    fn mean(self) -> Self {
        let count = self.tokens.max(1) as f64;
        Self { clean: self.clean / count, ablated: self.ablated / count, ..self }
    }
}

/// Losses in nats of the rows of a batch: number `p` of a row is that of its token `p + 1`, predicted from token `p`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchLosses {
    /// Of the model as it is, by row.
    pub clean: Vec<Vec<f64>>,
    /// By condition, then by row. Where nothing that counts can change ([`TextPlaces::reached`]), the model as it is.
    pub ablated: Vec<Vec<Vec<f64>>>,
}

/// Looks for rows in which every condition changes something that counts, and for a second one where another is needed;
/// reads no further than that takes.
///
/// # Errors
/// Those of the corpus; a condition that is none for plain text; a single row when another is needed;
/// [`EngineError::NeverFires`] for a condition that changes nothing.
pub fn check_conditions<E: From<EngineError> + From<CorpusError>>(
    config: &ModelConfig,
    rows: impl Iterator<Item = Result<Row, CorpusError>>,
    conditions: &[TextCondition],
) -> Result<(), E> {
    conditions.iter().try_for_each(|condition| condition.check(config))?;
    let mut waiting: Vec<&TextCondition> = conditions.iter().collect();
    let (mut rows, mut texts) = (rows, 0);
    let resampled = conditions.iter().any(|condition| condition.replacement == Replacement::Resample);
    while !waiting.is_empty() || (resampled && texts < 2) {
        let Some(row) = rows.next().transpose()? else { break };
        waiting.retain(|condition| condition.places.reached(&row.tokens) == 0);
        texts += 1;
    }
    if resampled && texts == 1 {
        return Err(mismatch("texts to resample from", "at least 2", texts).into());
    }
    waiting.first().map_or(Ok(()), |condition| Err(condition.changes_nothing(config).into()))
}

/// Losses over a corpus under every condition, which passes through the model in batches of at least two rows and about
/// `most` tokens ([`tokens_of_a_batch`]). `told` hears every batch.
///
/// # Errors
/// Those of the corpus, of the engine and of `told`; no row at all, and a single one when another is needed; a condition that
/// is none for plain text, or needs a mean that `means` does not have; [`EngineError::NeverFires`] for a condition that
/// changes nothing that counts.
pub fn text_losses<B: Backend, E: From<EngineError> + From<CorpusError>>(
    engine: &Engine<B>,
    rows: impl Iterator<Item = Result<Row, CorpusError>>,
    (conditions, means): (&[TextCondition], &TextMeans),
    (seed, most): (u64, usize),
    mut told: impl FnMut(&[Row], &BatchLosses) -> Result<(), E>,
) -> Result<Vec<TextLoss>, E> {
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    let mut sums = vec![TextLoss::default(); conditions.len()];
    let (mut rows, mut waiting) = (rows.fuse(), Vec::new());
    loop {
        let (batch, last) = next_rows(&mut rows, &mut waiting, most)?;
        if batch.is_empty() {
            return Err(mismatch("texts in the corpus", "at least one", 0).into());
        }
        let texts: Vec<Vec<u32>> = batch.iter().map(|row| row.tokens.clone()).collect();
        let losses = batch_losses(engine, &texts, &other_rows(batch.len(), &mut random), (conditions, means))?;
        for ((sum, condition), ablated) in sums.iter_mut().zip(conditions).zip(&losses.ablated) {
            sum.add(&condition.places, &texts, &losses.clean, ablated);
        }
        told(&batch, &losses)?;
        if last {
            break;
        }
    }
    match sums.iter().position(|sum| sum.reached == 0) {
        Some(number) => Err(conditions[number].changes_nothing(engine.config()).into()),
        None => Ok(sums.into_iter().map(TextLoss::mean).collect()),
    }
}

/// About how many tokens a batch has: full logits of all of them are on the host at once. Texts are resampled from those
/// of the same batch.
pub fn tokens_of_a_batch(config: &ModelConfig, max_tokens: usize, memory_budget: usize) -> usize {
    max_tokens.min((memory_budget / (4 * config.d_vocab)).max(1))
}

/// The next rows, with about `most` tokens, and are they the last? Two rows stay behind in `waiting`, unless these are the
/// last: no batch is left with a single one.
fn next_rows(
    rows: &mut impl Iterator<Item = Result<Row, CorpusError>>,
    waiting: &mut Vec<Row>,
    most: usize,
) -> Result<(Vec<Row>, bool), CorpusError> {
    let mut batch = std::mem::take(waiting);
    while batch.len() < 4 || batch.iter().map(|row| row.tokens.len()).sum::<usize>() < most {
        match rows.next().transpose()? {
            Some(row) => batch.push(row),
            None => return Ok((batch, true)),
        }
    }
    *waiting = batch.split_off(batch.len() - 2);
    Ok((batch, false))
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

/// The losses of a batch. `others` names for each row the one whose values it takes where it is resampled.
///
/// # Errors
/// As [`text_losses`].
pub fn batch_losses<B: Backend>(
    engine: &Engine<B>,
    rows: &[Vec<u32>],
    others: &[usize],
    (conditions, means): (&[TextCondition], &TextMeans),
) -> Result<BatchLosses, EngineError> {
    let config = engine.config();
    conditions.iter().try_for_each(|condition| condition.check(config))?;
    let resampled = conditions.iter().filter(|condition| condition.replacement == Replacement::Resample);
    let sites: BTreeSet<Site> = resampled
        .flat_map(|condition| condition.ablated.keys())
        .map(|&layer| Site::resid(layer, config.n_layers))
        .collect();
    if !sites.is_empty() && rows.len() < 2 {
        return Err(mismatch("texts to resample from", "at least 2", rows.len()));
    }
    let run = engine.run(rows, &Vec::from_iter(sites), &[], Output::All)?;
    let clean = losses(&run, rows)?;
    let mut ablated = Vec::with_capacity(conditions.len());
    for condition in conditions {
        let mut all = clean.clone();
        // A row in which nothing that counts can change is not run again.
        let reached: Vec<usize> = (0..rows.len()).filter(|&row| condition.places.reached(&rows[row]) > 0).collect();
        if !reached.is_empty() {
            let found = ablated_losses(engine, rows, (&reached, others), &run, (condition, means))?;
            reached.into_iter().zip(found).for_each(|(row, found)| all[row] = found);
        }
        ablated.push(all);
    }
    Ok(BatchLosses { clean, ablated })
}

/// The losses of the rows numbered in `reached` under a condition.
fn ablated_losses<B: Backend>(
    engine: &Engine<B>,
    rows: &[Vec<u32>],
    (reached, others): (&[usize], &[usize]),
    clean: &Run<B>,
    (condition, means): (&TextCondition, &TextMeans),
) -> Result<Vec<Vec<f64>>, EngineError> {
    let backend = engine.backend();
    let mut patches = Vec::new();
    for (row, &own) in reached.iter().enumerate() {
        let other = others[own];
        for position in condition.places.of(&rows[own]) {
            let source = match condition.replacement {
                Replacement::Resample => clean.token(other, position.min(rows[other].len() - 1))?,
                _ => 0,
            };
            patches.push(Patch { row, position, source, basis: 0 });
        }
    }
    let mut uploaded = Vec::new();
    for (&layer, columns) in &condition.ablated {
        let basis = match columns {
            None => None,
            Some(columns) => {
                let column = |number| (0..columns.rows).map(move |row| columns.row(row)[number]);
                let rows: Vec<f32> = (0..columns.cols).flat_map(column).collect();
                Some((columns.cols, backend.upload(&rows)?))
            }
        };
        let mean = match condition.replacement {
            Replacement::MeanOverPlaces => Some(backend.upload(&means.of(&condition.places, layer)?.data)?),
            _ => None,
        };
        uploaded.push((Site::resid(layer, engine.config().n_layers), basis, mean));
    }
    let mut interventions = Vec::with_capacity(uploaded.len());
    for (site, basis, mean) in &uploaded {
        let source = match (condition.replacement, mean) {
            (_, Some(mean)) => Source::Rows(mean),
            (Replacement::Resample, None) => Source::Run(clean),
            (_, None) => Source::Zero,
        };
        let op = match basis {
            Some((k, bases)) => Op::Swap { source, bases, k: *k },
            None => Op::Replace(source),
        };
        interventions.push(Intervention { site: *site, part: Part::All, patches: patches.clone(), op });
    }
    let texts: Vec<Vec<u32>> = reached.iter().map(|&row| rows[row].clone()).collect();
    losses(&engine.run_patched(&texts, &interventions, &[], Output::All)?, &texts)
}

/// Of every row and token behind its first, `log Σ exp` less the token's logit.
fn losses<B: Backend>(run: &Run<B>, rows: &[Vec<u32>]) -> Result<Vec<Vec<f64>>, EngineError> {
    let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "logits".into() })?;
    let loss = |(row, position, next): (usize, usize, u32)| -> Result<f64, EngineError> {
        let values = logits.values.row(run.token(row, position)?);
        let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exponentials: f64 = values.iter().map(|value| f64::from(value - largest).exp()).sum();
        Ok(exponentials.ln() + f64::from(largest) - f64::from(values[next as usize]))
    };
    let of_row = |(row, tokens): (usize, &Vec<u32>)| {
        tokens.iter().skip(1).enumerate().map(|(position, &next)| loss((row, position, next))).collect()
    };
    rows.par_iter().enumerate().map(of_row).collect()
}
