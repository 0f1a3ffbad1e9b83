//! The losses of `text-loss` token by token: a table, the tokens at which the loss grows most, and a page in colour.

use super::tables::Keyed;
use super::text_loss::CHANGE;
use super::token_pages::{PAGE_TOKENS, Shown, around, documents, spelled};
use crate::experiments::corpus::Row;
use crate::experiments::neuroscope::{Reading, Top};
use crate::experiments::text_loss::{BatchLosses, TextCondition};
use crate::model::{Model, ModelError};
use crate::report::figure::{TextGroup, TextPage};
use crate::report::{CsvFile, Manifest};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The first columns of both tables: the keys of a condition.
const KEYS: [&str; 3] = ["ablated", "method", "positions"];
/// Tokens shown on either side of one.
const WINDOW: usize = 10;

/// A file beside `stem`.
fn path(stem: &Path, ending: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

/// The conditions that the table of a stem tells of; none if there is no table.
///
/// # Errors
/// A table that cannot be read.
pub fn conditions_of(stem: &Path) -> Result<BTreeSet<Vec<String>>> {
    let path = path(stem, ".csv");
    let mut found = BTreeSet::new();
    if !path.exists() {
        return Ok(found);
    }
    let mut reader = csv::Reader::from_path(&path).with_context(|| path.display().to_string())?;
    for record in reader.records() {
        let record = record.with_context(|| path.display().to_string())?;
        found.insert(record.iter().take(KEYS.len()).map(str::to_owned).collect());
    }
    Ok(found)
}

/// Everything that a pass tells of single tokens, on its way into files.
pub struct TokenFiles<'a> {
    model: &'a Model,
    cases: &'a [Keyed<TextCondition>],
    /// How many texts are written.
    texts: usize,
    /// Of every file, the beginning of its path.
    stem: PathBuf,
    table: CsvFile,
    /// Of every condition.
    top: Vec<Top>,
    /// The first tokens.
    shown: Vec<Shown>,
}

impl<'a> TokenFiles<'a> {
    /// Nothing yet.
    ///
    /// # Errors
    /// A table that cannot be begun.
    pub fn new(model: &'a Model, cases: &'a [Keyed<TextCondition>], texts: usize, stem: PathBuf) -> Result<Self> {
        let mut table = CsvFile::create(&path(&stem, ".csv"))?;
        table.push((KEYS, ["document", "position", "token", "clean_loss", "change"]))?;
        let top = (0..cases.len()).map(|channel| Top::new(channel, texts, WINDOW, true)).collect();
        Ok(Self { model, cases, texts, stem, table, top, shown: Vec::new() })
    }

    /// Looks at the rows of a batch.
    ///
    /// # Errors
    /// A token that cannot be spelled, a table that cannot be written.
    pub fn add(&mut self, rows: &[Row], losses: &BatchLosses) -> Result<()> {
        for (number, row) in rows.iter().enumerate() {
            let changes = self.changes(number, row, losses);
            let known: Vec<f32> = changes.iter().map(|change| change.unwrap_or_default()).collect();
            for index in row.bos..row.tokens.len() {
                let reading = Reading::new(row, index, &known);
                let grows = self.top.iter_mut().zip(reading.values()).filter(|(_, change)| **change > 0.0);
                grows.for_each(|(top, _)| top.add(&reading));
            }
            if row.document < self.texts {
                self.write_row(row, &losses.clean[number], &changes)?;
            }
        }
        Ok(())
    }

    /// The changes of a row's losses, `(tokens, conditions)`; none where nothing is predicted, or not counted.
    fn changes(&self, number: usize, row: &Row, losses: &BatchLosses) -> Vec<Option<f32>> {
        let change = |index: usize, condition: usize| {
            let before = index.checked_sub(1)?;
            let counts = self.cases[condition].1.places.counts(row.tokens[before]);
            counts.then(|| (losses.ablated[condition][number][before] - losses.clean[number][before]) as f32)
        };
        let of_token = |index| (0..self.cases.len()).map(move |condition| (index, condition));
        (0..row.tokens.len()).flat_map(of_token).map(|(index, condition)| change(index, condition)).collect()
    }

    fn write_row(&mut self, row: &Row, clean: &[f64], changes: &[Option<f32>]) -> Result<()> {
        let n = self.cases.len();
        let tokens: Vec<String> =
            row.tokens.iter().map(|&token| self.model.tokenizer.decode(&[token])).collect::<Result<_, _>>()?;
        for (number, (keys, _)) in self.cases.iter().enumerate() {
            for (index, token) in tokens.iter().enumerate().skip(row.bos) {
                let clean = index.checked_sub(1).map(|before| clean[before] as f32);
                let position = row.start + index - row.bos;
                self.table.push((keys, row.document, position, token, clean, changes[index * n + number]))?;
            }
        }
        for (index, text) in tokens.into_iter().enumerate().skip(row.bos) {
            if self.shown.len() < PAGE_TOKENS {
                let values = changes[index * n..(index + 1) * n].iter().map(|change| change.unwrap_or_default());
                self.shown.push(Shown { document: row.document, text, values: values.collect() });
            }
        }
        Ok(())
    }

    /// Writes the tables and the page, the table of all tokens last: it says that the others are there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(self, title: &str, manifest: &mut Manifest) -> Result<()> {
        let tokenizer = &self.model.tokenizer;
        let mut table = CsvFile::create(&path(&self.stem, "_top.csv"))?;
        table.push((KEYS, ["rank", "change", "document", "position", "token", "text"]))?;
        for ((keys, _), top) in self.cases.iter().zip(&self.top) {
            for (rank, found) in top.found().iter().enumerate() {
                let place = (found.document, found.position);
                table.push((keys, rank + 1, found.value(), place, spelled(tokenizer, found)?))?;
            }
        }
        let group = |(number, ((keys, _), top)): (usize, (&Keyed<TextCondition>, &Top))| {
            let largest =
                top.found().iter().map(|found| around(tokenizer, found)).collect::<Result<_, ModelError>>()?;
            let (keys, texts) = (keys.join(", "), documents(&self.shown, number));
            let largest = TextGroup { heading: format!("{keys}: where it grows most"), texts: largest };
            Ok([TextGroup { heading: keys, texts }, largest])
        };
        let groups = self.cases.iter().zip(&self.top).enumerate().map(group).collect::<Result<Vec<_>, ModelError>>()?;
        let page =
            TextPage { title: title.into(), measure: CHANGE.into(), groups: groups.into_iter().flatten().collect() };
        manifest.wrote(&table.finish()?, []);
        manifest.wrote(&page.write(&path(&self.stem, ".html"))?, []);
        manifest.wrote(&self.table.finish()?, []);
        Ok(())
    }
}
