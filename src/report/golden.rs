//! Golden numbers: figures that others have published or computed, as data to be met. `docs/verify.md` describes the
//! format of the files.

use super::ReportError;
use crate::files::{LineError, TextError, read_text};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The files that are part of the program.
const BUILT_IN: [(&str, &str); 6] = [
    ("data/golden/demo.toml", include_str!("../../data/golden/demo.toml")),
    ("data/golden/gpt2-small.toml", include_str!("../../data/golden/gpt2-small.toml")),
    ("data/golden/pythia-1.4b.toml", include_str!("../../data/golden/pythia-1.4b.toml")),
    ("data/golden/pythia-2.8b.toml", include_str!("../../data/golden/pythia-2.8b.toml")),
    ("data/golden/smollm2-135m.toml", include_str!("../../data/golden/smollm2-135m.toml")),
    ("data/golden/stablelm-base-alpha-3b.toml", include_str!("../../data/golden/stablelm-base-alpha-3b.toml")),
];

/// The prompts of published notebooks that the built-in files name, in the format of `data/datasets.toml`.
pub const GOLDEN_DATASETS: &str = include_str!("../../data/golden/datasets.toml");

/// The golden numbers of one model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenFile {
    /// The name of the model's folder of results, such as `gpt2-small`.
    pub model: String,
    /// The same name of the model whose weights were quantised before the numbers were computed: its own do not give them.
    pub quantised_from: Option<String>,
    /// The experiments.
    pub golden: Vec<Golden>,
}

/// The golden numbers of one experiment.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Golden {
    /// What it is, for people.
    pub name: String,
    /// Where the numbers are from.
    pub source: String,
    /// Kind of experiment.
    pub experiment: String,
    /// Largest difference that is no fault, in the unit of the values.
    pub tolerance: f64,
    /// The numbers by name; what the names mean depends on the experiment.
    pub values: BTreeMap<String, f64>,
    /// What nobody has who would repeat the experiment.
    pub missing: Option<String>,
    /// The experiment's own settings.
    #[serde(flatten)]
    pub settings: toml::Table,
}

impl GoldenFile {
    /// The files that are part of the program.
    ///
    /// # Errors
    /// None: a test reads them.
    pub fn built_in() -> Result<Vec<Self>, ReportError> {
        BUILT_IN.iter().map(|(path, text)| Self::parse(Path::new(path), text)).collect()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`ReportError::Io`], [`ReportError::Content`] for another format, a tolerance below zero, no values, NaN.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let text = read_text(path).map_err(|error| match error {
            TextError::Io(source) => ReportError::Io { path: path.into(), source },
            TextError::Line(LineError { line, expected, found }) => {
                ReportError::Content { path: path.into(), field: format!("line {line}"), expected, found }
            }
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ReportError> {
        let wrong = |field: String, expected: &str, found: String| ReportError::Content {
            path: path.into(),
            field,
            expected: expected.into(),
            found,
        };
        let file: Self = toml::from_str(text)
            .map_err(|error| wrong("content".into(), "golden numbers in TOML", error.to_string()))?;
        for golden in &file.golden {
            let field = |field: &str| format!("{:?}: {field}", golden.name);
            if !(golden.tolerance.is_finite() && golden.tolerance >= 0.0) {
                return Err(wrong(field("tolerance"), "a number from zero on", golden.tolerance.to_string()));
            }
            if golden.values.is_empty() {
                return Err(wrong(field("values"), "at least one number", "none".into()));
            }
            if let Some((key, value)) = golden.values.iter().find(|(_, value)| !value.is_finite()) {
                return Err(wrong(field(&format!("values.{key}")), "a finite number", value.to_string()));
            }
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_files_are_whole_and_name_their_sources() {
        let files = GoldenFile::built_in().unwrap();
        assert!(files.iter().map(|file| file.golden.len()).sum::<usize>() > 30);
        for golden in files.iter().flat_map(|file| &file.golden) {
            assert!(!golden.source.is_empty() && golden.tolerance > 0.0, "{}", golden.name);
        }
    }

    #[test]
    fn faults_name_the_file_and_the_field() {
        let head = "model = \"m\"\n[[golden]]\nname = \"n\"\nsource = \"s\"\nexperiment = \"baselines\"\n";
        for (text, words) in [
            ("model = 3", &["content", "expected a string"][..]),
            (head, &["content", "tolerance"]),
            (&format!("{head}tolerance = -1\nvalues = {{ a = 1 }}"), &["\"n\": tolerance", "found -1"]),
            (&format!("{head}tolerance = 1\nvalues = {{}}"), &["\"n\": values", "found none"]),
            (&format!("{head}tolerance = 1\nvalues = {{ a = nan }}"), &["\"n\": values.a", "NaN"]),
        ] {
            let message = GoldenFile::parse(Path::new("mine.toml"), text).unwrap_err().to_string();
            assert!(words.iter().chain(&["mine.toml"]).all(|word| message.contains(word)), "{message}");
        }
    }
}
