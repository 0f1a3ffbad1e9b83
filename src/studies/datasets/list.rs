//! Which datasets there are for a model.

use crate::datasets::treebank::{Scaffold, Split};
use crate::datasets::{END, PairedPrompts};
use crate::report::Table;
use crate::session::Session;
use anyhow::Result;
use serde::Serialize;
use std::fmt;

/// A dataset in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DatasetSummary {
    /// Its name.
    pub name: String,
    /// The text around its sentences, of the Treebank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaffold: Option<Scaffold>,
    /// Clean prompts with their corrupted ones; none where the model's tokenizer makes none.
    pub pairs: Option<usize>,
    /// Do the prompts have classes?
    pub classes: bool,
    /// Named positions, in the order of the prompt.
    pub placeholders: Vec<String>,
    /// The file it comes from.
    pub source: String,
    /// Why there are no prompts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl DatasetSummary {
    pub(super) fn of(prompts: &PairedPrompts, scaffold: Option<Scaffold>, source: String) -> Self {
        let mut placeholders: Vec<(usize, &String)> =
            prompts.positions.iter().filter(|(name, _)| *name != END).map(|(name, at)| (*at, name)).collect();
        placeholders.sort();
        Self {
            name: prompts.name.clone(),
            scaffold,
            pairs: Some(prompts.clean.len()),
            classes: prompts.has_classes,
            placeholders: placeholders.into_iter().map(|(_, name)| name.clone()).collect(),
            source,
            fault: None,
        }
    }

    fn faulty(name: &str, scaffold: Option<Scaffold>, source: String, fault: String) -> Self {
        let (name, fault) = (name.to_owned(), Some(fault));
        Self { name, scaffold, pairs: None, classes: false, placeholders: Vec::new(), source, fault }
    }
}

/// The datasets that there are for a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct DatasetList(pub Vec<DatasetSummary>);

/// The built-in datasets, the user's, and those of the Treebank that the model's folder holds.
///
/// # Errors
/// Files of datasets that cannot be read.
pub fn list_datasets(session: &Session) -> Result<DatasetList> {
    let catalogue = session.catalogue()?;
    let mut all = Vec::new();
    for name in catalogue.names() {
        let source = catalogue.file_of(name).unwrap_or_default().to_owned();
        all.push(summary(session, name, None, source));
    }
    for split in Split::ALL {
        for scaffold in Scaffold::ALL {
            let file = scaffold.dataset_file(&session.folder(), split);
            if file.is_file() {
                all.push(summary(session, split.dataset(), Some(scaffold), file.display().to_string()));
            }
        }
    }
    Ok(DatasetList(all))
}

fn summary(session: &Session, name: &str, scaffold: Option<Scaffold>, source: String) -> DatasetSummary {
    match session.prompts(name, scaffold.unwrap_or(Scaffold::Plain)) {
        Ok(prompts) => DatasetSummary::of(&prompts, scaffold, source),
        Err(error) => DatasetSummary::faulty(name, scaffold, source, format!("{error:#}")),
    }
}

impl fmt::Display for DatasetList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["dataset", "pairs", "classes", "placeholders", "source"]);
        for DatasetSummary { name, scaffold, pairs, classes, placeholders, source, fault } in &self.0 {
            let scaffold = scaffold.map_or(String::new(), |scaffold| format!(" {scaffold}"));
            let pairs = pairs.map_or("-".into(), |pairs| pairs.to_string());
            let classes = match (*classes, fault) {
                (_, Some(_)) => "-",
                (true, None) => "yes",
                (false, None) => "no",
            };
            table.push([format!("{name}{scaffold}"), pairs, classes.into(), placeholders.join(" "), source.clone()]);
        }
        write!(f, "{table}")?;
        self.0.iter().filter_map(|dataset| dataset.fault.as_ref()).try_for_each(|fault| writeln!(f, "{fault}"))
    }
}
