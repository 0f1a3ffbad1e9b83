//! Texts become token sequences, equal ones stored once; lengths and positions are checked over all prompts, or, in a
//! ragged dataset, lengths over the two prompts of every row.

use super::build::sound;
use super::error::{DatasetError, Place};
use super::explicit::{At, Layout, Lengths};
use super::file::Dataset;
use super::template::{END, Prompt};
use super::{AnswerPair, PairedPrompts};
use crate::model::Tokenizer;
use std::collections::{BTreeMap, HashMap};

/// One clean prompt and its corrupted one, as indices into [`Rows::prompts`].
pub(super) struct Row {
    pub clean: usize,
    pub corrupted: usize,
    /// Is it of the positive class? None without classes.
    pub positive: Option<bool>,
    pub answers: Vec<AnswerPair>,
    /// Where a pair stands that a file lists.
    pub at: Option<At>,
}

/// A dataset before it meets the tokenizer.
pub(super) struct Rows {
    pub prompts: Vec<Prompt>,
    pub rows: Vec<Row>,
    /// The field of the dataset's table the prompts come from.
    pub field: &'static str,
    pub layout: Layout,
}

impl Rows {
    /// Where a row stands in the dataset's file.
    fn place(&self, dataset: &Dataset, row: Option<&Row>) -> Box<Place> {
        match row.and_then(|row| row.at) {
            Some(at) => dataset.place(&at.pair()),
            None => dataset.place(self.field),
        }
    }

    /// The row of a prompt.
    fn row_of(&self, prompt: usize) -> Option<&Row> {
        // The pairs of a list stand behind each other.
        let of_list = self.rows.get(prompt / 2).filter(|row| row.at.is_some());
        of_list.filter(|row| row.clean == prompt || row.corrupted == prompt)
    }
}

/// A prompt's tokens, BOS included, and its named positions.
struct Encoded {
    tokens: Vec<u32>,
    positions: BTreeMap<String, usize>,
}

/// The prompts as tokens, none longer than `longest`; what is wrong goes to `faults`, and there are none then.
pub(super) fn assemble(
    dataset: &Dataset,
    rows: Rows,
    tokenizer: &Tokenizer,
    (bos, longest): (Option<u32>, Option<usize>),
    faults: &mut Vec<DatasetError>,
) -> Option<PairedPrompts> {
    if rows.prompts.len() < 2 {
        faults.push(DatasetError::TooFewPrompts { place: dataset.place(rows.field), found: rows.prompts.len() });
        return None;
    }
    let mut encode = |(number, prompt)| {
        let place = rows.place(dataset, rows.row_of(number));
        sound(encode_prompt(&place, prompt, tokenizer, bos), faults)
    };
    let mut encoded: Vec<Option<Encoded>> = rows.prompts.iter().enumerate().map(&mut encode).collect();
    if rows.layout.named_in_clean {
        for row in &rows.rows {
            let named = encoded[row.clean].as_ref().map(|clean| clean.positions.clone());
            if let (Some(corrupted), Some(positions)) = (&mut encoded[row.corrupted], named) {
                corrupted.positions = positions;
            }
        }
    }
    let ragged = check_lengths(dataset, &rows, &encoded, faults);
    check_positions(dataset, &rows, &encoded, faults);
    check_pairs(dataset, &rows, &encoded, faults);
    check_longest(dataset, &rows, &encoded, longest, faults);
    if !faults.is_empty() {
        return None;
    }
    let encoded: Vec<Encoded> = encoded.into_iter().flatten().collect();
    let mut positions = encoded.first()?.positions.clone();
    if ragged {
        // The last token stands at another position in every length: it is not a position of the dataset.
        positions.remove(END);
    }
    Some(stored_once(dataset, rows, encoded, positions))
}

/// Stores equal token sequences once.
fn stored_once(
    dataset: &Dataset,
    rows: Rows,
    encoded: Vec<Encoded>,
    positions: BTreeMap<String, usize>,
) -> PairedPrompts {
    let mut known: HashMap<Vec<u32>, usize> = HashMap::new();
    let (mut texts, mut sequences, mut sequence_of) = (Vec::new(), Vec::new(), Vec::new());
    for (prompt, Encoded { tokens, .. }) in rows.prompts.into_iter().zip(encoded) {
        let sequence = *known.entry(tokens).or_insert_with_key(|tokens| {
            texts.push(prompt.text);
            sequences.push(tokens.clone());
            sequences.len() - 1
        });
        sequence_of.push(sequence);
    }
    let rows = rows.rows;
    PairedPrompts {
        name: dataset.name.clone(),
        texts,
        sequences,
        clean: rows.iter().map(|row| sequence_of[row.clean]).collect(),
        corrupted: rows.iter().map(|row| sequence_of[row.corrupted]).collect(),
        has_classes: rows.iter().all(|row| row.positive.is_some()),
        positive: rows.iter().map(|row| row.positive.unwrap_or(true)).collect(),
        answers: rows.into_iter().map(|row| row.answers).collect(),
        positions,
    }
}

