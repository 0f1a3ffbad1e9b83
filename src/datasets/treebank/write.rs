//! The dataset file and the table of pairs.

use super::{PairedSentence, Scaffold, Split};
use std::fmt::Write;

/// What a dataset file says about how it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The model whose tokenizer counted the tokens (and whose logits filtered, if they did).
    pub model: String,
    /// SHA-256 and name of each source file.
    pub sources: Vec<(String, String)>,
    /// Were only sentences kept that the model gets right?
    pub filtered: bool,
    /// Sentences there were before pairing.
    pub sentences: usize,
}

/// The dataset of a split as a TOML file that a [`Catalogue`](crate::datasets::Catalogue) reads.
pub fn dataset_text(rows: &[PairedSentence], split: Split, scaffold: Scaffold, provenance: &Provenance) -> String {
    let mut text = String::new();
    let Provenance { model, sources, filtered, sentences } = provenance;
    let mut comment = |line: String| text.push_str(&format!("# {line}\n"));
    comment(format!("Stanford Sentiment Treebank, {split}, {scaffold}, for {}.", one_line(model)));
    comment(format!(
        "{} rows of {sentences} sentences; pairs have equal token counts with {model}'s tokenizer.",
        rows.len()
    ));
    if *filtered {
        comment("Only sentences to which the model prefers the right answer (logit difference above 0).".into());
    }
    for (name, sha256) in sources {
        comment(format!("{} SHA-256 {sha256}", one_line(name)));
    }
    let _ = writeln!(text, "\n[{}]\nragged = true\nprompts = [", split.dataset());
    let (positive, negative) = scaffold.answers();
    for row in rows {
        let prompt = |text: &str| toml_string(&scaffold.apply(text).replace('{', "{{").replace('}', "}}"));
        let (clean, corrupted) = (prompt(&row.text), prompt(&row.corrupted_text));
        let (label, correct, incorrect) =
            if row.positive { ("positive", positive, negative) } else { ("negative", negative, positive) };
        let _ = writeln!(
            text,
            "  {{ label = {label:?}, correct = {correct:?}, incorrect = {incorrect:?}, clean = {clean}, corrupted = {corrupted} }},"
        );
    }
    text.push_str("]\n");
    text
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// A TOML basic string: letters as they are, quotes, backslashes and control characters escaped.
fn toml_string(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// The pairs as a table: text, label (1 positive, 0 negative), corrupted text, token count, under a header.
pub fn table_of_pairs(rows: &[PairedSentence]) -> impl Iterator<Item = [String; 4]> {
    let row = |row: &PairedSentence| {
        let label = if row.positive { "1" } else { "0" };
        [row.text.clone(), label.to_owned(), row.corrupted_text.clone(), row.token_count.to_string()]
    };
    let header = ["text", "label", "corrupted_text", "token_count"].map(str::to_owned);
    std::iter::once(header).chain(rows.iter().map(row))
}
