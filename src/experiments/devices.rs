//! A sweep on several devices: every one of them has the model, and does its share of the cells or fits on a thread of
//! its own.

use crate::backend::Backend;
use crate::engine::Engine;
use std::panic::resume_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Deals the numbers `0..n` out to an engine and its peers, one after the other, so that cells of all layers meet on
/// every device. `work` is told a device and its numbers.
///
/// # Errors
/// The first of those of `work`; the other devices finish their shares all the same.
pub fn on_every_device<B: Backend, E: Send>(
    engine: &Engine<B>,
    n: usize,
    work: impl Fn(&Engine<B>, &[usize]) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let engines = engine.with_its_peers();
    let shares: Vec<Vec<usize>> = (0..engines.len()).map(|first| (first..n).step_by(engines.len()).collect()).collect();
    if let ([engine], [share]) = (&engines[..], &shares[..]) {
        return work(engine, share);
    }
    let work = &work;
    let done: Vec<Result<(), E>> = std::thread::scope(|scope| {
        let pairs = engines.iter().zip(&shares).filter(|(_, share)| !share.is_empty());
        let threads: Vec<_> = pairs.map(|(engine, share)| scope.spawn(move || work(engine, share))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    done.into_iter().collect()
}

/// What the threads share.
pub(super) fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
