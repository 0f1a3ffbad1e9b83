//! What the studies share whose results are rows of a table that several runs add to.

use super::{Notes, Plan, Study};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops, Layout};
use crate::files::sha256;
use crate::report::figure::{Axis, Bars, Facet, Figure, Plot};
use crate::report::{Columns, KeyedRow, KeyedTable, Manifest, RowSettings, RunRecord, Table};
use crate::session::{
    DeviceWork, Note, Observer, Provenance, Session, Standing, contents, fingerprint, note_kept, processing_names,
};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a table tells of: a dataset, a corpus.
pub(crate) trait Subject: Send + Sync {
    /// What it is called among the things that rows are made of.
    const SETTING: &'static str;

    /// Its name.
    fn name(&self) -> &str;

    /// The hash of its contents.
    ///
    /// # Errors
    /// Those of the file system.
    fn fingerprint(&self) -> Result<String>;

    /// Values that a run over it keeps at most, beside those of a batch.
    fn kept(&self, session: &Session) -> usize;

    /// Notes in the manifest that the model sees it.
    ///
    /// # Errors
    /// Those of the file system.
    fn note(&self, manifest: &mut Manifest) -> Result<()>;
}

impl Subject for PairedPrompts {
    const SETTING: &'static str = "dataset";

    fn name(&self) -> &str {
        &self.name
    }

    fn fingerprint(&self) -> Result<String> {
        Ok(sha256(&serde_json::to_vec(&(fingerprint(self)?, &self.positions))?))
    }

    fn kept(&self, session: &Session) -> usize {
        session.planned_values(&Layout::whole(&self.sequences))
    }

    fn note(&self, manifest: &mut Manifest) -> Result<()> {
        Ok(manifest.saw(self)?)
    }
}

/// What is asked for, with the keys that its rows begin with.
pub(crate) type Keyed<C> = (Vec<String>, C);

/// A study whose results are rows of one table per dataset or corpus.
pub(crate) trait TableStudy: Study {
    /// The table's columns.
    const COLUMNS: Columns;
    /// What a table tells of.
    type Set: Subject;
    /// What rows are made of.
    type Case: Clone + Send + Sync;

    /// What there is a table of, for a model.
    ///
    /// # Errors
    /// Whatever cannot be made for this model.
    fn sets(&self, session: &Session) -> Result<Vec<Self::Set>>;

    /// Name of a table's files without their ending.
    fn stem(&self, session: &Session, set: &str) -> String;

    /// Everything that is asked for.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and set.
    fn cases(&self, session: &Session, set: &Self::Set) -> Result<Vec<Keyed<Self::Case>>>;

    /// Adds what a case's rows depend on besides the model, the set, the seed and their keys.
    ///
    /// # Errors
    /// Whatever cannot be read.
    fn depends(&self, session: &Session, case: &Self::Case, provenance: Provenance) -> Result<Provenance>;

    /// How files beside the table stand that are to hold all that is asked for: unless they do, and no row is missing,
    /// all of it is made again. None where there are no such files.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn beside(
        &self,
        _: &Session,
        _: &Self::Set,
        _: &[(Keyed<Self::Case>, Provenance)],
    ) -> Result<Option<(String, Standing)>> {
        Ok(None)
    }

    /// What a plan says of a set, and the arithmetic.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and set.
    fn planned(&self, session: &Session, set: &Self::Set, cases: &[Keyed<Self::Case>]) -> Result<(String, Flops)>;

    /// Makes the rows of cases, and files beside the table, which the manifest is told of.
    ///
    /// # Errors
    /// Those of the engine, and of files.
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &Self::Set,
        cases: &[(Keyed<Self::Case>, Provenance)],
        manifest: &mut Manifest,
        observer: &mut dyn Observer,
    ) -> Result<Vec<KeyedRow>>;

    /// The picture of rows.
    fn figure(&self, title: String, rows: &[&KeyedRow]) -> Figure;

    /// What the figure of a set shows.
    fn title(&self, set: &str, model: &str) -> String;
}

