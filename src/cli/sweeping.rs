//! What the commands that are sweeps share: arguments, the ledger of a model's folder, and the files made of it.

use super::common::{KNOWN_HASHES, RunArgs, processing_names};
use crate::files::sha256;
use crate::model::{Model, Source};
use crate::report::{CellKey, SuiteCsv};
use crate::sweep::{Cell, CellId, Configuration, Ledger, Outcome, Running, Shard, State, Stop, same_configuration};
use crate::types::PairedPrompts;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Arguments of every sweep.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct SweepArgs {
    /// Compute only share I of N, counted from 0, into DATA_DIR/<model>/shards/I-of-N; `actpatch merge` joins them.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<Shard>,
    /// Compute the cells again that failed.
    #[arg(long)]
    pub retry_failed: bool,
}

impl SweepArgs {
    /// Where the sweep's ledger lies: in the model's folder, or in the shard's.
    pub fn folder(&self, model: &Path) -> PathBuf {
        self.shard.map_or(model.to_owned(), |shard| shard.folder(model))
    }
}

/// A sweep that was asked by a signal to stop, and did, between two batches.
#[derive(Debug)]
pub struct Stopped {
    /// Cells that are left.
    left: usize,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by a signal with {} cells left; the same command goes on from here", self.left)
    }
}

impl std::error::Error for Stopped {}

