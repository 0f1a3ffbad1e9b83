//! Steering: texts that a model writes while a direction is added to its residual stream.
//!
//! At every position of the prompt and of every token that is written, the coefficient times the direction is added at each
//! steered site (activation addition, Turner et al. 2023, arXiv 2308.10248; arXiv 2310.15154's appendix adds along the
//! sentiment direction). Texts of all coefficients, prompts and samples are rows of one batch; those of one prompt and
//! coefficient share its keys and values, and a text that has ended leaves the batch.

use super::devices::{locked, on_every_device};
use super::sampling::{Sampling, stream};
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Intervention, Op, Output, Part, Patch, Site, Source};
use crate::model::ModelConfig;
use crate::types::numbers;
use rand_chacha::ChaCha20Rng;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Mutex;

/// What texts are written from.
#[derive(Debug, Clone, Copy)]
pub struct Steering<'a> {
    /// Token ids of every prompt.
    pub prompts: &'a [Vec<u32>],
    /// Where something is added, and what: `d_model` values each.
    pub steered: &'a [(Site, Vec<f32>)],
    /// Tokens that end a text.
    pub ends: &'a [u32],
    /// How tokens are drawn.
    pub sampling: Sampling,
}

/// One text to write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Number of its prompt.
    pub prompt: usize,
    /// What the direction is multiplied by.
    pub coefficient: f32,
    /// Which of several texts with the same prompt and coefficient.
    pub sample: u32,
}

/// A text that was written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Written {
    /// Its tokens without the prompt's; the one that ended it is the last.
    pub tokens: Vec<u32>,
    /// Every token's log probability under the steered model, whole vocabulary, temperature 1.
    pub log_probabilities: Vec<f64>,
    /// Did a token end it, and not the limit?
    pub ended: bool,
}

impl Steering<'_> {
    /// Refuses what cannot be steered.
    ///
    /// # Errors
    /// [`EngineError`] for a site that the model does not have, one that is named twice, one that is no vector of the residual
    /// stream, a direction of another width, and a way of drawing that there is not.
    pub fn check(&self, config: &ModelConfig) -> Result<(), EngineError> {
        let mismatch =
            |what: String, expected: String, found: String| Err(EngineError::Mismatch { what, expected, found });
        let Sampling { temperature, max_new_tokens, .. } = self.sampling;
        if !temperature.is_finite() || temperature < 0.0 {
            return mismatch("temperature".into(), "a number of at least 0".into(), temperature.to_string());
        }
        if max_new_tokens == 0 {
            return mismatch("new tokens of a text".into(), "at least 1".into(), "0".into());
        }
        for (number, (site, direction)) in self.steered.iter().enumerate() {
            site.check(config)?;
            let whole = !site.has_heads() && !matches!(site, Site::MlpPre(_) | Site::MlpPost(_));
            if !whole {
                let expected = "as wide as the residual stream: hook_resid_*, hook_attn_out, hook_mlp_out, hook_embed";
                return mismatch("steered site".into(), expected.into(), site.to_string());
            }
            if direction.len() != config.d_model {
                let found = direction.len().to_string();
                return mismatch(format!("direction at {site}"), format!("{} values", config.d_model), found);
            }
            let same = |other: &Site| other.canonical(config.n_layers) == site.canonical(config.n_layers);
            if self.steered[..number].iter().any(|(other, _)| same(other)) {
                return mismatch("steered sites".into(), "each once".into(), format!("{site} twice"));
            }
        }
        Ok(())
    }

    /// Texts in batches: neighbours with at most `tokens` tokens of prompts and of their own, or one alone.
    fn batches(&self, wanted: &[Wanted], tokens: usize) -> Vec<Range<usize>> {
        let mut batches: Vec<Range<usize>> = Vec::new();
        let mut used = 0;
        for (number, text) in wanted.iter().enumerate() {
            let alone = self.prompts[text.prompt].len() + self.sampling.max_new_tokens;
            let shared = number > 0 && source(&wanted[number - 1]) == source(text);
            let more = if shared { self.sampling.max_new_tokens } else { alone };
            match batches.last_mut() {
                Some(last) if used + more <= tokens => {
                    used += more;
                    last.end = number + 1;
                }
                _ => {
                    used = alone;
                    batches.push(number..number + 1);
                }
            }
        }
        batches
    }
}

