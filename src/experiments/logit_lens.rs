//! The logit lens: what is predicted from the residual stream in front of every block, and at the end, where it is the model's
//! own prediction (nostalgebraist 2020); of plain text, and of clean, corrupted and patched runs.
//!
//! Only so many rows of logits as a batch has tokens are on the host at once: of each the likeliest tokens are kept, and those
//! that are asked for.

use super::sampling::{likelier, likeliest};
use super::text_loss::tokens_of_a_batch;
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Intervention, Op, Output, Part, Patch, Run, Site, Source};
use crate::model::ModelConfig;
use crate::types::{Matrix, numbers};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A token, and how likely it is to come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Its id.
    pub token: u32,
    /// 1 for the likeliest one; of equal ones that with the lower id comes first.
    pub rank: usize,
    /// Over the whole vocabulary, in nats.
    pub log_probability: f64,
}

/// What is predicted at a position.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prediction {
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<Ranked>,
    /// The tokens that were asked for.
    pub asked: Vec<Ranked>,
}

impl Prediction {
    /// Reads finite logits, one per token of the vocabulary: the `top` likeliest tokens, at least 1, and those of `asked`.
    pub fn of(logits: &[f32], top: usize, asked: &[u32]) -> Self {
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
        let ranked = |token: usize, rank: usize| {
            let log_probability = f64::from(logits[token]) - largest - sum.ln();
            Ranked { token: token as u32, rank, log_probability }
        };
        let mut first = likeliest(logits, top);
        first.sort_unstable_by(|a, b| likelier(logits, *a, *b));
        let before = |token: usize| (0..logits.len()).filter(|&other| likelier(logits, other, token).is_lt()).count();
        Self {
            top: first.into_iter().enumerate().map(|(place, token)| ranked(token, place + 1)).collect(),
            asked: asked.iter().map(|&token| ranked(token as usize, before(token as usize) + 1)).collect(),
        }
    }
}

/// Where predictions are read, and how much is kept of them.
#[derive(Debug, Clone, Copy)]
pub struct Lens<'a> {
    /// In front of these blocks, `n_layers` for the end, in this order.
    pub layers: &'a [usize],
    /// How many of the likeliest tokens are kept: at least 1.
    pub top: usize,
}

/// A prompt whose runs are read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LensPrompt {
    /// The clean prompt, or a plain text.
    pub clean: Vec<u32>,
    /// The corrupted prompt; plain text has none.
    pub corrupted: Option<Vec<u32>>,
    /// What is asked for at the last position; at every other one it is the token that comes next.
    pub answers: Vec<u32>,
}

/// A patch of the residual stream, clean into corrupted.
#[derive(Debug, Clone, PartialEq)]
pub struct LensPatch {
    /// Where in the residual stream.
    pub site: Site,
    /// The unit columns along which it is patched, `(d_model, k)`; as a whole without any.
    pub along: Option<Arc<Matrix>>,
    /// The positions that are patched, a list for every prompt.
    pub places: Vec<Vec<usize>>,
}

/// What a run of a prompt predicts, `(positions, layers)`.
pub type Predicted = Vec<Prediction>;

