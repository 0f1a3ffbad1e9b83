//! What the commands share whose results are rows of a table: the way from arguments to the table, its figure, and JSON.

use super::common::{ModelArgs, RunArgs, distinct, note_skipped, print, print_json};
use super::device::DeviceWork;
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

/// What a table tells of: a dataset, a corpus.
pub trait Subject: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Notes in the manifest that the model sees it.
    ///
    /// # Errors
    /// Those of the file system.
    fn note(&self, manifest: &mut Manifest) -> Result<()>;
}

impl Subject for PairedPrompts {
    fn name(&self) -> &str {
        &self.name
    }

    fn note(&self, manifest: &mut Manifest) -> Result<()> {
        Ok(manifest.saw(self)?)
    }
}

/// What is asked for, with the keys that its rows begin with.
pub type Keyed<C> = (Vec<String>, C);

/// A command whose results are rows of one table per dataset or corpus.
pub trait TableCommand: Serialize + Sync {
    /// Its name on the command line.
    const NAME: &'static str;
    /// The table's columns.
    const COLUMNS: Columns;
    /// What a table tells of.
    type Set: Subject;
    /// What rows are made of.
    type Case: Send + Sync;

    /// The arguments that all of them have.
    fn shared(&self) -> (&ModelArgs, &RunArgs);

    /// What there is a table of, for a model.
    ///
    /// # Errors
    /// Whatever cannot be made for this model.
    fn sets(&self, model: &Model) -> Result<Vec<Self::Set>>;

    /// Name of a table's files without their ending.
    fn stem(&self, set: &str) -> String;

    /// Everything that the arguments ask for.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and set.
    fn cases(&self, model: &Model, set: &Self::Set) -> Result<Vec<Keyed<Self::Case>>>;

    /// Do files beside the table hold what is asked for too? If they do not, all of it is made again.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn complete(&self, _: &Model, _: &Self::Set, _: &[Keyed<Self::Case>]) -> Result<bool> {
        Ok(true)
    }

    /// What a dry run says of a set.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and set.
    fn plan(&self, model: &Model, set: &Self::Set, cases: &[Keyed<Self::Case>]) -> Result<String>;

    /// Makes the rows of cases, and files beside the table, which the manifest is told of.
    ///
    /// # Errors
    /// Those of the engine, and of files.
    fn make<B: Backend>(
        &self,
        engine: &Engine<B>,
        set: &Self::Set,
        cases: &[Keyed<Self::Case>],
        manifest: &mut Manifest,
    ) -> Result<Vec<KeyedRow>>;

    /// The picture of a table.
    fn figure(&self, title: String, table: &KeyedTable) -> Figure;

    /// What the figure of a set shows.
    fn title(&self, set: &str, model: &str) -> String;
}

/// A set with what is asked for, and its table.
struct Tabled<C: TableCommand> {
    set: C::Set,
    cases: Vec<Keyed<C::Case>>,
    stem: String,
    table: KeyedTable,
    /// The keys of everything that is asked for.
    asked: Vec<Vec<String>>,
}

impl<C: TableCommand> Tabled<C> {
    /// Reads the table, and keeps what is there already.
    fn new(command: &C, model: &Model, set: C::Set) -> Result<Self> {
        let (run, name) = (command.shared().1, set.name().to_owned());
        let stem = command.stem(&name);
        let table = KeyedTable::read(&run.folder(&model.name).join(format!("{stem}.csv")), C::COLUMNS)?;
        let cases = command.cases(model, &set).with_context(|| name)?;
        let asked = cases.iter().map(|(keys, _)| keys.clone()).collect();
        let renewed = run.overwrite || !command.complete(model, &set, &cases)?;
        let there = |keys: &Vec<String>| !renewed && table.rows_of(keys).next().is_some();
        let (kept, cases): (Vec<_>, Vec<_>) = cases.into_iter().partition(|(keys, _)| there(keys));
        note_skipped(kept.len(), "conditions", table.path());
        Ok(Self { set, cases, stem, table, asked })
    }

    /// The rows that were asked for.
    fn rows(&self) -> Vec<&KeyedRow> {
        self.asked.iter().flat_map(|keys| self.table.rows_of(keys)).collect()
    }
}

/// The work of a command on one model.
struct Work<'a, C: TableCommand> {
    command: &'a C,
    sets: &'a mut [Tabled<C>],
    folder: &'a Path,
    manifest: &'a mut Manifest,
}

impl<C: TableCommand> DeviceWork for Work<'_, C> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<()> {
        let Self { command, manifest, .. } = self;
        manifest.computed_on(engine);
        for Tabled { set, cases, stem, table, .. } in self.sets.iter_mut().filter(|set| !set.cases.is_empty()) {
            set.note(manifest)?;
            let rows = command.make(engine, set, cases, manifest).with_context(|| set.name().to_owned())?;
            let new: Vec<String> = rows.iter().map(|row| row.keys.join(" ")).collect();
            rows.into_iter().for_each(|row| table.insert(row));
            table.write()?;
            manifest.wrote(table.path(), new);
            let figure = command.figure(command.title(set.name(), &engine.model().name), table);
            if !figure.facets.is_empty() {
                figure.write(self.folder, stem)?.iter().for_each(|path| manifest.wrote(path, []));
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
    let (models, run) = command.shared();
    let mut all = Vec::new();
    for spec in &distinct(&models.models) {
        let model = models.load(spec, run.seed)?;
        let (name, folder) = (model.name.clone(), run.folder(&model.name));
        let sets = command.sets(&model)?.into_iter().map(|set| Tabled::new(command, &model, set));
        let mut sets = sets.collect::<Result<Vec<_>>>()?;
        if run.dry_run {
            let plans = sets.iter().map(|set| command.plan(&model, &set.set, &set.cases));
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
        let shown: Vec<(&str, Vec<&KeyedRow>)> = sets.iter().map(|set| (&*set.stem, set.rows())).collect();
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
