//! Where heads attend: patterns, weighted by the values they move or not, beside what the heads write.

use super::activation_maps::common_length;
use super::chunks::{Kept, stretches};
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Output, Run, Site};
use crate::types::{PairedPrompts, numbers};
use std::collections::BTreeSet;

/// A query head: layer, head.
pub type Head = (usize, usize);

/// Attention of some heads, averaged over the clean prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanPatterns {
    /// Tokens of a prompt.
    pub length: usize,
    /// `(heads, query, key)` probabilities.
    pub patterns: Vec<f64>,
    /// `(heads, key)`: mean length of the value vector that a head reads there.
    pub value_norms: Vec<f64>,
}

impl MeanPatterns {
    /// Every key's probability times the mean length of its value, in shares of each query's sum: `(heads, query, key)`.
    pub fn weighted(&self) -> Vec<f64> {
        let mut weighted = self.patterns.clone();
        let per_head = (self.length * self.length).max(1);
        for (rows, norms) in weighted.chunks_mut(per_head).zip(self.value_norms.chunks(self.length.max(1))) {
            for row in rows.chunks_mut(self.length) {
                row.iter_mut().zip(norms).for_each(|(probability, norm)| *probability *= norm);
                let sum: f64 = row.iter().sum();
                row.iter_mut().for_each(|share| *share /= sum);
            }
        }
        weighted
    }
}

/// Refuses a head that the model does not have.
///
/// # Errors
/// [`EngineError::NoSuchSite`], [`EngineError::Mismatch`].
pub fn check_heads<B: Backend>(engine: &Engine<B>, heads: &[Head]) -> Result<(), EngineError> {
    let n_heads = engine.config().n_heads;
    for &(layer, head) in heads {
        Site::Pattern(layer).check(engine.config())?;
        if head >= n_heads {
            return Err(EngineError::Mismatch {
                what: format!("head {layer}.{head}"),
                expected: numbers(n_heads),
                found: head.to_string(),
            });
        }
    }
    Ok(())
}

/// Patterns and values of a stretch of clean prompts, on the host.
struct Seen<'a, B: Backend> {
    engine: &'a Engine<B>,
    run: Run<B>,
}

impl<'a, B: Backend> Seen<'a, B> {
    fn new(engine: &'a Engine<B>, sequences: &[Vec<u32>], sites: &[Site]) -> Result<Self, EngineError> {
        Ok(Self { engine, run: engine.run(sequences, sites, &[], Output::None)? })
    }

    /// A layer's patterns.
    fn layer(&self, layer: usize) -> Result<Vec<f32>, EngineError> {
        Ok(self.engine.backend().download(self.run.site(Site::Pattern(layer))?)?)
    }

    /// A head's pattern in one row of the batch, `(query, key)`, out of its layer's.
    fn pattern<'b>(&self, layer: &'b [f32], row: usize, head: usize) -> &'b [f32] {
        let len = self.run.layout().len(row);
        let start = self.run.layout().pattern_span(row, head, 0, self.engine.config().n_heads).0;
        &layer[start..][..len * len]
    }

    /// Lengths of the values that a head reads in one row of the batch.
    fn value_norms(&self, values: &[f32], row: usize, head: usize) -> Result<Vec<f64>, EngineError> {
        let config = self.engine.config();
        let group = head / (config.n_heads / config.n_kv_heads);
        let first = self.run.token(row, 0)?;
        let value = |token: usize| &values[token * config.d_kv() + group * config.d_head..][..config.d_head];
        let norm = |token| value(token).iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        Ok((first..first + self.run.layout().len(row)).map(norm).collect())
    }
}

fn layers(heads: &[Head]) -> BTreeSet<usize> {
    heads.iter().map(|(layer, _)| *layer).collect()
}

fn clean(prompts: &PairedPrompts, range: std::ops::Range<usize>) -> Vec<Vec<u32>> {
    prompts.clean[range].iter().map(|&sequence| prompts.sequences[sequence].clone()).collect()
}

