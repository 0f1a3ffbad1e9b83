//! Arrays that return to their pool when dropped, so that a batch touches no fresh memory pages.

use super::values::Values;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};

/// Free arrays by their length.
type Free = Mutex<BTreeMap<usize, Vec<Values>>>;

/// Longest array worth keeping, in values: beyond it (1 GiB) a fresh one costs little beside its use.
const LONGEST_KEPT: usize = 1 << 28;

/// Free arrays for reuse.
#[derive(Debug, Default, Clone)]
pub struct Pool {
    free: Arc<Free>,
}

impl Pool {
    /// An array of `len` values; contents unspecified. A free one of at most twice that length is reused.
    pub fn take(&self, len: usize) -> CpuTensor {
        let reused = self.free.lock().ok().and_then(|mut free| {
            let fitting = free.range_mut(len..=2 * len).next()?;
            let length = *fitting.0;
            let values = fitting.1.pop();
            if fitting.1.is_empty() {
                free.remove(&length);
            }
            values
        });
        CpuTensor { values: reused.unwrap_or_else(|| Values::zeros(len)), len, free: self.free.clone() }
    }
}

/// A host array of f32 that belongs to a [`Pool`].
#[derive(Debug)]
pub struct CpuTensor {
    values: Values,
    len: usize,
    free: Arc<Free>,
}

impl Drop for CpuTensor {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        if values.is_empty() || values.len() > LONGEST_KEPT {
            return;
        }
        if let Ok(mut free) = self.free.lock() {
            free.entry(values.len()).or_default().push(values);
        }
    }
}

impl Deref for CpuTensor {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for CpuTensor {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_reused_when_it_fits() {
        let pool = Pool::default();
        let first = pool.take(100).as_ptr();
        assert_eq!(pool.take(60).as_ptr(), first);
        assert_eq!(pool.take(60).len(), 60);
        let held = pool.take(100);
        assert_ne!(pool.take(100).as_ptr(), held.as_ptr(), "an array in use is not handed out again");
        assert_eq!(pool.take(10).len(), 10);
    }
}
