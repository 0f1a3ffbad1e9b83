//! Fitting directions: model x method x dataset x position x layer.

mod jobs;
mod projections;
mod random;
mod sign;
mod statistics;

pub use random::{RandomDirections, RandomWritten};

use super::fields::list;
use super::suite_tables::forget;
use super::{Notes, Plan, Study, bytes};
use crate::backend::Backend;
use crate::compat::Compat;
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::{Scaffold, Split};
use crate::directions::das::{AdamSettings, TrainError, TrainSettings, Trained};
use crate::directions::{Direction, DirectionError, FitRecord, Method, Projection, cosine, embedding_positions, fit};
use crate::engine::{Engine, Flops, Layout, PatchPositions};
use crate::experiments::chunks::embeddings_at;
use crate::experiments::das_fits::{DasJob, TrainPlan, train_all};
use crate::model::{Model, Source};
use crate::report::{Manifest, RunRecord, Table};
use crate::session::{
    DeviceWork, Observer, Progress, Session, Stopped, distinct, need_classes, note_kept, planned_rows,
    processing_names, wrong,
};
use crate::sweep::Shard;
use crate::types::Matrix;
use anyhow::{Context, Result, bail};
pub(crate) use jobs::is_there;
use jobs::{Job, Standing};
use projections::Embedded;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sign::Signs;
use statistics::{Tested, test_position};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Fits directions: every method at every layer and position of every dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FitDirections {
    /// Methods; all without any.
    #[serde(deserialize_with = "list")]
    pub methods: Vec<Method>,
    /// Datasets to fit on.
    #[serde(deserialize_with = "list")]
    pub train_sets: Vec<String>,
    /// Datasets on which fits are tested: classifiers for their accuracy, DAS for its loss after every epoch. Tested is at
    /// the fit's own position where a dataset has it, else at its main one. Classifiers that exist already are only tested.
    #[serde(deserialize_with = "list")]
    pub test_sets: Vec<String>,
    /// Text around the Treebank's sentences: classification without it; all other datasets are plain.
    pub scaffold: Option<Scaffold>,
    /// Positions: placeholders of the template, END, ALL, or auto: the main placeholder, ALL on the Treebank.
    #[serde(deserialize_with = "list")]
    pub positions: Vec<String>,
    /// Layers: `all`, numbers, ranges such as 2..5; layer n_layers is behind the last block.
    #[serde(deserialize_with = "list")]
    pub layers: Vec<String>,
    /// DAS: passes over the dataset: 64, or 1 on the Treebank, without it.
    pub epochs: Option<u32>,
    /// DAS: prompts per step. At least 1.
    pub batch_size: u32,
    /// DAS: learning rate of Adam. Above 0.
    pub learning_rate: f64,
    /// DAS: stop when the mean loss on the test sets (without any, the training loss) has not become smaller for this many
    /// epochs, and keep the directions of the best epoch instead of the last.
    pub early_stop: Option<u32>,
    /// Make only this share of the DAS fits (the first share also makes everything else); each is a file of its own,
    /// whichever share makes it.
    pub shard: Option<Shard>,
}

impl Default for FitDirections {
    fn default() -> Self {
        let TrainSettings { batch_size, adam, .. } = TrainSettings::default();
        Self {
            methods: Vec::new(),
            train_sets: vec!["simple_train".into()],
            test_sets: Vec::new(),
            scaffold: None,
            positions: vec!["auto".into()],
            layers: vec!["all".into()],
            epochs: None,
            batch_size: batch_size as u32,
            learning_rate: adam.learning_rate,
            early_stop: None,
            shard: None,
        }
    }
}

/// The absolute cosine from which on two fits are the same: between devices only rounding differs.
const SAME_FIT: f64 = 0.9999;

/// What became of a direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fitted {
    /// Its name.
    pub name: String,
    /// Its file, when it was written now.
    pub path: Option<String>,
    /// Final loss of DAS, train accuracy of the others.
    pub final_metric: Option<f64>,
    /// The same on every test set.
    pub test_metrics: BTreeMap<String, f64>,
    /// Why there is no file, or no test.
    pub skipped: Option<String>,
}