/// Mean patterns of heads over the clean prompts.
///
/// # Errors
/// A head that is not there, prompts of unequal length, those of the engine.
pub fn mean_patterns<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    heads: &[Head],
    budget: usize,
) -> Result<MeanPatterns, EngineError> {
    check_heads(engine, heads)?;
    let length = common_length(prompts)?;
    let sites: Vec<Site> = layers(heads).into_iter().flat_map(|layer| [Site::Pattern(layer), Site::V(layer)]).collect();
    let mut patterns = vec![0.0; heads.len() * length * length];
    let mut norms = vec![0.0; heads.len() * length];
    for range in stretches(engine.config(), prompts, Kept { sites: &sites, positions: &[] }, 1, budget)? {
        let seen = Seen::new(engine, &clean(prompts, range.clone()), &sites)?;
        for layer in layers(heads) {
            let (all, values) = (seen.layer(layer)?, engine.backend().download(seen.run.site(Site::V(layer))?)?);
            for (number, &(_, head)) in heads.iter().enumerate().filter(|(_, head)| head.0 == layer) {
                for row in 0..range.len() {
                    let sums = patterns[number * length * length..].iter_mut();
                    sums.zip(seen.pattern(&all, row, head)).for_each(|(sum, p)| *sum += f64::from(*p));
                    let sums = norms[number * length..].iter_mut();
                    sums.zip(seen.value_norms(&values, row, head)?).for_each(|(sum, norm)| *sum += norm);
                }
            }
        }
    }
    let n = prompts.clean.len().max(1) as f64;
    patterns.iter_mut().chain(&mut norms).for_each(|sum| *sum /= n);
    Ok(MeanPatterns { length, patterns, value_norms: norms })
}

/// Patterns of heads in one clean prompt, `(heads, query, key)`.
///
/// # Errors
/// A head or prompt that is not there, those of the engine.
pub fn prompt_patterns<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    prompt: usize,
    heads: &[Head],
) -> Result<Vec<f64>, EngineError> {
    check_heads(engine, heads)?;
    check_prompt(prompts, prompt)?;
    let sites: Vec<Site> = layers(heads).into_iter().map(Site::Pattern).collect();
    let seen = Seen::new(engine, &clean(prompts, prompt..prompt + 1), &sites)?;
    let mut patterns = Vec::new();
    for &(layer, head) in heads {
        patterns.extend(seen.pattern(&seen.layer(layer)?, 0, head).iter().map(|p| f64::from(*p)));
    }
    Ok(patterns)
}

/// Refuses a prompt that the dataset does not have.
///
/// # Errors
/// [`EngineError::Mismatch`].
pub fn check_prompt(prompts: &PairedPrompts, prompt: usize) -> Result<(), EngineError> {
    if prompt < prompts.clean.len() {
        return Ok(());
    }
    Err(EngineError::Mismatch {
        what: format!("{}: prompt", prompts.name),
        expected: numbers(prompts.clean.len()),
        found: prompt.to_string(),
    })
}

/// How much every clean prompt's last position attends to one position, `to[prompt]`: `(heads, prompts)`.
///
/// # Errors
/// A head or position that is not there, those of the engine.
pub fn attention_to<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    heads: &[Head],
    to: &[usize],
    budget: usize,
) -> Result<Vec<f64>, EngineError> {
    check_heads(engine, heads)?;
    let sites: Vec<Site> = layers(heads).into_iter().map(Site::Pattern).collect();
    let n = prompts.clean.len();
    let mut found = vec![0.0; heads.len() * n];
    for range in stretches(engine.config(), prompts, Kept { sites: &sites, positions: &[] }, 1, budget)? {
        let seen = Seen::new(engine, &clean(prompts, range.clone()), &sites)?;
        for layer in layers(heads) {
            let all = seen.layer(layer)?;
            for (number, &(_, head)) in heads.iter().enumerate().filter(|(_, head)| head.0 == layer) {
                for (row, prompt) in range.clone().enumerate() {
                    seen.run.token(row, to[prompt])?;
                    let len = seen.run.layout().len(row);
                    let last = &seen.pattern(&all, row, head)[(len - 1) * len..];
                    found[number * n + prompt] = f64::from(last[to[prompt]]);
                }
            }
        }
    }
    Ok(found)
}
