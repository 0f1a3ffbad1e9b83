//! Work that is repeated: the calls of one run, kept as CUDA graphs, and compared with those of the next.
//!
//! The first run is done as usual. The second is recorded: its calls are held back until the host asks for values, and
//! then go to the GPU as one graph. Later runs are compared call by call; as long as kernels, grids, arguments and
//! addresses are the same, nothing is launched but the graphs. A run that differs goes on as usual from there. So a graph
//! only ever does what was just asked for, and the host code need not know that it is repeated.

use super::device::{Argument, Grid, Kernel};
use super::staging::Pinned;
use cudarc::driver::CudaGraph;
use std::ops::Range;

/// Runs that differed before the work counts as one that cannot be recorded.
const MOST_MISSES: u32 = 2;

/// One thing that the stream is asked for. Addresses are those of device memory.
pub enum Call {
    /// A kernel.
    Launch { kernel: Kernel, grid: Grid, arguments: Vec<Box<dyn Argument>> },
    /// Values from a range of the recording's page-locked memory.
    Upload { to: u64, from: Range<usize> },
    /// Bytes set to zero.
    Zero { at: u64, bytes: usize },
    /// Bytes copied from one array to another.
    Copy { from: u64, to: u64, bytes: usize },
}

impl Call {
    /// Does the other call do exactly the same?
    fn same(&self, other: &Call) -> bool {
        match (self, other) {
            (Call::Launch { kernel, grid, arguments }, Call::Launch { kernel: k, grid: g, arguments: others }) => {
                let mut pairs = arguments.iter().zip(others);
                kernel == k
                    && grid == g
                    && arguments.len() == others.len()
                    && pairs.all(|(one, other)| one.same(other.as_ref()))
            }
            (Call::Upload { to, from }, Call::Upload { to: t, from: f }) => to == t && from == f,
            (Call::Zero { at, bytes }, Call::Zero { at: a, bytes: b }) => at == a && bytes == b,
            (Call::Copy { from, to, bytes }, Call::Copy { from: f, to: t, bytes: b }) => {
                from == f && to == t && bytes == b
            }
            _ => false,
        }
    }
}

/// The calls between two times at which the host waited, and the graph that does them.
pub struct Segment {
    pub calls: Vec<Call>,
    pub graph: CudaGraph,
}

/// What a backend keeps of repeated work. One recording belongs to one piece of work.
#[derive(Default)]
pub struct Recording {
    /// Values that the first run uploaded.
    uploaded: Option<usize>,
    /// Where the graphs read uploaded values from. Dropped first, which waits for the graphs.
    pub(super) values: Option<Pinned>,
    segments: Vec<Segment>,
    misses: u32,
}

// SAFETY: graphs and page-locked memory may move between threads as long as one at a time uses them; all use is through
// `&mut`.
unsafe impl Send for Recording {}
// SAFETY: nothing can be done with a shared reference.
unsafe impl Sync for Recording {}

impl Recording {
    /// Is there nothing to be gained from recording?
    pub fn is_hopeless(&self) -> bool {
        self.misses > MOST_MISSES
    }

    /// Number of values that the page-locked memory must hold before a recorded run.
    pub fn wants_values(&self) -> Option<usize> {
        self.uploaded.filter(|_| self.values.is_none())
    }
}

/// How far a run has come.
enum Mode {
    /// Calls are done at once: the first run, or one that differed.
    AtOnce,
    /// Calls are held back, and become the next segment.
    Recording(Vec<Call>),
    /// Calls are compared with this one of this segment.
    Following(usize, usize),
}

/// What is to be done at the end of a segment.
pub enum Due<'a> {
    /// Nothing: everything has been done.
    Nothing,
    /// These calls, as a new graph.
    Record(Vec<Call>),
    /// This graph.
    Launch(&'a CudaGraph),
}

/// A run of repeated work under way.
pub struct Repetition {
    recording: Recording,
    mode: Mode,
    first: bool,
    uploaded: usize,
}

