//! What can be wrong with a dataset file, a word list, or the prompts they make for one tokenizer.

use crate::choice::{nearest_of, suggestion};
use crate::model::ModelError;
use std::fmt;
use std::path::PathBuf;

/// Where in which file the trouble is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, or the name of the built-in one.
    pub file: String,
    /// The dataset's table.
    pub dataset: String,
    /// The field of that table.
    pub field: String,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: dataset `{}`, `{}`", self.file, self.dataset, self.field)
    }
}

/// Every variant names the file, the dataset and the field where it can, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not TOML.
    #[error("{file}: {message}")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser said, with line and column.
        message: String,
    },
    /// A dataset's table lacks a field, or has one that is unknown or of the wrong type.
    #[error("{file}: dataset `{dataset}`: {message}")]
    Table {
        /// The file.
        file: String,
        /// The dataset's table.
        dataset: String,
        /// What was expected and found, with the field.
        message: String,
    },
    /// A field's value makes no sense.
    #[error("{place}: {message}")]
    Field {
        /// Where.
        place: Box<Place>,
        /// What was expected and found.
        message: String,
    },
    /// A word list is not a list of words.
    #[error("{file}: word list `{list}`: {message}")]
    WordList {
        /// The file.
        file: String,
        /// The list.
        list: String,
        /// What was expected and found.
        message: String,
    },
    /// No dataset has this name.
    #[error("unknown dataset `{name}`; known: {}{}", .known.join(", "), meant(.name, .known))]
    UnknownDataset {
        /// The name asked for.
        name: String,
        /// All names, sorted.
        known: Vec<String>,
    },
    /// A template has a placeholder that nothing fills.
    #[error("{place}: the template's placeholder {{{placeholder}}} has no word list there")]
    PlaceholderWithoutList {
        /// The table that should fill it.
        place: Box<Place>,
        /// The placeholder.
        placeholder: String,
    },
    /// A word list that no file has.
    #[error("{place}: unknown word list `{list}`")]
    UnknownWordList {
        /// Who asks for it.
        place: Box<Place>,
        /// The list.
        list: String,
    },
    /// No word of a list has the length asked for.
    #[error(
        "{place}: of the {words} words of list `{list}` none has exactly {filter_length} token(s), leading space included, in {tokenizer}"
    )]
    NoWords {
        /// Who asks for the list.
        place: Box<Place>,
        /// The list.
        list: String,
        /// Words before filtering.
        words: usize,
        /// Tokens a word must have.
        filter_length: usize,
        /// The tokenizer's file.
        tokenizer: PathBuf,
    },
    /// A dataset has fewer answer pairs than asked for, or none.
    #[error("{place}: {expected} answer pair(s) wanted, but the lists leave {found} in {tokenizer}")]
    TooFewAnswers {
        /// The answers' field.
        place: Box<Place>,
        /// Pairs wanted.
        expected: usize,
        /// Pairs there are.
        found: usize,
        /// The tokenizer's file.
        tokenizer: PathBuf,
    },
    /// An answer does not continue its prompt as one token.
    #[error(
        "{place}: after {} the answer {} must be one token of its own, but {} in {tokenizer}{}",
        short(.prompt),
        short(.answer),
        spelled(.found),
        if *.spaced { "; with a space in front it is one" } else { "" }
    )]
    AnswerTokens {
        /// The answer's field.
        place: Box<Place>,
        /// The prompt.
        prompt: String,
        /// The answer.
        answer: String,
        /// The texts of its tokens; none when it melts into the prompt's last one.
        found: Vec<String>,
        /// The tokenizer's file.
        tokenizer: PathBuf,
        /// Would it be one with a space in front?
        spaced: bool,
    },
    /// Correct and incorrect answer are the same token, so their logit difference is always 0.
    #[error("{place}: the correct and the incorrect answer are the same token {token} ({text:?}) in {tokenizer}")]
    SameAnswer {
        /// The answers' field.
        place: Box<Place>,
        /// The token.
        token: u32,
        /// Its text.
        text: String,
        /// The tokenizer's file.
        tokenizer: PathBuf,
    },
    /// A clean and a corrupted prompt are the same tokens, so that patching could change nothing.
    #[error("{place}: clean and corrupted prompt are the same tokens: {}", short(.prompt))]
    SamePrompt {
        /// The dataset.
        place: Box<Place>,
        /// The prompt.
        prompt: String,
    },
    /// Fewer than a clean and a corrupted prompt.
    #[error("{place}: expected a clean and a corrupted prompt at least, found {found} prompts")]
    TooFewPrompts {
        /// The dataset.
        place: Box<Place>,
        /// Prompts there are.
        found: usize,
    },
    /// Prompts of different lengths.
    #[error(
        "{place}: prompts that are patched into each other must have the same number of tokens, but {} has {first_length} and {} has {second_length}",
        short(.first),
        short(.second)
    )]
    UnequalLengths {
        /// The dataset.
        place: Box<Place>,
        /// A prompt.
        first: String,
        /// Its length, BOS included.
        first_length: usize,
        /// Another prompt.
        second: String,
        /// Its length, BOS included.
        second_length: usize,
    },
    /// A prompt that is too long for the model.
    #[error("{place}: expected prompts of at most {expected} tokens, found {found} in {}", short(.prompt))]
    TooLong {
        /// The dataset.
        place: Box<Place>,
        /// Most tokens, BOS included.
        expected: usize,
        /// Tokens there are.
        found: usize,
        /// The prompt.
        prompt: String,
    },
    /// A named piece of text does not end where a token ends.
    #[error(
        "{place}: the position `{name}` must end where a token ends, as in front of a space or punctuation, but does not in {}",
        short(.prompt)
    )]
    PositionInsideToken {
        /// The dataset.
        place: Box<Place>,
        /// The name.
        name: String,
        /// The prompt.
        prompt: String,
    },
    /// A name that is not at one position in all prompts.
    #[error(
        "{place}: the position `{name}` is {} in {} but {} in {}",
        position(.first_position),
        short(.first),
        position(.second_position),
        short(.second)
    )]
    UnequalPositions {
        /// The dataset.
        place: Box<Place>,
        /// The name.
        name: String,
        /// A prompt.
        first: String,
        /// Where the name is there; `None` when it is absent.
        first_position: Option<usize>,
        /// Another prompt.
        second: String,
        /// Likewise.
        second_position: Option<usize>,
    },
    /// BOS is asked for, but the tokenizer has none.
    #[error("{tokenizer}: BOS should stand in front of every prompt, but this tokenizer has no BOS token")]
    MissingBos {
        /// The tokenizer's file.
        tokenizer: PathBuf,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] ModelError),
}

/// Letters of a text, and tokens of an answer, that a message shows.
const SHOWN: (usize, usize) = (200, 8);

/// A text in quotes, without the rest of a long one.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN.0) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
        None => format!("{text:?}"),
    }
}

/// The dataset that was probably meant.
fn meant(name: &str, known: &[String]) -> String {
    suggestion(nearest_of(name, known.iter().map(String::as_str)).first().copied())
}

/// What an answer is instead of one token.
fn spelled(tokens: &[String]) -> String {
    match tokens {
        [] => "it melts into the prompt's last token".into(),
        tokens => {
            let texts = tokens.iter().take(SHOWN.1).map(|text| short(text)).collect::<Vec<_>>().join(", ");
            let more = if tokens.len() > SHOWN.1 { ", …" } else { "" };
            format!("is {} ({texts}{more})", tokens.len())
        }
    }
}

fn position(position: &Option<usize>) -> String {
    position.map_or("absent".into(), |position| format!("at token {position}"))
}
