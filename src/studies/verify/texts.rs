//! Experiments on texts: what the model writes, steered or not, and what it expects of given ones.

use super::directions::fit_named;
use super::experiment::{Experiment, Numbers, Setup};
use super::tokens::seen;
use crate::backend::Backend;
use crate::engine::Engine;
use crate::experiments::ablation::Replacement;
use crate::experiments::sampling::Sampling;
use crate::experiments::steering::{self, Wanted, Written, write_texts};
use crate::report::Golden;
use crate::session::{DeviceWork, Observer};
use crate::studies::{self, Coefficients, Corpus, Study};
use anyhow::{Context, Result};
use serde::Deserialize;

/// The likeliest continuations of texts; numbers such as `0 3` (the log probability of token 3 behind text 0) and
/// `0 3 id` (which token that is).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GreedyTexts {
    text: Vec<String>,
    max_new_tokens: usize,
}

impl Experiment for GreedyTexts {
    const NAME: &'static str = "greedy_texts";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        let session = setup.session()?;
        let prompts = self.text.iter().map(|text| seen(session, text)).collect::<Result<Vec<_>>>()?;
        let sampling = Sampling { temperature: 0.0, top_k: 0, max_new_tokens: self.max_new_tokens, seed: 0 };
        let ends = session.model().tokenizer.ends();
        let work = Continuations(steering::Steering { prompts: &prompts, steered: &[], ends, sampling });
        let written = session.compute(observer, work)?;
        let of_text = |(number, Written { tokens, log_probabilities, .. }): (usize, Written)| {
            written_numbers(&number.to_string(), &tokens, log_probabilities)
        };
        Ok(written.into_iter().flat_map(of_text).collect())
    }
}

/// The numbers of a text that was written.
fn written_numbers(text: &str, tokens: &[u32], log_probabilities: impl IntoIterator<Item = f64>) -> Numbers {
    let ids = tokens.iter().enumerate().map(|(place, id)| (format!("{text} {place} id"), f64::from(*id)));
    let own = log_probabilities.into_iter().enumerate().map(|(place, value)| (format!("{text} {place}"), value));
    ids.chain(own).collect()
}

struct Continuations<'a>(steering::Steering<'a>);

impl DeviceWork for Continuations<'_> {
    type Output = Vec<(usize, Written)>;

    fn run<B: Backend>(self, engine: &Engine<B>, _: &mut dyn Observer) -> Result<Vec<(usize, Written)>> {
        let text = |prompt| Wanted { prompt, coefficient: 0.0, sample: 0 };
        let wanted: Vec<Wanted> = (0..self.0.prompts.len()).map(text).collect();
        let mut all = Vec::with_capacity(wanted.len());
        write_texts(engine, &self.0, &wanted, |texts| -> Result<()> {
            all.extend(texts);
            Ok(())
        })?;
        Ok(all)
    }
}

/// The likeliest continuation of a prompt with a fitted direction added at its layer; numbers such as `-60 3` (the log
/// probability of token 3 under the coefficient -60) and `-60 3 id` (which token that is).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Steering {
    /// `<method>_<dataset>_<POSITION>_layer6`.
    direction: String,
    prompt: String,
    coefficients: Vec<f32>,
    max_new_tokens: u32,
}

impl Experiment for Steering {
    const NAME: &'static str = "steering";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        fit_named(setup, &self.direction, observer)?;
        let steering = studies::Steering {
            directions: vec![self.direction],
            coefficients: vec![Coefficients::from(self.coefficients)],
            prompt: vec![self.prompt],
            max_new_tokens: self.max_new_tokens,
            temperature: 0.0,
            ..Default::default()
        };
        let outcome = steering.run(setup.session()?, observer)?;
        let texts = outcome.directions.iter().flat_map(|direction| &direction.texts);
        let of_text = |text: &crate::report::SteeredText| {
            let own = text.log_probabilities.iter().map(|&value| f64::from(value));
            written_numbers(&text.coefficient.to_string(), &text.tokens, own)
        };
        Ok(texts.flat_map(of_text).collect())
    }
}

/// The loss of the next token on texts without and with a fitted direction ablated at every layer, in nats; numbers
/// `tokens` (how many are predicted), `clean`, `ablated`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TextLoss {
    text: Vec<String>,
    /// `<method>_<dataset>_<POSITION>`.
    directions: String,
    /// What takes their place, as the study of losses names it.
    method: Replacement,
    /// Tokens at which they are ablated, as it names them.
    positions: String,
}

/// The numbers of a loss, and the columns of its table that they stand in.
const LOSS_COLUMNS: [(&str, &str); 3] = [("tokens", "tokens"), ("clean", "clean_loss"), ("ablated", "loss")];

impl Experiment for TextLoss {
    const NAME: &'static str = "text_loss";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        fit_named(setup, &self.directions, observer)?;
        let losses = studies::TextLoss {
            corpus: Corpus { text: self.text, ..Corpus::default() },
            directions: vec![self.directions],
            random: 0,
            methods: vec![self.method],
            positions: vec![self.positions],
            ..Default::default()
        };
        let tables = losses.run(setup.session()?, observer)?;
        let row = tables.tables.iter().flat_map(|table| &table.rows).next().context("the study has told no loss")?;
        let number = |(name, column): (&str, &str)| Some((name.to_owned(), row.number(tables.columns, column)?));
        Ok(LOSS_COLUMNS.into_iter().filter_map(number).collect())
    }
}
