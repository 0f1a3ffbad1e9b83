//! Pairs that a file lists one by one: the entries of `prompts` in TOML, and the lines of a table of pairs.

use super::error::{DatasetError, Place};
use super::file::{one_line, parse_template};
use super::pairs::class_of;
use super::template::Prompt;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// How listed prompts are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub lengths: Lengths,
    /// Do corrupted prompts have their clean ones' named positions?
    pub named_in_clean: bool,
}

/// Which prompts have one length. The two of a pair always do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lengths {
    /// All of a dataset.
    Equal,
    /// The two of a pair.
    Ragged,
    /// All of a dataset, or the two of a pair: whichever it is.
    Any,
}

/// A clean prompt with its own corrupted one.
#[derive(Debug, Clone)]
pub(super) struct ExplicitPrompt {
    pub clean: Prompt,
    pub corrupted: Prompt,
    pub correct: String,
    pub incorrect: String,
    /// Is it of the positive class? None without classes.
    pub positive: Option<bool>,
    pub at: At,
}

/// Where an explicit prompt stands in its file, and what its fields are called there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    /// An entry of a list in TOML, from 0.
    Entry(usize),
    /// A line of a table of pairs, from 1.
    Line(usize),
}

impl At {
    /// The field of the whole pair.
    pub fn pair(self) -> String {
        match self {
            At::Entry(index) => format!("prompts[{index}]"),
            At::Line(line) => format!("line {line}"),
        }
    }

    /// One of its fields.
    pub fn field(self, field: &str) -> String {
        match (self, field) {
            (At::Entry(_), _) => format!("{}.{field}", self.pair()),
            (At::Line(_), "correct") => format!("{}, answer", self.pair()),
            (At::Line(_), "incorrect") => format!("{}, wrong_answer", self.pair()),
            (At::Line(_), _) => format!("{}, {field}", self.pair()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptTable {
    clean: String,
    corrupted: String,
    correct: String,
    incorrect: String,
    label: Option<Label>,
}

/// The class of a prompt as tables of pairs have it: is it the positive one?
struct Label(Option<bool>);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        class_of(&Value::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

/// Longest text, in bytes: as many tokens as the largest contexts have, and encoded in a moment.
const LONGEST_TEXT: usize = 1 << 17;

/// Refuses a text whose tokens would take minutes to find.
pub(super) fn check_length(text: &str) -> Result<(), String> {
    match text.len() {
        0..=LONGEST_TEXT => Ok(()),
        found => Err(format!("expected at most {LONGEST_TEXT} bytes, found {found}")),
    }
}

/// The entries of a list of prompts that can be; faults go to `faults`.
pub(super) fn explicit_prompts(
    place: &impl Fn(String) -> Box<Place>,
    tables: Vec<toml::Value>,
    faults: &mut Vec<DatasetError>,
) -> Vec<ExplicitPrompt> {
    let parse = |(index, table): (usize, toml::Value)| {
        let at = At::Entry(index);
        let wrong = |error| DatasetError::Field { place: place(at.pair()), message: one_line(&error) };
        let table: PromptTable = table.try_into().map_err(wrong)?;
        for (field, answer) in [("correct", &table.correct), ("incorrect", &table.incorrect)] {
            check_length(answer).map_err(|message| DatasetError::Field { place: place(at.field(field)), message })?;
        }
        let prompt = |field: &str, source: &str| {
            let template = parse_template(place, at.field(field), source)?;
            let missing =
                |placeholder| DatasetError::PlaceholderWithoutList { place: place(at.field(field)), placeholder };
            template.render(|_| None).map_err(missing)
        };
        Ok(ExplicitPrompt {
            clean: prompt("clean", &table.clean)?,
            corrupted: prompt("corrupted", &table.corrupted)?,
            correct: table.correct,
            incorrect: table.incorrect,
            positive: table.label.and_then(|Label(positive)| positive),
            at,
        })
    };
    let parsed = tables.into_iter().enumerate().map(parse);
    let prompts = parsed.filter_map(|prompt| prompt.map_err(|fault| faults.push(fault)).ok()).collect::<Vec<_>>();
    check_classes(&prompts, place, faults);
    prompts
}

/// Either all prompts have a class or none.
pub(super) fn check_classes(
    prompts: &[ExplicitPrompt],
    place: &impl Fn(String) -> Box<Place>,
    faults: &mut Vec<DatasetError>,
) {
    if prompts.iter().any(|prompt| prompt.positive.is_some()) {
        faults.extend(prompts.iter().filter(|prompt| prompt.positive.is_none()).map(|prompt| {
            let message = "expected the class of this pair, as of others: all pairs have one or none".into();
            DatasetError::Field { place: place(prompt.at.pair()), message }
        }));
    }
}
