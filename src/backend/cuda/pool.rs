//! Device arrays that return to their pool when dropped, so that a repeated batch allocates nothing.
//!
//! An array may be handed out again while kernels that use it are still under way: they run on the same stream as
//! whatever its next owner asks for, and therefore before it.

use super::device::device_error;
use crate::backend::{BackendError, Result};
use cudarc::driver::sys::cudaError_enum;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Smallest array, in values.
const SMALLEST: usize = 64;

/// Free arrays by their length.
type Free = BTreeMap<usize, Vec<CudaSlice<f32>>>;

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
    /// [`BackendError::OutOfMemory`] when the GPU has no room even after all free arrays were given back.
    pub fn take(self: &Arc<Self>, len: usize) -> Result<CudaTensor> {
        let size = size_class(len);
        let reused = self.free().get_mut(&size).and_then(Vec::pop);
        let slice = match reused {
            Some(slice) => slice,
            None => self.allocate(size)?,
        };
        let address = slice.device_ptr(&self.stream).0;
        Ok(CudaTensor { slice: Some(slice), address, len, pool: self.clone() })
    }

    fn allocate(&self, size: usize) -> Result<CudaSlice<f32>> {
        // SAFETY: any bits are valid floats, and no reader relies on values that it did not write.
        let allocate = || unsafe { self.stream.alloc::<f32>(size) };
        let out_of_memory = cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY;
        let result = match allocate() {
            Err(error) if error.0 == out_of_memory => {
                self.free().clear();
                allocate()
            }
            result => result,
        };
        result.map_err(|error| match error.0 == out_of_memory {
            true => BackendError::OutOfMemory { bytes: size * size_of::<f32>() },
            false => device_error("taking memory")(error),
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

    /// The values, for copies; nothing when there are none.
    pub(super) fn view(&self) -> Option<CudaView<'_, f32>> {
        self.slice.as_ref().filter(|_| self.len > 0).map(|slice| slice.slice(..self.len))
    }

    /// The values from `offset` on, for copies; nothing when there are none.
    pub(super) fn view_mut(&mut self, offset: usize, len: usize) -> Option<CudaViewMut<'_, f32>> {
        assert!(offset + len <= self.len, "{offset} + {len} values do not fit an array of {}", self.len);
        self.slice.as_mut().filter(|_| len > 0).map(|slice| slice.slice_mut(offset..offset + len))
    }
}

impl Drop for CudaTensor {
    fn drop(&mut self) {
        if let Some(slice) = self.slice.take() {
            let len = size_class(self.len);
            self.pool.free().entry(len).or_default().push(slice);
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
