//! The ledger: an append-only file of records.
//!
//! Appends happen under a lock of the file, so several processes may share it; each batch of records is one write and
//! one `fdatasync`, after which its cells count as done. A write that fails is taken back, a record that a killed
//! process left unfinished is cut off by the next one, and a damaged line is skipped: its cell is computed again.

use super::record::{FORMAT, Fault, Record, decode, encode};
use super::{Cell, CellId, Configuration, Outcome, State, SweepError};
use crate::files::refuse_dangling;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A ledger that this process appends to.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    read: Read,
}

/// What has been read of a ledger.
#[derive(Debug)]
struct Read {
    path: PathBuf,
    /// Where the first record that is not read yet begins.
    end: u64,
    lines: usize,
    records: usize,
    /// The number and the first of the damaged lines that nobody has been told of.
    damaged: Option<(usize, usize)>,
    configuration: Option<Configuration>,
    state: State,
}

impl Ledger {
    /// Name of the file in a folder.
    pub const FILE: &'static str = "ledger.jsonl";

    /// Opens the ledger of a folder to append to it; makes both if need be.
    ///
    /// # Errors
    /// [`SweepError::Configuration`] for a file that is no ledger, or has another format or configuration;
    /// [`SweepError::Io`].
    pub fn open(folder: &Path, configuration: &Configuration) -> Result<Self, SweepError> {
        let path = folder.join(Self::FILE);
        let io = |source| SweepError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).and_then(|()| refuse_dangling(&path)).map_err(io)?;
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(io)?;
        // The file's name must survive a power failure as well as what is in it.
        #[cfg(unix)]
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        let mut ledger = Self { file, read: Read::new(path.clone()) };
        ledger.locked(|ledger| {
            ledger.catch_up()?;
            match ledger.read.begun()? {
                Some(found) => same_configuration(&path, configuration, found),
                None => {
                    let version = env!("CARGO_PKG_VERSION").to_owned();
                    ledger.append(vec![Record::Header {
                        format: FORMAT,
                        version,
                        configuration: configuration.clone(),
                    }])
                }
            }
        })?;
        ledger.read.tell_damage();
        Ok(ledger)
    }

    /// Reads the ledger of a folder without changing it; `None` when there is none, or one that a process was killed over
    /// before it had begun.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn read(folder: &Path) -> Result<Option<(Configuration, State)>, SweepError> {
        let path = folder.join(Self::FILE);
        let io = |source| SweepError::Io { path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        file.lock_shared().map_err(io)?;
        let mut read = Read::new(path.clone());
        read.catch_up(&file)?;
        read.tell_damage();
        read.begun()?;
        Ok(read.configuration.map(|configuration| (configuration, read.state)))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.read.path
    }

    /// What its records amount to, as far as this process has read.
    pub fn state(&self) -> &State {
        &self.read.state
    }

    /// Lets go of the file and keeps what was read.
    pub fn into_state(self) -> State {
        self.read.state
    }

    /// Adds the cells that are not wanted yet, or with other inputs.
    ///
    /// # Errors
    /// [`SweepError::Io`]; nothing is added then.
    pub fn want(&mut self, cells: impl IntoIterator<Item = Cell>) -> Result<(), SweepError> {
        self.locked(|ledger| {
            ledger.catch_up()?;
            let new = cells.into_iter().filter(|cell| !ledger.read.state.wants(cell));
            let records = new.map(Record::Cell).collect();
            ledger.append(records)
        })
    }

    /// Records what became of the cells of a batch. When this returns, they survive any crash.
    ///
    /// # Errors
    /// [`SweepError::Io`], such as a full disk; none of them is recorded then, and what was recorded before is kept.
    pub fn record(&mut self, outcomes: impl IntoIterator<Item = (CellId, Outcome)>) -> Result<(), SweepError> {
        let records: Vec<Record> = outcomes.into_iter().map(|(id, outcome)| Record::of(id, outcome)).collect();
        self.locked(|ledger| {
            ledger.catch_up()?;
            ledger.append(records)
        })
    }

    /// Shows `work` everything that is recorded, also by other processes, and keeps those from recording until it is
    /// done: whoever writes a result file last has seen the most.
    ///
    /// # Errors
    /// [`SweepError::Io`] and those of `work`.
    pub fn with_state<T, E: From<SweepError>>(&mut self, work: impl FnOnce(&State) -> Result<T, E>) -> Result<T, E> {
        self.locked(|ledger| {
            ledger.catch_up()?;
            Ok(work(&ledger.read.state))
        })?
    }

    /// Appends to what is recorded by then, in one go: `plan` sees it and answers with the records to add.
    pub(super) fn extend<T>(
        &mut self,
        plan: impl FnOnce(&State) -> Result<(T, Vec<Record>), SweepError>,
    ) -> Result<T, SweepError> {
        self.locked(|ledger| {
            ledger.catch_up()?;
            let (told, records) = plan(&ledger.read.state)?;
            ledger.append(records)?;
            Ok(told)
        })
    }

    fn locked<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, SweepError>) -> Result<T, SweepError> {
        self.file.lock().map_err(|source| self.read.io(source))?;
        let result = work(self);
        self.file.unlock().map_err(|source| self.read.io(source))?;
        result
    }

    /// Reads what others have added, and cuts off what a process that was killed has left unfinished. Under the lock.
    fn catch_up(&mut self) -> Result<(), SweepError> {
        self.read.catch_up(&self.file)?;
        let length = self.file.metadata().map_err(|source| self.read.io(source))?.len();
        if length > self.read.end {
            tracing::warn!(
                "{}: the last {} bytes are an unfinished record and are dropped",
                self.read.path.display(),
                length - self.read.end
            );
            self.file.set_len(self.read.end).map_err(|source| self.read.io(source))?;
        }
        Ok(())
    }

    /// Writes records behind the last one and waits for the disk. Under the lock, caught up.
    fn append(&mut self, records: Vec<Record>) -> Result<(), SweepError> {
        let mut lines = Vec::new();
        for record in &records {
            encode(record, &mut lines).map_err(|error| self.read.io(error.into()))?;
        }
        if lines.is_empty() {
            return Ok(());
        }
        if let Err(error) = (&self.file).write_all(&lines).and_then(|()| self.file.sync_data()) {
            // Should this fail as well, the next process drops the unfinished record.
            let _ = self.file.set_len(self.read.end);
            return Err(self.read.io(error));
        }
        self.read.end += lines.len() as u64;
        records.into_iter().try_for_each(|record| self.read.take(record))
    }
}

