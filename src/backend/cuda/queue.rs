//! The one stream of a GPU, and everything that is asked of it: launches, copies, and repeated work as CUDA graphs.

use super::device::{Argument, Grid, KERNELS, Kernel, count, device_error, launch_error};
use super::recording::{Call, Due, Recording, Repetition, Segment};
use super::staging::{Pinned, Staging};
use crate::backend::{BackendError, Result};
use cudarc::driver::sys::{self, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaFunction, CudaStream, DriverError, LaunchConfig, result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// A stream: everything happens in the order in which it was asked for.
pub struct Queue {
    stream: Arc<CudaStream>,
    functions: Vec<CudaFunction>,
    staging: Mutex<Staging>,
    /// Work under way that is being repeated, and the thread that does it. Other threads wait for its end: what they ask
    /// for must not come between calls that are held back.
    repetition: Mutex<Option<(ThreadId, Repetition)>>,
    no_repetition: Condvar,
    /// May a graph be under way? It reads page-locked memory that the next run of the same work overwrites.
    busy: AtomicBool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("stream", &self.stream).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a repetition, also when its work panics.
struct End<'a>(&'a Queue);

impl Drop for End<'_> {
    fn drop(&mut self) {
        *lock(&self.0.repetition) = None;
        self.0.no_repetition.notify_all();
    }
}

impl Drop for Queue {
    /// Kernels may be under way, also those of another pass that failed: they end before their modules are unloaded.
    fn drop(&mut self) {
        if lock(&self.staging).give_back() {
            return;
        }
        let context = self.stream.context();
        context.record_err(context.bind_to_thread());
        context.record_err(self.stream.synchronize());
    }
}

impl Queue {
    /// A queue that launches these kernels, in the order of [`Kernel`].
    pub fn new(stream: Arc<CudaStream>, functions: Vec<CudaFunction>) -> Self {
        let staging = Mutex::new(Staging::new(&stream));
        Self {
            stream,
            functions,
            staging,
            repetition: Mutex::default(),
            no_repetition: Condvar::new(),
            busy: AtomicBool::new(false),
        }
    }

    /// A kernel's function.
    pub fn function(&self, kernel: Kernel) -> &CudaFunction {
        &self.functions[kernel as usize]
    }

