//! Who is told how a study comes along, and may stop it.

use crate::sweep::Stopped;
use anyhow::Result;
use std::fmt;
use std::path::PathBuf;

/// Hears of a study's progress, and decides whether it goes on.
///
/// Every method does nothing unless it is written: `&mut Silent` is an observer that only looks on.
pub trait Observer: Send {
    /// A piece of work begins, of `total` steps; 0 where their number is not known.
    fn begin(&mut self, what: &str, total: u64) {
        let _ = (what, total);
    }

    /// `done` steps of the piece of work are done.
    fn progress(&mut self, done: u64) {
        let _ = done;
    }

    /// What the piece of work is at, where its steps are not counted.
    fn at(&mut self, what: &str) {
        let _ = what;
    }

    /// The piece of work is over, one way or the other.
    fn end(&mut self) {}

    /// Something that a user wants to know.
    fn note(&mut self, note: &Note) {
        let _ = note;
    }

    /// Is the study to stop? It does so between two batches, and keeps what is done.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Hears nothing and stops nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {}

/// What an observer is told besides progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Results that are there already and were not computed again.
    Kept {
        /// How many.
        count: usize,
        /// Of what: `directions`, `maps`.
        what: String,
        /// The file or folder that holds them.
        place: PathBuf,
    },
    /// Results that are there, were made of something else, and are computed again.
    Renewed {
        /// Which.
        what: String,
        /// The first thing that differs.
        difference: String,
    },
    /// What may be wrong.
    Warning(String),
    /// Anything else.
    Remark(String),
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::Kept { count, what, place } => {
                write!(f, "{count} {what} exist already in {} and are kept", place.display())
            }
            Note::Renewed { what, difference } => write!(f, "{what} is computed again: {difference}"),
            Note::Warning(text) => write!(f, "warning: {text}"),
            Note::Remark(text) => f.write_str(text),
        }
    }
}

/// A piece of work that an observer is told of; over when it is dropped.
pub struct Progress<'a> {
    observer: &'a mut dyn Observer,
    done: u64,
}

/// Steps of a piece of work that is measured by its share of the whole.
const SHARES: f64 = 1000.0;

impl<'a> Progress<'a> {
    /// Begins a piece of work of `total` steps.
    pub fn new(observer: &'a mut dyn Observer, what: impl AsRef<str>, total: usize) -> Self {
        observer.begin(what.as_ref(), total as u64);
        Self { observer, done: 0 }
    }

    /// Begins a piece of work whose progress is a share of the whole.
    pub fn of_shares(observer: &'a mut dyn Observer, what: impl AsRef<str>) -> Self {
        Self::new(observer, what, SHARES as usize)
    }

    /// `count` further steps are done.
    ///
    /// # Errors
    /// [`Stopped`] when the observer wants the study to stop.
    pub fn add(&mut self, count: usize) -> Result<()> {
        self.set(self.done as usize + count)
    }

    /// `count` further steps are done, whatever the observer wants: for work that asks it on its own.
    pub fn counted(&mut self, count: usize) {
        self.counted_to(self.done as usize + count);
    }

    /// `done` steps are done, whatever the observer wants.
    pub fn counted_to(&mut self, done: usize) {
        self.done = done as u64;
        self.observer.progress(self.done);
    }

    /// `done` steps are done.
    ///
    /// # Errors
    /// As [`Progress::add`].
    pub fn set(&mut self, done: usize) -> Result<()> {
        self.counted_to(done);
        self.go_on()
    }

    /// This share of the whole is done.
    ///
    /// # Errors
    /// As [`Progress::add`].
    pub fn share(&mut self, share: f64) -> Result<()> {
        self.set((SHARES * share) as usize)
    }

    /// This share of the whole is done, whatever the observer wants: for work that asks it on its own.
    pub fn counted_share(&mut self, share: f64) {
        self.done = (SHARES * share) as u64;
        self.observer.progress(self.done);
    }

    /// Says what the work is at.
    ///
    /// # Errors
    /// As [`Progress::add`].
    pub fn at(&mut self, what: impl AsRef<str>) -> Result<()> {
        self.observer.at(what.as_ref());
        self.go_on()
    }

    /// Is the study to stop?
    pub fn cancelled(&self) -> bool {
        self.observer.cancelled()
    }

    /// Tells the observer something.
    pub fn note(&mut self, note: &Note) {
        self.observer.note(note);
    }

    fn go_on(&self) -> Result<()> {
        if self.observer.cancelled() { Err(Stopped { left: None }.into()) } else { Ok(()) }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.observer.end();
    }
}

/// Tells of what was kept, if anything was.
pub fn note_kept(observer: &mut dyn Observer, count: usize, what: &str, place: impl Into<PathBuf>) {
    if count > 0 {
        observer.note(&Note::Kept { count, what: what.to_owned(), place: place.into() });
    }
}
