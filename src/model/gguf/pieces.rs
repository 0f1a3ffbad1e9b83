//! How a text is cut before pairs are looked for, by the name that a GGUF file gives the cutting: `tokenizer.ggml.pre`. The names
//! stand for the tokenizers that the models were trained with; the expressions are those of their `tokenizer.json`.

use crate::model::tokenizer_files::QWEN2_PIECES;
use serde_json::{Value, json};

const LLAMA3_PIECES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Where texts are cut.
#[derive(Debug, Clone, Copy)]
enum Cut {
    /// Words with a space in front, numbers, signs: GPT-2's, which the library has under the name `ByteLevel`.
    Gpt2,
    /// The same behind digits one by one.
    Digits,
    /// Up to three digits together, signs with the line ends behind them.
    Llama3,
    /// The same with digits one by one.
    Qwen2,
}

/// A tokenizer that is known by name.
struct Known {
    name: &'static str,
    cut: Cut,
    /// Are characters composed before?
    composed: bool,
    whole_pieces: bool,
}

const fn known(name: &'static str, cut: Cut) -> Known {
    Known { name, cut, composed: false, whole_pieces: false }
}

const KNOWN: [Known; 12] = [
    known("gpt-2", Cut::Gpt2),
    known("default", Cut::Gpt2),
    known("phi-2", Cut::Gpt2),
    Known { composed: true, ..known("olmo", Cut::Gpt2) },
    known("smollm", Cut::Digits),
    known("starcoder", Cut::Digits),
    Known { whole_pieces: true, ..known("llama-bpe", Cut::Llama3) },
    Known { whole_pieces: true, ..known("llama3", Cut::Llama3) },
    Known { whole_pieces: true, ..known("llama-v3", Cut::Llama3) },
    known("smaug-bpe", Cut::Llama3),
    Known { composed: true, ..known("qwen2", Cut::Qwen2) },
    known("deepseek-r1-qwen", Cut::Qwen2),
];

/// The part of a `tokenizer.json` that cuts texts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pieces {
    /// What is done to a text before.
    pub normalizer: Value,
    /// The cutting.
    pub pre_tokenizer: Value,
    /// Are pieces that are tokens taken whole, whatever the merges say?
    pub whole_pieces: bool,
}

/// The cutting of a name; none where it is not known here.
pub(super) fn named(name: &str) -> Option<Pieces> {
    let Known { cut, composed, whole_pieces, .. } = KNOWN.iter().find(|known| known.name == name)?;
    let normalizer = if *composed { json!({ "type": "NFC" }) } else { Value::Null };
    Some(Pieces { normalizer, pre_tokenizer: cut.pre_tokenizer(), whole_pieces: *whole_pieces })
}

/// All names, for an error.
pub(super) fn names() -> String {
    KNOWN.map(|known| known.name).join(", ")
}

impl Cut {
    fn pre_tokenizer(self) -> Value {
        let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
        let sequence =
            |first: Value, regex: bool| json!({ "type": "Sequence", "pretokenizers": [first, bytes(regex)] });
        let split = |pieces: &str| {
            let split =
                json!({ "type": "Split", "pattern": { "Regex": pieces }, "behavior": "Isolated", "invert": false });
            sequence(split, false)
        };
        match self {
            Self::Gpt2 => bytes(true),
            Self::Digits => sequence(json!({ "type": "Digits", "individual_digits": true }), true),
            Self::Llama3 => split(LLAMA3_PIECES),
            Self::Qwen2 => split(QWEN2_PIECES),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_name_and_no_other() {
        let page = include_str!("../../../docs/families.md");
        let (_, list) = page.split_once("what `tokenizer.ggml.pre`\n  names: ").unwrap();
        let (list, _) = list.split_once(", or no name,").unwrap();
        let mut documented: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        let mut known = KNOWN.map(|known| known.name);
        documented.sort_unstable();
        known.sort_unstable();
        assert_eq!(documented, known);
    }
}
