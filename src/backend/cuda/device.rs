//! A GPU, opened and checked: driver, capability, kernels, launches.

use super::pool::{CudaTensor, Pool, Shelf};
use super::queue::Queue;
use crate::backend::{BackendError, Result};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUfunction_attribute_enum, cudaError_enum};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DeviceRepr, DriverError, LaunchArgs, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

/// (name, capability it was compiled for, PTX) of every kernel file.
const MODULES: &[(&str, i32, &str)] = include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// The kernels' asynchronous copies and bfloat16 products came with compute capability 8.0.
const LOWEST_CAPABILITY: (i32, i32) = (8, 0);

/// The kernels' PTX needs CUDA 11.0, CUDA graphs are made by a call that came with 11.4 (driver 470).
const LOWEST_DRIVER: i32 = 11_040;

/// Threads of a block that walks over an array element by element.
const ELEMENT_THREADS: u32 = 256;

/// Blocks per multiprocessor of such a walk: enough to hide memory latency.
const ELEMENT_BLOCKS: usize = 16;

macro_rules! kernels {
    ($($kernel:ident = $file:literal $name:literal $threads:expr;)*) => {
        /// A kernel, by what it computes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Kernel {
            $($kernel),*
        }

        /// (file, name, threads of a block) of every kernel, in the order of [`Kernel`].
        pub const KERNELS: &[(&str, &str, u32)] = &[$(($file, $name, $threads)),*];
    };
}

kernels! {
    Activate = "activation" "activate_values" ELEMENT_THREADS;
    ActivateBackward = "activation" "activate_backward" ELEMENT_THREADS;
    Gate = "activation" "gate_values" ELEMENT_THREADS;
    GateBackward = "activation" "gate_backward" ELEMENT_THREADS;
    Attention64 = "attention" "attention_64" 128;
    Attention128 = "attention" "attention_128" 128;
    AttentionTf3264 = "attention" "attention_tf32_64" 128;
    AttentionTf32128 = "attention" "attention_tf32_128" 128;
    AttentionBackwardQueries64 = "attention_backward" "attention_backward_queries_64" 128;
    AttentionBackwardQueries128 = "attention_backward" "attention_backward_queries_128" 128;
    AttentionBackwardQueriesTf3264 = "attention_backward" "attention_backward_queries_tf32_64" 128;
    AttentionBackwardQueriesTf32128 = "attention_backward" "attention_backward_queries_tf32_128" 128;
    AttentionBackwardKeys64 = "attention_backward" "attention_backward_keys_64" 128;
    AttentionBackwardKeys128 = "attention_backward" "attention_backward_keys_128" 128;
    AttentionBackwardKeysTf3264 = "attention_backward" "attention_backward_keys_tf32_64" 128;
    AttentionBackwardKeysTf32128 = "attention_backward" "attention_backward_keys_tf32_128" 128;
    AttentionPattern = "attention" "attention_pattern" 128;
    ApplyPattern = "attention" "apply_pattern" 128;
    LayerNorm = "layer_norm" "layer_norm" 128;
    GainAndBias = "layer_norm" "gain_and_bias" ELEMENT_THREADS;
    LayerNormBackward = "layer_norm" "layer_norm_backward" 128;
    AnswerLogits = "logits" "answer_logits" 256;
    AnswerLogitsBackward = "logits" "answer_logits_backward" ELEMENT_THREADS;
    LogSumExp = "logits" "log_sum_exp" 256;
    MatmulF32 = "matmul" "matmul_f32" 128;
    MatmulF32Large = "matmul" "matmul_f32_large" 256;
    MatmulF32Backward = "matmul" "matmul_f32_backward" 128;
    MatmulF32BackwardLarge = "matmul" "matmul_f32_backward_large" 256;
    MatmulTf32 = "matmul" "matmul_tf32" 128;
    MatmulTf32Large = "matmul" "matmul_tf32_large" 128;
    MatmulTf32Backward = "matmul" "matmul_tf32_backward" 128;
    MatmulTf32BackwardLarge = "matmul" "matmul_tf32_backward_large" 128;
    MatmulBf16 = "matmul" "matmul_bf16" 128;
    MatmulBf16Large = "matmul" "matmul_bf16_large" 128;
    MatmulBf16Backward = "matmul" "matmul_bf16_backward" 128;
    MatmulBf16BackwardLarge = "matmul" "matmul_bf16_backward_large" 128;
    MatmulF16 = "matmul" "matmul_f16" 128;
    MatmulF16Large = "matmul" "matmul_f16_large" 128;
    MatmulF16Backward = "matmul" "matmul_f16_backward" 128;
    MatmulF16BackwardLarge = "matmul" "matmul_f16_backward_large" 128;
    PackF32 = "matmul" "pack_f32" 128;
    PackTf32 = "matmul" "pack_tf32" 128;
    PackBf16 = "matmul" "pack_bf16" 128;
    PackF16 = "matmul" "pack_f16" 128;
    Rotary = "rotary" "rotary" ELEMENT_THREADS;
    SkewTiles = "rotation" "skew_tiles" 128;
    SkewSum = "rotation" "skew_sum" ELEMENT_THREADS;
    UnitRows = "rotation" "unit_rows" ELEMENT_THREADS;
    ChebyshevSum = "rotation" "chebyshev_sum" ELEMENT_THREADS;
    ScaleAdjoints = "rotation" "scale_adjoints" ELEMENT_THREADS;
    LanczosStep = "rotation" "lanczos_step" 256;
    LowRankSquares = "rotation" "low_rank_squares" 256;
    LowRankAdam = "rotation" "low_rank_adam" 256;
    Add = "rows" "add_values" ELEMENT_THREADS;
    GatherRows = "rows" "gather_rows" ELEMENT_THREADS;
    ScatterAddRows = "rows" "scatter_add_rows" ELEMENT_THREADS;
    CopySpans = "rows" "copy_spans" 128;
    PatchReplace = "rows" "patch_replace" 128;
    PatchAdd = "rows" "patch_add" 128;
    PatchSwap = "rows" "patch_swap" 128;
    PatchSwapProducts = "rows" "patch_swap_products" 128;
    PatchSwapBackward = "rows" "patch_swap_backward" ELEMENT_THREADS;
}

