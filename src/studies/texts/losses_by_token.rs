//! The losses of `text-loss` token by token: a table, the tokens at which the loss grows most, and a page in colour.

use super::found::{around, spelled};
use super::text_loss::{CHANGE, Case};
use crate::experiments::corpus::Row;
use crate::experiments::neuroscope::{Reading, Top};
use crate::experiments::text_loss::BatchLosses;
use crate::model::{Model, ModelError};
use crate::report::pages::{PAGE_TOKENS, ShownToken, TextPage, documents, write_view};
use crate::report::{CsvFile, Manifest};
use crate::session::{Provenance, Session, Standing};
use crate::studies::tables::Keyed;
use anyhow::Result;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The first columns of both tables: the keys of a condition.
const KEYS: [&str; 3] = ["ablated", "method", "positions"];
/// Tokens shown on either side of one.
const WINDOW: usize = 10;

/// A condition with what its losses are made of.
pub(super) type MadeOf = (Keyed<Case>, Provenance);

/// The files, which hold every condition that the last run asked for.
pub(super) struct TokenFiles {
    /// How many texts are written.
    pub texts: usize,
    /// Where the files are.
    pub folder: PathBuf,
    /// The beginning of their names.
    pub stem: String,
    /// Are the tables guarded against spreadsheets?
    pub guard: bool,
}

impl TokenFiles {
    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}{ending}", self.stem))
    }

    fn paths(&self) -> [PathBuf; 3] {
        [".csv", "_top.csv", ".html"].map(|ending| self.path(ending))
    }

    /// What all conditions share; everything else is noted for each of them.
    fn shared(&self) -> Result<Provenance> {
        Provenance { study: "text-loss".into(), settings: BTreeMap::new() }.with("by_token", self.texts)
    }

    /// Do the files hold these conditions, made of the same things?
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn standing(&self, session: &Session, asked: &[MadeOf]) -> Result<Standing> {
        let notes = match session.standing(&self.stem, &self.paths(), &self.shared()?)? {
            Standing::Kept(notes) => notes,
            other => return Ok(other),
        };
        let there: BTreeMap<String, Provenance> = serde_json::from_value(notes).unwrap_or_default();
        for ((keys, _), provenance) in asked {
            let Some(found) = there.get(&keys.join(" ")) else { return Ok(Standing::Absent) };
            if let Some(difference) = provenance.difference(found) {
                return Ok(Standing::Other(difference));
            }
        }
        Ok(Standing::Kept(Value::Null))
    }

    /// Records what the files are made of.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn record(&self, session: &Session, conditions: &[MadeOf]) -> Result<()> {
        let of_condition = conditions.iter().map(|((keys, _), provenance)| (keys.join(" "), provenance));
        let notes: BTreeMap<String, &Provenance> = of_condition.collect();
        session.record(&self.stem, &self.shared()?, &self.paths(), serde_json::to_value(notes)?)
    }
}

/// Everything that a pass tells of single tokens, on its way into files.
pub(super) struct LossesByToken<'a> {
    model: &'a Model,
    conditions: &'a [MadeOf],
    files: TokenFiles,
    table: CsvFile,
    /// Of every condition.
    top: Vec<Top>,
    /// The first tokens.
    shown: Vec<ShownToken>,
}

impl<'a> LossesByToken<'a> {
    /// Nothing yet.
    ///
    /// # Errors
    /// A table that cannot be begun.
    pub fn new(model: &'a Model, conditions: &'a [MadeOf], files: TokenFiles) -> Result<Self> {
        let mut table = CsvFile::create(&files.path(".csv"), files.guard)?;
        table.push((KEYS, ["document", "position", "token", "clean_loss", "change", "token_id"]))?;
        let top = (0..conditions.len()).map(|channel| Top::new(channel, files.texts, WINDOW, true)).collect();
        Ok(Self { model, conditions, files, table, top, shown: Vec::new() })
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
            if row.document < self.files.texts {
                self.write_row(row, &losses.clean[number], &changes)?;
            }
        }
        Ok(())
    }

    /// The changes of a row's losses, `(tokens, conditions)`; none where nothing is predicted, or not counted.
    fn changes(&self, number: usize, row: &Row, losses: &BatchLosses) -> Vec<Option<f32>> {
        let change = |index: usize, (condition, ((_, case), _)): (usize, &MadeOf)| {
            let before = index.checked_sub(1)?;
            let counts = case.condition.places.counts(row.tokens[before]);
            counts.then(|| (losses.ablated[condition][number][before] - losses.clean[number][before]) as f32)
        };
        let of_token = |index| self.conditions.iter().enumerate().map(move |condition| change(index, condition));
        (0..row.tokens.len()).flat_map(of_token).collect()
    }

    fn write_row(&mut self, row: &Row, clean: &[f64], changes: &[Option<f32>]) -> Result<()> {
        let n = self.conditions.len();
        let tokens: Vec<String> =
            row.tokens.iter().map(|&token| self.model.tokenizer.decode(&[token])).collect::<Result<_, _>>()?;
        for (number, ((keys, _), _)) in self.conditions.iter().enumerate() {
            for (index, token) in tokens.iter().enumerate().skip(row.bos) {
                let clean = index.checked_sub(1).map(|before| clean[before] as f32);
                let position = row.start + index - row.bos;
                let numbers = (clean, changes[index * n + number], row.tokens[index]);
                self.table.push((keys, row.document, position, token, numbers))?;
            }
        }
        for (index, text) in tokens.into_iter().enumerate().skip(row.bos) {
            if self.shown.len() < PAGE_TOKENS {
                let values = changes[index * n..(index + 1) * n].iter().map(|change| change.unwrap_or(f32::NAN));
                self.shown.push(ShownToken { document: row.document, text, values: values.collect() });
            }
        }
        Ok(())
    }

    /// Writes the tables and the page, and records what they are made of.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(self, session: &Session, title: &str, manifest: &mut Manifest) -> Result<()> {
        manifest.wrote(&self.write_top()?, []);
        if let Some(page) = write_view(&self.page(title)?, &self.files.folder, &self.files.stem)? {
            manifest.wrote(&page, []);
        }
        manifest.wrote(&self.table.finish()?, []);
        self.files.record(session, self.conditions)
    }

    fn write_top(&self) -> Result<PathBuf> {
        let tokenizer = &self.model.tokenizer;
        let mut table = CsvFile::create(&self.files.path("_top.csv"), self.files.guard)?;
        table.push((KEYS, ["rank", "change", "document", "position", "token", "text", "token_id"]))?;
        for (((keys, _), _), top) in self.conditions.iter().zip(&self.top) {
            for (rank, found) in top.found().iter().enumerate() {
                let place = (found.document, found.position);
                table.push((keys, rank + 1, found.value(), place, spelled(tokenizer, found)?, found.token()))?;
            }
        }
        Ok(table.finish()?)
    }

    /// The texts, and where the loss grows most under every condition.
    fn page(&self, title: &str) -> Result<TextPage> {
        let found = |top: &Top| top.found().iter().map(|found| around(&self.model.tokenizer, found)).collect();
        Ok(TextPage {
            title: title.into(),
            measure: CHANGE.into(),
            channels: self.conditions.iter().map(|((keys, _), _)| (keys.join(", "), String::new())).collect(),
            documents: documents(&self.shown),
            samples: self.top.iter().map(found).collect::<Result<_, ModelError>>()?,
        })
    }
}
