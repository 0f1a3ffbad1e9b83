//! Prompts of a given shape without words: what a template with two fillers gives, in token ids.

use crate::types::PairedPrompts;
use serde::Serialize;
use std::collections::BTreeMap;

/// Shape of a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Number of prompts.
    pub prompts: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Answer pairs of each.
    pub answer_pairs: usize,
}

impl Shape {
    /// Position of the first filler, which is patched: prompts are equal in front of it. 6 of 19 tokens, as in the
    /// paper's movie reviews.
    pub fn patched_position(self) -> usize {
        self.tokens / 3
    }

    /// Position of the second filler.
    fn second_position(self) -> usize {
        self.tokens / 2
    }
}

/// Dataset number `seed` of this shape: prompts alternate between two classes, every corrupted prompt is the next
/// clean one, as in the paper's datasets.
pub fn prompts(shape: Shape, d_vocab: usize, seed: usize) -> PairedPrompts {
    let token = |id: usize| (id % d_vocab) as u32;
    let sequence = |row: usize| {
        let filler = |position| match position {
            _ if position == shape.patched_position() => token(300 + 7 * row + 400 * seed),
            _ if position == shape.second_position() => token(600 + 11 * (row % 10) + 400 * seed),
            _ => token(17 + 29 * position),
        };
        (0..shape.tokens).map(filler).collect()
    };
    let answers = |row: usize| {
        let pair = |answer| (token(150 + 2 * answer), token(151 + 2 * answer));
        let swapped = |(correct, wrong)| if row.is_multiple_of(2) { (correct, wrong) } else { (wrong, correct) };
        (0..shape.answer_pairs).map(|answer| swapped(pair(answer))).collect()
    };
    let rows = 0..shape.prompts;
    PairedPrompts {
        name: format!("bench_{seed}"),
        texts: vec![String::new(); shape.prompts],
        sequences: rows.clone().map(sequence).collect(),
        clean: rows.clone().collect(),
        corrupted: rows.clone().map(|row| (row + 1) % shape.prompts).collect(),
        positive: rows.clone().map(|row| row.is_multiple_of(2)).collect(),
        has_classes: true,
        answers: rows.map(answers).collect(),
        positions: BTreeMap::from([("ADJ".to_owned(), shape.patched_position())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_at_their_fillers_alone() {
        let shape = Shape { prompts: 26, tokens: 19, answer_pairs: 5 };
        let set = prompts(shape, 50_257, 1);
        for (clean, corrupted) in set.clean.iter().zip(&set.corrupted) {
            let pair = set.sequences[*clean].iter().zip(&set.sequences[*corrupted]);
            let differing: Vec<usize> = pair.enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
            assert!(differing == [6, 9] || differing == [6], "{differing:?}");
        }
        assert_eq!(set.answers[0].len(), 5);
        assert_eq!(set.answers[0][0].0, set.answers[1][0].1, "the other class has its answers swapped");
    }
}
