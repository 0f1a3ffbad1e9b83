//! `steering_<direction>.jsonl`: one text a line, with everything that it was written from.

use super::ReportError;
use super::error::write_whole;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// A text that a steered model wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SteeredText {
    /// The direction, as the command line names it.
    pub direction: String,
    /// Hook names of the sites at which it was added.
    pub sites: Vec<String>,
    /// The text that is continued.
    pub prompt: String,
    /// Logits were divided by it; 0 for the likeliest token.
    pub temperature: f64,
    /// How many of the likeliest tokens could be drawn; 0 for all.
    pub top_k: usize,
    /// Most tokens of a text.
    pub max_new_tokens: usize,
    /// Seed of the random numbers.
    pub seed: u64,
    /// What the direction was multiplied by.
    pub coefficient: f32,
    /// Which of several texts of these settings.
    pub sample: u32,
    /// What was written, without the prompt and without the token that ended it.
    pub text: String,
    /// Its tokens, with the one that ended it.
    pub tokens: Vec<u32>,
    /// Log probability of every token under the steered model, whole vocabulary, temperature 1.
    pub log_probabilities: Vec<f32>,
    /// Their sum.
    pub log_probability: f32,
    /// Did a token end the text, and not the limit?
    pub ended: bool,
    /// Id of everything that it was made of; nothing in files of version 0.1, which did not say.
    #[serde(default)]
    pub provenance: String,
}

impl SteeredText {
    /// Order of texts by what they were written from, whatever was written.
    fn by_settings(&self, other: &Self) -> Ordering {
        let numbers = |text: &Self| (text.top_k, text.max_new_tokens, text.seed);
        (&self.direction, &self.sites, &self.prompt)
            .cmp(&(&other.direction, &other.sites, &other.prompt))
            .then(self.temperature.total_cmp(&other.temperature))
            .then(numbers(self).cmp(&numbers(other)))
            .then(self.coefficient.total_cmp(&other.coefficient))
            .then(self.sample.cmp(&other.sample))
    }
}

/// The file's texts, in order of their settings, so that it is the same whatever came first.
#[derive(Debug, Clone, PartialEq)]
pub struct SteeredTexts {
    path: PathBuf,
    texts: Vec<SteeredText>,
}

impl SteeredTexts {
    /// Reads the file; no file is an empty one.
    ///
    /// # Errors
    /// [`ReportError`] for a file that cannot be read, and a line that is no steered text.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let mut file = Self { path: path.into(), texts: Vec::new() };
        if !path.exists() {
            return Ok(file);
        }
        let content = std::fs::read_to_string(path).map_err(|source| ReportError::Io { path: path.into(), source })?;
        for (number, line) in content.lines().enumerate() {
            file.insert(serde_json::from_str(line).map_err(|error| ReportError::Content {
                path: path.into(),
                field: format!("line {}", number + 1),
                expected: "a steered text".into(),
                found: error.to_string(),
            })?);
        }
        Ok(file)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text with the settings of `like`, if it is there.
    pub fn get(&self, like: &SteeredText) -> Option<&SteeredText> {
        self.place(like).ok().map(|place| &self.texts[place])
    }

    /// Adds a text, in the place of one with the same settings.
    pub fn insert(&mut self, text: SteeredText) {
        match self.place(&text) {
            Ok(place) => self.texts[place] = text,
            Err(place) => self.texts.insert(place, text),
        }
    }

    /// Every text, in order.
    pub fn texts(&self) -> &[SteeredText] {
        &self.texts
    }

    fn place(&self, like: &SteeredText) -> Result<usize, usize> {
        self.texts.binary_search_by(|text| text.by_settings(like))
    }

    /// Writes the file whole.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self) -> Result<(), ReportError> {
        let mut bytes = Vec::new();
        for text in &self.texts {
            serde_json::to_writer(&mut bytes, text)
                .map_err(|error| ReportError::Io { path: self.path.clone(), source: error.into() })?;
            bytes.push(b'\n');
        }
        write_whole(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(coefficient: f32, sample: u32, written: &str) -> SteeredText {
        SteeredText {
            direction: "das_simple_train_ADJ_layer1".into(),
            sites: vec!["blocks.1.hook_resid_pre".into()],
            prompt: "The film was \"very\"\n".into(),
            temperature: 0.7,
            top_k: 10,
            max_new_tokens: 30,
            seed: u64::MAX,
            coefficient,
            sample,
            text: written.into(),
            tokens: vec![0, 50256],
            log_probabilities: vec![-0.1, -1.0 / 3.0],
            log_probability: -0.43333334,
            ended: true,
            provenance: "0123456789abcdef".into(),
        }
    }

    #[test]
    fn texts_survive_the_file_and_replace_those_of_the_same_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        let mut file = SteeredTexts::read(&path).unwrap();
        for (coefficient, sample) in [(0.1, 1), (-20.0, 0), (0.1, 0)] {
            file.insert(text(coefficient, sample, "good\n"));
        }
        file.insert(text(0.1, 1, "better"));
        file.write().unwrap();
        let read = SteeredTexts::read(&path).unwrap();
        assert_eq!(read, file);
        let order: Vec<_> = read.texts.iter().map(|text| (text.coefficient, text.sample)).collect();
        assert_eq!(order, [(-20.0, 0), (0.1, 0), (0.1, 1)]);
        assert_eq!(read.get(&text(0.1, 1, "")).unwrap().text, "better");
        assert!(read.get(&SteeredText { top_k: 5, ..text(0.1, 1, "") }).is_none());
    }

    #[test]
    fn lines_of_version_0_1_say_nothing_of_their_making() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        let line = serde_json::to_string(&text(1.0, 0, "x")).unwrap();
        let earlier = line.replace(",\"provenance\":\"0123456789abcdef\"", "");
        assert_ne!(earlier, line);
        std::fs::write(&path, earlier + "\n").unwrap();
        let expected = SteeredText { provenance: String::new(), ..text(1.0, 0, "x") };
        assert_eq!(SteeredTexts::read(&path).unwrap().texts(), [expected]);
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("texts.jsonl");
        let line = serde_json::to_string(&text(1.0, 0, "x")).unwrap();
        for (second, word) in [("{}", "direction"), (&line.replacen("{", "{\"label\":1,", 1), "label"), ("", "EOF")] {
            std::fs::write(&path, format!("{line}\n{second}\n")).unwrap();
            let message = SteeredTexts::read(&path).unwrap_err().to_string();
            assert!(message.contains("texts.jsonl: line 2") && message.contains(word), "{message}");
        }
    }
}
