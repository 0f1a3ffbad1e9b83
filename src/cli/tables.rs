//! What the commands share whose results are rows of a table: the way from arguments to the table, its figure, and JSON.

use super::common::{distinct, note_skipped, print, print_json};
use super::device::DeviceWork;
use super::maps::MapArgs;
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::Engine;
use crate::model::Model;
use crate::report::figure::{Axis, Bars, Facet, Figure, Plot};
use crate::report::{Columns, KeyedRow, KeyedTable, Manifest, RunRecord, Table};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;
use std::path::Path;

/// A command whose results are rows of one table per dataset.
pub trait TableCommand: Serialize + Sync {
    /// Its name on the command line.
    const NAME: &'static str;
    /// The table's columns.
    const COLUMNS: Columns;
    /// What rows are made of.
    type Case: Send + Sync;

    /// The arguments that all of them have.
    fn shared(&self) -> &MapArgs;

    /// Name of a dataset's files without their ending.
    fn stem(&self, set: &str) -> String;

    /// Everything that the arguments ask for, with the keys that its rows begin with.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and dataset.
    fn cases(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<(Vec<String>, Self::Case)>>;

    /// What a dry run says of a dataset.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and dataset.
    fn plan(&self, model: &Model, prompts: &PairedPrompts, cases: &[(Vec<String>, Self::Case)]) -> Result<String>;

    /// Makes the rows of cases.
    ///
    /// # Errors
    /// Those of the engine.
    fn make<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        cases: &[(Vec<String>, Self::Case)],
    ) -> Result<Vec<KeyedRow>>;

    /// The picture of a table.
    fn figure(&self, title: String, table: &KeyedTable) -> Figure;

    /// What the figure of a dataset shows.
    fn title(&self, set: &str, model: &str) -> String;
}

/// A dataset with what is asked for, and its table.
struct Dataset<C> {
    prompts: PairedPrompts,
    cases: Vec<(Vec<String>, C)>,
    stem: String,
    table: KeyedTable,
}

/// The work of a command on one model.
struct Work<'a, C: TableCommand> {
    command: &'a C,
    sets: &'a mut [Dataset<C::Case>],
    folder: &'a Path,
    manifest: &'a mut Manifest,
}

impl<C: TableCommand> DeviceWork for Work<'_, C> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<()> {
        self.manifest.computed_on(engine);
        for set in self.sets.iter_mut().filter(|set| !set.cases.is_empty()) {
            self.manifest.saw(&set.prompts)?;
            let name = &set.prompts.name;
            let rows = self.command.make(engine, &set.prompts, &set.cases).with_context(|| name.clone())?;
            let new: Vec<String> = rows.iter().map(|row| row.keys.join(" ")).collect();
            rows.into_iter().for_each(|row| set.table.insert(row));
            set.table.write()?;
            self.manifest.wrote(set.table.path(), new);
            let title = self.command.title(name, &engine.model().name);
            let figure = self.command.figure(title, &set.table);
            if !figure.facets.is_empty() {
                figure.write(self.folder, &set.stem)?.iter().for_each(|path| self.manifest.wrote(path, []));
            }
        }
        Ok(())
    }
}

