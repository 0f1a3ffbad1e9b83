//! Sentences, phrases, scores and splits joined into labelled sentences.

use super::files::{Shape, for_each_line, read};
use super::{Split, TreebankError, TreebankFiles};
use serde::Serialize;
use std::collections::{HashMap, HashSet};

/// A sentence with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// Its index in the sentences' file.
    pub index: u64,
    /// The text, exactly as in the sentences' file (as in the dictionary when it was found there only after repair).
    pub text: String,
    /// Is its score above one half?
    pub positive: bool,
    /// Its split.
    pub split: Split,
}

/// Why a sentence is not in the joined Treebank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The splits' file does not name it.
    NoSplit,
    /// An earlier sentence has the same text.
    Duplicate,
    /// No phrase of the dictionary has its text.
    NoPhrase,
    /// Its phrase has no score.
    NoScore,
}

impl Loss {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Loss::NoSplit => "no_split",
            Loss::Duplicate => "duplicate",
            Loss::NoPhrase => "no_phrase",
            Loss::NoScore => "no_score",
        }
    }
}

/// The sentences that the join has lost: (index, text, why), in the order of the file.
pub type Losses = Vec<(u64, String, Loss)>;

/// The joined Treebank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Treebank {
    /// In the order of the sentences' file.
    pub sentences: Vec<Sentence>,
    /// What is not among them.
    pub losses: Losses,
}

impl Treebank {
    /// Reads and joins the files: sentence = phrase, phrase id -> score, sentence index -> split. Of equal sentences,
    /// and of equal phrases, the first is kept. A label is its score rounded half to even, so 0.5 is negative.
    ///
    /// Sentences and phrases must be equal letter by letter, as in the paper's code. With `repair`, a sentence without
    /// a phrase is looked up again with its bracket tokens (`-LRB-`) written out and doubly encoded UTF-8 (`Ã©`)
    /// decoded, on both sides; that finds sentences which the paper's sizes (7864 train, 1007 dev, 2058 test) lack.
    ///
    /// # Errors
    /// [`TreebankError`] for a file that cannot be read, a broken line, an index or id that occurs twice.
    pub fn read(files: &TreebankFiles, repair: bool) -> Result<Self, TreebankError> {
        let scores = read_scores(files)?;
        let dictionary_text = read(&files.dictionary)?;
        let phrases = read_phrases(files, &dictionary_text, &scores)?;
        let repaired = if repair { repaired_phrases(&phrases) } else { HashMap::new() };
        let splits = read_splits(files)?;
        let (mut sentences, mut losses) = (Vec::new(), Losses::new());
        let (mut indices, mut seen) = (HashSet::new(), HashSet::new());
        let shape = Shape { separator: '\t', text_first: false, has_header: true };
        let text = read(&files.sentences)?;
        for_each_line(&files.sentences, &text, &shape, |line| {
            let (index, text) = line.fields;
            let index = line.number("sentence_index", index)?;
            if !indices.insert(index) {
                return Err(line.error("sentence_index", "an index that no earlier line has", &index.to_string()));
            }
            if text.trim().is_empty() {
                return Err(line.error("sentence", "a text", text));
            }
            let mut lose = |why| losses.push((index, text.to_owned(), why));
            let Some(&split) = splits.get(&index) else {
                lose(Loss::NoSplit);
                return Ok(());
            };
            let exact = phrases.get_key_value(text).map(|(&text, &phrase)| (text, phrase));
            let found = exact.or_else(|| repaired.get(&canonical(text)).copied());
            let key = found.map_or(text, |(phrase, _)| phrase);
            match found {
                _ if !seen.insert(key.to_owned()) => lose(Loss::Duplicate),
                None => lose(Loss::NoPhrase),
                Some((_, Phrase { score: None, .. })) => lose(Loss::NoScore),
                Some((phrase, Phrase { score: Some(score), .. })) => {
                    let positive = score.round_ties_even() > 0.0;
                    sentences.push(Sentence { index, text: phrase.to_owned(), positive, split });
                }
            }
            Ok(())
        })?;
        Ok(Self { sentences, losses })
    }