    /// The repetition under way on this thread, if there is one.
    fn repetition(&self) -> MutexGuard<'_, Option<(ThreadId, Repetition)>> {
        let others = |repetition: &mut Option<(ThreadId, Repetition)>| {
            repetition.as_ref().is_some_and(|(thread, _)| *thread != thread::current().id())
        };
        let repetition = self.no_repetition.wait_while(lock(&self.repetition), others);
        repetition.unwrap_or_else(PoisonError::into_inner)
    }

    /// Is this thread doing repeated work?
    fn is_repeating(&self) -> bool {
        self.repetition().is_some()
    }

    /// Takes something that held-back calls of another thread may still need, such as a free array; `take` is told whether
    /// it is for repeated work.
    pub fn between_repetitions<T>(&self, take: impl FnOnce(bool) -> T) -> T {
        let repetition = self.repetition();
        take(repetition.is_some())
    }

    /// Hands the repetition under way on this thread to `act`.
    fn repeating<T>(&self, act: impl FnOnce(&mut Repetition) -> T) -> Option<T> {
        self.repetition().as_mut().map(|(_, repetition)| act(repetition))
    }

    /// Does a call, or whatever else is due with it.
    ///
    /// # Safety
    /// The call's memory must be there, and a kernel's arguments must be its parameters in their order and types.
    unsafe fn submit(&self, call: Call) -> Result<()> {
        // An `Option` because the call is either taken by a repetition or still here.
        let mut call = Some(call);
        let due = self.repeating(|repetition| call.take().map(|call| repetition.take(call)));
        for call in due.flatten().into_iter().flatten().chain(call) {
            // SAFETY: by the promise made for this call, and those before it.
            unsafe { self.perform(&call) }?;
        }
        Ok(())
    }

    /// # Safety
    /// As [`Queue::submit`].
    unsafe fn perform(&self, call: &Call) -> Result<()> {
        let stream = self.stream.cu_stream();
        match call {
            Call::Launch { kernel, grid, arguments } => {
                let arguments: Vec<&dyn Argument> = arguments.iter().map(AsRef::as_ref).collect();
                // SAFETY: by the caller's promise.
                unsafe { self.launch_now(*kernel, *grid, &arguments) }
            }
            Call::Upload { to, from } => {
                let copied = self.repeating(|repetition| {
                    let values = repetition.uploaded(from.clone());
                    // SAFETY: by the caller's promise; the recording keeps the values until the copy was waited for.
                    values.map(|values| unsafe { result::memcpy_htod_async(*to, values, stream) })
                });
                copied.flatten().unwrap_or(Ok(())).map_err(device_error("copying to the GPU"))
            }
            // SAFETY: by the caller's promise.
            Call::Zero { at, bytes } => {
                unsafe { result::memset_d8_async(*at, 0, *bytes, stream) }.map_err(device_error("setting to zero"))
            }
            // SAFETY: by the caller's promise.
            Call::Copy { from, to, bytes } => unsafe { result::memcpy_dtod_async(*to, *from, *bytes, stream) }
                .map_err(device_error("copying on the GPU")),
        }
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// As [`super::device::Device::launch`].
    pub unsafe fn launch(&self, kernel: Kernel, grid: Grid, arguments: &[&dyn Argument]) -> Result<()> {
        if self.is_repeating() {
            let arguments = arguments.iter().map(|argument| argument.stored()).collect();
            // SAFETY: by the caller's promise.
            return unsafe { self.submit(Call::Launch { kernel, grid, arguments }) };
        }
        // SAFETY: by the caller's promise.
        unsafe { self.launch_now(kernel, grid, arguments) }
    }

    /// # Safety
    /// As [`super::device::Device::launch`].
    unsafe fn launch_now(&self, kernel: Kernel, grid: Grid, arguments: &[&dyn Argument]) -> Result<()> {
        let (_, name, threads) = KERNELS[kernel as usize];
        let config = LaunchConfig {
            grid_dim: (count(grid.x)?, count(grid.y)?, 1),
            block_dim: (threads, 1, 1),
            shared_mem_bytes: count(grid.shared)?,
        };
        let mut launch = self.stream.launch_builder(self.function(kernel));
        for argument in arguments {
            argument.push(&mut launch);
        }
        // SAFETY: by the caller's promise.
        let launched = unsafe { launch.launch(config) };
        launched.map(|_| ()).map_err(launch_error(name))
    }

    fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(device_error("turning to the GPU"))
    }

    /// Bytes of the GPU's memory that nobody uses.
    pub fn free_memory(&self) -> Option<usize> {
        self.stream.context().mem_get_info().ok().map(|(free, _)| free)
    }

    /// Waits for everything asked for so far, and has the driver give back what was freed: memory that is taken and freed in
    /// stream order serves other sizes only then.
    pub fn release_freed(&self) -> Result<()> {
        let failed = device_error("giving memory back");
        self.stream.synchronize().map_err(&failed)?;
        let context = self.stream.context();
        if context.has_async_alloc() {
            let mut pool = std::ptr::null_mut();
            // SAFETY: writes the device's own pool, of which nothing is taken that is in use.
            let trimmed = unsafe {
                let found = sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()).result();
                found.and_then(|()| sys::cuMemPoolTrimTo(pool, 0).result())
            };
            trimmed.map_err(failed)?;
        }
        Ok(())
    }

    /// Copies values to device memory at `to`.
    ///
    /// # Safety
    /// The memory must be there.
    pub unsafe fn upload(&self, values: &[f32], to: u64) -> Result<()> {
        self.bind()?;
        let recorded = self.repeating(|repetition| {
            let (from, room) = repetition.room(values.len())?;
            room.copy_from_slice(values);
            Some(Call::Upload { to, from })
        });
        if let Some(call) = recorded.flatten() {
            // SAFETY: by the caller's promise.
            return unsafe { self.submit(call) };
        }
        self.give_up()?;
        let failed = device_error("copying to the GPU");
        let mut staging = lock(&self.staging);
        let (mut rest, mut to) = (values, to);
        while !rest.is_empty() {
            let from = match staging.some_room(rest.len()) {
                Some([]) => {
                    self.stream.synchronize().map_err(&failed)?;
                    staging.reuse();
                    continue;
                }
                Some(room) => {
                    room.copy_from_slice(&rest[..room.len()]);
                    &*room
                }
                None => rest,
            };
            // SAFETY: by the caller's promise. The driver has read ordinary memory when it returns, and staging memory
            // is only written again when the stream was waited for.
            unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }.map_err(&failed)?;
            rest = &rest[from.len()..];
            to += size_of_val(from) as u64;
        }
        Ok(())
    }

    /// Waits for everything asked for so far, and copies values from device memory at `from`.
    ///
    /// # Safety
    /// The memory must be there.
    pub unsafe fn download(&self, from: u64, values: &mut [f32]) -> Result<()> {
        self.bind()?;
        self.flush()?;
        let failed = device_error("copying from the GPU");
        let mut staging = lock(&self.staging);
        let copy = |to: &mut [f32]| -> std::result::Result<(), DriverError> {
            // SAFETY: by the caller's promise; the copy is waited for before anybody else sees the target.
            unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }?;
            self.stream.synchronize()
        };
        match staging.room(values.len()) {
            Some(room) => {
                copy(room).map_err(&failed)?;
                values.copy_from_slice(room);
            }
            None => copy(values).map_err(&failed)?,
        }
        staging.reuse();
        self.busy.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Sets device memory to zero.
    ///
    /// # Safety
    /// The memory must be there.
    pub unsafe fn zero(&self, at: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: by the caller's promise.
        unsafe { self.submit(Call::Zero { at, bytes }) }
    }

    /// Copies between arrays of the device that do not overlap.
    ///
    /// # Safety
    /// The memory must be there.
    pub unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: by the caller's promise.
        unsafe { self.submit(Call::Copy { from, to, bytes }) }
    }

    /// Does what a repetition has held back, which from here on goes on as usual: before arrays are given back to the
    /// driver, for example, since a call may be waiting that still needs them.
    pub fn give_up(&self) -> Result<()> {
        for call in self.repeating(Repetition::give_up).into_iter().flatten() {
            // SAFETY: the promise was made when the call was submitted, and its arrays have not been given back since.
            unsafe { self.perform(&call) }?;
        }
        Ok(())
    }

    /// Sends the GPU what a repetition has held back.
    fn flush(&self) -> Result<()> {
        let failed = device_error("launching a graph");
        let due = self.repeating(|repetition| match repetition.end_segment() {
            Ok(Due::Nothing) => Ok(Vec::new()),
            Ok(Due::Launch(graph)) => {
                self.busy.store(true, Ordering::Relaxed);
                graph.launch().map(|()| Vec::new()).map_err(&failed)
            }
            Ok(Due::Record(calls)) => Ok(calls),
            Err(late) => Ok(late),
        });
        let Some(calls) = due.transpose()? else { return Ok(()) };
        if calls.is_empty() {
            return Ok(());
        }
        if self.repeating(|repetition| repetition.is_recording()) != Some(true) {
            for call in &calls {
                // SAFETY: the promise was made when the call was submitted.
                unsafe { self.perform(call) }?;
            }
            return Ok(());
        }
        self.record(calls)
    }

    /// Makes a graph of calls, launches and keeps it.
    fn record(&self, calls: Vec<Call>) -> Result<()> {
        let failed = device_error("recording a graph");
        self.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(&failed)?;
        // SAFETY: the promise was made when the call was submitted.
        let captured = calls.iter().try_for_each(|call| unsafe { self.perform(call) });
        // Ends the capture in any case.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(&failed);
        captured?;
        let missing = || BackendError::Device { action: "recording a graph", reason: "the driver made none".into() };
        let graph = graph?.ok_or_else(missing)?;
        self.busy.store(true, Ordering::Relaxed);
        graph.launch().map_err(device_error("launching a graph"))?;
        self.repeating(|repetition| repetition.keep(Segment { calls, graph }));
        Ok(())
    }

    /// Does `work`, which is repeated with this recording.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn repeat<T, E: From<BackendError>>(
        &self,
        recording: &mut Recording,
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        if recording.is_hopeless() || self.is_repeating() {
            return work();
        }
        self.bind()?;
        if self.busy.swap(false, Ordering::Relaxed) {
            self.stream.synchronize().map_err(device_error("waiting for the GPU"))?;
        }
        if let Some(len) = recording.wants_values() {
            recording.values = Some(Pinned::new(&self.stream, len)?);
        }
        let repetition = Repetition::new(std::mem::take(recording));
        *self.repetition() = Some((thread::current().id(), repetition));
        let end = End(self);
        let result = work();
        let flushed = self.flush();
        if let Some((_, repetition)) = end.0.repetition().take() {
            *recording = repetition.finish(result.is_ok() && flushed.is_ok());
        }
        let value = result?;
        flushed?;
        Ok(value)
    }
}