/// The directions of one model.
#[derive(Debug, Clone, Serialize)]
pub struct Fits {
    /// The model's name.
    pub model: String,
    /// The folder that holds them.
    pub folder: String,
    /// Every direction that was asked for, those that were there already among them.
    pub directions: Vec<Fitted>,
    /// The manifest; none when nothing was to be done.
    pub manifest: Option<RunRecord>,
}

impl fmt::Display for Fits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tests: BTreeSet<&String> = self.directions.iter().flat_map(|fitted| fitted.test_metrics.keys()).collect();
        let heads = tests.iter().map(|test| format!("on {test}"));
        let mut table = Table::new(["direction".to_owned(), "final metric".to_owned()].into_iter().chain(heads));
        let number = |metric: Option<f64>| metric.map_or(String::new(), |metric| format!("{metric:.4}"));
        let mut skipped: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for fitted in &self.directions {
            let metric = match &fitted.skipped {
                None => number(fitted.final_metric),
                Some(why) => {
                    skipped.entry(why).or_default().push(&fitted.name);
                    "-".to_owned()
                }
            };
            let tested = tests.iter().map(|test| number(fitted.test_metrics.get(*test).copied()));
            table.push([fitted.name.clone(), metric].into_iter().chain(tested));
        }
        write!(f, "{}: {} directions in {}\n{table}", self.model, self.directions.len(), self.folder)?;
        skipped.iter().try_for_each(|(why, names)| writeln!(f, "{}: {why}", names.join(", ")))
    }
}

/// Commit of a Hub model, for records.
pub(crate) fn revision(model: &Model) -> Option<String> {
    match &model.provenance.source {
        Source::Hub { commit, .. } => Some(commit.clone()),
        _ => None,
    }
}

impl Study for FitDirections {
    const NAME: &'static str = "fit-directions";
    type Outcome = Fits;

    fn validate(&self) -> Result<()> {
        let positive =
            [("epochs", self.epochs), ("batch_size", Some(self.batch_size)), ("early_stop", self.early_stop)];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == Some(0)) {
            wrong!(*field, "expected at least 1, found 0");
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            wrong!("learning_rate", "expected a finite number above zero, found {}", self.learning_rate);
        }
        if self.methods.contains(&Method::Ccs) {
            wrong!("methods", "expected methods of this study, found ccs, which is a study of its own");
        }
        Ok(())
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        let mut table = Table::new(["direction", "arithmetic"]);
        let mut activations = 0;
        let mut total = Flops::default();
        let mut notes = Notes::default();
        let mut sets = self.work(session, &mut notes)?.sets;
        sets.retain(|(_, jobs)| jobs.iter().any(|job| job.standing.is_open()));
        if sets.is_empty() {
            return Ok(Plan::nothing(session).with(notes));
        }
        for (prompts, jobs) in sets {
            let whole = Layout::whole(&prompts.sequences);
            total = total + Flops::forward(session.config(), &whole, 0, 10);
            activations = activations.max(session.planned_values(&whole));
            for job in jobs.iter().filter(|job| job.standing.is_open()) {
                let flops = self.flops(session, &prompts, job);
                total = total + flops;
                table.push([job.name.to_string(), flops.to_string()]);
            }
        }
        let memory = session.planned_memory(activations);
        let text = format!("{}\n{table}total {total}, about {} of memory\n", session.model().name, bytes(memory));
        Ok(Plan::of(text).costing(total, Some(memory)).with(notes))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Fits> {
        let Work { mut sets, tests } = self.work(session, observer)?;
        let mut directions = kept_directions(session, &mut sets, observer)?;
        let mut manifest = None;
        if sets.iter().any(|(_, jobs)| !jobs.is_empty()) {
            let mut started = session.manifest(Self::NAME, self)?;
            // Before the fits: results must never outlive the direction they were measured with.
            let refitted = sets.iter().flat_map(|(_, jobs)| jobs).filter(|job| job.standing == Standing::Absent);
            let refitted = refitted.map(|job| format!("{}.npy", job.name)).collect();
            forget(&session.folder(), &refitted, session.options().csv_guard)?;
            let work = FitModel { study: self, session, tests, sets, manifest: &mut started };
            directions.extend(session.compute(observer, work)?);
            manifest = Some(started.finish()?);
        }
        let model = session.model().name.clone();
        let folder = session.folder().display().to_string();
        Ok(Fits { model, folder, directions: directions.into_values().collect(), manifest })
    }
}