/// What all cells of a model's ledger share.
pub fn configuration(run: &RunArgs, model: &Model) -> Result<Configuration> {
    let weights = match &model.provenance.source {
        Source::Random { shape, seed } => format!("random {shape}, seed {seed}"),
        _ => {
            let files = model.provenance.clone().with_every_hash(&run.data_dir.join(KNOWN_HASHES))?.files;
            let contents: Vec<_> = files.iter().map(|file| (&file.name, &file.sha256)).collect();
            sha256(&serde_json::to_vec(&contents)?)
        }
    };
    let fields = [
        ("model", model.name.clone()),
        ("weights", weights),
        ("weight_processing", processing_names(model.processing).join(",")),
        ("dtype", run.dtype.to_string()),
    ];
    Ok(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Hash of everything about a dataset that a measurement depends on: every prompt's tokens, clean and corrupted, its
/// sign, and its answers.
pub fn fingerprint(prompts: &PairedPrompts) -> Result<String> {
    let tokens = |sequences: &[usize]| -> Vec<_> { sequences.iter().map(|&s| &prompts.sequences[s]).collect() };
    let all = (tokens(&prompts.clean), tokens(&prompts.corrupted), &prompts.positive, &prompts.answers);
    Ok(sha256(&serde_json::to_vec(&all)?))
}

/// The ledgers that a sweep on one model begins with: the folder's own, and the shard's.
pub struct Known {
    main: State,
    shard: State,
}

impl Known {
    /// Reads them, without changing anything.
    pub fn read(folder: &Path, sweep: &SweepArgs, configuration: &Configuration) -> Result<Self> {
        let read = |folder: &Path| -> Result<State> {
            let Some((found, state)) = Ledger::read(folder)? else { return Ok(State::default()) };
            same_configuration(&folder.join(Ledger::FILE), configuration, &found)?;
            Ok(state)
        };
        let shard = sweep.shard.map_or(Ok(State::default()), |shard| read(&shard.folder(folder)))?;
        Ok(Self { main: read(folder)?, shard })
    }

    fn outcome(&self, id: &CellId) -> Option<&Outcome> {
        let known = |state: &'_ State| matches!(state.outcome(id), Some(Outcome::Done { .. }));
        if known(&self.main) { self.main.outcome(id) } else { self.shard.outcome(id).or(self.main.outcome(id)) }
    }

    /// Has the cell to be computed?
    pub fn lacks(&self, id: &CellId, run: &RunArgs, sweep: &SweepArgs) -> bool {
        match self.outcome(id) {
            _ if run.overwrite => true,
            None => true,
            Some(Outcome::Failed(_)) => sweep.retry_failed,
            Some(Outcome::Done { .. }) => false,
        }
    }

    /// Refuses to replace result files that no ledger knows: those of versions before there were ledgers.
    pub fn check_files(&self, folder: &Path, files: &[String], run: &RunArgs) -> Result<()> {
        let known: BTreeSet<Arc<str>> = self.main.cells().map(|(cell, _)| cell.place.file).collect();
        for file in files.iter().filter(|file| !known.contains(file.as_str())) {
            if folder.join(file).exists() && !run.overwrite {
                bail!(
                    "{}: {} knows nothing of its values (an older version made it?); move it away, or let --overwrite \
                     replace it",
                    folder.join(file).display(),
                    Ledger::FILE
                );
            }
        }
        Ok(())
    }
}

/// The value that a cell is recorded with.
///
/// # Errors
/// A value that is not finite, as the reason why the cell has failed.
pub fn finite(value: f64) -> std::result::Result<Value, String> {
    match value.is_finite() {
        true => Ok(value.into()),
        false => Err(format!("expected a finite number, found {value}")),
    }
}

/// Writes down what becomes of the cells of a sweep, batch by batch.
pub struct Recorder {
    ledger: Ledger,
    running: Running,
    stop: Stop,
    left: usize,
    since: Instant,
}

impl Recorder {
    /// Opens the sweep's ledger and adds its cells; `left` of them are going to be computed.
    pub fn start(
        folder: &Path,
        sweep: &SweepArgs,
        configuration: &Configuration,
        cells: Vec<Cell>,
        left: usize,
    ) -> Result<Self> {
        let folder = sweep.folder(folder);
        let mut ledger = Ledger::open(&folder, configuration)?;
        ledger.want(cells)?;
        let mut running = Running::start(&folder, sweep.shard)?;
        running.computing(left);
        let stop = Stop::listen().context("signals")?;
        Ok(Self { ledger, running, stop, left, since: Instant::now() })
    }

    /// What has gone by until now was preparation, not the first batch's work.
    pub fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// Records a batch: a value of each cell, or the reason why it has none.
    ///
    /// # Errors
    /// [`Stopped`] when a signal has asked for it and cells are left; whatever keeps the records from the disk.
    pub fn record(&mut self, batch: Vec<(CellId, std::result::Result<Value, String>)>) -> Result<()> {
        if !batch.is_empty() {
            self.write(batch)?;
        }
        if self.stop.asked() && self.left > 0 {
            return Err(Stopped { left: self.left }.into());
        }
        Ok(())
    }

    fn write(&mut self, batch: Vec<(CellId, std::result::Result<Value, String>)>) -> Result<()> {
        let seconds = self.since.elapsed().as_secs_f64() / batch.len() as f64;
        self.since = Instant::now();
        self.left = self.left.saturating_sub(batch.len());
        let outcome = |(id, value)| match value {
            Ok(value) => (id, Outcome::Done { value, seconds }),
            Err(error) => (id, Outcome::Failed(error)),
        };
        self.ledger.record(batch.into_iter().map(outcome))?;
        self.running.computing(self.left);
        Ok(())
    }

    /// The values of cells that are done.
    ///
    /// # Errors
    /// When some of them have failed: their number and one of the errors.
    pub fn results<K: Ord>(
        self,
        folder: &Path,
        sweep: &SweepArgs,
        cells: Vec<(K, CellId)>,
    ) -> Result<BTreeMap<K, Option<f64>>> {
        // A shard leaves the cells that the folder's own ledger knows to it.
        let main = match sweep.shard {
            Some(_) => Ledger::read(folder)?.map(|(_, state)| state).unwrap_or_default(),
            None => State::default(),
        };
        let known = Known { main, shard: self.ledger.into_state() };
        let (mut results, mut failed) = (BTreeMap::new(), Vec::new());
        for (key, id) in cells {
            match known.outcome(&id) {
                Some(Outcome::Done { value, .. }) => {
                    results.insert(key, value.as_f64());
                }
                Some(Outcome::Failed(error)) => failed.push((id, error)),
                None => bail!("{}: cell {id} is neither done nor failed", folder.display()),
            }
        }
        match failed[..] {
            [] => Ok(results),
            [(id, error), ..] => bail!(
                "{} cells failed (--retry-failed computes them again, `actpatch status` lists them), cell {id}: {error}",
                failed.len()
            ),
        }
    }

    /// Makes the result files of everything that the ledger holds by now. A shard has none: they are made when it is
    /// merged.
    pub fn write_files(&mut self, folder: &Path, sweep: &SweepArgs) -> Result<()> {
        match sweep.shard {
            Some(_) => Ok(()),
            None => self.ledger.with_state(|state| write_files(folder, state, |_| false)),
        }
    }
}

/// The result files of the ledger in `folder`, without the values of cells that are `hidden`.
pub fn write_files(folder: &Path, state: &State, hidden: impl Fn(&Cell) -> bool) -> Result<()> {
    let mut files: BTreeMap<Arc<str>, BTreeMap<CellKey, f64>> = BTreeMap::new();
    // Maps are written by their commands.
    let in_table = |cell: &Cell| cell.place.file.ends_with(".csv");
    for (cell, _) in state.cells().filter(|(cell, _)| in_table(cell)) {
        files.entry(cell.place.file).or_default();
    }
    for (cell, outcome) in state.fresh(folder).filter(|(cell, _)| in_table(cell) && !hidden(cell)) {
        let Some(Outcome::Done { value, .. }) = outcome else { continue };
        let [direction, set, position] = &cell.place.at[..] else {
            bail!("{}: expected a direction, a dataset and a position, found {}", Ledger::FILE, cell.place);
        };
        let key = (direction.to_string(), set.to_string(), position.to_string());
        // A metric that is undefined on a dataset has no value: its cell stays empty.
        let of_file = files.entry(cell.place.file).or_default();
        of_file.extend(value.as_f64().map(|value| (key, value)));
    }
    for (file, cells) in files {
        let path = folder.join(&*file);
        if !cells.is_empty() || path.exists() {
            SuiteCsv::new(&path, cells).write()?;
        }
    }
    Ok(())
}

/// Takes the values out of the result files that depend on files which are about to change.
pub fn forget(folder: &Path, changing: &BTreeSet<String>) -> Result<()> {
    let Some((configuration, _)) = Ledger::read(folder)? else { return Ok(()) };
    let depends = |cell: &Cell| cell.inputs.keys().any(|input| changing.contains(&**input));
    Ledger::open(folder, &configuration)?.with_state(|state| write_files(folder, state, depends))
}

/// The ledgers below a model's folder: its own, if it has one, and those of its shards in the order of their names.
pub fn ledgers(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![folder.to_owned()];
    let shards = folder.join("shards");
    if shards.is_dir() {
        let entries = std::fs::read_dir(&shards).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut found: Vec<PathBuf> =
            entries.with_context(|| shards.display().to_string())?.iter().map(|entry| entry.path()).collect();
        found.sort();
        folders.extend(found);
    }
    folders.retain(|folder| folder.join(Ledger::FILE).is_file());
    Ok(folders)
}

/// The folders of a data folder that have a ledger, with their ledgers, by name.
pub fn models(data: &Path) -> Result<BTreeMap<String, Vec<PathBuf>>> {
    let entries = std::fs::read_dir(data).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut models = BTreeMap::new();
    for entry in entries.with_context(|| data.display().to_string())? {
        let ledgers = ledgers(&entry.path())?;
        if !ledgers.is_empty() {
            models.insert(entry.file_name().to_string_lossy().into_owned(), ledgers);
        }
    }
    Ok(models)
}