/// Something a kernel takes as a parameter.
pub trait Argument: Any + Send {
    /// Adds the value to a launch.
    fn push<'a>(&'a self, launch: &mut LaunchArgs<'a>);
    /// Is the other the same value of the same type?
    fn same(&self, other: &dyn Argument) -> bool;
    /// A copy to keep.
    fn stored(&self) -> Box<dyn Argument>;
}

impl<T: DeviceRepr + Copy + PartialEq + Send + 'static> Argument for T {
    fn push<'a>(&'a self, launch: &mut LaunchArgs<'a>) {
        launch.arg(self);
    }

    fn same(&self, other: &dyn Argument) -> bool {
        (other as &dyn Any).downcast_ref::<T>() == Some(self)
    }

    fn stored(&self) -> Box<dyn Argument> {
        Box::new(*self)
    }
}

/// Blocks of a launch and the shared memory of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x.
    pub x: usize,
    /// Blocks along y.
    pub y: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

impl Grid {
    /// Blocks in a row, without dynamic shared memory.
    pub fn line(x: usize) -> Self {
        Self { x, y: 1, shared: 0 }
    }
}

/// A driver error while doing something.
pub fn device_error(action: &'static str) -> impl Fn(DriverError) -> BackendError {
    move |error| match is_lost(error) {
        true => BackendError::Lost { action: action.into(), reason: describe(error) },
        false => BackendError::Device { action, reason: describe(error) },
    }
}

/// A driver error in launching a kernel; a kernel that was launched earlier may be at fault.
pub fn launch_error(kernel: &'static str) -> impl Fn(DriverError) -> BackendError {
    move |error| match is_lost(error) {
        true => BackendError::Lost { action: format!("starting kernel {kernel}"), reason: describe(error) },
        false => BackendError::Launch { kernel, reason: describe(error) },
    }
}