/// What texts must have in common to share a prompt's keys and values.
fn source(wanted: &Wanted) -> (usize, u32) {
    (wanted.prompt, wanted.coefficient.to_bits())
}

/// Writes all texts. `told` hears of every batch's, (number in `wanted`, text), and its error ends the work. A text depends on
/// no other, on no batch and on no number of threads.
///
/// # Errors
/// Those of [`Steering::check`], [`Engine::begin_texts`] and of `told`.
pub fn write_texts<B: Backend, E: From<EngineError> + Send>(
    engine: &Engine<B>,
    steering: &Steering<'_>,
    wanted: &[Wanted],
    told: impl FnMut(Vec<(usize, Written)>) -> Result<(), E> + Send,
) -> Result<(), E> {
    steering.check(engine.config())?;
    if let Some(text) = wanted.iter().find(|text| text.prompt >= steering.prompts.len()) {
        let (expected, found) = (numbers(steering.prompts.len()), text.prompt.to_string());
        return Err(EngineError::Mismatch { what: "prompt to continue".into(), expected, found }.into());
    }
    let batches = steering.batches(wanted, engine.max_tokens());
    let told = Mutex::new(told);
    on_every_device(engine, batches.len(), |engine, numbers| {
        for &number in numbers {
            let texts = in_memory(engine, steering, wanted, batches[number].clone())?;
            (*locked(&told))(texts)?;
        }
        Ok(())
    })
}

/// A batch, in parts if the device's memory is too small for all of it.
fn in_memory<B: Backend>(
    engine: &Engine<B>,
    steering: &Steering<'_>,
    wanted: &[Wanted],
    batch: Range<usize>,
) -> Result<Vec<(usize, Written)>, EngineError> {
    let tokens = batch.len() * steering.sampling.max_new_tokens;
    match write_batch(engine, steering, &wanted[batch.clone()]) {
        Ok(texts) => Ok(batch.zip(texts).collect()),
        Err(error) if batch.len() > 1 && engine.halves_batches(&error, tokens) => {
            let middle = batch.start + batch.len() / 2;
            let mut parts = in_memory(engine, steering, wanted, batch.start..middle)?;
            parts.extend(in_memory(engine, steering, wanted, middle..batch.end)?);
            Ok(parts)
        }
        Err(error) => Err(error),
    }
}

/// What is added in a batch: per site one row per prompt and coefficient.
struct Additions<B: Backend>(Vec<(Site, B::Tensor)>);

impl<B: Backend> Additions<B> {
    fn new(engine: &Engine<B>, steering: &Steering<'_>, coefficients: &[f32]) -> Result<Self, EngineError> {
        let upload = |(site, direction): &(Site, Vec<f32>)| {
            let rows =
                coefficients.iter().flat_map(|coefficient| direction.iter().map(move |value| coefficient * value));
            Ok((*site, engine.backend().upload(&rows.collect::<Vec<_>>())?))
        };
        Ok(Self(steering.steered.iter().map(upload).collect::<Result<_, EngineError>>()?))
    }

    /// The interventions that add at these places.
    fn at(&self, patches: &[Patch]) -> Vec<Intervention<'_, B>> {
        let each = self.0.iter().map(|(site, rows)| Intervention {
            site: *site,
            part: Part::All,
            patches: patches.to_vec(),
            op: Op::Add { source: Source::Rows(rows), scale: 1.0 },
        });
        each.collect()
    }
}

/// One text in the making.
struct Writer {
    random: ChaCha20Rng,
    text: Written,
    done: bool,
}

impl Writer {
    fn new(wanted: &Wanted, seed: u64) -> Self {
        let random = stream(seed, wanted.coefficient, wanted.sample);
        Self { random, text: Written::default(), done: false }
    }