    /// The sentences of a split, in order.
    pub fn split(&self, split: Split) -> impl Iterator<Item = &Sentence> {
        self.sentences.iter().filter(move |sentence| sentence.split == split)
    }
}

/// A phrase of the dictionary: which line of it, and its score if it has one.
#[derive(Clone, Copy)]
struct Phrase {
    line: usize,
    score: Option<f64>,
}

/// The dictionary; of equal phrases the first that has a score.
fn read_phrases<'a>(
    files: &'a TreebankFiles,
    text: &'a str,
    scores: &HashMap<u64, f64>,
) -> Result<HashMap<&'a str, Phrase>, TreebankError> {
    let mut phrases: HashMap<&str, Phrase> = HashMap::new();
    let mut ids = HashSet::new();
    let shape = Shape { separator: '|', text_first: true, has_header: false };
    for_each_line(&files.dictionary, text, &shape, |line| {
        let (text, id) = line.fields;
        let id = line.number("phrase id", id)?;
        if !ids.insert(id) {
            return Err(line.error("phrase id", "an id that no earlier line has", &id.to_string()));
        }
        let phrase = Phrase { line: line.number, score: scores.get(&id).copied() };
        let kept = phrases.entry(text).or_insert(phrase);
        if kept.score.is_none() {
            *kept = phrase;
        }
        Ok(())
    })?;
    Ok(phrases)
}

fn read_scores(files: &TreebankFiles) -> Result<HashMap<u64, f64>, TreebankError> {
    let mut scores = HashMap::new();
    let shape = Shape { separator: '|', text_first: false, has_header: true };
    for_each_line(&files.labels, &read(&files.labels)?, &shape, |line| {
        let (id, score) = line.fields;
        let id = line.number("phrase id", id)?;
        let wrong = || line.error("sentiment value", "a number from 0 to 1", score);
        let score: f64 = score.trim().parse().map_err(|_| wrong())?;
        if !(0.0..=1.0).contains(&score) {
            return Err(wrong());
        }
        match scores.insert(id, score) {
            None => Ok(()),
            Some(_) => Err(line.error("phrase id", "an id that no earlier line has", &id.to_string())),
        }
    })?;
    Ok(scores)
}

fn read_splits(files: &TreebankFiles) -> Result<HashMap<u64, Split>, TreebankError> {
    let mut splits = HashMap::new();
    let shape = Shape { separator: ',', text_first: false, has_header: true };
    for_each_line(&files.splits, &read(&files.splits)?, &shape, |line| {
        let (index, label) = line.fields;
        let index = line.number("sentence_index", index)?;
        let split = match label.trim() {
            "1" => Split::Train,
            "2" => Split::Test,
            "3" => Split::Dev,
            _ => return Err(line.error("splitset_label", "1 (train), 2 (test) or 3 (dev)", label)),
        };
        match splits.insert(index, split) {
            None => Ok(()),
            Some(_) => Err(line.error("sentence_index", "an index that no earlier line has", &index.to_string())),
        }
    })?;
    Ok(splits)
}

/// Canonical text to the first phrase that has it.
fn repaired_phrases<'a>(phrases: &HashMap<&'a str, Phrase>) -> HashMap<String, (&'a str, Phrase)> {
    let mut repaired: HashMap<String, (&str, Phrase)> = HashMap::new();
    for (&text, &phrase) in phrases {
        let kept = repaired.entry(canonical(text)).or_insert((text, phrase));
        if phrase.line < kept.1.line {
            *kept = (text, phrase);
        }
    }
    repaired
}

/// The text with bracket tokens written out and, where the whole of it is UTF-8 that was decoded as Latin-1, decoded.
fn canonical(text: &str) -> String {
    let mut text = text.trim().to_owned();
    for (token, bracket) in [("-LRB-", "("), ("-RRB-", ")"), ("-LSB-", "["), ("-RSB-", "]")] {
        text = text.replace(token, bracket);
    }
    let latin1: Option<Vec<u8>> = text.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect();
    latin1.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or(text)
}