/// Errors after which a GPU does nothing more for this process.
fn is_lost(error: DriverError) -> bool {
    use cudaError_enum::*;
    matches!(
        error.0,
        CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTAINED
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_UNKNOWN
    )
}

fn describe(error: DriverError) -> String {
    let text = |found: std::result::Result<&std::ffi::CStr, DriverError>| {
        found.map_or_else(|_| format!("error {}", error.0 as u32), |text| text.to_string_lossy().into_owned())
    };
    format!("{}: {}", text(error.error_name()), text(error.error_string()))
}

/// An open GPU: one stream, so that everything happens in the order in which it was asked for.
#[derive(Debug)]
pub struct Device {
    queue: Queue,
    pool: Arc<Pool>,
    name: String,
    index: usize,
    capability: (i32, i32),
    multiprocessors: usize,
    shared_limit: usize,
}

impl Device {
    /// Opens GPU `index` and loads the kernels.
    pub fn open(index: usize) -> Result<Self> {
        let count = device_count()?;
        if index >= count {
            return Err(BackendError::NoSuchDevice { index, count });
        }
        let context = CudaContext::new(index).map_err(device_error("opening the GPU"))?;
        let query = device_error("reading the GPU's properties");
        let attribute = |attribute| context.attribute(attribute).map_err(&query);
        let capability = context.compute_capability().map_err(&query)?;
        let name = context.name().map_err(&query)?;
        if capability < LOWEST_CAPABILITY {
            let (major, minor) = capability;
            return Err(BackendError::CapabilityTooLow { name, major, minor });
        }
        // SAFETY: nothing was allocated yet, and this backend uses one stream, whose order is all the tracking there
        // needs to be.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(device_error("making a stream"))?;
        let functions = load_kernels(&context, capability)?;
        Ok(Self {
            pool: Arc::new(Pool::new(stream.clone())),
            queue: Queue::new(stream, functions),
            name,
            index,
            capability,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1) as usize,
            shared_limit: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?.max(0) as usize,
        })
    }

    /// For example `cuda:0 (NVIDIA H200, compute capability 9.0`, the closing bracket left to the caller.
    pub fn describe(&self) -> String {
        let (major, minor) = self.capability;
        format!("cuda:{} ({}, compute capability {major}.{minor}", self.index, self.name)
    }

    /// Bytes of the GPU's memory that nobody uses.
    pub fn free_memory(&self) -> Option<usize> {
        self.queue.free_memory()
    }

    /// The stream that everything runs on.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// An array of `len` values; contents unspecified.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] when the GPU has no room even after all free arrays were given back.
    pub fn take(&self, len: usize) -> Result<CudaTensor> {
        let take = || {
            let shelf = |repeated| if repeated { Shelf::Repeated } else { Shelf::Usual };
            self.queue.between_repetitions(|repeated| self.pool.take(len, shelf(repeated)))
        };
        match take() {
            Err(BackendError::OutOfMemory { .. }) => {
                self.queue.give_up()?;
                self.queue.between_repetitions(|_| self.pool.give_back());
                self.queue.release_freed()?;
                take()
            }
            result => result,
        }
    }

    /// Number of multiprocessors.
    pub fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Most shared memory a block can ask for, in bytes.
    pub fn shared_limit(&self) -> usize {
        self.shared_limit
    }

    /// Blocks for a walk over `n` elements.
    pub fn elements(&self, n: usize) -> Grid {
        Grid::line(n.div_ceil(ELEMENT_THREADS as usize).min(ELEMENT_BLOCKS * self.multiprocessors))
    }

    /// Lets `kernel` use this much dynamic shared memory.
    pub fn allow_shared(&self, kernel: Kernel, bytes: usize) -> Result<()> {
        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let set = self.queue.function(kernel).set_attribute(attribute, bytes as i32);
        set.map_err(device_error("asking for shared memory"))
    }

    /// Launches a kernel; an empty grid is nothing to do.
    ///
    /// # Safety
    /// `arguments` must be the kernel's parameters in their order and types, and every array they address must be as
    /// long as the kernel's description says for this grid.
    pub unsafe fn launch(&self, kernel: Kernel, grid: Grid, arguments: &[&dyn Argument]) -> Result<()> {
        if grid.x == 0 || grid.y == 0 {
            return Ok(());
        }
        // SAFETY: by the caller's promise.
        unsafe { self.queue.launch(kernel, grid, arguments) }
    }
}

