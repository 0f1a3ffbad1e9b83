//! All datasets and word lists a run knows: the built-in ones, those of the data folder, those of the user's files.

use super::PairedPrompts;
use super::build::{BuildOptions, build};
use super::error::DatasetError;
use super::file::{Dataset, PromptSource, WordLists, parse_datasets, parse_words};
use super::pairs::{Format, parse_pairs};
use crate::compat::Compat;
use crate::files::{TextError, read_text_within};
use crate::model::Tokenizer;
use std::collections::BTreeMap;
use std::path::Path;

/// The word list that [`Compat::PastedAdjectives`] puts in the place of another.
const PASTED: &str = "pasted_top_adjectives";
const PASTED_OVER: &str = "negative_top_adjectives";

/// Named datasets and word lists. What is added later replaces what has the same name.
///
/// ```no_run
/// use actpatch::datasets::{BuildOptions, Catalogue};
/// use actpatch::model::Tokenizer;
/// use std::path::Path;
///
/// let tokenizer = Tokenizer::from_file(Path::new("gpt2/tokenizer.json"), Some(50256))?;
/// let catalogue = Catalogue::load(None)?.with_file(Path::new("my_datasets.toml"))?;
/// let prompts = catalogue.build("simple_train", &tokenizer, &BuildOptions::default())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Catalogue {
    words: WordLists,
    datasets: BTreeMap<String, Dataset>,
}

impl Catalogue {
    /// The built-in datasets and word lists, and over them `words.toml` and `datasets.toml` of `data_dir` where they exist.
    ///
    /// # Errors
    /// [`DatasetError`] when a file cannot be read or parsed.
    pub fn load(data_dir: Option<&Path>) -> Result<Self, DatasetError> {
        let words = parse_words("words.toml (built in)", include_str!("../../data/words.toml"))?;
        let mut catalogue = Self { words, datasets: BTreeMap::new() };
        catalogue.add_datasets("datasets.toml (built in)", include_str!("../../data/datasets.toml"))?;
        if let Some(folder) = data_dir {
            let words = folder.join("words.toml");
            if let Some(text) = read_if_present(&words)? {
                catalogue.words.extend(parse_words(&words.display().to_string(), &text)?);
            }
            let datasets = folder.join("datasets.toml");
            if let Some(text) = read_if_present(&datasets)? {
                catalogue.add_datasets(&datasets.display().to_string(), &text)?;
            }
        }
        Ok(catalogue)
    }

    /// Adds the datasets of `path`: a table of pairs (`.csv`, `.jsonl`), which is one dataset of the file's name, or
    /// TOML, with the word lists of its table `[words]`.
    ///
    /// # Errors
    /// [`DatasetError`] when the file cannot be read or parsed.
    pub fn with_file(self, path: &Path) -> Result<Self, DatasetError> {
        self.with_text(&path.display().to_string(), &read(path)?)
    }

    /// The same for the text of a file; `file` names it in errors, and its ending tells the format.
    ///
    /// # Errors
    /// [`DatasetError`] when the text cannot be parsed.
    pub fn with_text(mut self, file: &str, text: &str) -> Result<Self, DatasetError> {
        self.add_datasets(file, text)?;
        Ok(self)
    }

    /// Makes the prompts of all templates what they are under `compat`; files that are added later are not touched.
    pub fn with_compat(mut self, compat: Compat) -> Self {
        if compat == Compat::PastedAdjectives {
            let pasted = self.words.get(PASTED).cloned().unwrap_or_default();
            self.words.insert(PASTED_OVER.into(), pasted);
        }
        for dataset in self.datasets.values_mut() {
            if let PromptSource::Template(prompts) = &mut dataset.prompts {
                prompts.apply(compat);
            }
        }
        self
    }

    /// What comes of every dataset of a file as a run under `compat` builds it, with everything that is wrong with it
    /// rather than the first fault alone.
    pub fn check(&self, path: &Path, tokenizer: &Tokenizer, options: &BuildOptions, compat: &[Compat]) -> Checked {
        let mut checked = Checked::default();
        let text = read(path).map_err(|fault| checked.faults.push(fault)).unwrap_or_default();
        if !checked.faults.is_empty() {
            return checked;
        }
        let (words, datasets) = parse(&path.display().to_string(), &text, &mut checked.faults);
        let mut own = Self { words: self.words.clone(), datasets: named(datasets) };
        own.words.extend(words);
        let own = compat.iter().copied().fold(own, Self::with_compat);
        let nothing_left =
            |source: &PromptSource| matches!(source, PromptSource::Explicit { prompts, .. } if prompts.is_empty());
        for dataset in own.datasets.values().filter(|dataset| !dataset.flawed || !nothing_left(&dataset.prompts)) {
            let mut faults = Vec::new();
            let prompts = build(dataset, &own.words, tokenizer, options, &mut faults);
            checked.prompts.extend(prompts.filter(|_| !dataset.flawed));
            checked.faults.extend(faults);
        }
        checked
    }

