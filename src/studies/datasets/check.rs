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
    let longest = Some(session.config().n_ctx);
    let options = BuildOptions { prepend_bos: tokenizer.bos().is_some(), longest, ..BuildOptions::default() };
    let compat = session.options().compat();
    let Checked { prompts, faults } = session.catalogue()?.check(path, tokenizer, &options, &compat);
    let file = path.display().to_string();
    let mut faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    let summary = |prompts: &PairedPrompts| DatasetSummary::of(prompts, None, file.clone());
    let datasets: Vec<DatasetSummary> = prompts.iter().map(summary).collect();
    let mut notes = Vec::new();
    for prompts in &prompts {
        let own = [session.opened_twice(prompts), one_class(prompts)].into_iter().flatten();
        notes.extend(own.chain(not_fitted(prompts)).map(|note| format!("{file}: dataset `{}`: {note}", prompts.name)));
    }
    if faults.is_empty() && datasets.is_empty() {
        faults.push(format!("{file}: expected a dataset, found none"));
    }
    Ok(CheckedFile { file, model: session.model().name.clone(), datasets: DatasetList(datasets), faults, notes })
}

/// The positions at which no direction is fitted, since it could not be named after them.
fn not_fitted(prompts: &PairedPrompts) -> Vec<String> {
    let note = |position: &String| match DirectionName::fitted(Method::MeanDiff, &prompts.name, position, 0) {
        Err(DirectionError::Name { field: "position", expected, .. }) => {
            Some(format!("directions are fitted at positions of {expected} alone, not `{position}`"))
        }
        _ => None,
    };
    prompts.positions.keys().filter_map(note).collect()
}

/// What pairs of one class alone are no good for.
fn one_class(prompts: &PairedPrompts) -> Option<String> {
    let first = prompts.positive.first().filter(|_| prompts.has_classes)?;
    let class = if *first { "positive" } else { "negative" };
    prompts.positive.iter().all(|positive| positive == first).then(|| {
        format!(
            "all pairs are {class}: directions other than das need both classes, and so do probing, ccs, \
             mean_of_other_class and balanced prompts; logit_flip is undefined"
        )
    })
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
