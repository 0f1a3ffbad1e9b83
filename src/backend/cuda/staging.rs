//! Page-locked host memory: copies between it and the GPU go on beside the program, those of other memory hold it up.

use super::device::device_error;
use crate::backend::{BackendError, Result};
use cudarc::driver::{CudaStream, result};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Values of a backend's staging memory, 64 MiB: the embeddings of 4096 tokens of a model with `d_model` 4096.
const STAGED_VALUES: usize = 16 << 20;

/// Page-locked memory. Its pages are cached (cudarc's default is not, and slow to read).
#[derive(Debug)]
pub struct Pinned {
    start: NonNull<f32>,
    len: usize,
    stream: Arc<CudaStream>,
}

// SAFETY: plain memory; the driver lets any thread use and free it.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Memory for `len` values, zero at first, for copies on `stream`.
    pub fn new(stream: &Arc<CudaStream>, len: usize) -> Result<Self> {
        const ACTION: &str = "taking page-locked memory";
        stream.context().bind_to_thread().map_err(device_error(ACTION))?;
        // SAFETY: freed once, when this is dropped.
        let start = unsafe { result::malloc_host(len.max(1) * size_of::<f32>(), 0) }.map_err(device_error(ACTION))?;
        let none = || BackendError::Device { action: ACTION, reason: "the driver gave none".into() };
        let start = NonNull::new(start.cast::<f32>()).ok_or_else(none)?;
        // SAFETY: the memory is this long, and page-locked memory has the alignment of a page.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { start, len, stream: stream.clone() })
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Some of the values.
    ///
    /// # Safety
    /// No copy to this range may be under way, and none from it when the values are written.
    pub unsafe fn values(&mut self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} page-locked values", self.len);
        // SAFETY: inside the memory, all of which was written; by the caller's promise nobody else uses it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(range.start), range.len()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let context = self.stream.context();
        context.record_err(context.bind_to_thread());
        // Copies may be under way.
        context.record_err(self.stream.synchronize());
        // SAFETY: taken in `new`.
        context.record_err(unsafe { result::free_host(self.start.as_ptr().cast()) });
    }
}

/// Page-locked memory that is handed out from front to back, and all of it anew once the GPU has been waited for.
#[derive(Debug)]
pub struct Staging {
    /// Not there when the system gives none: then copies use ordinary memory.
    memory: Option<Pinned>,
    used: usize,
}

impl Staging {
    /// The staging memory of a GPU.
    pub fn new(stream: &Arc<CudaStream>) -> Self {
        let memory = Pinned::new(stream, STAGED_VALUES);
        if let Err(error) = &memory {
            tracing::warn!("{error}; copies to and from the GPU will be slower");
        }
        Self { memory: memory.ok(), used: 0 }
    }

    /// Room for `len` values, unless too little is left.
    pub fn room(&mut self, len: usize) -> Option<&mut [f32]> {
        let memory = self.memory.as_mut()?;
        let range = self.used..self.used.checked_add(len).filter(|&end| end <= memory.len())?;
        self.used = range.end;
        // SAFETY: nothing has used this room since the GPU was last waited for.
        Some(unsafe { memory.values(range) })
    }

    /// Room for some of `len` values: as many as there is room for, which may be none; nothing without staging memory.
    pub fn some_room(&mut self, len: usize) -> Option<&mut [f32]> {
        let left = self.memory.as_ref()?.len() - self.used;
        self.room(len.min(left))
    }

    /// Gives the memory back, which waits for the stream; says whether there was any.
    pub fn give_back(&mut self) -> bool {
        self.memory.take().is_some()
    }

    /// Takes back all room; all copies must have been waited for.
    pub fn reuse(&mut self) {
        self.used = 0;
    }
}
