//! Pairs of tokens that a tokenizer puts together, the first ones first: those that a file lists, or those that the
//! scores of its tokens stand for.

use super::file::GgufFile;
use super::reader::shown;
use super::tokenizer::TOKENS;
use crate::model::ModelError;
use crate::model::tokenizer_files::pair;
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::HashMap;

pub(super) const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

/// How many ways there are at most, on average, to put a token together from two others: Llama 2 has 1.9, Gemma 2.3.
const MOST_WAYS: usize = 16;

/// The pairs that a file lists, if it does: of tokens that `known` knows, as it does the one that they make.
pub(super) fn listed<'a>(
    file: &'a GgufFile,
    known: impl Fn(&str) -> bool,
) -> Result<Option<Vec<[&'a str; 2]>>, ModelError> {
    let Some(lines) = file.metadata.texts(&file.reader(), MERGES)? else { return Ok(None) };
    let both = |(number, line): (usize, &&'a str)| {
        let wrong = |expected: &str, found: &str| {
            Err(file.metadata.wrong(MERGES, expected, format!("pair {number}: \"{}\"", shown(found))))
        };
        let Some((left, right)) = pair(line) else { return wrong("two tokens with a space between them", line) };
        match [left, right, &[left, right].concat()].into_iter().find(|token| !known(token)) {
            Some(unknown) => wrong(&format!("tokens of `{TOKENS}`"), unknown),
            None => Ok([left, right]),
        }
    };
    lines.iter().enumerate().map(both).collect::<Result<Vec<_>, _>>().map(Some)
}

/// Every way to put a token together from two others, by the token's score; `ids` has every token's place in `tokens`.
pub(super) fn implied<'a>(
    file: &GgufFile,
    tokens: &[&'a str],
    ids: &HashMap<&'a str, usize>,
) -> Result<Vec<[&'a str; 2]>, ModelError> {
    let number = |value: &Value| value.as_f64().map(|score| score as f32);
    let scores = file.metadata.values(&file.reader(), SCORES, tokens.len(), number)?;
    let scores = scores.ok_or_else(|| file.metadata.wrong(SCORES, "a number per token", "nothing"))?;
    let most = MOST_WAYS * tokens.len();
    let mut merges: Vec<(f32, [usize; 2], [&str; 2])> = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let places = token.char_indices().skip(1).map(|(place, _)| token.split_at(place));
        let pairs = places.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
        let mut pairs: Vec<(&str, &str)> = pairs.collect();
        pairs.sort_by_key(|(left, right)| (ids[left], ids[right]));
        let lengths = |left: &str, right: &str| [left.chars().count(), right.chars().count()];
        merges.extend(pairs.iter().map(|(left, right)| (score, lengths(left, right), [*left, *right])));
        // Each is a text of its own in what the library reads, so that a small file could ask for gigabytes.
        if merges.len() > most {
            let expected =
                format!("at most {most} ways to put one of {} tokens together from two others", tokens.len());
            return Err(file.metadata.wrong(TOKENS, expected, "more"));
        }
    }
    // The longer left part first where scores are equal, as the library orders them.
    merges.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(b.1.cmp(&a.1)));
    Ok(merges.into_iter().map(|(_, _, pair)| pair).collect())
}
