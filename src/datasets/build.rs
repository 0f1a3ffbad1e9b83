//! One dataset for one tokenizer: words of the right length fill the template, answers become tokens, rows are paired.

use super::assemble::{Row, Rows, assemble};
use super::error::{DatasetError, Place};
use super::explicit::{ExplicitPrompt, Layout, Lengths};
use super::file::{Answers, Counterpart, Dataset, Fill, PromptSource, Sides, TemplatePrompts, WordLists};
use super::template::Prompt;
use super::{AnswerPair, PairedPrompts};
use crate::model::Tokenizer;
use std::collections::{BTreeMap, HashSet};

/// How a dataset is built, beyond what its table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    /// Tokens a filler must have inside a text, leading space included, in place of the dataset's own `filter_length`.
    pub filter_length: Option<usize>,
    /// Number of answer pairs; all there are when `None`.
    pub n_answers: Option<usize>,
    /// Does BOS stand in front of every prompt?
    pub prepend_bos: bool,
    /// Most tokens of a prompt, BOS included; any number when `None`.
    pub longest: Option<usize>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self { filter_length: None, n_answers: None, prepend_bos: true, longest: None }
    }
}

/// A text for words to stand in while their tokens are counted.
const CONTEXT: &str = "a";

/// What every step needs to know.
struct Builder<'a> {
    dataset: &'a Dataset,
    lists: &'a WordLists,
    tokenizer: &'a Tokenizer,
    options: &'a BuildOptions,
}

/// The prompts of a dataset; what is wrong goes to `faults`, and there are none then.
pub(super) fn build(
    dataset: &Dataset,
    lists: &WordLists,
    tokenizer: &Tokenizer,
    options: &BuildOptions,
    faults: &mut Vec<DatasetError>,
) -> Option<PairedPrompts> {
    let bos = match (options.prepend_bos, tokenizer.bos()) {
        (false, _) => None,
        (true, Some(bos)) => Some(bos),
        (true, None) => {
            faults.push(DatasetError::MissingBos { tokenizer: tokenizer.path().into() });
            return None;
        }
    };
    let builder = Builder { dataset, lists, tokenizer, options };
    let rows = match &dataset.prompts {
        PromptSource::Template(source) => builder.template_rows(source, faults)?,
        PromptSource::Explicit { prompts, layout } => builder.explicit_rows(prompts, *layout, faults),
    };
    assemble(dataset, rows, tokenizer, (bos, options.longest), faults)
}

