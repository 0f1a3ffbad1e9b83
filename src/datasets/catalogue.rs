//! All datasets and word lists a run knows: the built-in ones, those of the data folder, those of the user's files.

use super::PairedPrompts;
use super::build::{BuildOptions, build};
use super::error::DatasetError;
use super::file::{Dataset, PromptSource, WordLists, parse_datasets, parse_words};
use crate::compat::Compat;
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

    /// Adds the datasets of `path`, and the word lists of its table `[words]`.
    ///
    /// # Errors
    /// [`DatasetError`] when the file cannot be read or parsed.
    pub fn with_file(self, path: &Path) -> Result<Self, DatasetError> {
        let text = std::fs::read_to_string(path).map_err(|source| DatasetError::Io { path: path.into(), source })?;
        self.with_text(&path.display().to_string(), &text)
    }

    /// The same for the text of a file; `file` names it in errors.
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
        build(dataset, &self.words, tokenizer, options)
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
        let (words, datasets) = parse_datasets(file, text)?;
        self.words.extend(words);
        self.datasets.extend(datasets.into_iter().map(|dataset| (dataset.name.clone(), dataset)));
        Ok(())
    }
}

fn read_if_present(path: &Path) -> Result<Option<String>, DatasetError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DatasetError::Io { path: path.into(), source }),
    }
}
