//! The shape of a dataset file: TOML tables, checked one by one so that an error can name its dataset.

use super::error::{DatasetError, Place};
use super::explicit::{ExplicitPrompt, Layout, Lengths, check_length, explicit_prompts};
use super::template::Template;
use crate::compat::Compat;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One dataset and the file it came from.
#[derive(Debug, Clone)]
pub(super) struct Dataset {
    pub file: String,
    pub name: String,
    pub prompts: PromptSource,
    /// Was something left out that is wrong?
    pub flawed: bool,
}

impl Dataset {
    /// Where `field` of this dataset stands.
    pub fn place(&self, field: &str) -> Box<Place> {
        Box::new(Place { file: self.file.clone(), dataset: self.name.clone(), field: field.into() })
    }
}

#[derive(Debug, Clone)]
pub(super) enum PromptSource {
    Template(TemplatePrompts),
    Explicit { prompts: Vec<ExplicitPrompt>, layout: Layout },
}

#[derive(Debug, Clone)]
pub(super) struct TemplatePrompts {
    pub template: Template,
    /// At least one; every index gives one positive and one negative prompt per variant.
    pub variants: Vec<BTreeMap<String, Fill>>,
    /// Word lists whose shortest sets the number of indices; `None`: all that fill a placeholder.
    pub limit: Option<Vec<String>>,
    pub filter_length: usize,
    /// Which prompt is the corrupted one of a row.
    pub corrupted: Counterpart,
    /// Which prompts are clean ones.
    pub rows: Sides,
    /// Placeholders before which [`Compat::DoubleSpaces`] has a second space.
    pub double_spaces: Vec<String>,
    pub answers: Answers,
}

/// The corrupted prompt of a template's row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Counterpart {
    /// The next row's clean one.
    #[default]
    Next,
    /// The one of the other sign with the same index and variant.
    Partner,
}

/// The sign of the prompts that have a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sides {
    /// Either.
    #[default]
    Both,
    /// The negative prompts only serve as corrupted ones.
    Positive,
    /// The positive prompts only serve as corrupted ones.
    Negative,
}

impl TemplatePrompts {
    /// Makes the prompts what they are under `compat`.
    pub fn apply(&mut self, compat: Compat) {
        match compat {
            Compat::DoubleSpaces => self.template.space_before(&self.double_spaces),
            Compat::TrailingSpace => {
                self.template.space_behind();
                self.answers.bare = true;
            }
            // None of these is about a template: but for a word list they are about how directions are fitted and patched,
            // and which position is the main one.
            Compat::PastedAdjectives
            | Compat::UnprocessedFits
            | Compat::DasSign
            | Compat::UnpatchedRuns
            | Compat::FirstPlaceholder => {}
        }
    }
}