/// What is predicted of every prompt: by its clean run, by the corrupted one if it has one, and by the corrupted one under each
/// of `patches`. `told` hears of predictions as they are read, how many more there are.
///
/// # Errors
/// Those of [`check`], of the engine and of `told`.
pub fn predictions<B: Backend, E: From<EngineError>>(
    engine: &Engine<B>,
    lens: Lens<'_>,
    prompts: &[LensPrompt],
    patches: &[LensPatch],
    mut told: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<Vec<Predicted>>, E> {
    check(engine.config(), lens, prompts, patches)?;
    let reader = Reader::new(engine, lens, patches);
    let mut all = Vec::with_capacity(prompts.len());
    while all.len() < prompts.len() {
        let (first, end) = (all.len(), reader.batch_end(prompts, all.len()));
        all.extend(reader.batch(&prompts[first..end], first, patches, &mut told)?);
    }
    Ok(all)
}

/// Refuses what cannot be read, or patched.
///
/// # Errors
/// [`EngineError`] for a layer, site, token or shape that does not fit, and for a patch that changes nothing that is read.
pub fn check(
    config: &ModelConfig,
    lens: Lens<'_>,
    prompts: &[LensPrompt],
    patches: &[LensPatch],
) -> Result<(), EngineError> {
    let off = |what: String, expected: String, found: String| Err(EngineError::Mismatch { what, expected, found });
    let last = match lens.layers.iter().max() {
        Some(&last) if last <= config.n_layers => last,
        last => {
            let found = last.map_or("none".into(), usize::to_string);
            return off("layers of the lens".into(), numbers(config.n_layers + 1), found);
        }
    };
    if lens.top == 0 {
        return off("likeliest tokens of the lens".into(), "at least 1".into(), "0".into());
    }
    let outside = |token: &&u32| **token as usize >= config.d_vocab;
    if let Some(token) = prompts.iter().flat_map(|prompt| &prompt.answers).find(outside) {
        return off("token of an answer".into(), numbers(config.d_vocab), token.to_string());
    }
    for (number, prompt) in prompts.iter().enumerate().filter(|_| !patches.is_empty()) {
        let (expected, found) = (prompt.clean.len(), prompt.corrupted.as_ref().map_or(0, Vec::len));
        if expected != found {
            let what = format!("tokens of the corrupted prompt of pair {number} of those that are read");
            return off(what, expected.to_string(), found.to_string());
        }
    }
    patches.iter().try_for_each(|patch| check_patch(config, last, prompts, patch))
}

/// Is the patch one of the residual stream, and does it change what is read of every prompt, at layers up to `last`?
fn check_patch(
    config: &ModelConfig,
    last: usize,
    prompts: &[LensPrompt],
    patch: &LensPatch,
) -> Result<(), EngineError> {
    let site = patch.site;
    site.check(config)?;
    let first_seen = match site {
        Site::ResidPre(layer) => layer,
        Site::ResidMid(layer) | Site::ResidPost(layer) => layer + 1,
        _ => {
            let reason = "expected the residual stream: hook_resid_pre, hook_resid_mid or hook_resid_post".into();
            return Err(EngineError::NoSuchSite { site: site.to_string(), reason });
        }
    };
    if let Some(found) = patch.along.as_ref().map(|columns| columns.rows).filter(|rows| *rows != config.d_model) {
        let (what, expected) = (format!("width of the direction at {site}"), config.d_model.to_string());
        return Err(EngineError::Mismatch { what, expected, found: found.to_string() });
    }
    let never = |reason: String| Err(EngineError::NeverFires { site: site.to_string(), reason });
    if first_seen > last {
        return never(format!(
            "predictions are read at layers up to {last}, and it is seen from layer {first_seen} on"
        ));
    }
    match (0..prompts.len()).find(|&prompt| patch.places.get(prompt).is_none_or(Vec::is_empty)) {
        None => Ok(()),
        Some(prompt) => never(format!("prompt {prompt} of those that are read has no such position")),
    }
}

/// Reads batches of prompts.
struct Reader<'a, B: Backend> {
    engine: &'a Engine<B>,
    lens: Lens<'a>,
    /// What every run keeps: what is read, and what patches take their values from.
    captured: Vec<Site>,
    /// Most rows of logits at once.
    rows: usize,
}

impl<'a, B: Backend> Reader<'a, B> {
    fn new(engine: &'a Engine<B>, lens: Lens<'a>, patches: &[LensPatch]) -> Self {
        let config = engine.config();
        let read = lens.layers.iter().map(|&layer| Site::resid(layer, config.n_layers));
        let captured: BTreeSet<Site> = read.chain(patches.iter().map(|patch| patch.site)).collect();
        let rows = tokens_of_a_batch(config, engine.max_tokens(), engine.memory_budget());
        Self { engine, lens, captured: captured.into_iter().collect(), rows }
    }

    /// The end of the batch that begins with prompt `first`: two runs of its tokens are kept at a time.
    fn batch_end(&self, prompts: &[LensPrompt], first: usize) -> usize {
        let kept = 4 * self.engine.config().d_model * self.captured.len();
        let most = self.engine.max_tokens().min(self.engine.memory_budget() / (2 * kept));
        let (mut end, mut tokens) = (first, 0);
        while let Some(prompt) = prompts.get(end) {
            tokens += prompt.clean.len() + prompt.corrupted.as_ref().map_or(0, Vec::len);
            if end > first && tokens > most {
                break;
            }
            end += 1;
        }
        end
    }

