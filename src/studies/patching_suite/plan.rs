//! What a suite has to compute on one model: its cells with their ids, less those that the ledgers know.

use super::target::Target;
use super::{PatchingSuite, Projection};
use crate::datasets::PairedPrompts;
use crate::directions::{Direction, DirectionName, FitRecord, Method, projected};
use crate::engine::{self, Metric, Mode, PatchPositions};
use crate::files::sha256;
use crate::report::CellKey;
use crate::session::{
    Fault, Mend, Note, Observer, OfSetting, Session, check_output, distinct, fingerprint, hash_of_matrix, note_kept,
    wrong,
};
use crate::studies::Study;
use crate::studies::suite_tables::{BOS, SEED};
use crate::sweep::{Cell, CellId, Configuration, Inputs, Known, Ledger, Place, Texts, deal};
use crate::types::Matrix;
use anyhow::Result;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// How much of the hash of its prompts a cell has.
const PROMPTS_DIGITS: usize = 16;

/// One direction on one dataset at one position: a pass that the cells of several metrics share.
pub(super) struct Job {
    /// Where its values stand.
    pub key: CellKey,
    /// Where the direction is at home.
    layer: usize,
    positions: PatchPositions,
    subspace: Arc<Subspace>,
    /// The hashes of the prompts, and of the prompts with the position.
    texts: Arc<Texts>,
    id: CellId,
    pub metrics: Vec<(Metric, CellId)>,
}

/// What a job patches.
struct Subspace {
    /// Unit columns, `(d_model, k)`.
    columns: Arc<Matrix>,
    /// The hash of the columns.
    hash: String,
    /// The files they were read from.
    inputs: Arc<Inputs>,
    /// What the tidy table says of their values beside what names say.
    settings: Arc<Configuration>,
}

/// A file in the model's folder, and its hash.
type Input = (Arc<str>, Arc<str>);

/// A direction's name with a two-digit layer, as tables of the suite list it.
fn row_name(name: &DirectionName) -> String {
    let text = name.to_string();
    let stem = text.rsplit_once("layer").map_or(text.as_str(), |(stem, _)| stem);
    format!("{stem}layer{:02}", name.layer())
}

impl Job {
    /// Does a metric need a run patched this way?
    fn wants(&self, mode: Mode) -> bool {
        self.metrics.iter().any(|(metric, _)| metric.mode() == mode)
    }

    /// The job's cells as the ledger knows them.
    fn cells(&self, suite: &PatchingSuite, session: &Session, shard: Option<usize>) -> Vec<Cell> {
        let (direction, set, position) = &self.key;
        let at: Vec<Arc<str>> = [direction, set, position].map(|head| head.as_str().into()).into();
        let cell = |&(metric, id): &(Metric, CellId)| {
            let place = Place { file: suite.table(session, metric).to_string().into(), at: at.clone() };
            let Subspace { inputs, settings, .. } = &*self.subspace;
            let (inputs, texts, settings) = (inputs.clone(), self.texts.clone(), settings.clone());
            Cell { id, place, inputs, texts, settings, shard }
        };
        self.metrics.iter().map(cell).collect()
    }
}

/// A job in one patching direction, whose metrics share the pass.
pub(super) type Pass<'a> = (&'a Job, Mode);

/// The passes that jobs need, each with its cell of the engine: first all that denoise, then all that noise.
pub(super) fn passes<'a>(jobs: &'a [Job], target: &Target) -> (Vec<Pass<'a>>, Vec<engine::Cell>) {
    let of_mode = |mode| jobs.iter().filter(move |job| job.wants(mode)).map(move |job| (job, mode));
    let passes: Vec<Pass> = of_mode(Mode::Denoising).chain(of_mode(Mode::Noising)).collect();
    let cell = |&(job, mode): &Pass| target.cell(job.layer, job.subspace.columns.clone(), job.positions, mode);
    let cells = passes.iter().map(cell).collect();
    (passes, cells)
}

/// A suite's cells on one model, and the work that is left of them.
pub(super) struct Divided {
    pub configuration: Configuration,
    pub target: Target,
    /// All cells, with the shard that each belongs to.
    pub wanted: Vec<Cell>,
    /// Those of this process's shard.
    pub own: Vec<((Metric, CellKey), CellId)>,
    /// The datasets, with the jobs on each that are left and the cells of them that have to be computed.
    pub work: Vec<(PairedPrompts, Vec<Job>)>,
    /// The number of those cells.
    pub left: usize,
}