/// The prompt's tokens, and for each name the token that ends where its text ends.
///
/// The tokens up to there are those of the text up to there, whenever a token ends there at all; nothing needs to be
/// known of how the tokenizer spells its tokens.
fn encode_prompt(
    place: &Place,
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
                return Err(DatasetError::PositionInsideToken { place: Box::new(place.clone()), name, prompt });
            }
        };
    }
    if let Some(last) = tokens.len().checked_sub(1) {
        positions.insert(END.into(), last);
    }
    Ok(Encoded { tokens, positions })
}

/// All prompts have one length, or the two of every pair. Are they ragged?
fn check_lengths(dataset: &Dataset, rows: &Rows, encoded: &[Option<Encoded>], faults: &mut Vec<DatasetError>) -> bool {
    let length = |prompt: usize| encoded[prompt].as_ref().map(|encoded| encoded.tokens.len());
    let mut check = |(first, second): (usize, usize)| {
        let (Some(first_length), Some(second_length)) = (length(first), length(second)) else { return };
        if first_length != second_length {
            let place = rows.place(dataset, rows.row_of(second));
            let [first, second] = [first, second].map(|prompt| rows.prompts[prompt].text.clone());
            faults.push(DatasetError::UnequalLengths { place, first, first_length, second, second_length });
        }
    };
    let first = (0..encoded.len()).find(|&prompt| length(prompt).is_some()).unwrap_or(0);
    let unequal = (first..encoded.len()).any(|prompt| length(prompt).is_some_and(|own| Some(own) != length(first)));
    match rows.layout.lengths {
        Lengths::Equal => {
            (first..encoded.len()).for_each(|prompt| check((first, prompt)));
            false
        }
        lengths => {
            rows.rows.iter().for_each(|row| check((row.clean, row.corrupted)));
            unequal || lengths == Lengths::Ragged
        }
    }
}

/// No prompt has more than `longest` tokens; of a template's the first that has is enough.
fn check_longest(
    dataset: &Dataset,
    rows: &Rows,
    encoded: &[Option<Encoded>],
    longest: Option<usize>,
    faults: &mut Vec<DatasetError>,
) {
    let Some(expected) = longest else { return };
    let length = |prompt: usize| encoded[prompt].as_ref().map_or(0, |own| own.tokens.len());
    let too_long = |row: &Row| {
        let prompt = [row.clean, row.corrupted].into_iter().find(|&prompt| length(prompt) > expected)?;
        let (place, found) = (rows.place(dataset, Some(row)), length(prompt));
        Some(DatasetError::TooLong { place, expected, found, prompt: rows.prompts[prompt].text.clone() })
    };
    let of_list = rows.rows.iter().any(|row| row.at.is_some());
    faults.extend(rows.rows.iter().filter_map(too_long).take(if of_list { usize::MAX } else { 1 }));
}

/// All prompts have the first one's named positions.
fn check_positions(dataset: &Dataset, rows: &Rows, encoded: &[Option<Encoded>], faults: &mut Vec<DatasetError>) {
    // Those of corrupted prompts that have their clean ones' positions are the same twice.
    let own = |number: &usize| !rows.layout.named_in_clean || number.is_multiple_of(2);
    let mut all = (0..encoded.len()).filter(own).filter_map(|number| Some((number, encoded[number].as_ref()?)));
    let Some((first_prompt, first)) = all.next() else { return };
    for (prompt, other) in all {
        let mut names = first.positions.keys().chain(other.positions.keys()).filter(|name| *name != END);
        if let Some(name) = names.find(|name| first.positions.get(*name) != other.positions.get(*name)) {
            faults.push(DatasetError::UnequalPositions {
                place: rows.place(dataset, rows.row_of(prompt)),
                name: name.clone(),
                first: rows.prompts[first_prompt].text.clone(),
                first_position: first.positions.get(name).copied(),
                second: rows.prompts[prompt].text.clone(),
                second_position: other.positions.get(name).copied(),
            });
        }
    }
}

/// The two prompts of every pair differ.
fn check_pairs(dataset: &Dataset, rows: &Rows, encoded: &[Option<Encoded>], faults: &mut Vec<DatasetError>) {
    for row in &rows.rows {
        if let (Some(clean), Some(corrupted)) = (&encoded[row.clean], &encoded[row.corrupted])
            && clean.tokens == corrupted.tokens
        {
            let prompt = rows.prompts[row.clean].text.clone();
            faults.push(DatasetError::SamePrompt { place: rows.place(dataset, Some(row)), prompt });
        }
    }
}