    /// The file that a dataset comes from; none for one that there is not.
    pub fn file_of(&self, name: &str) -> Option<&str> {
        self.datasets.get(name).map(|dataset| dataset.file.as_str())
    }

    /// The names of all datasets, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.datasets.keys().map(String::as_str).collect()
    }

    /// Builds the dataset `name` for one tokenizer.
    ///
    /// # Errors
    /// [`DatasetError`] when there is no such dataset, a word list is missing or leaves no word, prompts differ in length,
    /// a named position is not the same in all prompts, or BOS is asked for and the tokenizer has none.
    pub fn build(
        &self,
        name: &str,
        tokenizer: &Tokenizer,
        options: &BuildOptions,
    ) -> Result<PairedPrompts, DatasetError> {
        let dataset = self.datasets.get(name).ok_or_else(|| DatasetError::UnknownDataset {
            name: name.into(),
            known: self.datasets.keys().cloned().collect(),
        })?;
        let mut faults = Vec::new();
        let prompts = build(dataset, &self.words, tokenizer, options, &mut faults);
        first_or(
            faults,
            prompts.ok_or_else(|| DatasetError::TooFewPrompts { place: dataset.place("prompts"), found: 0 }),
        )
    }

    /// Builds the dataset `name` of the file `path` alone, whatever else has that name.
    ///
    /// # Errors
    /// As [`Catalogue::with_file`] and [`Catalogue::build`].
    pub fn build_from(
        &self,
        path: &Path,
        name: &str,
        tokenizer: &Tokenizer,
        options: &BuildOptions,
    ) -> Result<PairedPrompts, DatasetError> {
        let nothing = Self { words: self.words.clone(), datasets: BTreeMap::new() };
        nothing.with_file(path)?.build(name, tokenizer, options)
    }

    fn add_datasets(&mut self, file: &str, text: &str) -> Result<(), DatasetError> {
        let mut faults = Vec::new();
        let (words, datasets) = parse(file, text, &mut faults);
        first_or(faults, Ok(()))?;
        self.words.extend(words);
        self.datasets.extend(named(datasets));
        Ok(())
    }
}

fn named(datasets: Vec<Dataset>) -> BTreeMap<String, Dataset> {
    datasets.into_iter().map(|dataset| (dataset.name.clone(), dataset)).collect()
}

/// What comes of a file of datasets.
#[derive(Debug, Default)]
pub struct Checked {
    /// The datasets with which nothing is wrong.
    pub prompts: Vec<PairedPrompts>,
    /// What is wrong with the others.
    pub faults: Vec<DatasetError>,
}

/// The first fault, if there is any.
fn first_or<T>(faults: Vec<DatasetError>, sound: Result<T, DatasetError>) -> Result<T, DatasetError> {
    faults.into_iter().next().map_or(sound, Err)
}

/// The datasets of a text, and its word lists; the name of its file tells the format.
fn parse(file: &str, text: &str, faults: &mut Vec<DatasetError>) -> (WordLists, Vec<Dataset>) {
    match Format::of(Path::new(file)) {
        Some(format) => (WordLists::new(), parse_pairs(file, format, text, faults).into_iter().collect()),
        None => parse_datasets(file, text, faults),
    }
}

/// Bytes of the largest file of datasets: far above any that is written, far below what would exhaust the memory.
const LARGEST_FILE: u64 = 1 << 28;

fn read(path: &Path) -> Result<String, DatasetError> {
    read_text_within(path, LARGEST_FILE).map_err(|error| match error {
        TextError::Io(source) => DatasetError::Io { path: path.into(), source },
        TextError::Line(line) => DatasetError::Syntax { file: path.display().to_string(), message: line.to_string() },
    })
}

fn read_if_present(path: &Path) -> Result<Option<String>, DatasetError> {
    match read(path) {
        Err(DatasetError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some),
    }
}