impl Divided {
    /// Finds out what there is to do, without changing anything.
    ///
    /// # Errors
    /// Directions, datasets, positions and heads that are not there; directions of other weights; a ledger of another
    /// configuration; tables that no ledger knows.
    pub fn new(suite: &PatchingSuite, session: &Session, observer: &mut dyn Observer) -> Result<Self> {
        // What is wrong with a file of datasets is no fault of their names.
        session.catalogue()?;
        let sets = session.every_prompts(&suite.eval_sets, suite.scaffold).of_setting("eval_sets")?;
        let directions = session.selected(&suite.directions).of_setting("directions")?;
        session.check_directions(&directions).of_setting("directions")?;
        let target = Target::new(suite, session)?;
        let configuration = session.configuration()?;
        let known = Known::read(&session.folder(), &suite.sweep, &configuration)?;
        check_tables(suite, session, &known)?;
        let mut jobs = Jobs { suite, session, configuration: &configuration, subspaces: HashMap::new() };
        let of_set = |prompts: PairedPrompts| {
            let jobs = jobs.of_set(&prompts, &target, &directions)?;
            Ok((prompts, jobs))
        };
        let sets = sets.into_iter().map(of_set).collect::<Result<Vec<_>>>()?;
        let mut divided =
            Self { configuration, target, wanted: Vec::new(), own: Vec::new(), work: Vec::new(), left: 0 };
        divided.deal(suite, session, sets, &known);
        note_others(&divided.wanted, &known, observer);
        note_outdated(&divided.wanted, &known, observer);
        note_kept(observer, divided.own.len() - divided.left, "cells", session.folder());
        Ok(divided)
    }

    /// Deals the jobs to the shards, and leaves out what is known of this process's own.
    fn deal(&mut self, suite: &PatchingSuite, session: &Session, sets: Vec<(PairedPrompts, Vec<Job>)>, known: &Known) {
        let own = suite.sweep.shard.map(|shard| shard.index());
        let units: Vec<CellId> = sets.iter().flat_map(|(_, jobs)| jobs.iter().map(|job| job.id)).collect();
        let mut shards = suite.sweep.shard.map(|shard| deal(&units, shard.count()).into_iter());
        let lacks = |id: &CellId| session.options().overwrite || known.lacks(id, suite.sweep.retry_failed);
        for (prompts, jobs) in sets {
            let mut left = Vec::new();
            for mut job in jobs {
                let shard = shards.as_mut().and_then(Iterator::next);
                self.wanted.extend(job.cells(suite, session, shard));
                if shard != own {
                    continue;
                }
                self.own.extend(job.metrics.iter().map(|&(metric, id)| ((metric, job.key.clone()), id)));
                job.metrics.retain(|(_, id)| lacks(id));
                self.left += job.metrics.len();
                if !job.metrics.is_empty() {
                    left.push(job);
                }
            }
            self.work.push((prompts, left));
        }
    }
}

/// Says which values have others in their place, and why they do not count.
fn note_others(wanted: &[Cell], known: &Known, observer: &mut dyn Observer) {
    let mut reasons: BTreeMap<(Arc<str>, &str), usize> = BTreeMap::new();
    for (wanted, found) in known.others(wanted) {
        if !known.lacks(&wanted.id, false) {
            continue;
        }
        let difference = match () {
            () if wanted.texts != found.texts => "dataset: its prompts or positions have changed",
            () if wanted.inputs != found.inputs => "directions: they have changed",
            () => "what it was made of has changed",
        };
        let set = wanted.place.at.get(1).cloned().unwrap_or_default();
        *reasons.entry((set, difference)).or_default() += 1;
    }
    for ((set, difference), count) in reasons {
        observer.note(&Note::Renewed { what: format!("{set} ({count} cells)"), difference: difference.to_owned() });
    }
}

/// Says which values of other tables and positions are shown no longer, since they are of other prompts than the wanted ones.
fn note_outdated(wanted: &[Cell], known: &Known, observer: &mut dyn Observer) {
    let mut counts: BTreeMap<(Arc<str>, Arc<str>), usize> = BTreeMap::new();
    for cell in known.outdated(wanted) {
        let set = cell.place.at.get(1).cloned().unwrap_or_default();
        *counts.entry((cell.place.file, set)).or_default() += 1;
    }
    for ((file, set), count) in counts {
        observer.note(&Note::Warning(format!(
            "{file}: {count} values of {set} are of other prompts or positions than it has now, and are left out until they are \
             asked for again"
        )));
    }
}

/// Refuses to replace tables that no ledger knows: those of versions before there were ledgers.
fn check_tables(suite: &PatchingSuite, session: &Session, known: &Known) -> Result<()> {
    let (folder, files) = (session.folder(), known.files());
    for &metric in &suite.metrics {
        let file = suite.table(session, metric).to_string();
        check_output(&file)?;
        let path = folder.join(&file);
        if !files.contains(file.as_str()) && path.exists() && !session.options().overwrite {
            let (path, ledger) = (path.display(), Ledger::FILE);
            let fault = Fault::new(format!("{path}: {ledger} knows nothing of its values (an older version made it?)"));
            return Err(fault
                .mended_by(Mend::Set("overwrite", String::new()))
                .mended_by(Mend::Another("data_dir"))
                .into());
        }
    }
    Ok(())
}

/// Makes jobs. A direction is read once, whatever the number of its jobs.
struct Jobs<'a> {
    suite: &'a PatchingSuite,
    session: &'a Session,
    configuration: &'a Configuration,
    subspaces: HashMap<(DirectionName, Option<DirectionName>), Arc<Subspace>>,
}