/// What fills one placeholder.
#[derive(Debug, Clone)]
pub(super) struct Fill {
    pub positive: String,
    pub negative: String,
    pub offset: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answers {
    pub positive: String,
    pub negative: String,
    #[serde(default)]
    pub first_token: bool,
    /// Are answers encoded alone and without their leading space, not as the prompt's continuation?
    #[serde(skip)]
    pub bare: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DatasetTable {
    template: Option<String>,
    fill: Option<FillTables>,
    variants: Option<Vec<FillTables>>,
    limit: Option<Vec<String>>,
    filter_length: Option<usize>,
    corrupted: Option<Counterpart>,
    rows: Option<Sides>,
    double_spaces: Option<Vec<String>>,
    answers: Option<Answers>,
    /// Parsed one by one, so that an error can say which.
    prompts: Option<Vec<toml::Value>>,
    ragged: Option<bool>,
}

impl DatasetTable {
    /// A field it has that says something about a template.
    fn field_of_template(&self) -> Option<&'static str> {
        let fields = [
            ("fill", self.fill.is_some()),
            ("variants", self.variants.is_some()),
            ("limit", self.limit.is_some()),
            ("filter_length", self.filter_length.is_some()),
            ("corrupted", self.corrupted.is_some()),
            ("rows", self.rows.is_some()),
            ("double_spaces", self.double_spaces.is_some()),
            ("answers", self.answers.is_some()),
        ];
        fields.into_iter().find(|(_, present)| *present).map(|(field, _)| field)
    }
}

type FillTables = BTreeMap<String, FillTable>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FillTable {
    positive: Option<String>,
    negative: Option<String>,
    both: Option<String>,
    #[serde(default)]
    offset: usize,
}

/// Name to words, each with its leading space.
pub(super) type WordLists = BTreeMap<String, Vec<String>>;

/// Parses a file of word lists; `file` names it in errors.
pub(super) fn parse_words(file: &str, text: &str) -> Result<WordLists, DatasetError> {
    word_lists(file, parse_table(file, text)?)
}

/// Parses a file of datasets, which may have a table `[words]` too. What is wrong goes to `faults`, and is left out.
pub(super) fn parse_datasets(file: &str, text: &str, faults: &mut Vec<DatasetError>) -> (WordLists, Vec<Dataset>) {
    let mut tables = parse_table(file, text).map_err(|fault| faults.push(fault)).unwrap_or_default();
    let words = match tables.remove("words") {
        None => Ok(WordLists::new()),
        Some(toml::Value::Table(lists)) => word_lists(file, lists),
        Some(other) => {
            let message = format!("`words` must be a table of word lists, not a {}", other.type_str());
            Err(DatasetError::Syntax { file: file.into(), message })
        }
    };
    let words = words.map_err(|fault| faults.push(fault)).unwrap_or_default();
    let datasets = tables.into_iter().filter_map(|(name, table)| dataset(file, name, table, faults)).collect();
    (words, datasets)
}

fn parse_table(file: &str, text: &str) -> Result<toml::Table, DatasetError> {
    toml::from_str(text).map_err(|error| DatasetError::Syntax { file: file.into(), message: error.to_string() })
}

fn word_lists(file: &str, table: toml::Table) -> Result<WordLists, DatasetError> {
    let mut lists = WordLists::new();
    for (list, value) in table {
        let wrong = |message: String| DatasetError::WordList { file: file.into(), list: list.clone(), message };
        let words: Vec<String> = value
            .try_into()
            .map_err(|error: toml::de::Error| wrong(format!("a list of words is needed: {}", one_line(&error))))?;
        if let Some(at) = words.iter().position(|word| word.trim().is_empty()) {
            return Err(wrong(format!("word {} is empty", at + 1)));
        }
        words.iter().try_for_each(|word| check_length(word)).map_err(&wrong)?;
        let spaced = words.iter().map(|word| format!(" {}", word.trim())).collect();
        lists.insert(list, spaced);
    }
    Ok(lists)
}

/// The parser's message as part of a line of our own.
pub(super) fn one_line(error: &toml::de::Error) -> String {
    error.to_string().trim().replace('\n', " ")
}

/// Longest name of a dataset, in bytes: it is a part of file names.
const LONGEST_NAME: usize = 100;

/// Refuses a name that is no part of a file name.
pub(super) fn check_name(file: &str, name: &str) -> Result<(), DatasetError> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    if name.is_empty() || name.len() > LONGEST_NAME || name.starts_with('.') || !name.chars().all(plain) {
        let message = format!(
            "a dataset's name has 1 to {LONGEST_NAME} letters, digits, `_`, `-` and `.`, and does not begin with `.`"
        );
        return Err(DatasetError::Table { file: file.into(), dataset: name.escape_debug().to_string(), message });
    }
    Ok(())
}

/// A dataset of a table, as far as it can be; what is wrong goes to `faults`.
fn dataset(file: &str, name: String, value: toml::Value, faults: &mut Vec<DatasetError>) -> Option<Dataset> {
    let before = faults.len();
    let parsed = check_name(file, &name).and_then(|()| parse_dataset(file, &name, value, faults));
    let dataset = parsed.map_err(|fault| faults.push(fault)).ok()?;
    Some(Dataset { flawed: faults.len() > before, ..dataset })
}