/// A value, or none when it is a fault.
pub(super) fn sound<T>(result: Result<T, DatasetError>, faults: &mut Vec<DatasetError>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

impl Builder<'_> {
    fn template_rows(&self, source: &TemplatePrompts, faults: &mut Vec<DatasetError>) -> Option<Rows> {
        let before = faults.len();
        let words = self.filtered_words(source, faults);
        if faults.len() > before {
            let lists =
                [("answers.positive", &source.answers.positive), ("answers.negative", &source.answers.negative)];
            faults.extend(lists.into_iter().filter_map(|(field, list)| self.word_list(list, field).err()));
            return None;
        }
        sound(self.filled_rows(source, &words), faults)
    }

    fn filled_rows(
        &self,
        source: &TemplatePrompts,
        words: &BTreeMap<String, Vec<String>>,
    ) -> Result<Rows, DatasetError> {
        let mut prompts = Vec::new();
        for index in 0..n_indices(source, words) {
            for (variant, fills) in source.variants.iter().enumerate() {
                for positive in [true, false] {
                    prompts.push(self.fill(source, words, (variant, fills), index, positive)?);
                }
            }
        }
        let answers = match prompts.first() {
            Some(first) => self.answer_pairs(&source.answers, first)?,
            None => Vec::new(),
        };
        let swapped: Vec<AnswerPair> = answers.iter().map(|&(positive, negative)| (negative, positive)).collect();
        let row = |clean: usize| {
            let positive = clean.is_multiple_of(2);
            let answers = if positive { answers.clone() } else { swapped.clone() };
            let corrupted = match source.corrupted {
                Counterpart::Next => (clean + 1) % prompts.len(),
                Counterpart::Partner => clean ^ 1,
            };
            Row { clean, corrupted, positive: Some(positive), answers, at: None }
        };
        let wanted = |row: &Row| match source.rows {
            Sides::Both => true,
            Sides::Positive => row.positive == Some(true),
            Sides::Negative => row.positive == Some(false),
        };
        let rows = (0..prompts.len()).map(row).filter(wanted).collect();
        let layout = Layout { lengths: Lengths::Equal, named_in_clean: false };
        Ok(Rows { prompts, rows, field: "template", layout })
    }

    fn explicit_rows(&self, pairs: &[ExplicitPrompt], layout: Layout, faults: &mut Vec<DatasetError>) -> Rows {
        let mut prompts = Vec::with_capacity(2 * pairs.len());
        let mut rows = Vec::with_capacity(pairs.len());
        for (index, pair) in pairs.iter().enumerate() {
            let answers = self.answers_of(pair, faults);
            let (clean, corrupted) = (2 * index, 2 * index + 1);
            rows.push(Row { clean, corrupted, positive: pair.positive, answers, at: Some(pair.at) });
            prompts.extend([pair.clean.clone(), pair.corrupted.clone()]);
        }
        Rows { prompts, rows, field: "prompts", layout }
    }

    /// The answers of a pair, each of which is one token behind the clean prompt.
    fn answers_of(&self, pair: &ExplicitPrompt, faults: &mut Vec<DatasetError>) -> Vec<AnswerPair> {
        let place = |field: &str| self.dataset.place(&pair.at.field(field));
        let answer = |field: &str, text: &str| self.single_answer(&pair.clean, text, place(field));
        let correct = sound(answer("correct", &pair.correct), faults);
        let incorrect = sound(answer("incorrect", &pair.incorrect), faults);
        let (Some(correct), Some(incorrect)) = (correct, incorrect) else { return Vec::new() };
        let checked = self.checked_pairs(vec![(correct, incorrect)], place("incorrect"));
        sound(checked, faults).unwrap_or_default()
    }

    /// Every word list the dataset names, with the words of the right length only, each once.
    fn filtered_words(
        &self,
        source: &TemplatePrompts,
        faults: &mut Vec<DatasetError>,
    ) -> BTreeMap<String, Vec<String>> {
        let filter_length = self.options.filter_length.unwrap_or(source.filter_length);
        let fills = source.variants.iter().flatten();
        let filled = fills.flat_map(|(placeholder, fill)| {
            let field = format!("fill.{placeholder}");
            [(field.clone(), &fill.positive), (field, &fill.negative)]
        });
        let limits = source.limit.iter().flatten().map(|list| ("limit".to_string(), list));
        let begins = source.template.first_placeholder();
        let beginning: HashSet<&String> = source
            .variants
            .iter()
            .flatten()
            .filter(|(placeholder, _)| Some(placeholder.as_str()) == begins)
            .flat_map(|(_, fill)| [&fill.positive, &fill.negative])
            .collect();
        let mut words = BTreeMap::new();
        for (field, list) in filled.chain(limits) {
            if !words.contains_key(list) {
                let fits = |word: &str| self.has_length(word, filter_length, beginning.contains(list));
                let fitting = sound(self.words_that_fit(list, filter_length, fits, &field), faults);
                words.insert(list.clone(), fitting.unwrap_or_default());
            }
        }
        words
    }

    /// Is the word `filter_length` tokens long, inside a text and, if it also `begins` one, there without its space?
    ///
    /// Inside a text, because some tokenizers (Mistral's) put a token in front of a word that stands alone with a space:
    /// the research code asked for one token more there.
    fn has_length(&self, word: &str, filter_length: usize, begins: bool) -> Result<bool, DatasetError> {
        let before = self.tokenizer.encode(CONTEXT)?.len();
        let inside = self.tokenizer.encode(&format!("{CONTEXT}{word}"))?.len();
        Ok(inside == before + filter_length
            && (!begins || self.tokenizer.encode(word.trim_start())?.len() == filter_length))
    }

    fn words_that_fit(
        &self,
        list: &str,
        filter_length: usize,
        fits: impl Fn(&str) -> Result<bool, DatasetError>,
        field: &str,
    ) -> Result<Vec<String>, DatasetError> {
        let all = self.word_list(list, field)?;
        let mut seen = HashSet::new();
        let mut kept = Vec::new();
        for word in all {
            if fits(word)? && seen.insert(word) {
                kept.push(word.clone());
            }
        }
        if kept.is_empty() {
            return Err(DatasetError::NoWords {
                place: self.dataset.place(field),
                list: list.into(),
                words: all.len(),
                filter_length,
                tokenizer: self.tokenizer.path().into(),
            });
        }
        Ok(kept)
    }

    fn word_list(&self, list: &str, field: &str) -> Result<&[String], DatasetError> {
        let unknown = || DatasetError::UnknownWordList { place: self.dataset.place(field), list: list.into() };
        self.lists.get(list).map(Vec::as_slice).ok_or_else(unknown)
    }

    fn fill(
        &self,
        source: &TemplatePrompts,
        words: &BTreeMap<String, Vec<String>>,
        (variant, fills): (usize, &BTreeMap<String, Fill>),
        index: usize,
        positive: bool,
    ) -> Result<Prompt, DatasetError> {
        let field = if source.variants.len() == 1 { "fill".to_string() } else { format!("variants[{variant}]") };
        if let Some(placeholder) = fills.keys().find(|name| !source.template.has_placeholder(name)) {
            let message = format!("the template has no placeholder {{{placeholder}}}");
            return Err(DatasetError::Field { place: self.dataset.place(&format!("{field}.{placeholder}")), message });
        }
        let word = |placeholder: &str| {
            let fill = fills.get(placeholder)?;
            let words = words.get(if positive { &fill.positive } else { &fill.negative })?;
            words.get((index + fill.offset) % words.len().max(1)).map(String::as_str)
        };
        let missing =
            |placeholder| DatasetError::PlaceholderWithoutList { place: self.dataset.place(&field), placeholder };
        source.template.render(word).map_err(missing)
    }

    /// (positive, negative) answers; which tokens an answer is depends on the prompt it continues.
    fn answer_pairs(&self, answers: &Answers, prompt: &Prompt) -> Result<Vec<AnswerPair>, DatasetError> {
        let positive = self.answer_list(answers, &answers.positive, prompt, "answers.positive")?;
        let negative = self.answer_list(answers, &answers.negative, prompt, "answers.negative")?;
        self.checked_pairs(positive.into_iter().zip(negative).collect(), self.dataset.place("answers"))
    }

    /// The list's answers that are one token after `prompt`, or all answers' first tokens; each token once.
    fn answer_list(
        &self,
        answers: &Answers,
        list: &str,
        prompt: &Prompt,
        field: &str,
    ) -> Result<Vec<u32>, DatasetError> {
        let mut tokens: Vec<u32> = Vec::new();
        for answer in self.word_list(list, field)? {
            let found = match answers.bare {
                true => self.tokenizer.encode(answer.trim_start())?,
                false => self.continuation(prompt, answer)?,
            };
            match found.as_slice() {
                [token, rest @ ..] if (answers.first_token || rest.is_empty()) && !tokens.contains(token) => {
                    tokens.push(*token)
                }
                _ => {}
            }
        }
        Ok(tokens)
    }

    fn single_answer(&self, prompt: &Prompt, answer: &str, place: Box<Place>) -> Result<u32, DatasetError> {
        match self.continuation(prompt, answer)?.as_slice() {
            [token] => Ok(*token),
            tokens => {
                let spaced = self.continuation(prompt, &format!(" {answer}"))?.len() == 1;
                let text = |token: &u32| Ok(self.tokenizer.decode(std::slice::from_ref(token))?);
                Err(DatasetError::AnswerTokens {
                    place,
                    prompt: prompt.text.clone(),
                    answer: answer.into(),
                    found: tokens.iter().map(text).collect::<Result<_, DatasetError>>()?,
                    tokenizer: self.tokenizer.path().into(),
                    spaced,
                })
            }
        }
    }

    /// The tokens by which `answer` continues `prompt`; none when it melts into the prompt's last token.
    ///
    /// An answer is encoded behind its prompt because some tokenizers (Mistral's) put a token in front of a text that
    /// stands alone.
    fn continuation(&self, prompt: &Prompt, answer: &str) -> Result<Vec<u32>, DatasetError> {
        let before = self.tokenizer.encode(&prompt.text)?;
        let whole = self.tokenizer.encode(&format!("{}{answer}", prompt.text))?;
        Ok(whole.strip_prefix(before.as_slice()).unwrap_or_default().to_vec())
    }

    /// As many pairs as asked for, none of which is one token twice.
    fn checked_pairs(&self, mut pairs: Vec<AnswerPair>, place: Box<Place>) -> Result<Vec<AnswerPair>, DatasetError> {
        let expected = self.options.n_answers.unwrap_or(pairs.len()).max(1);
        let tokenizer = || self.tokenizer.path().into();
        if self.options.n_answers == Some(0) {
            return Err(DatasetError::Field {
                place,
                message: "0 answer pairs wanted, but at least one is needed".into(),
            });
        }
        if pairs.len() < expected {
            return Err(DatasetError::TooFewAnswers { place, expected, found: pairs.len(), tokenizer: tokenizer() });
        }
        pairs.truncate(expected);
        match pairs.iter().find(|(correct, incorrect)| correct == incorrect) {
            Some(&(token, _)) => {
                let text = self.tokenizer.decode(&[token])?;
                Err(DatasetError::SameAnswer { place, token, text, tokenizer: tokenizer() })
            }
            None => Ok(pairs),
        }
    }
}

/// The length of the shortest limiting list: each index gives one positive and one negative prompt per variant.
fn n_indices(source: &TemplatePrompts, words: &BTreeMap<String, Vec<String>>) -> usize {
    let limiting = |list: &String| source.limit.as_ref().is_none_or(|limit| limit.contains(list));
    words.iter().filter(|(list, _)| limiting(list)).map(|(_, words)| words.len()).min().unwrap_or(0)
}
