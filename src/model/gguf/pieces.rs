//! How a text is cut before pairs are looked for, by the name that a GGUF file gives the cutting: `tokenizer.ggml.pre`. The names
//! stand for the tokenizers that the models were trained with; the expressions are those of their `tokenizer.json`.

use crate::model::tokenizer_files::QWEN2_PIECES;
use serde_json::{Value, json};

/// Words with a space in front, numbers, signs: GPT-2's, which the library has under the name `ByteLevel`.
const GPT2: [&str; 3] = ["gpt-2", "default", "phi-2"];

/// GPT-NeoX's and OLMo's: the same, of composed characters.
const COMPOSED: [&str; 1] = ["olmo"];

/// GPT-2's behind digits one by one.
const DIGITS: [&str; 2] = ["smollm", "starcoder"];

/// Up to three digits together, signs with the line ends behind them.
const LLAMA3: [&str; 5] = ["llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe"];

/// The same with digits one by one.
const QWEN2: [&str; 2] = ["qwen2", "deepseek-r1-qwen"];

const LLAMA3_PIECES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

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
    let bytes = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let sequence = |first: Value, regex: bool| json!({ "type": "Sequence", "pretokenizers": [first, bytes(regex)] });
    let split = |pieces: &str| {
        let split = json!({ "type": "Split", "pattern": { "Regex": pieces }, "behavior": "Isolated", "invert": false });
        sequence(split, false)
    };
    let plain = |pre_tokenizer| Pieces { normalizer: Value::Null, pre_tokenizer, whole_pieces: false };
    let composed = |pieces: Pieces| Pieces { normalizer: json!({ "type": "NFC" }), ..pieces };
    Some(match name {
        _ if GPT2.contains(&name) => plain(bytes(true)),
        _ if COMPOSED.contains(&name) => composed(plain(bytes(true))),
        _ if DIGITS.contains(&name) => plain(sequence(json!({ "type": "Digits", "individual_digits": true }), true)),
        _ if LLAMA3.contains(&name) => {
            Pieces { whole_pieces: name.starts_with("llama"), ..plain(split(LLAMA3_PIECES)) }
        }
        "qwen2" => composed(plain(split(QWEN2_PIECES))),
        _ if QWEN2.contains(&name) => plain(split(QWEN2_PIECES)),
        _ => return None,
    })
}

/// All names, for an error.
pub(super) fn names() -> String {
    [GPT2.as_slice(), &COMPOSED, &DIGITS, &LLAMA3, &QWEN2].concat().join(", ")
}