/// The settings that tell rows of the same keys apart, without the id of what they were made of.
fn settings(session: &Session) -> RowSettings {
    let processing = processing_names(session.model().processing);
    RowSettings {
        dtype: session.options().dtype.name().into(),
        weight_processing: if processing.is_empty() { "none".into() } else { processing.join(" ") },
        seed: session.seed().to_string(),
        provenance: String::new(),
    }
}

/// Hashes of the rows of every id in a table.
fn contents_of(table: &KeyedTable) -> Result<BTreeMap<String, String>> {
    contents(table.rows().iter().map(|row| (&*row.settings.provenance, (&row.keys, &row.numbers))))
}

/// A set with what is asked for, and its table.
struct Tabled<S: TableStudy> {
    set: S::Set,
    stem: String,
    table: KeyedTable,
    settings: RowSettings,
    /// What all rows of a figure are made of, by the names of the settings.
    shared: Vec<String>,
    /// Everything that is asked for.
    asked: Vec<(Keyed<S::Case>, Provenance)>,
    /// The numbers of those that have to be made.
    wanted: Vec<usize>,
}

impl<S: TableStudy> Tabled<S> {
    /// Reads the table, and finds what is there already.
    fn new(study: &S, session: &Session, set: S::Set, observer: &mut dyn Observer) -> Result<Self> {
        let name = set.name().to_owned();
        let stem = study.stem(session, &name);
        let table = KeyedTable::read(&session.results()?.join(format!("{stem}.csv")), S::COLUMNS)?;
        let shared =
            session.provenance(S::NAME)?.with(S::Set::SETTING, set.fingerprint()?)?.with("seed", session.seed())?;
        let with_provenance = |case: Keyed<S::Case>| {
            let provenance = study.depends(session, &case.1, shared.clone())?.with("keys", &case.0)?;
            Ok((case, provenance))
        };
        let names = shared.settings.keys().cloned().collect();
        let cases = study.cases(session, &set).with_context(|| name.clone())?;
        let asked = cases.into_iter().map(with_provenance).collect::<Result<Vec<_>>>()?;
        let mut tabled =
            Self { set, stem, table, settings: settings(session), shared: names, asked, wanted: Vec::new() };
        tabled.find_wanted(study, session, observer)?;
        Ok(tabled)
    }

    /// Finds what has to be made.
    fn find_wanted(&mut self, study: &S, session: &Session, observer: &mut dyn Observer) -> Result<()> {
        let all = || (0..self.asked.len()).collect();
        if session.options().overwrite {
            self.wanted = all();
            return Ok(());
        }
        let missing = self.missing(session, observer)?;
        let wanted = match study.beside(session, &self.set, &self.asked)? {
            None => missing,
            Some((_, Standing::Kept(_))) if missing.is_empty() => missing,
            Some((_, Standing::Kept(_) | Standing::Absent)) => all(),
            Some((what, Standing::Other(difference))) => {
                observer.note(&Note::Renewed { what, difference });
                all()
            }
        };
        note_kept(observer, self.asked.len() - wanted.len(), "conditions", self.table.path());
        self.wanted = wanted;
        Ok(())
    }

    /// What the table does not have, or has made of something else.
    fn missing(&self, session: &Session, observer: &mut dyn Observer) -> Result<Vec<usize>> {
        let records = session.row_records(&self.stem);
        let found = contents_of(&self.table)?;
        let mut missing = Vec::new();
        for (number, ((keys, _), provenance)) in self.asked.iter().enumerate() {
            let there: BTreeSet<&str> =
                self.table.rows_of(keys, &self.settings).map(|row| &*row.settings.provenance).collect();
            let id = provenance.id();
            if there.len() == 1 && there.contains(id.as_str()) && records.whole(&id, &found) {
                continue;
            }
            missing.push(number);
            let Some(other) = there.iter().find(|other| ***other != *id).or(there.first()) else { continue };
            let difference = match records.get(other) {
                None => "nothing says what it was made of".to_owned(),
                Some(record) => {
                    let changed = "its rows have changed since they were written";
                    provenance.difference(record).unwrap_or(changed.to_owned())
                }
            };
            observer.note(&Note::Renewed { what: keys.join(" "), difference });
        }
        Ok(missing)
    }

