//! Everything that is wrong with a file of datasets for a model.

use super::list::{DatasetList, DatasetSummary};
use crate::datasets::{BuildOptions, Checked, PairedPrompts};
use crate::directions::{DirectionError, DirectionName, Method};
use crate::session::Session;
use anyhow::Result;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What comes of a file of datasets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedFile {
    /// The file.
    pub file: String,
    /// The model's name.
    pub model: String,
    /// The datasets with which nothing is wrong.
    pub datasets: DatasetList,
    /// All that is wrong.
    pub faults: Vec<String>,
    /// What some commands cannot do with these datasets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Checks a file of datasets for the session's model, whatever the session's own files of datasets are.
///
/// # Errors
/// Those of the catalogue, whose word lists the file may use; what is wrong with the file itself is no error.
pub fn check_datasets(session: &Session, path: &Path) -> Result<CheckedFile> {
    let tokenizer = &session.model().tokenizer;
    let options = BuildOptions { prepend_bos: tokenizer.bos().is_some(), ..BuildOptions::default() };
    let compat = session.options().compat();
    let Checked { prompts, faults } = session.catalogue()?.check(path, tokenizer, &options, &compat);
    let file = path.display().to_string();
    let mut faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let (mut datasets, mut notes) = (Vec::new(), Vec::new());
    for prompts in &prompts {
        let too_long = too_long(prompts, &file, session.config().n_ctx);
        if too_long.is_empty() {
            datasets.push(DatasetSummary::of(prompts, None, file.clone()));
        }
        faults.extend(too_long);
        notes.extend(not_fitted(prompts, &file));
    }
    if faults.is_empty() && datasets.is_empty() {
        faults.push(format!("{file}: expected a dataset, found none"));
    }
    Ok(CheckedFile { file, model: session.model().name.clone(), datasets: DatasetList(datasets), faults, notes })
}

/// The positions at which no direction is fitted, since it could not be named after them.
fn not_fitted(prompts: &PairedPrompts, file: &str) -> Vec<String> {
    let note = |position: &String| match DirectionName::fitted(Method::MeanDiff, &prompts.name, position, 0) {
        Err(DirectionError::Name { field: "position", expected, .. }) => {
            let name = &prompts.name;
            Some(format!(
                "{file}: dataset `{name}`: directions are fitted at positions of {expected} alone, not `{position}`"
            ))
        }
        _ => None,
    };
    prompts.positions.keys().filter_map(note).collect()
}

/// The prompts that do not fit into the model's context.
fn too_long(prompts: &PairedPrompts, file: &str, n_ctx: usize) -> Vec<String> {
    let all = prompts.sequences.iter().zip(&prompts.texts).filter(|(tokens, _)| tokens.len() > n_ctx);
    let fault = |(tokens, text): (&Vec<u32>, &String)| {
        let (name, length) = (&prompts.name, tokens.len());
        format!("{file}: dataset `{name}`: expected prompts of at most {n_ctx} tokens, found {length} in {text:?}")
    };
    all.map(fault).collect()
}

impl CheckedFile {
    /// What a front end says of a file that is not as it should be.
    pub fn failed(&self) -> Option<String> {
        let faults = match self.faults.len() {
            0 => return None,
            1 => "1 fault".to_owned(),
            count => format!("{count} faults"),
        };
        Some(format!("{}: {faults} for {}", self.file, self.model))
    }
}

impl fmt::Display for CheckedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.datasets.0.is_empty() {
            write!(f, "{}", self.datasets)?;
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "{fault}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}