    /// What is predicted of the prompts of a batch, the first of which is number `first` of all.
    fn batch<E: From<EngineError>>(
        &self,
        prompts: &[LensPrompt],
        first: usize,
        patches: &[LensPatch],
        told: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<Vec<Predicted>>, E> {
        // A prompt's corrupted row stands behind its clean one.
        let runs = |(number, prompt): (usize, &LensPrompt)| {
            let all = std::iter::once(&prompt.clean).chain(&prompt.corrupted);
            all.map(|tokens| (number, tokens.clone())).collect::<Vec<_>>()
        };
        let (owners, sequences): (Vec<usize>, Vec<Vec<u32>>) = prompts.iter().enumerate().flat_map(runs).unzip();
        let base = self.engine.run(&sequences, &self.captured, &[], Output::None)?;
        let mut all = vec![Vec::new(); prompts.len()];
        let answers = owners.iter().map(|&owner| &prompts[owner].answers[..]).collect::<Vec<_>>();
        for (owner, predicted) in owners.iter().zip(self.read(&base, &sequences, &answers, told)?) {
            all[*owner].push(predicted);
        }
        let corrupted: Vec<Vec<u32>> = prompts.iter().filter_map(|prompt| prompt.corrupted.clone()).collect();
        let answers = prompts.iter().map(|prompt| &prompt.answers[..]).collect::<Vec<_>>();
        for patch in patches {
            let run = self.patched(&base, &corrupted, (patch, first))?;
            for (all, predicted) in all.iter_mut().zip(self.read(&run, &corrupted, &answers, told)?) {
                all.push(predicted);
            }
        }
        Ok(all)
    }

    /// The corrupted run with a patch from the clean one.
    fn patched(
        &self,
        base: &Run<B>,
        corrupted: &[Vec<u32>],
        (patch, first): (&LensPatch, usize),
    ) -> Result<Run<B>, EngineError> {
        let mut patches = Vec::new();
        for (row, places) in patch.places[first..].iter().take(corrupted.len()).enumerate() {
            for &position in places {
                patches.push(Patch { row, position, source: base.token(2 * row, position)?, basis: 0 });
            }
        }
        let bases = match &patch.along {
            None => None,
            Some(columns) => {
                let k = columns.cols;
                let rows = (0..k).flat_map(|column| columns.data.iter().skip(column).step_by(k).copied());
                Some((k, self.engine.backend().upload(&rows.collect::<Vec<f32>>())?))
            }
        };
        let source = Source::Run(base);
        let op = match &bases {
            None => Op::Replace(source),
            Some((k, bases)) => Op::Swap { source, bases, k: *k },
        };
        let intervention = Intervention { site: patch.site, part: Part::All, patches, op };
        self.engine.run_patched(corrupted, &[intervention], &self.captured, Output::None)
    }

    /// What every sequence of a run predicts; `answers` is asked for at its last position.
    fn read<E: From<EngineError>>(
        &self,
        run: &Run<B>,
        sequences: &[Vec<u32>],
        answers: &[&[u32]],
        told: &mut impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<Predicted>, E> {
        let asked = |(sequence, answers): (&Vec<u32>, &&[u32])| {
            let next = sequence.iter().skip(1).map(|&token| vec![token]);
            next.chain([answers.to_vec()]).collect::<Vec<_>>()
        };
        let asked: Vec<Vec<u32>> = sequences.iter().zip(answers).flat_map(asked).collect();
        // Nothing but whole sequences is run, so that tokens are numbered as they stand there.
        let tokens: Vec<usize> = (0..asked.len()).collect();
        let mut read = vec![Vec::new(); asked.len()];
        for &layer in self.lens.layers {
            let site = Site::resid(layer, self.engine.config().n_layers);
            for tokens in tokens.chunks(self.rows) {
                let logits = self.engine.lens_logits(run, site, tokens)?;
                let prediction =
                    |(row, &token): (usize, &usize)| Prediction::of(logits.row(row), self.lens.top, &asked[token]);
                let found: Vec<Prediction> = tokens.par_iter().enumerate().map(prediction).collect();
                tokens.iter().zip(found).for_each(|(&token, prediction)| read[token].push(prediction));
                told(tokens.len())?;
            }
        }
        let mut read = read.into_iter();
        Ok(sequences.iter().map(|sequence| read.by_ref().take(sequence.len()).flatten().collect()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_ranked_and_add_up() {
        // Softmax of (0.5, 1, 0): 0.30720, 0.50648, 0.18632, as published to five digits.
        let found = Prediction::of(&[0.5, 1.0, 0.0], 2, &[2, 1]);
        let places = |list: &[Ranked]| list.iter().map(|one| (one.token, one.rank)).collect::<Vec<_>>();
        assert_eq!((places(&found.top), places(&found.asked)), (vec![(1, 1), (0, 2)], vec![(2, 3), (1, 1)]));
        for (one, expected) in found.top.iter().chain(&found.asked).zip([0.50648, 0.30720, 0.18632, 0.50648f64]) {
            assert!((one.log_probability - expected.ln()).abs() < 1e-4, "{one:?}");
        }
        let all = Prediction::of(&[3.0, -2.0, 0.25, 7.0], 9, &[]);
        assert_eq!(all.top.len(), 4, "no more than there are");
        let sum: f64 = all.top.iter().map(|one| one.log_probability.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        // Far apart, they neither overflow nor vanish.
        let far = Prediction::of(&[-3e38, 3e38], 1, &[0]);
        assert_eq!(
            (far.top[0].log_probability, far.asked[0].log_probability),
            (0.0, f64::from(-3e38f32) - f64::from(3e38f32))
        );
    }

    #[test]
    fn of_equal_tokens_the_first_come_first() {
        let found = Prediction::of(&[1.0, 2.0, 1.0, 2.0], 3, &[2, 3]);
        let places = |list: &[Ranked]| list.iter().map(|one| (one.token, one.rank)).collect::<Vec<_>>();
        assert_eq!((places(&found.top), places(&found.asked)), (vec![(1, 1), (3, 2), (0, 3)], vec![(2, 4), (3, 2)]));
    }
}