/// The number of a dataset, and of a direction in it.
type Place = (usize, usize);

/// What there is to do: datasets with the directions on each, and datasets to test them on.
struct Work {
    sets: Vec<(PairedPrompts, Vec<Job>)>,
    tests: Vec<PairedPrompts>,
}

/// Takes out the directions for which nothing is to be done, with everything that is known of them.
fn kept_directions(
    session: &Session,
    sets: &mut [(PairedPrompts, Vec<Job>)],
    observer: &mut dyn Observer,
) -> Result<BTreeMap<Place, Fitted>> {
    let mut kept = BTreeMap::new();
    for (_, jobs) in sets {
        for job in jobs.iter() {
            match job.standing {
                Standing::Kept => drop(kept.insert(job.place, statistics::of_kept(session, job, observer)?)),
                Standing::Unreachable => {
                    let why = TrainError::Unreachable { layer: job.layer }.to_string();
                    kept.insert(job.place, Fitted::skipped(job, why));
                }
                Standing::Absent | Standing::Untested => {}
            }
        }
        jobs.retain(|job| job.standing.is_open());
    }
    Ok(kept)
}

impl FitDirections {
    /// The methods that are asked for.
    pub(crate) fn methods(&self) -> Vec<Method> {
        if self.methods.is_empty() { Method::of_fits().to_vec() } else { distinct(&self.methods) }
    }

    /// The text around a dataset's prompts.
    fn scaffold_of(&self, set: &str) -> Scaffold {
        let usual = if Split::of_dataset(set).is_some() { Scaffold::Classification } else { Scaffold::Plain };
        self.scaffold.unwrap_or(usual)
    }

    /// Passes of DAS over a dataset.
    fn epochs_of(&self, set: &str) -> usize {
        let usual = if Split::of_dataset(set).is_some() { 1 } else { TrainSettings::default().epochs };
        self.epochs.map_or(usual, |epochs| epochs as usize)
    }

    fn train_settings(&self, set: &str) -> TrainSettings {
        TrainSettings {
            epochs: self.epochs_of(set),
            batch_size: self.batch_size as usize,
            adam: AdamSettings { learning_rate: self.learning_rate, ..AdamSettings::default() },
            early_stop: self.early_stop.map(|epochs| epochs as usize),
        }
    }

    /// Datasets, the directions on each, and how they stand.
    fn work(&self, session: &Session, observer: &mut dyn Observer) -> Result<Work> {
        if let Some(other) = session.options().compat.iter().find(|compat| compat.is_of_patching()) {
            let instead = match other {
                Compat::UnprocessedFits => " (fit with the checkpoint's own weights)",
                _ => "",
            };
            wrong!("compat", "{other} is about using directions, not about fitting them{instead}");
        }
        let build = |setting: &str, set: &String| {
            let prompts = session.prompts(set, self.scaffold_of(set))?;
            need_classes(setting, &prompts, "fitting").map(|()| prompts)
        };
        let test = |set| build("test_sets", set);
        let tests = distinct(&self.test_sets).iter().map(test).collect::<Result<Vec<_>>>()?;
        let (mut sets, mut kept) = (Vec::new(), 0);
        for (number, set) in distinct(&self.train_sets).iter().enumerate() {
            let prompts = build("train_sets", set)?;
            let jobs = jobs::jobs(self, session, number, &prompts, &tests)?;
            kept += jobs.iter().filter(|job| matches!(job.standing, Standing::Kept | Standing::Untested)).count();
            sets.push((prompts, jobs));
        }
        note_kept(observer, kept, "directions", session.folder());
        Ok(Work { sets, tests })
    }

    /// The arithmetic of a fit, as far as it counts.
    fn flops(&self, session: &Session, prompts: &PairedPrompts, job: &Job) -> Flops {
        if !job.method.is_das() {
            return Flops::default();
        }
        let rows = planned_rows(prompts, job.positions);
        let step = Flops::forward(session.config(), &rows, job.layer, 10)
            + Flops::backward(session.config(), &rows, job.layer, 10);
        Flops(step.0 * self.epochs_of(&prompts.name) as u64)
    }
}