fn parse_dataset(
    file: &str,
    name: &str,
    value: toml::Value,
    faults: &mut Vec<DatasetError>,
) -> Result<Dataset, DatasetError> {
    let wrong = |message: String| DatasetError::Table { file: file.into(), dataset: name.into(), message };
    let table: DatasetTable = value.try_into().map_err(|error| wrong(one_line(&error)))?;
    let place = |field: String| Box::new(Place { file: file.into(), dataset: name.into(), field });
    let of_template = table.field_of_template();
    let prompts = match (table.template.as_deref(), table.prompts) {
        (Some(_), Some(_)) => {
            return Err(wrong("it has both `template` and `prompts`; only one of them is possible".into()));
        }
        (None, None) => return Err(wrong("it has neither `template` nor `prompts`".into())),
        (None, Some(prompts)) => {
            if let Some(field) = of_template {
                return Err(wrong(format!("`{field}` belongs to a `template`, but this dataset lists its `prompts`")));
            }
            let lengths = if table.ragged == Some(true) { Lengths::Ragged } else { Lengths::Equal };
            let prompts = explicit_prompts(&place, prompts, faults);
            PromptSource::Explicit { prompts, layout: Layout { lengths, named_in_clean: false } }
        }
        (Some(_), None) if table.ragged.is_some() => {
            return Err(wrong("`ragged` belongs to listed `prompts`, but this dataset has a `template`".into()));
        }
        (Some(source), None) => {
            let template = parse_template(&place, "template".into(), source)?;
            let filter_length = table.filter_length.unwrap_or(1);
            let answers = table.answers.ok_or_else(|| wrong("missing field `answers`".into()))?;
            let variants = variants(&place, table.fill, table.variants)?;
            let double_spaces = table.double_spaces.unwrap_or_default();
            if let Some(name) = double_spaces.iter().find(|name| !template.has_placeholder(name)) {
                let message = format!("the template has no placeholder {{{name}}}");
                return Err(DatasetError::Field { place: place("double_spaces".into()), message });
            }
            PromptSource::Template(TemplatePrompts {
                template,
                variants,
                limit: table.limit,
                filter_length,
                corrupted: table.corrupted.unwrap_or_default(),
                rows: table.rows.unwrap_or_default(),
                double_spaces,
                answers,
            })
        }
    };
    Ok(Dataset { file: file.into(), name: name.into(), prompts, flawed: false })
}

pub(super) fn parse_template(
    place: &impl Fn(String) -> Box<Place>,
    field: String,
    source: &str,
) -> Result<Template, DatasetError> {
    check_length(source)
        .and_then(|()| Template::parse(source))
        .map_err(|message| DatasetError::Field { place: place(field), message })
}

/// One map per variant: the dataset's `fill`, and over it what the variant says.
fn variants(
    place: &impl Fn(String) -> Box<Place>,
    fill: Option<FillTables>,
    variants: Option<Vec<FillTables>>,
) -> Result<Vec<BTreeMap<String, Fill>>, DatasetError> {
    let common = fills(place, "fill", fill.unwrap_or_default())?;
    let Some(variants) = variants else { return Ok(vec![common]) };
    if variants.is_empty() {
        return Err(DatasetError::Field { place: place("variants".into()), message: "the list is empty".into() });
    }
    let over_common = |(index, own): (usize, FillTables)| {
        let mut all = common.clone();
        all.extend(fills(place, &format!("variants[{index}]"), own)?);
        Ok(all)
    };
    variants.into_iter().enumerate().map(over_common).collect()
}

fn fills(
    place: &impl Fn(String) -> Box<Place>,
    field: &str,
    tables: FillTables,
) -> Result<BTreeMap<String, Fill>, DatasetError> {
    let fill = |(placeholder, table): (String, FillTable)| match one_fill(table) {
        Ok(fill) => Ok((placeholder, fill)),
        Err(message) => Err(DatasetError::Field { place: place(format!("{field}.{placeholder}")), message }),
    };
    tables.into_iter().map(fill).collect()
}

fn one_fill(table: FillTable) -> Result<Fill, String> {
    let (positive, negative) = match (table.positive, table.negative, table.both) {
        (Some(positive), Some(negative), None) => (positive, negative),
        (None, None, Some(both)) => (both.clone(), both),
        _ => return Err("it needs either `positive` and `negative` or `both`".into()),
    };
    Ok(Fill { positive, negative, offset: table.offset })
}
