//! A folder's tokenizer: `tokenizer.json`, or the vocabulary and merges of byte-level pairs that it is made from.

use super::load::read;
use super::provenance::FileRecord;
use super::special_tokens::TokenFiles;
use super::{ModelError, Tokenizer};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Name of a tokenizer's file.
const WHOLE: &str = "tokenizer.json";

/// Name of the vocabulary of byte-level pairs.
const VOCABULARY: &str = "vocab.json";

/// Name of the list of merges.
const MERGES: &str = "merges.txt";

/// How Qwen2 cuts a text before it looks for pairs.
pub(super) const QWEN2_PIECES: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer with the tokens that its folder adds, the record of its file, and what stands beside it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub tokenizer: Tokenizer,
    pub record: FileRecord,
    pub files: TokenFiles,
}

/// Is there neither a tokenizer nor a vocabulary in a folder?
pub(super) fn has_none(folder: &Path) -> bool {
    ![WHOLE, VOCABULARY].iter().any(|name| folder.join(name).is_file())
}

/// The tokenizer of a folder.
pub(super) fn in_folder(folder: &Path) -> Result<Loaded, ModelError> {
    let (whole, files) = (folder.join(WHOLE), TokenFiles::of_model(folder)?);
    if !whole.is_file() && folder.join(VOCABULARY).is_file() && folder.join(MERGES).is_file() {
        return assembled(folder, files);
    }
    from_whole(&whole, files)
}

/// A `tokenizer.json` by whatever name.
pub(super) fn file(path: &Path) -> Result<Loaded, ModelError> {
    from_whole(path, TokenFiles::beside(path)?)
}

fn from_whole(path: &Path, files: TokenFiles) -> Result<Loaded, ModelError> {
    let hint = "the model's tokenizer in the format of the tokenizers library; another one can be given by name";
    let bytes = read(path, hint)?;
    loaded(path, &bytes, FileRecord::of_bytes(path, &bytes), files)
}

fn loaded(path: &Path, bytes: &[u8], record: FileRecord, files: TokenFiles) -> Result<Loaded, ModelError> {
    let mut tokenizer = Tokenizer::from_bytes(path, bytes, None)?;
    tokenizer.add(files.added_tokens(&tokenizer)?)?;
    Ok(Loaded { tokenizer, record, files })
}

/// Puts vocabulary and merges together as the library's tokenizer classes do. The record is that of the vocabulary, with
/// everything that it is put together with in its hash.
fn assembled(folder: &Path, mut files: TokenFiles) -> Result<Loaded, ModelError> {
    files.assembled = true;
    let (vocabulary_path, merges_path) = (folder.join(VOCABULARY), folder.join(MERGES));
    let (vocabulary, merges) = (read(&vocabulary_path, "the vocabulary")?, read(&merges_path, "the merges")?);
    let mut whole = around(&files, &vocabulary_path)?;
    let entries: Map<String, Value> = serde_json::from_slice(&vocabulary)
        .map_err(|error| ModelError::Json { path: vocabulary_path.clone(), message: error.to_string() })?;
    whole["model"] = json!({ "type": "BPE", "vocab": entries, "merges": pairs(&merges_path, &merges)? });
    let whole = whole.to_string();
    let record = FileRecord::of_bytes(&vocabulary_path, whole.as_bytes());
    loaded(&vocabulary_path, whole.as_bytes(), record, files)
}

/// The two tokens of a merge's line, which one space stands between.
pub(super) fn pair(line: &str) -> Option<(&str, &str)> {
    line.split_once(' ').filter(|(_, right)| !right.contains(' '))
}

/// The lines of `merges.txt`: two tokens each, behind a line that tells the version.
fn pairs(path: &Path, bytes: &[u8]) -> Result<Vec<[String; 2]>, ModelError> {
    let error = |message: String| ModelError::Tokenizer { path: path.into(), message };
    let text = std::str::from_utf8(bytes).map_err(|reason| error(reason.to_string()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
    let owned = |(number, line): (usize, &str)| match pair(line) {
        Some((left, right)) => Ok([left.to_owned(), right.to_owned()]),
        None => {
            Err(error(format!("line {}: expected two tokens with a space between them, found {line:?}", number + 1)))
        }
    };
    lines.map(owned).collect()
}

/// What the tokenizer's class puts around the pairs.
fn around(files: &TokenFiles, path: &Path) -> Result<Value, ModelError> {
    let (class, prefix) = (files.class()?, files.adds_prefix_space()?);
    let bytes = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": use_regex });
    let (normalizer, pieces) = match class.as_deref() {
        Some("GPT2Tokenizer") => (Value::Null, bytes(true)),
        Some("GPTNeoXTokenizer") => (json!({ "type": "NFC" }), bytes(true)),
        Some("Qwen2Tokenizer") => {
            let split = json!({
                "type": "Split", "pattern": { "Regex": QWEN2_PIECES }, "behavior": "Isolated", "invert": false
            });
            let both = json!({ "type": "Sequence", "pretokenizers": [split, bytes(false)] });
            (json!({ "type": "NFC" }), both)
        }
        class => {
            let whose = class.unwrap_or("its family");
            let message = format!(
                "stands without {WHOLE}, and how {whose} uses it is not known here (known: GPT2Tokenizer, \
                 GPTNeoXTokenizer, Qwen2Tokenizer); make {WHOLE} in Python: \
                 AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            );
            return Err(ModelError::Tokenizer { path: path.into(), message });
        }
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": pieces, "post_processor": null, "decoder": bytes(true)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_is_two_tokens_with_one_space_between_them() {
        assert_eq!(pair("Ġth e"), Some(("Ġth", "e")));
        for line in ["", "the", "t h e", "t  h", &" ".repeat(1 << 20)] {
            assert_eq!(pair(line), None);
        }
    }
}
