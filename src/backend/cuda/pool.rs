//! Device arrays that return to their pool when dropped, so that a repeated batch allocates nothing.
//!
//! An array may be handed out again while kernels that use it are still under way: they run on the same stream as
//! whatever its next owner asks for, and therefore before it.

use super::device::device_error;
use crate::backend::{BackendError, Result};
use cudarc::driver::sys::cudaError_enum;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Smallest array, in values.
const SMALLEST: usize = 64;

/// Which work an array is for. Repeated work has arrays of its own: it must find the same ones free every time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shelf {
    /// Everything else.
    Usual,
    /// Work that is repeated.
    Repeated,
}

/// Free arrays by shelf, length and address: the lowest address is taken first, so that what is taken depends on which
/// arrays are free and not on the order in which they came back.
type Free = BTreeMap<(Shelf, usize, u64), CudaSlice<f32>>;

/// Free arrays for reuse.
#[derive(Debug)]
pub struct Pool {
    stream: Arc<CudaStream>,
    free: Mutex<Free>,
}

/// `len` rounded up to one of four steps per power of two: at most a quarter more, and few different lengths.
fn size_class(len: usize) -> usize {
    let len = len.max(SMALLEST);
    len.next_multiple_of(1 << (len.ilog2() - 2))
}

impl Pool {
    /// An empty pool on a stream.
    pub fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, free: Mutex::default() }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An array of `len` values; contents unspecified.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] when there is no free array and the GPU has no room for another.
    pub fn take(self: &Arc<Self>, len: usize, shelf: Shelf) -> Result<CudaTensor> {
        let size = size_class(len);
        let mut free = self.free();
        let first = free.range((shelf, size, 0)..=(shelf, size, u64::MAX)).next().map(|(&key, _)| key);
        let slice = match first.and_then(|key| free.remove(&key)) {
            Some(slice) => slice,
            None => self.allocate(size)?,
        };
        let address = slice.device_ptr(&self.stream).0;
        Ok(CudaTensor { slice: Some(slice), address, len, shelf, pool: self.clone() })
    }

    /// Gives all free arrays back to the driver.
    pub fn give_back(&self) {
        self.free().clear();
    }

    fn allocate(&self, size: usize) -> Result<CudaSlice<f32>> {
        // SAFETY: any bits are valid floats, and no reader relies on values that it did not write.
        unsafe { self.stream.alloc::<f32>(size) }.map_err(|error| match error.0 {
            cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY => BackendError::OutOfMemory { bytes: size * size_of::<f32>() },
            _ => device_error("taking memory")(error),
        })
    }
}

/// A device array of f32 that belongs to a pool and returns to it when dropped.
#[derive(Debug)]
pub struct CudaTensor {
    /// Always there until the array is dropped.
    slice: Option<CudaSlice<f32>>,
    address: u64,
    len: usize,
    shelf: Shelf,
    pool: Arc<Pool>,
}

impl CudaTensor {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there no value?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the values are in device memory.
    pub(super) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for CudaTensor {
    fn drop(&mut self) {
        if let Some(slice) = self.slice.take() {
            self.pool.free().insert((self.shelf, size_class(self.len), self.address), slice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_was_asked_for_and_little_more() {
        for len in [0, 1, 64, 65, 80, 81, 1000, 12_345, 1 << 20, (1 << 20) + 1] {
            let size = size_class(len);
            assert!(size >= len.max(SMALLEST) && size <= len.max(SMALLEST) * 5 / 4, "{len}: {size}");
            assert_eq!(size_class(size), size, "a class is its own");
        }
    }
}