/// A size as the kernels count it.
pub fn count(size: usize) -> Result<u32> {
    u32::try_from(size).ok().filter(|&n| n <= i32::MAX as u32).ok_or(BackendError::TooLarge { size })
}

/// Is there a driver library at all? Every other call of the driver would panic without one.
fn require_driver() -> Result<()> {
    // SAFETY: looks for the library and closes it again.
    if unsafe { sys::is_culib_present() } { Ok(()) } else { Err(BackendError::NoDriver) }
}

/// Number of GPUs, 0 when the driver finds none.
pub fn device_count() -> Result<usize> {
    require_driver()?;
    if driver_version().is_some_and(|version| version < LOWEST_DRIVER) {
        return Err(BackendError::DriverTooOld { cuda: driver_version_text() });
    }
    let none = |error: &DriverError| error.0 == cudaError_enum::CUDA_ERROR_NO_DEVICE;
    match cudarc::driver::result::init().and_then(|()| CudaContext::device_count()) {
        Ok(count) => Ok(count.max(0) as usize),
        Err(error) if none(&error) => Ok(0),
        Err(error) => Err(device_error("starting the driver")(error)),
    }
}

/// Loads every file in the version for the highest capability that this GPU has, and looks its kernels up.
fn load_kernels(context: &Arc<CudaContext>, (major, minor): (i32, i32)) -> Result<Vec<CudaFunction>> {
    let mut modules: HashMap<&str, Arc<CudaModule>> = HashMap::new();
    let mut functions = Vec::with_capacity(KERNELS.len());
    for &(file, name, threads) in KERNELS {
        let module = match modules.get(file) {
            Some(module) => module.clone(),
            None => {
                let module = load_module(context, file, 10 * major + minor)?;
                modules.entry(file).or_insert(module).clone()
            }
        };
        let missing = |error| BackendError::Launch { kernel: name, reason: describe(error) };
        let function = module.load_function(name).map_err(missing)?;
        let most = function.max_threads_per_block().map_err(missing)?;
        if most < threads as i32 {
            let reason = format!("it needs {threads} threads per block, this GPU gives it {most}");
            return Err(BackendError::Launch { kernel: name, reason });
        }
        functions.push(function);
    }
    Ok(functions)
}

fn load_module(context: &Arc<CudaContext>, file: &'static str, capability: i32) -> Result<Arc<CudaModule>> {
    let best = MODULES.iter().filter(|(name, needs, _)| *name == file && *needs <= capability).max_by_key(|m| m.1);
    let Some(&(_, _, ptx)) = best else {
        return Err(BackendError::Launch { kernel: file, reason: "it is not part of this program".into() });
    };
    context.load_module(Ptx::from_src(ptx)).map_err(|error| match error.0 {
        cudaError_enum::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            BackendError::DriverTooOld { cuda: driver_version_text() }
        }
        _ => BackendError::Launch { kernel: file, reason: describe(error) },
    })
}

/// The newest CUDA that the driver knows, major * 1000 + minor * 10.
fn driver_version() -> Option<i32> {
    let mut version = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().ok().map(|()| version)
}

/// The same as `12.2`.
fn driver_version_text() -> String {
    let text = |version| format!("{}.{}", version / 1000, version % 1000 / 10);
    driver_version().map_or_else(|| "unknown".into(), text)
}
