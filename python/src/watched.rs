//! Work in a thread of its own, while the calling one hears signals and tells of progress.

use crate::errors::{Failure, guarded};
use actpatch::model::hub::{Observer as Downloads, Progress as Download};
use actpatch::session::{Note, Observer, Session, Silent};
use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long the calling thread waits before it looks at signals and progress again.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the library's own threads have, and main threads usually.
const STACK: usize = 8 << 20;

/// Makes the calling thread a rayon pool of its own, from now on: what is too little to be handed to others is computed in it.
pub fn own_pool() {
    if rayon::current_thread_index().is_some() {
        return;
    }
    // Without it everything is handed to others.
    if let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build() {
        // It ends with the thread.
        std::mem::forget(pool);
    }
}

/// Work that takes no longer than a batch: it is not to be stopped, and nobody is told of it.
pub fn directly<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(&mut dyn Observer) -> anyhow::Result<T> + Send,
) -> PyResult<T> {
    py.detach(|| guarded(|| work(&mut Silent))).map_err(|failure| failure.raised(py))
}

/// What the calling thread is told.
enum Event {
    Begin(String, u64),
    At(String),
    End,
    Note(String),
    Warning(String),
    Over,
}

/// What both threads know.
#[derive(Default)]
struct Shared {
    done: AtomicU64,
    cancelled: AtomicBool,
}

/// The observer in the working thread.
struct Remote<'a> {
    sender: Sender<Event>,
    shared: &'a Shared,
}

impl Remote<'_> {
    fn send(&self, event: Event) {
        // Who listens no longer has nothing to be told.
        let _ = self.sender.send(event);
    }
}

impl Observer for Remote<'_> {
    fn begin(&mut self, what: &str, total: u64) {
        self.shared.done.store(0, Ordering::Relaxed);
        self.send(Event::Begin(what.to_owned(), total));
    }

    fn progress(&mut self, done: u64) {
        self.shared.done.store(done, Ordering::Relaxed);
    }

    fn at(&mut self, what: &str) {
        self.send(Event::At(what.to_owned()));
    }

    fn end(&mut self) {
        self.send(Event::End);
    }

    fn note(&mut self, note: &Note) {
        self.send(match note {
            Note::Warning(text) => Event::Warning(text.clone()),
            note => Event::Note(note.to_string()),
        });
    }

    fn cancelled(&self) -> bool {
        self.shared.cancelled.load(Ordering::Relaxed)
    }
}

/// Does work that can be stopped: an exception in the calling thread, Ctrl-C above all, ends it between two batches, and is
/// raised once it has ended. `progress` is called with an event, a text and a number.
pub fn watched<T: Send>(
    py: Python<'_>,
    progress: Option<&Py<PyAny>>,
    work: impl FnOnce(&mut dyn Observer) -> anyhow::Result<T> + Send,
) -> PyResult<T> {
    let shared = Shared::default();
    let (interruption, outcome) = py.detach(|| {
        let (sender, receiver) = channel();
        thread::scope(|scope| {
            let remote = Remote { sender, shared: &shared };
            let work = move || {
                let mut remote = remote;
                guarded(|| work(&mut remote))
            };
            let worker = match thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work) {
                Ok(worker) => worker,
                Err(error) => return (None, Err(Failure::Error(error.into()))),
            };
            let interruption = listen(&receiver, &shared, progress);
            let outcome = worker.join().unwrap_or_else(|_| Err(Failure::Panic("a panic while panicking".into())));
            (interruption, outcome)
        })
    });
    match interruption {
        Some(exception) => Err(exception),
        None => outcome.map_err(|failure| failure.raised(py)),
    }
}

/// Opens a session. An exception in the calling thread is raised at once, and leaves the opening to itself: of a download what
/// is there by then is kept.
pub fn opened(
    py: Python<'_>,
    progress: Option<&Py<PyAny>>,
    open: impl FnOnce(Downloads) -> anyhow::Result<Session> + Send + 'static,
) -> PyResult<Session> {
    let (sender, receiver) = channel();
    let (result, outcome) = channel();
    let shared = Arc::new(Shared::default());
    let downloads = downloads(sender.clone(), shared.clone());
    let work = move || {
        let _ = result.send(guarded(|| open(downloads)));
        let _ = sender.send(Event::Over);
    };
    let interruption = py.detach(move || match thread::Builder::new().stack_size(STACK).spawn(work) {
        Ok(_) => Ok(listen(&receiver, &shared, progress)),
        Err(error) => Err(Failure::Error(error.into())),
    });
    match interruption.map_err(|failure| failure.raised(py))? {
        Some(exception) => Err(exception),
        None => {
            let outcome = outcome.recv().unwrap_or_else(|_| Err(Failure::Panic("no model was opened".into())));
            outcome.map_err(|failure| failure.raised(py))
        }
    }
}

/// Tells of downloads as of other work: one piece per file.
fn downloads(sender: Sender<Event>, shared: Arc<Shared>) -> Downloads {
    let current: Mutex<Option<String>> = Mutex::default();
    Downloads::new(move |Download { file, bytes, total }| {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_deref() != Some(file) {
            let _ = sender.send(Event::Begin(format!("downloading {file}"), total));
            *current = Some(file.to_owned());
        }
        shared.done.store(bytes, Ordering::Relaxed);
        if bytes == total {
            let _ = sender.send(Event::End);
            *current = None;
        }
    })
}

/// Listens until the work is over, or the calling thread has an exception: the work is to end then.
fn listen(receiver: &Receiver<Event>, shared: &Shared, progress: Option<&Py<PyAny>>) -> Option<PyErr> {
    let mut told = 0;
    loop {
        let event = match receiver.recv_timeout(PATIENCE) {
            Ok(Event::Over) | Err(RecvTimeoutError::Disconnected) => return None,
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
        };
        let done = shared.done.load(Ordering::Relaxed);
        let heard = Python::attach(|py| {
            py.check_signals()?;
            let Some(progress) = progress else { return Ok(()) };
            if done != told {
                progress.call1(py, ("progress", "", done))?;
            }
            event.map_or(Ok(()), |event| tell(py, progress, event))
        });
        told = done;
        if let Err(exception) = heard {
            shared.cancelled.store(true, Ordering::Relaxed);
            return Some(exception);
        }
    }
}

fn tell(py: Python<'_>, progress: &Py<PyAny>, event: Event) -> PyResult<()> {
    let (name, text, number) = match event {
        Event::Begin(what, total) => ("begin", what, total),
        Event::At(what) => ("at", what, 0),
        Event::End => ("end", String::new(), 0),
        Event::Note(text) => ("note", text, 0),
        Event::Warning(text) => ("warning", text, 0),
        Event::Over => return Ok(()),
    };
    progress.call1(py, (name, text, number)).map(drop)
}