/// The fits of one model.
struct FitModel<'a> {
    study: &'a FitDirections,
    session: &'a Session,
    tests: Vec<PairedPrompts>,
    sets: Vec<(PairedPrompts, Vec<Job>)>,
    manifest: &'a mut Manifest,
}

impl DeviceWork for FitModel<'_> {
    type Output = Vec<(Place, Fitted)>;

    fn run<B: Backend>(self, engine: &Engine<B>, observer: &mut dyn Observer) -> Result<Self::Output> {
        let Self { study, session, tests, sets, manifest } = self;
        manifest.computed_on(engine);
        tests.iter().try_for_each(|test| manifest.saw(test))?;
        let mut all = Vec::new();
        for (prompts, jobs) in sets.iter().filter(|(_, jobs)| !jobs.is_empty()) {
            manifest.saw(prompts)?;
            let fitting = Fitting { study, session, engine, prompts, tests: &tests };
            let fitted = fitting.fit(jobs, observer)?;
            // A direction that was only tested was not written.
            let written = jobs.iter().filter(|job| job.standing == Standing::Absent);
            for job in written {
                let path = fitted.get(&job.place).and_then(|fitted| fitted.path.as_ref());
                path.into_iter().for_each(|path| manifest.wrote(Path::new(path), []));
            }
            all.extend(fitted);
        }
        Ok(all)
    }
}

/// What all fits on one dataset share.
struct Fitting<'a, B: Backend> {
    study: &'a FitDirections,
    session: &'a Session,
    engine: &'a Engine<B>,
    prompts: &'a PairedPrompts,
    tests: &'a [PairedPrompts],
}

impl Fitted {
    fn of(job: &Job, path: Option<&Path>, final_metric: Option<f64>, test_metrics: BTreeMap<String, f64>) -> Self {
        let path = path.map(|path| path.display().to_string());
        Self { name: job.name.to_string(), path, final_metric, test_metrics, skipped: None }
    }

    fn skipped(job: &Job, why: String) -> Self {
        Self { skipped: Some(why), ..Self::of(job, None, None, BTreeMap::new()) }
    }
}

/// Where a direction is fitted: its position, by name and as patched, and its layer.
fn place_of(job: &Job) -> (String, PatchPositions, usize) {
    (job.name.position().unwrap_or_default().to_owned(), job.positions, job.layer)
}

/// The places of some jobs, sorted, each once.
fn places(jobs: &[&Job]) -> Vec<(String, PatchPositions, usize)> {
    jobs.iter().map(|job| place_of(job)).collect::<BTreeSet<_>>().into_iter().collect()
}