    /// Draws the next token.
    fn go_on(&mut self, logits: &[f32], steering: &Steering<'_>) {
        let drawn = steering.sampling.draw(logits, &mut self.random);
        self.text.tokens.push(drawn.token);
        self.text.log_probabilities.push(drawn.log_probability);
        self.text.ended = steering.ends.contains(&drawn.token);
        self.done = self.text.ended || self.text.tokens.len() >= steering.sampling.max_new_tokens;
    }
}

fn write_batch<B: Backend>(
    engine: &Engine<B>,
    steering: &Steering<'_>,
    wanted: &[Wanted],
) -> Result<Vec<Written>, EngineError> {
    let mut sources: Vec<Wanted> = wanted.to_vec();
    sources.dedup_by_key(|text| source(text));
    let place = |text: &Wanted| sources.iter().position(|other| source(other) == source(text)).unwrap_or(0);
    let of: Vec<usize> = wanted.iter().map(place).collect();
    let coefficients: Vec<f32> = sources.iter().map(|text| text.coefficient).collect();
    let prompts: Vec<Vec<u32>> = sources.iter().map(|text| steering.prompts[text.prompt].clone()).collect();
    let additions = Additions::new(engine, steering, &coefficients)?;
    let patch = |row: usize, position: usize, source: usize| Patch { row, position, source, basis: 0 };
    let everywhere = |(row, prompt): (usize, &Vec<u32>)| (0..prompt.len()).map(move |at| patch(row, at, row));
    let patches: Vec<Patch> = prompts.iter().enumerate().flat_map(everywhere).collect();
    let room = steering.sampling.max_new_tokens;
    let (mut texts, logits) = engine.begin_texts(&prompts, &additions.at(&patches), &of, room)?;
    let mut writers: Vec<Writer> = wanted.iter().map(|text| Writer::new(text, steering.sampling.seed)).collect();
    let pairs = writers.par_iter_mut().zip(&of);
    pairs.for_each(|(writer, &prompt)| writer.go_on(logits.values.row(prompt), steering));
    loop {
        let last = |(text, writer): (usize, &Writer)| Some((text, *writer.text.tokens.last()?));
        let going = writers.iter().enumerate().filter(|(_, writer)| !writer.done);
        let next: Vec<(usize, u32)> = going.filter_map(last).collect();
        if next.is_empty() {
            return Ok(writers.into_iter().map(|writer| writer.text).collect());
        }
        let places = next.iter().enumerate().map(|(row, &(text, _))| patch(row, texts.next_position(text), of[text]));
        let interventions = additions.at(&places.collect::<Vec<_>>());
        let run = engine.extend_texts(&mut texts, &next, &interventions, &[], Output::Last)?;
        let logits = run.logits().ok_or_else(|| EngineError::NotCaptured { site: "logits".into() })?;
        let going: Vec<&mut Writer> = writers.iter_mut().filter(|writer| !writer.done).collect();
        let pairs = going.into_par_iter().enumerate();
        pairs.for_each(|(row, writer)| writer.go_on(logits.values.row(row), steering));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_neighbours_and_count_a_shared_prompt_once() {
        let prompts = [vec![0; 10]];
        let sampling = Sampling { temperature: 1.0, top_k: 0, max_new_tokens: 5, seed: 0 };
        let steering = Steering { prompts: &prompts, steered: &[], ends: &[], sampling };
        let text = |coefficient, sample| Wanted { prompt: 0, coefficient, sample };
        let wanted = [text(1.0, 0), text(1.0, 1), text(1.0, 2), text(2.0, 0), text(2.0, 1)];
        let ends = |tokens| -> Vec<usize> {
            let batches = steering.batches(&wanted, tokens);
            assert!(batches.windows(2).all(|pair| pair[0].end == pair[1].start) && batches[0].start == 0);
            batches.iter().map(|batch| batch.end).collect()
        };
        assert_eq!(ends(45), [5]);
        assert_eq!(ends(44), [4, 5]);
        assert_eq!(ends(25), [3, 5]);
        assert_eq!(ends(1), [1, 2, 3, 4, 5]);
        assert!(steering.batches(&[], 9).is_empty());
    }
}