    /// The cases that have to be made.
    fn cases(&self) -> Vec<(Keyed<S::Case>, Provenance)> {
        self.wanted.iter().map(|&number| self.asked[number].clone()).collect()
    }

    /// The rows that were asked for.
    fn rows(&self) -> Vec<KeyedRow> {
        let rows = self.asked.iter().flat_map(|((keys, _), _)| self.table.rows_of(keys, &self.settings));
        rows.cloned().collect()
    }

    /// Adds rows to the table as it is by now, whoever else adds to it, and records what they were made of.
    fn add(&mut self, session: &Session, rows: Vec<KeyedRow>, cases: &[(Keyed<S::Case>, Provenance)]) -> Result<()> {
        session.locked(|| {
            self.table = KeyedTable::read(self.table.path(), S::COLUMNS)?;
            let mut records = session.row_records(&self.stem);
            for mut row in rows {
                let made_of = cases.iter().find(|((keys, _), _)| row.keys.starts_with(keys));
                let (_, provenance) = made_of.with_context(|| format!("{}: a row of no case", row.keys.join(" ")))?;
                row.settings = RowSettings { provenance: provenance.id(), ..self.settings.clone() };
                records.insert(provenance.clone());
                self.table.insert(row);
            }
            self.table.write(session.options().csv_guard)?;
            session.record_rows(&self.stem, records, contents_of(&self.table)?)
        })
    }

    /// The figure of all rows of these settings and of the same model, prompts or texts; none where there is nothing to
    /// draw.
    fn figure(&self, study: &S, session: &Session) -> Option<Figure> {
        let records = session.row_records(&self.stem);
        let (_, asked) = self.asked.first()?;
        let alike = |row: &&KeyedRow| {
            let found = records.get(&row.settings.provenance);
            found.is_some_and(|found| {
                self.shared.iter().all(|name| found.settings.get(name) == asked.settings.get(name))
            })
        };
        let rows: Vec<&KeyedRow> = self.table.under(&self.settings).filter(alike).collect();
        let figure = study.figure(study.title(self.set.name(), &session.model().name), &rows);
        (!figure.facets.is_empty()).then_some(figure)
    }
}

/// The work of a study on one model.
struct Work<'a, S: TableStudy> {
    study: &'a S,
    session: &'a Session,
    sets: &'a mut [Tabled<S>],
    manifest: &'a mut Manifest,
}

impl<S: TableStudy> DeviceWork for Work<'_, S> {
    type Output = ();

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<()> {
        let Self { study, session, manifest, sets } = self;
        manifest.computed_on(engine);
        for tabled in sets.iter_mut().filter(|tabled| !tabled.wanted.is_empty()) {
            tabled.set.note(manifest)?;
            let cases = tabled.cases();
            let rows = study.make(session, engine, &tabled.set, &cases, manifest, observer);
            let rows = rows.with_context(|| tabled.set.name().to_owned())?;
            let new: Vec<String> = rows.iter().map(|row| row.keys.join(" ")).collect();
            tabled.add(session, rows, &cases)?;
            manifest.wrote(tabled.table.path(), new);
            if let Some(figure) = tabled.figure(study, session) {
                let drawn = figure.write_beside_data(&session.folder(), &tabled.stem)?;
                drawn.iter().for_each(|path| manifest.wrote(path, []));
            }
        }
        Ok(())
    }
}

fn tabled<S: TableStudy>(study: &S, session: &Session, observer: &mut dyn Observer) -> Result<Vec<Tabled<S>>> {
    study.validate()?;
    study.sets(session)?.into_iter().map(|set| Tabled::new(study, session, set, observer)).collect()
}