impl Read {
    fn new(path: PathBuf) -> Self {
        Self { path, end: 0, lines: 0, records: 0, damaged: None, configuration: None, state: State::default() }
    }

    fn io(&self, source: io::Error) -> SweepError {
        SweepError::Io { path: self.path.clone(), source }
    }

    /// The configuration, unless nothing has been recorded yet. Records whose header is damaged could be anybody's.
    fn begun(&self) -> Result<Option<&Configuration>, SweepError> {
        match &self.configuration {
            None if self.records > 0 => Err(self.wrong("header", "the sweep's configuration", "a damaged line")),
            configuration => Ok(configuration.as_ref()),
        }
    }

    fn wrong(&self, field: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> SweepError {
        let (field, expected, found) = (field.into(), expected.into(), found.into());
        SweepError::Configuration { path: self.path.clone(), field, expected, found }
    }

    /// Reads the whole lines behind [`Read::end`].
    fn catch_up(&mut self, mut file: &File) -> Result<(), SweepError> {
        file.seek(SeekFrom::Start(self.end)).map_err(|source| self.io(source))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(|source| self.io(source))?;
            let Some(content) = line.strip_suffix(b"\n") else { break };
            self.lines += 1;
            self.end += length as u64;
            match decode(content) {
                Ok(record) => self.take(record)?,
                Err(Fault::Damaged) => {
                    let (count, first) = self.damaged.unwrap_or((0, self.lines));
                    self.damaged = Some((count + 1, first));
                }
                Err(Fault::Unknown(why)) => {
                    return Err(self.wrong(format!("line {}", self.lines), "a record of this version", why));
                }
            }
        }
        // Somebody else's file must not be appended to, let alone be cut.
        if self.records == 0 && (self.lines > 0 || line.first().is_some_and(|byte| *byte != b'{' && *byte != 0)) {
            return Err(self.wrong("content", "a ledger of actpatch", "other text"));
        }
        Ok(())
    }

    fn take(&mut self, record: Record) -> Result<(), SweepError> {
        self.records += 1;
        if let Record::Header { format, configuration, version } = record {
            if format != FORMAT {
                return Err(self.wrong("format", FORMAT.to_string(), format!("{format} (actpatch {version})")));
            }
            self.configuration = Some(configuration);
        } else {
            self.state.apply(record);
        }
        Ok(())
    }

    fn tell_damage(&mut self) {
        if let Some((count, first)) = self.damaged.take() {
            tracing::warn!(
                "{}: {count} damaged records, the first in line {first}, are skipped; their cells are computed again",
                self.path.display()
            );
        }
    }
}

/// Refuses a ledger of another configuration.
///
/// # Errors
/// [`SweepError::Configuration`], which names the first setting that differs.
pub fn same_configuration(path: &Path, expected: &Configuration, found: &Configuration) -> Result<(), SweepError> {
    let differs = |field: &&String| expected.get(*field) != found.get(*field);
    let Some(field) = expected.keys().chain(found.keys()).find(differs) else { return Ok(()) };
    let show = |configuration: &Configuration| {
        configuration.get(field).filter(|value| !value.is_empty()).map_or("nothing".into(), String::clone)
    };
    let (expected, found) = (show(expected), show(found));
    Err(SweepError::Configuration { path: path.into(), field: field.clone(), expected, found })
}