/// Makes the rows that a command asks for, for every model.
///
/// # Errors
/// Those of the command, of models, datasets and files.
pub fn run<C: TableCommand>(command: &C) -> Result<()> {
    let MapArgs { models, compat, run, .. } = command.shared();
    let catalogue = compat.catalogue(run)?;
    let mut all = Vec::new();
    for spec in &distinct(&models.models) {
        let model = models.load(spec, run.seed)?;
        let (name, folder) = (model.name.clone(), run.folder(&model.name));
        let mut sets = Vec::new();
        let mut asked: Vec<Vec<Vec<String>>> = Vec::new();
        for prompts in command.shared().prompts(&catalogue, &model)? {
            let stem = command.stem(&prompts.name);
            let table = KeyedTable::read(&folder.join(format!("{stem}.csv")), C::COLUMNS)?;
            let cases = command.cases(&model, &prompts).with_context(|| prompts.name.clone())?;
            asked.push(cases.iter().map(|(keys, _)| keys.clone()).collect());
            let there = |keys: &Vec<String>| !run.overwrite && table.rows_of(keys).next().is_some();
            let (kept, cases): (Vec<_>, Vec<_>) = cases.into_iter().partition(|(keys, _)| there(keys));
            note_skipped(kept.len(), "conditions", table.path());
            sets.push(Dataset { prompts, cases, stem, table });
        }
        if run.dry_run {
            let plans = sets.iter().map(|set| command.plan(&model, &set.prompts, &set.cases));
            print(&format!("{name}\n{}\n", plans.collect::<Result<Vec<_>>>()?.join("\n")))?;
            continue;
        }
        let mut record = None;
        if sets.iter().any(|set| !set.cases.is_empty()) {
            let mut manifest = run.manifest(C::NAME, command, &folder, Some(&model))?;
            let work = Work { command, sets: &mut sets, folder: &folder, manifest: &mut manifest };
            run.in_pool(|| run.on_device(model, work))?;
            record = Some(manifest.finish()?);
        }
        let shown: Vec<(&str, Vec<&KeyedRow>)> =
            sets.iter().zip(&asked).map(|(set, keys)| (&*set.stem, rows(set, keys))).collect();
        if !run.json {
            print(&summary(&name, C::COLUMNS, &shown))?;
        }
        all.push(as_json(&name, C::COLUMNS, &shown, &record));
    }
    if run.json && !run.dry_run {
        print_json(&all)?;
    }
    Ok(())
}

/// The rows of a table that were asked for.
fn rows<'a, C>(set: &'a Dataset<C>, asked: &'a [Vec<String>]) -> Vec<&'a KeyedRow> {
    asked.iter().flat_map(|keys| set.table.rows_of(keys)).collect()
}

fn summary(model: &str, columns: Columns, sets: &[(&str, Vec<&KeyedRow>)]) -> String {
    let mut text = format!("{model}\n");
    for (stem, rows) in sets {
        let mut table = Table::new(columns.keys.iter().chain(columns.numbers).copied());
        for row in rows {
            let number = |number: &Option<f64>| match number {
                None => "undefined".to_owned(),
                Some(whole) if whole.fract() == 0.0 => format!("{whole}"),
                Some(value) => format!("{value:.4}"),
            };
            table.push(row.keys.iter().cloned().chain(row.numbers.iter().map(number)));
        }
        text += &format!("{stem}\n{table}\n");
    }
    text
}

fn as_json(
    model: &str,
    columns: Columns,
    sets: &[(&str, Vec<&KeyedRow>)],
    manifest: &Option<RunRecord>,
) -> serde_json::Value {
    let set = |(stem, rows): &(&str, Vec<&KeyedRow>)| {
        let rows: Vec<serde_json::Value> = rows.iter().map(|row| row.as_json(columns)).collect();
        json!({ "file": stem, "rows": rows })
    };
    json!({ "model": model, "tables": sets.iter().map(set).collect::<Vec<_>>(), "manifest": manifest })
}

/// A figure of rows: bars of every measure, given as a column and its label, below each other.
pub fn bar_figure(
    title: String,
    columns: Columns,
    rows: &[&KeyedRow],
    label: impl Fn(&KeyedRow) -> String,
    measures: &[(&str, &str)],
) -> Figure {
    let labels: Vec<String> = rows.iter().map(|row| label(row)).collect();
    let facet = |&(column, measure): &(&str, &str)| {
        let number = columns.numbers.iter().position(|name| *name == column)?;
        let values: Vec<Option<f64>> = rows.iter().map(|row| row.numbers.get(number).copied().flatten()).collect();
        // A measure that is nowhere defined has nothing to draw.
        values.iter().any(Option::is_some).then(|| Facet {
            title: String::new(),
            x: Axis::new(measure),
            y: Axis::new(""),
            plot: Plot::Bars(Bars { labels: labels.clone(), series: vec![(measure.to_owned(), values)] }),
        })
    };
    let mut figure = Figure::new(title, measures.iter().filter_map(facet).collect());
    figure.columns = 1;
    figure
}