/// What the rows that are asked for will cost.
pub(crate) fn plan<S: TableStudy>(study: &S, session: &Session) -> Result<Plan> {
    let mut notes = Notes::default();
    let (mut texts, mut total, mut kept) = (Vec::new(), Flops::default(), 0);
    for tabled in tabled(study, session, &mut notes)?.into_iter().filter(|tabled| !tabled.wanted.is_empty()) {
        let cases: Vec<Keyed<S::Case>> = tabled.cases().into_iter().map(|(case, _)| case).collect();
        let (text, flops) = study.planned(session, &tabled.set, &cases)?;
        texts.push(text);
        total = total + flops;
        kept = kept.max(tabled.set.kept(session));
    }
    Ok(match texts.is_empty() {
        true => Plan::nothing(session).with(notes),
        false => Plan::of_passes(session, &texts.join("\n"), total, kept).with(notes),
    })
}

/// Makes the rows that are not there.
pub(crate) fn run<S: TableStudy>(study: &S, session: &Session, observer: &mut dyn Observer) -> Result<Tables> {
    let mut sets = tabled(study, session, observer)?;
    let mut manifest = None;
    if sets.iter().any(|tabled| !tabled.wanted.is_empty()) {
        let mut started = session.manifest(S::NAME, study)?;
        let work = Work { study, session, sets: &mut sets, manifest: &mut started };
        session.compute(observer, work)?;
        manifest = Some(started.finish()?);
    }
    for tabled in sets.iter().filter(|tabled| tabled.wanted.is_empty()) {
        let lost = Figure::paths(&session.folder(), &tabled.stem).iter().any(|path| !path.is_file());
        if let (true, Some(figure)) = (lost, tabled.figure(study, session)) {
            figure.write_beside_data(&session.folder(), &tabled.stem)?;
        }
    }
    let tables = sets.into_iter().map(|tabled| RowsOf { rows: tabled.rows(), file: tabled.stem }).collect();
    Ok(Tables { model: session.model().name.clone(), columns: S::COLUMNS, tables, manifest })
}

/// The tables of a study on one model.
#[derive(Debug, Clone)]
pub struct Tables {
    /// The model's name.
    pub model: String,
    /// The columns of all of them.
    pub columns: Columns,
    /// A table per dataset or corpus, with the rows that were asked for.
    pub tables: Vec<RowsOf>,
    /// The manifest; none when nothing had to be made.
    pub manifest: Option<RunRecord>,
}

/// Rows of a table.
#[derive(Debug, Clone)]
pub struct RowsOf {
    /// Name of the file without its ending.
    pub file: String,
    /// The rows that were asked for, those that were there already among them.
    pub rows: Vec<KeyedRow>,
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.model)?;
        for RowsOf { file, rows } in &self.tables {
            let mut table = Table::new(self.columns.keys.iter().chain(self.columns.numbers).copied());
            for row in rows {
                let number = |number: &Option<f64>| match number {
                    None => "undefined".to_owned(),
                    Some(whole) if whole.fract() == 0.0 => format!("{whole}"),
                    Some(value) => format!("{value:.4}"),
                };
                table.push(row.keys.iter().cloned().chain(row.numbers.iter().map(number)));
            }
            writeln!(f, "{file}\n{table}")?;
        }
        Ok(())
    }
}

impl Serialize for Tables {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows_of = |RowsOf { file, rows }: &RowsOf| {
            let rows: Vec<Value> = rows.iter().map(|row| row.as_json(self.columns)).collect();
            json!({ "file": file, "rows": rows })
        };
        let tables: Vec<Value> = self.tables.iter().map(rows_of).collect();
        json!({ "model": self.model, "tables": tables, "manifest": self.manifest }).serialize(serializer)
    }
}

/// A figure of rows: bars of every measure, given as a column and its label, below each other.
pub(crate) fn bar_figure(
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