impl Repetition {
    /// Begins a run. `recording` has the page-locked memory that it wants.
    pub fn new(recording: Recording) -> Self {
        let first = recording.uploaded.is_none();
        let mode = match (first, recording.segments.is_empty()) {
            (true, _) => Mode::AtOnce,
            (false, true) => Mode::Recording(Vec::new()),
            (false, false) => Mode::Following(0, 0),
        };
        Self { recording, mode, first, uploaded: 0 }
    }

    /// Room for values to upload, and where it is; none when they are copied as usual.
    pub fn room(&mut self, len: usize) -> Option<(Range<usize>, &mut [f32])> {
        let range = self.uploaded..self.uploaded + len;
        self.uploaded = range.end;
        let values = self.recording.values.as_mut().filter(|values| range.end <= values.len())?;
        if matches!(self.mode, Mode::AtOnce) {
            return None;
        }
        // SAFETY: the graphs of the last run were waited for, and every upload of this one has a range of its own.
        Some((range.clone(), unsafe { values.values(range) }))
    }

    /// Is this run being recorded?
    pub fn is_recording(&self) -> bool {
        matches!(self.mode, Mode::Recording(_))
    }

    /// Values that were given room before.
    pub fn uploaded(&mut self, range: Range<usize>) -> Option<&[f32]> {
        // SAFETY: copies from this range read it, and nobody writes it before they were waited for.
        self.recording.values.as_mut().map(|values| &*unsafe { values.values(range) })
    }

    /// Takes a call; returns those that must be done now.
    pub fn take(&mut self, call: Call) -> Vec<Call> {
        match &mut self.mode {
            Mode::AtOnce => vec![call],
            Mode::Recording(calls) => {
                calls.push(call);
                Vec::new()
            }
            Mode::Following(segment, next) => {
                let expected = self.recording.segments.get(*segment).and_then(|segment| segment.calls.get(*next));
                if expected.is_some_and(|expected| expected.same(&call)) {
                    *next += 1;
                    return Vec::new();
                }
                let mut due = self.give_up();
                due.push(call);
                due
            }
        }
    }

    /// Goes on as usual; returns the calls that were held back.
    pub fn give_up(&mut self) -> Vec<Call> {
        match std::mem::replace(&mut self.mode, Mode::AtOnce) {
            Mode::AtOnce => Vec::new(),
            Mode::Recording(calls) => calls,
            Mode::Following(segment, next) => match self.recording.segments.get_mut(segment) {
                Some(segment) => segment.calls.drain(..next).collect(),
                None => Vec::new(),
            },
        }
    }

    /// The host will wait now: what must be done first. Calls of a segment that are still missing make the run differ.
    pub fn end_segment(&mut self) -> Result<Due<'_>, Vec<Call>> {
        match &mut self.mode {
            Mode::AtOnce => Ok(Due::Nothing),
            Mode::Recording(calls) if calls.is_empty() => Ok(Due::Nothing),
            Mode::Recording(calls) => Ok(Due::Record(std::mem::take(calls))),
            Mode::Following(segment, next) => {
                let (index, done) = (*segment, *next);
                match self.recording.segments.get(index) {
                    Some(found) if found.calls.len() == done => {
                        (*segment, *next) = (index + 1, 0);
                        Ok(Due::Launch(&self.recording.segments[index].graph))
                    }
                    None => Ok(Due::Nothing),
                    Some(_) => Err(self.give_up()),
                }
            }
        }
    }

    /// Keeps a recorded segment.
    pub fn keep(&mut self, segment: Segment) {
        self.recording.segments.push(segment);
    }

    /// What is kept for the next run. A run that failed, or differed, leaves nothing but its mark.
    pub fn finish(self, succeeded: bool) -> Recording {
        let Self { recording, mode, first, uploaded } = self;
        match mode {
            Mode::AtOnce if first && succeeded => Recording { uploaded: Some(uploaded), ..recording },
            Mode::Recording(_) | Mode::Following(..) if succeeded => recording,
            _ => Recording { misses: recording.misses + 1, ..Recording::default() },
        }
    }
}
