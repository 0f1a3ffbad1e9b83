//! What `direction-patching-suite` has to compute: its cells with their ids, less those that the ledgers know.

use super::common::{build_prompts, distinct, note_skipped};
use super::direction_patching_suite::{
    Args, LayerChoice, Projection, file_name, label, resolve_heads, wanted_positions,
};
use super::stored_directions::{check_records, selected};
use super::sweeping::{Known, configuration, fingerprint};
use crate::datasets::{Catalogue, PairedPrompts};
use crate::directions::{Direction, DirectionName, Method, projected};
use crate::engine::{Metric, Mode, PatchPositions};
use crate::files::{sha256, sha256_of_file};
use crate::model::Model;
use crate::report::CellKey;
use crate::sweep::{self, CellId, Configuration, Inputs, Place, deal};
use crate::types::Matrix;
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the sweep in its cells' ids and manifests.
pub(super) const SWEEP: &str = "direction-patching-suite";

/// One direction on one dataset at one position: a pass that the cells of several metrics share.
pub(super) struct Job {
    pub direction: DirectionName,
    pub set: String,
    pub position: String,
    pub positions: PatchPositions,
    pub subspace: Arc<Subspace>,
    id: CellId,
    pub metrics: Vec<(Metric, CellId)>,
}

/// What a job patches.
pub(super) struct Subspace {
    /// Unit columns, `(d_model, k)`.
    pub columns: Arc<Matrix>,
    /// The hash of the columns.
    hash: String,
    /// The files they were read from.
    inputs: Arc<Inputs>,
}

/// A file in the model's folder, and its hash.
type Input = (Arc<str>, Arc<str>);

impl Job {
    pub fn key(&self) -> CellKey {
        (label(&self.direction), self.set.clone(), self.position.clone())
    }

    /// Does a metric need a run patched this way?
    pub fn wants(&self, mode: Mode) -> bool {
        self.metrics.iter().any(|(metric, _)| metric.mode() == mode)
    }

    /// The job's cells as the ledger knows them.
    fn cells(&self, args: &Args, shard: Option<usize>) -> Vec<sweep::Cell> {
        let (direction, set, position) = self.key();
        let at: Vec<Arc<str>> = vec![direction.into(), set.into(), position.into()];
        let cell = |&(metric, id): &(Metric, CellId)| {
            let place = Place { file: file_name(args, metric).into(), at: at.clone() };
            sweep::Cell { id, place, inputs: self.subspace.inputs.clone(), shard }
        };
        self.metrics.iter().map(cell).collect()
    }
}

/// Everything that a command line asks of one model.
pub(super) struct SuitePlan {
    pub configuration: Configuration,
    known: Known,
    /// The datasets, with all jobs on each.
    sets: Vec<(PairedPrompts, Vec<Job>)>,
}

impl SuitePlan {
    pub fn new(args: &Args, catalogue: &Catalogue, model: &Model) -> Result<Self> {
        let folder = args.run.folder(&model.name);
        let directions = selected(&args.directions, &folder)?;
        check_records(&args.run, &args.compat, &folder, &directions, model)?;
        let heads = resolve_heads(args, model)?;
        let configuration = configuration(&args.run, model)?;
        let known = Known::read(&folder, &args.sweep, &configuration)?;
        let files: Vec<String> = args.metrics.iter().map(|metric| file_name(args, *metric)).collect();
        known.check_files(&folder, &files, &args.run)?;
        let mut jobs = Jobs {
            args,
            folder: &folder,
            d_model: model.config.d_model,
            configuration: &configuration,
            heads: heads.as_deref(),
            subspaces: HashMap::new(),
        };
        let mut sets = Vec::new();
        for set in &distinct(&args.eval_sets) {
            let prompts = build_prompts(&args.run, catalogue, set, args.scaffold, model)?;
            let of_set = jobs.of_set(&prompts, &directions)?;
            sets.push((prompts, of_set));
        }
        Ok(Self { configuration, known, sets })
    }

    /// All cells, with the shard that each belongs to, those of this process's shard alone, and of them the jobs with
    /// the cells that have to be computed.
    pub fn divide(self, args: &Args, folder: &Path) -> Divided {
        let units: Vec<CellId> = self.sets.iter().flat_map(|(_, jobs)| jobs.iter().map(|job| job.id)).collect();
        let shards = args.sweep.shard.map(|shard| deal(&units, shard.count()));
        let mut divided = Divided { wanted: Vec::new(), own: Vec::new(), work: Vec::new(), left: 0 };
        let (mut unit, mut kept) = (0, 0);
        for (prompts, jobs) in self.sets {
            let mut todo = Vec::new();
            for mut job in jobs {
                let shard = shards.as_ref().map(|shards| shards[unit]);
                unit += 1;
                divided.wanted.extend(job.cells(args, shard));
                if shard != args.sweep.shard.map(|shard| shard.index()) {
                    continue;
                }
                divided.own.extend(job.metrics.iter().map(|&(metric, id)| ((metric, job.key()), id)));
                let cells = job.metrics.len();
                job.metrics.retain(|(_, id)| self.known.lacks(id, &args.run, &args.sweep));
                kept += cells - job.metrics.len();
                divided.left += job.metrics.len();
                if !job.metrics.is_empty() {
                    todo.push(job);
                }
            }
            divided.work.push((prompts, todo));
        }
        note_skipped(kept, "cells", folder);
        divided
    }
}

