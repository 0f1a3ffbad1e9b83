//! Experiments whose numbers are tokens, and the logits of single ones.

use super::experiment::{Experiment, Numbers, Setup};
use crate::backend::Backend;
use crate::datasets::treebank::Scaffold;
use crate::engine::{Engine, Output};
use crate::files::sha256;
use crate::report::Golden;
use crate::session::{DeviceWork, Observer, Session};
use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A dataset as the model's tokenizer has it. Numbers: how many `prompts`, how many `tokens` each has (BOS among them),
/// `2.5` (prompt.position) the id of a token, and `sha256` the first 12 hexadecimal digits of the hash of all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenIds {
    dataset: String,
}

/// So many hexadecimal digits are a whole number that an `f64` has exactly.
const DIGITS: usize = 12;

impl Experiment for TokenIds {
    const NAME: &'static str = "token_ids";

    fn numbers(self, _: &Golden, setup: &Setup, _: &mut dyn Observer) -> Result<Numbers> {
        let prompts = setup.prompts(&self.dataset, Scaffold::Plain)?;
        let rows: Vec<&[u32]> = prompts.clean.iter().map(|&sequence| &prompts.sequences[sequence][..]).collect();
        // Ids are parted by spaces, and every prompt ends in a newline.
        let ids = |row: &&[u32]| row.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n";
        let hash = sha256(rows.iter().map(ids).collect::<String>().as_bytes());
        let mut numbers = Numbers::from([
            ("prompts".into(), rows.len() as f64),
            ("tokens".into(), rows.first().map_or(0, |row| row.len()) as f64),
            ("sha256".into(), u64::from_str_radix(&hash[..DIGITS], 16)? as f64),
        ]);
        for (prompt, row) in rows.iter().enumerate() {
            let id = |(position, id): (usize, &u32)| (format!("{prompt}.{position}"), f64::from(*id));
            numbers.extend(row.iter().enumerate().map(id));
        }
        Ok(numbers)
    }
}

/// Logits at the last position of texts, less their mean over the vocabulary, which no processing of weights changes;
/// numbers such as `0.1109` (text.token).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NextTokenLogits {
    text: Vec<String>,
}

impl Experiment for NextTokenLogits {
    const NAME: &'static str = "next_token_logits";

    fn numbers(self, golden: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        let session = setup.session()?;
        let texts = self.text.iter().map(|text| seen(session, text)).collect::<Result<Vec<_>>>()?;
        let logits = session.compute(observer, LastLogits(&texts))?;
        let number = |name: &String| {
            let place = || Some((name.split_once('.')?.0.parse().ok()?, name.split_once('.')?.1.parse().ok()?));
            let expected = || format!("values.{name}: expected a text and a token, such as 0.1109, that are there");
            let (text, token): (usize, usize) = place().with_context(expected)?;
            let logit = logits.get(text).and_then(|row| row.get(token)).with_context(expected)?;
            Ok((name.clone(), *logit))
        };
        golden.values.keys().map(number).collect()
    }
}

/// A text as the model sees it, behind BOS where it has one.
///
/// # Errors
/// A text that cannot be encoded, one without any token.
pub(super) fn seen(session: &Session, text: &str) -> Result<Vec<u32>> {
    let tokenizer = &session.model().tokenizer;
    let tokens: Vec<u32> = tokenizer.bos().into_iter().chain(tokenizer.encode(text)?).collect();
    match tokens.is_empty() {
        true => bail!("text: expected a token, found none in {text:?}"),
        false => Ok(tokens),
    }
}

struct LastLogits<'a>(&'a [Vec<u32>]);

impl DeviceWork for LastLogits<'_> {
    type Output = Vec<Vec<f64>>;

    fn run<B: Backend>(self, engine: &Engine<B>, _: &mut dyn Observer) -> Result<Vec<Vec<f64>>> {
        let run = engine.run(self.0, &[], &[], Output::Last)?;
        let logits = run.logits().context("the pass has left no logits")?;
        let centred = |row: usize| {
            let row = logits.values.row(row);
            let mean = row.iter().map(|&logit| f64::from(logit)).sum::<f64>() / row.len() as f64;
            row.iter().map(|&logit| f64::from(logit) - mean).collect()
        };
        Ok((0..self.0.len()).map(centred).collect())
    }
}