impl Jobs<'_> {
    /// All jobs on one dataset.
    fn of_set(&mut self, prompts: &PairedPrompts, target: &Target, directions: &[DirectionName]) -> Result<Vec<Job>> {
        let dataset = fingerprint(prompts)?;
        let metrics = distinct(&self.suite.metrics);
        // Scaffolds and ways of the paper's code have prompts of their own.
        let set = format!("{} {}{}", prompts.name, self.suite.scaffold, self.session.options().compat_ending());
        let id = |own: &Configuration| CellId::of(PatchingSuite::NAME, self.configuration, own);
        let mut jobs = Vec::new();
        for (position, positions) in target.positions(self.session, prompts, &self.suite.positions)? {
            let at = sha256(format!("{dataset} {positions:?}").as_bytes());
            let texts = Arc::new(Texts::from([
                (set.as_str().into(), dataset[..PROMPTS_DIGITS].into()),
                (format!("{set} {position}").into(), at[..PROMPTS_DIGITS].into()),
            ]));
            for direction in directions {
                let subspace = self.subspace(direction, prompts, &position)?;
                let mut own = target.in_ids(direction, positions);
                own.insert("dataset".into(), dataset.clone());
                own.insert("subspace".into(), subspace.hash.clone());
                let of_job = id(&own);
                let of_metric = |metric: &Metric| {
                    own.insert("metric".into(), metric.to_string());
                    (*metric, id(&own))
                };
                let metrics = metrics.iter().map(of_metric).collect();
                let key = (row_name(direction), prompts.name.clone(), position.clone());
                let (layer, texts) = (direction.layer(), texts.clone());
                jobs.push(Job { key, layer, positions, subspace, texts, id: of_job, metrics });
            }
        }
        Ok(jobs)
    }

    /// What a direction patches on a dataset: itself, or what the suite keeps of it.
    fn subspace(&mut self, name: &DirectionName, prompts: &PairedPrompts, position: &str) -> Result<Arc<Subspace>> {
        let own = match self.suite.projection {
            None => None,
            Some(_) => Some(counterpart(self.session, name, prompts, position)?),
        };
        let key = (name.clone(), own);
        if let Some(known) = self.subspaces.get(&key) {
            return Ok(known.clone());
        }
        let (direction, file) = self.read(name)?;
        let mut inputs = Inputs::from([file]);
        let columns = match (&key.1, self.suite.projection) {
            (Some(own), Some(projection)) => {
                let (own, file) = self.read(own)?;
                inputs.extend([file]);
                projected(&direction.columns, &own.columns, projection == Projection::Parallel)
            }
            _ => direction.unit_columns(),
        };
        let hash = hash_of_matrix(&columns);
        let subspace = Arc::new(Subspace {
            columns: Arc::new(columns),
            hash,
            inputs: Arc::new(inputs),
            settings: Arc::new(self.settings(name)?),
        });
        self.subspaces.insert(key, subspace.clone());
        Ok(subspace)
    }

    /// Whether texts begin with BOS, and the seed of the fit, if it is known.
    fn settings(&self, name: &DirectionName) -> Result<Configuration> {
        let (folder, bos) = (self.session.folder(), self.session.model().tokenizer.bos().is_some());
        let mut settings = Configuration::from([(BOS.to_owned(), bos.to_string())]);
        if Direction::paths(&folder, name).1.exists() {
            let FitRecord { seed, imported, .. } = FitRecord::read(&folder, name)?;
            settings.extend(imported.is_none().then(|| (SEED.to_owned(), seed.to_string())));
        }
        Ok(settings)
    }

    /// A direction, and its file with the hash of its bytes.
    fn read(&self, name: &DirectionName) -> Result<(Direction, Input)> {
        let (direction, hash) = self.session.direction(name)?;
        Ok((direction, (format!("{name}.npy").into(), hash.into())))
    }
}

/// The direction fitted on the evaluation dataset itself: at the position that is patched, and where that is every position
/// at the dataset's main one.
fn counterpart(
    session: &Session,
    name: &DirectionName,
    prompts: &PairedPrompts,
    position: &str,
) -> Result<DirectionName> {
    let set = &prompts.name;
    let method = name.method().filter(|method| !matches!(method, Method::RandomDirection | Method::Ccs));
    let Some(method) = method else {
        wrong!("projection", "{name} has no counterpart fitted on {set}: expected directions without it");
    };
    let position =
        if position == "ALL" { session.position("positions", prompts, "auto")?.0 } else { position.to_owned() };
    let own = DirectionName::fitted(method, set, &position, name.layer())?;
    let path: PathBuf = Direction::paths(&session.folder(), &own).0;
    if !path.exists() {
        let fit = [
            ("methods", method.to_string()),
            ("train_sets", set.clone()),
            ("positions", position),
            ("layers", name.layer().to_string()),
        ];
        let fault = Fault::of("projection", format!("{} is missing", path.display()));
        return Err(fault.mended_by(Mend::Study("fit-directions", fit.into())).into());
    }
    Ok(own)
}