/// A plan's cells, and the work that is left of it.
pub(super) struct Divided {
    /// All of them.
    pub wanted: Vec<sweep::Cell>,
    /// Those of this process's shard.
    pub own: Vec<((Metric, CellKey), CellId)>,
    /// Jobs with the cells of them that have to be computed.
    pub work: Vec<(PairedPrompts, Vec<Job>)>,
    /// The number of those cells.
    pub left: usize,
}

/// Makes jobs. A direction is read once, whatever the number of its jobs.
struct Jobs<'a> {
    args: &'a Args,
    folder: &'a Path,
    d_model: usize,
    configuration: &'a Configuration,
    heads: Option<&'a [(usize, usize)]>,
    subspaces: HashMap<(DirectionName, Option<DirectionName>), Arc<Subspace>>,
}

impl Jobs<'_> {
    /// All jobs on one dataset.
    fn of_set(&mut self, prompts: &PairedPrompts, directions: &[DirectionName]) -> Result<Vec<Job>> {
        let dataset = fingerprint(prompts)?;
        let metrics = distinct(&self.args.metrics);
        let mut jobs = Vec::new();
        for (position, positions) in wanted_positions(self.args, prompts)? {
            for direction in directions {
                let subspace = self.subspace(direction, &prompts.name, &position)?;
                let mut own = self.place(direction, positions);
                own.insert("dataset".into(), dataset.clone());
                own.insert("subspace".into(), subspace.hash.clone());
                let id = CellId::of(SWEEP, self.configuration, &own);
                let of_metric = |metric: &Metric| {
                    own.insert("metric".into(), metric.to_string());
                    (*metric, CellId::of(SWEEP, self.configuration, &own))
                };
                let (direction, set) = (direction.clone(), prompts.name.clone());
                let metrics = metrics.iter().map(of_metric).collect();
                jobs.push(Job { direction, set, position: position.clone(), positions, subspace, id, metrics });
            }
        }
        Ok(jobs)
    }

    /// Where a job patches, as ids tell it.
    fn place(&self, direction: &DirectionName, positions: PatchPositions) -> Configuration {
        let position = match positions {
            PatchPositions::One(position) => position.to_string(),
            PatchPositions::Last => "last".into(),
            PatchPositions::All => "all".into(),
        };
        let (site, at) = match (self.heads, self.args.layers) {
            (Some(heads), _) => {
                ("attn_result", heads.iter().map(|(l, h)| format!("{l}.{h}")).collect::<Vec<_>>().join(","))
            }
            (None, LayerChoice::Own) => ("resid", direction.layer().to_string()),
            (None, LayerChoice::All) => ("resid", "all".into()),
        };
        let fields = [("position", position), ("site", site.into()), ("layers", at)];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What a direction patches on a dataset: itself, or what the arguments keep of it.
    fn subspace(&mut self, name: &DirectionName, set: &str, position: &str) -> Result<Arc<Subspace>> {
        let own = match self.args.projection {
            None => None,
            Some(_) => Some(counterpart(self.folder, name, set, position)?),
        };
        let key = (name.clone(), own);
        if let Some(known) = self.subspaces.get(&key) {
            return Ok(known.clone());
        }
        let (direction, file) = self.read(name)?;
        let mut inputs = Inputs::from([file]);
        let columns = match (&key.1, self.args.projection) {
            (Some(own), Some(projection)) => {
                let (own, file) = self.read(own)?;
                inputs.extend([file]);
                projected(&direction.columns, &own.columns, projection == Projection::Para)
            }
            _ => direction.unit_columns(),
        };
        let shape = [columns.rows as u64, columns.cols as u64];
        let bytes = shape.iter().flat_map(|side| side.to_le_bytes());
        let bytes: Vec<u8> = bytes.chain(columns.data.iter().flat_map(|value| value.to_le_bytes())).collect();
        let subspace = Subspace { columns: Arc::new(columns), hash: sha256(&bytes), inputs: Arc::new(inputs) };
        let subspace = Arc::new(subspace);
        self.subspaces.insert(key, subspace.clone());
        Ok(subspace)
    }

    /// A direction, and its file with the hash of its bytes.
    fn read(&self, name: &DirectionName) -> Result<(Direction, Input)> {
        let direction = Direction::read(self.folder, name, self.d_model)?;
        let path = Direction::paths(self.folder, name).0;
        let hash = sha256_of_file(&path).with_context(|| path.display().to_string())?;
        Ok((direction, (format!("{name}.npy").into(), hash.into())))
    }
}

/// The direction fitted on the evaluation dataset itself.
fn counterpart(folder: &Path, name: &DirectionName, set: &str, position: &str) -> Result<DirectionName> {
    if matches!(name.method(), Method::RandomDirection | Method::Ccs) {
        bail!("--projection: {name} has no counterpart fitted on {set}; leave it out with --directions");
    }
    let own = DirectionName::fitted(name.method(), set, position, name.layer())?;
    let path: PathBuf = Direction::paths(folder, &own).0;
    if !path.exists() {
        bail!(
            "--projection: {} is missing; fit it with --methods {} --train-sets {set} --positions {position} --layers {}",
            path.display(),
            name.method(),
            name.layer()
        );
    }
    Ok(own)
}
