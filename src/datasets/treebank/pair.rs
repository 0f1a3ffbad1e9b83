//! Positive and negative sentences of equal length become rows of clean and corrupted prompts.

use super::{Scaffold, Sentence, Split, TreebankError};
use crate::model::Tokenizer;
use std::collections::BTreeMap;

/// A sentence inside its scaffold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The bare sentence.
    pub text: String,
    /// Its label.
    pub positive: bool,
    /// The prompt's tokens, BOS included.
    pub tokens: Vec<u32>,
}

/// One row: a clean sentence and the one that is its corrupted counterpart, of the other label and equal length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairedSentence {
    /// The clean sentence.
    pub text: String,
    /// Its label.
    pub positive: bool,
    /// The corrupted sentence.
    pub corrupted_text: String,
    /// Tokens of either prompt, scaffold and BOS included.
    pub token_count: usize,
}

/// Puts sentences into their scaffold and tokenises them.
///
/// # Errors
/// [`TreebankError::Tokenizer`].
pub fn encode<'a>(
    sentences: impl Iterator<Item = &'a Sentence>,
    scaffold: Scaffold,
    tokenizer: &Tokenizer,
) -> Result<Vec<Encoded>, TreebankError> {
    let encode = |sentence: &Sentence| {
        let tokens = tokenizer.bos().into_iter().chain(tokenizer.encode(&scaffold.apply(&sentence.text))?).collect();
        Ok(Encoded { text: sentence.text.clone(), positive: sentence.positive, tokens })
    };
    sentences.map(encode).collect()
}

/// The answer tokens of a scaffold, (positive, negative).
///
/// # Errors
/// [`TreebankError::AnswerTokens`] for a tokenizer that cuts an answer into several tokens.
pub fn answer_tokens(scaffold: Scaffold, tokenizer: &Tokenizer) -> Result<(u32, u32), TreebankError> {
    // Behind a prompt, because some tokenizers put a token in front of a text that stands alone.
    let prompt = scaffold.apply("A film .");
    let before = tokenizer.encode(&prompt)?;
    let token = |answer: &'static str| {
        let whole = tokenizer.encode(&format!("{prompt}{answer}"))?;
        match whole.strip_prefix(before.as_slice()).unwrap_or_default() {
            [token] => Ok(*token),
            tokens => {
                let (found, tokenizer) = (tokens.len(), tokenizer.path().into());
                Err(TreebankError::AnswerTokens { scaffold: scaffold.name(), answer, found, tokenizer })
            }
        }
    };
    let (positive, negative) = scaffold.answers();
    Ok((token(positive)?, token(negative)?))
}

/// Pairs sentences: among those of one token count the first positive goes with the first negative, and so on; what is
/// left over is dropped. Rows are ordered by token count, positive and negative in turn, and a row's corrupted sentence
/// is the next row's, where the last row of a token count takes the first one of the *same* count.
///
/// The paper's code pads to the left and rolls over the whole list, so that there the last row of a token count takes
/// the first of the next one: a corrupted prompt of another length, whose tokens stand at other positions than the
/// clean ones they replace. All other rows are the same here and there.
///
/// # Errors
/// [`TreebankError::NoPairs`].
pub fn pair(sentences: &[Encoded], split: Split) -> Result<Vec<PairedSentence>, TreebankError> {
    let mut groups: BTreeMap<usize, [Vec<&Encoded>; 2]> = BTreeMap::new();
    for sentence in sentences {
        let [positive, negative] = groups.entry(sentence.tokens.len()).or_default();
        if sentence.positive {
            positive.push(sentence)
        } else {
            negative.push(sentence)
        };
    }
    let mut rows = Vec::new();
    for (token_count, [positive, negative]) in groups {
        let group: Vec<&Encoded> = positive.into_iter().zip(negative).flat_map(|(p, n)| [p, n]).collect();
        let next = group.iter().cycle().skip(1);
        rows.extend(group.iter().zip(next).map(|(clean, corrupted)| PairedSentence {
            text: clean.text.clone(),
            positive: clean.positive,
            corrupted_text: corrupted.text.clone(),
            token_count,
        }));
    }
    if rows.is_empty() {
        let positive = sentences.iter().filter(|sentence| sentence.positive).count();
        let (dataset, negative) = (split.dataset().into(), sentences.len() - positive);
        return Err(TreebankError::NoPairs { dataset, positive, negative });
    }
    Ok(rows)
}