impl<B: Backend> Fitting<'_, B> {
    /// Fits all jobs of the dataset.
    fn fit(&self, jobs: &[Job], observer: &mut dyn Observer) -> Result<BTreeMap<Place, Fitted>> {
        // Trainings on several devices ask it whether to stop.
        let progress = Mutex::new(Progress::new(observer, format!("fitting on {}", self.prompts.name), jobs.len()));
        let progress = || progress.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::new();
        let random = |job: &&Job| job.method == Method::RandomDirection;
        for job in jobs.iter().filter(random) {
            let path = random::write(self.session, job.layer, random::seed_of(self.session))?;
            all.insert(job.place, Fitted::of(job, Some(&path), None, BTreeMap::new()));
            progress().add(1)?;
        }
        let mut done = |job: &Job, fitted: Fitted| {
            all.insert(job.place, fitted);
            progress().add(1)
        };
        let (das, classical): (Vec<&Job>, Vec<&Job>) =
            jobs.iter().filter(|job| !random(job)).partition(|job| job.method.is_das());
        self.fit_classical(&classical, &mut done)?;
        self.fit_das(&das, &|| progress().cancelled(), &mut done)?;
        Ok(all)
    }

    fn record(&self, job: &Job, mut settings: serde_json::Value) -> FitRecord {
        let Self { study, session, engine, prompts, .. } = *self;
        settings["dtype"] = json!(session.options().dtype.name());
        if Split::of_dataset(&prompts.name).is_some() {
            settings["scaffold"] = json!(study.scaffold_of(&prompts.name));
        }
        FitRecord {
            model: session.asked().into(),
            revision: revision(engine.model()),
            weight_processing: processing_names(engine.model().processing),
            seed: session.seed(),
            compat: session.options().compat(),
            settings,
            provenance: Some(job.provenance.settings.clone()),
            ..FitRecord::of(&job.name)
        }
    }

    /// How many layers' residual vectors of so many prompts fit in memory at once.
    fn layers_at_once(&self, rows: usize) -> usize {
        (self.engine.memory_budget() / (4 * self.engine.config().d_model * rows.max(1))).max(1)
    }

    /// Fits the jobs that need one residual vector per prompt, as many layers at a time as fit in memory.
    fn fit_classical(&self, jobs: &[&Job], done: &mut dyn FnMut(&Job, Fitted) -> Result<()>) -> Result<()> {
        let (prompts, tests) = (self.prompts, self.tests);
        let rows: usize = prompts.clean.len() + tests.iter().map(|test| test.clean.len()).sum::<usize>();
        let at_once = self.layers_at_once(rows);
        for same_position in places(jobs).chunk_by(|a, b| a.0 == b.0) {
            for group in same_position.chunks(at_once) {
                let layers: Vec<usize> = group.iter().map(|(_, _, layer)| *layer).collect();
                let of = |set, positions, seed| {
                    embeddings_at(self.engine, set, &layers, positions, seed, self.engine.memory_budget())
                };
                let train = of(prompts, group[0].1, self.session.seed())?;
                let mut tested = Vec::new();
                for test in tests {
                    let (position, place) = test_position(self.session, test, &group[0].0)?;
                    let at = embedding_positions(test, place, 0);
                    tested.push(Tested { prompts: test, position, at, embeddings: of(test, place, 0)? });
                }
                for &job in jobs.iter().filter(|job| group.contains(&place_of(job))) {
                    done(job, self.fit_one(job, &train[&job.layer], &tested)?)?;
                }
            }
        }
        Ok(())
    }

    /// Fits, tests and writes one direction from its embeddings; one that is there is only tested.
    fn fit_one(&self, job: &Job, train: &Matrix, tested: &[Tested]) -> Result<Fitted> {
        tracing::info!(direction = %job.name, "fitting");
        let (folder, labels) = (self.session.folder(), &self.prompts.positive);
        let fit = match fit(job.method, train, labels) {
            Ok(Some(fit)) => fit,
            Ok(None) => bail!("{}: {} has no fit", job.name, job.method),
            Err(error @ DirectionError::Degenerate { .. }) => return Ok(Fitted::skipped(job, error.to_string())),
            Err(error) => return Err(error).context(job.name.to_string()),
        };
        let only_tested = job.standing == Standing::Untested;
        if only_tested {
            let kept = Direction::read(&folder, &job.name, self.engine.config().d_model)?;
            let cosine = cosine(&kept.columns.data, &fit.direction.data).abs();
            if cosine.is_nan() || cosine < SAME_FIT {
                let why = format!("not tested: another fit's direction is kept (cosine {cosine:.4})");
                return Ok(Fitted::skipped(job, why));
            }
        }
        if !only_tested {
            // Another process may have come first, with another fit and its statistics.
            is_there(self.session, &job.name, &job.provenance)?;
        }
        // Before the direction, and at once: a run that ends early leaves no direction without its statistics.
        let test_metrics = statistics::add(self.session, job, self.prompts, &fit, train, tested)?;
        if let Some(plane) = &fit.projection {
            self.write_projections(job, plane, train, tested)?;
        }
        let metric = Some(fit.train_accuracy.share());
        if only_tested {
            return Ok(Fitted::of(job, None, metric, test_metrics));
        }
        let record = FitRecord { final_metric: metric, ..self.record(job, json!({})) };
        let path = self.write(job, &Direction { name: job.name.clone(), columns: fit.direction }, &record)?;
        Ok(Fitted::of(job, Some(&path), metric, test_metrics))
    }

    /// Writes a direction, unless another process has come to write another one of its name.
    fn write(&self, job: &Job, direction: &Direction, record: &FitRecord) -> Result<PathBuf> {
        self.session.locked(|| {
            is_there(self.session, &job.name, &job.provenance)?;
            Ok(direction.write(&self.session.folder(), record)?)
        })
    }

    /// Writes where the prompts of a fit and of its tests lie in its plane.
    fn write_projections(&self, job: &Job, plane: &Projection, train: &Matrix, tested: &[Tested]) -> Result<()> {
        let at = embedding_positions(self.prompts, job.positions, self.session.seed());
        let position = job.name.position().unwrap_or_default();
        let mut sets = vec![Embedded { prompts: self.prompts, position, at: &at, embeddings: train }];
        sets.extend(tested.iter().map(|test| {
            let embeddings = &test.embeddings[&job.layer];
            Embedded { prompts: test.prompts, position: &test.position, at: &test.at, embeddings }
        }));
        projections::write(self.session, job, plane, &sets)
    }

    /// Trains the jobs of DAS, unless `stop` asks for an end: then a training stops between two steps and leaves nothing.
    fn fit_das(
        &self,
        jobs: &[&Job],
        stop: &(dyn Fn() -> bool + Sync),
        done: &mut (dyn FnMut(&Job, Fitted) -> Result<()> + Send),
    ) -> Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        let settings = self.study.train_settings(&self.prompts.name);
        let as_das = |job: &&Job| -> Result<DasJob> {
            let own = job.name.position().unwrap_or_default();
            let positions =
                self.tests.iter().map(|test| Ok(test_position(self.session, test, own)?.1)).collect::<Result<_>>()?;
            Ok(DasJob { method: job.method, layer: job.layer, positions: job.positions, test_positions: positions })
        };
        let das = jobs.iter().map(as_das).collect::<Result<Vec<_>>>()?;
        let (seed, tests, budget) = (self.session.seed(), self.tests, self.engine.memory_budget());
        let plan = TrainPlan { settings: &settings, seed, tests, budget, stop };
        let signs = Signs::new(self, jobs)?;
        let trained = train_all(self.engine, self.prompts, &das, &plan, |index, trained| -> Result<()> {
            let job = jobs[index];
            done(job, self.write_das(job, &plan, &signs, trained)?)
        });
        trained.map_err(|error| match error.downcast_ref() {
            Some(TrainError::Stopped) => Stopped { left: None }.into(),
            _ => error,
        })
    }

    /// Writes what a training has found.
    fn write_das(
        &self,
        job: &Job,
        plan: &TrainPlan<'_>,
        signs: &Signs,
        trained: Result<Trained, TrainError>,
    ) -> Result<Fitted> {
        let mut trained = match trained {
            Ok(trained) => trained,
            Err(error) => return Err(error).context(job.name.to_string()),
        };
        let TrainSettings { epochs, batch_size, adam, early_stop } = plan.settings;
        let sign = signs.turn(job, &mut trained.columns);
        let mut settings = json!({ "epochs": epochs, "batch_size": batch_size, "adam": adam, "sign": sign });
        if let Some(patience) = early_stop {
            let watched = if plan.tests.is_empty() { "training loss" } else { "mean test loss" };
            settings["early_stop"] =
                json!({ "patience": patience, "watched": watched, "kept_epoch": trained.kept_epoch });
        }
        let curve =
            |number: usize| trained.test_losses.iter().filter_map(|losses| losses.get(number).copied()).collect();
        if !job.tests.is_empty() {
            let tests = job.tests.iter().map(|(test, provenance)| (test.clone(), json!(provenance.id())));
            settings["tests"] = tests.collect::<serde_json::Map<_, _>>().into();
        }
        let names = plan.tests.iter().map(|test| test.name.clone());
        let record = FitRecord {
            test_loss_curves: names.enumerate().map(|(number, name)| (name, curve(number))).collect(),
            final_metric: Some(trained.final_loss),
            loss_curve: trained.losses,
            ..self.record(job, settings)
        };
        let test_metrics = statistics::last_losses(&record, trained.kept_epoch);
        let direction = Direction { name: job.name.clone(), columns: trained.columns };
        let path = self.write(job, &direction, &record)?;
        Ok(Fitted::of(job, Some(&path), record.final_metric, test_metrics))
    }
}
