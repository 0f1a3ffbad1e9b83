//! Texts become token sequences, equal ones stored once; lengths and positions are checked over all prompts, or, in a
//! ragged dataset, lengths over the two prompts of every row.

use super::error::DatasetError;
use super::file::Dataset;
use super::template::{END, Prompt};
use super::{AnswerPair, PairedPrompts};
use crate::model::Tokenizer;
use std::collections::{BTreeMap, HashMap};

/// One clean prompt and its corrupted one, as indices into [`Rows::prompts`].
pub(super) struct Row {
    pub clean: usize,
    pub corrupted: usize,
    pub positive: bool,
    pub answers: Vec<AnswerPair>,
}

/// A dataset before it meets the tokenizer.
pub(super) struct Rows {
    pub prompts: Vec<Prompt>,
    pub rows: Vec<Row>,
    /// The field of the dataset's table the prompts come from.
    pub field: &'static str,
    /// May rows differ in length among each other?
    pub ragged: bool,
}

/// A prompt's tokens, BOS included, and its named positions.
struct Encoded {
    tokens: Vec<u32>,
    positions: BTreeMap<String, usize>,
}

pub(super) fn assemble(
    dataset: &Dataset,
    Rows { prompts, rows, field, ragged }: Rows,
    tokenizer: &Tokenizer,
    bos: Option<u32>,
) -> Result<PairedPrompts, DatasetError> {
    let encode = |prompt| encode_prompt(dataset, field, prompt, tokenizer, bos);
    let encoded = prompts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let (Some(first), [_, _, ..]) = (encoded.first(), prompts.as_slice()) else {
        return Err(DatasetError::TooFewPrompts { place: dataset.place(field), found: prompts.len() });
    };
    let mut positions = first.positions.clone();
    if ragged {
        // The last token stands at another position in every length: it is not a position of the dataset.
        positions.remove(END);
        for row in &rows {
            let [first, second] = [row.clean, row.corrupted].map(|index| (&prompts[index], &encoded[index]));
            check_lengths(dataset, field, first, second)?;
        }
    } else {
        for other in prompts.iter().zip(&encoded) {
            check_lengths(dataset, field, (&prompts[0], first), other)?;
        }
    }
    check_positions(dataset, field, &prompts, &encoded)?;

    let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
    let (mut texts, mut sequences, mut sequence_of) = (Vec::new(), Vec::new(), Vec::new());
    for (prompt, Encoded { tokens, .. }) in prompts.into_iter().zip(encoded) {
        let sequence = *known.entry(tokens).or_insert_with_key(|tokens| {
            texts.push(prompt.text);
            sequences.push(tokens.clone());
            sequences.len() - 1
        });
        sequence_of.push(sequence);
    }
    if let Some(row) = rows.iter().find(|row| sequence_of[row.clean] == sequence_of[row.corrupted]) {
        let prompt = texts[sequence_of[row.clean]].clone();
        return Err(DatasetError::SamePrompt { place: dataset.place(field), prompt });
    }
    Ok(PairedPrompts {
        name: dataset.name.clone(),
        texts,
        sequences,
        clean: rows.iter().map(|row| sequence_of[row.clean]).collect(),
        corrupted: rows.iter().map(|row| sequence_of[row.corrupted]).collect(),
        positive: rows.iter().map(|row| row.positive).collect(),
        answers: rows.into_iter().map(|row| row.answers).collect(),
        positions,
    })
}

/// The prompt's tokens, and for each name the token that ends where its text ends.
///
/// The tokens up to there are those of the text up to there, whenever a token ends there at all; nothing needs to be
/// known of how the tokenizer spells its tokens.
fn encode_prompt(
    dataset: &Dataset,
    field: &str,
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    bos: Option<u32>,
) -> Result<Encoded, DatasetError> {
    let tokens: Vec<u32> = bos.into_iter().chain(tokenizer.encode(&prompt.text)?).collect();
    let mut positions = BTreeMap::new();
    for (name, &end) in &prompt.ends {
        let before: Vec<u32> = bos.into_iter().chain(tokenizer.encode(&prompt.text[..end])?).collect();
        match before.len().checked_sub(1) {
            Some(last) if tokens.starts_with(&before) => positions.insert(name.clone(), last),
            _ => {
                let (name, prompt) = (name.clone(), prompt.text.clone());
                return Err(DatasetError::PositionInsideToken { place: dataset.place(field), name, prompt });
            }
        };
    }
    if let Some(last) = tokens.len().checked_sub(1) {
        positions.insert(END.into(), last);
    }
    Ok(Encoded { tokens, positions })
}

/// Two prompts have one length.
fn check_lengths(
    dataset: &Dataset,
    field: &str,
    (first, first_encoded): (&Prompt, &Encoded),
    (second, second_encoded): (&Prompt, &Encoded),
) -> Result<(), DatasetError> {
    let (first_length, second_length) = (first_encoded.tokens.len(), second_encoded.tokens.len());
    if first_length == second_length {
        return Ok(());
    }
    let (first, second) = (first.text.clone(), second.text.clone());
    Err(DatasetError::UnequalLengths { place: dataset.place(field), first, first_length, second, second_length })
}

/// All prompts have the first one's named positions.
fn check_positions(
    dataset: &Dataset,
    field: &str,
    prompts: &[Prompt],
    encoded: &[Encoded],
) -> Result<(), DatasetError> {
    let all = || prompts.iter().zip(encoded);
    let Some((first_prompt, first)) = all().next() else { return Ok(()) };
    for (prompt, other) in all() {
        let mut names = first.positions.keys().chain(other.positions.keys()).filter(|name| *name != END);
        if let Some(name) = names.find(|name| first.positions.get(*name) != other.positions.get(*name)) {
            return Err(DatasetError::UnequalPositions {
                place: dataset.place(field),
                name: name.clone(),
                first: first_prompt.text.clone(),
                first_position: first.positions.get(name).copied(),
                second: prompt.text.clone(),
                second_position: other.positions.get(name).copied(),
            });
        }
    }
    Ok(())
}
