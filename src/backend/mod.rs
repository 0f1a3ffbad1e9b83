//! The operations a transformer needs, forward and backward, as a trait that every device implements.
//!
//! All activations are f32 matrices stored row after row. A batch is *ragged*: the tokens of all its rows stand
//! behind each other without padding, so that a padded prompt gives exactly the unpadded result.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod rotation;

pub use cpu::CpuBackend;
#[cfg(feature = "cuda")]
pub use cuda::CudaBackend;
pub use rotation::{AdamState, AdamStep, ChebyshevSeries, LowRank, packed_row, packed_side};

pub use crate::types::NormKind;

use crate::choice::{UnknownName, choices};
use crate::types::{Activation, Matrix};

/// What can go wrong on a device.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The asked-for number format is not there.
    #[error("dtype {dtype}: {reason}")]
    Dtype {
        /// The format's name.
        dtype: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The processor's instructions are limited to something unknown.
    #[error("{variable}: {unknown}")]
    Instructions {
        /// The environment variable.
        variable: &'static str,
        /// What it holds.
        unknown: UnknownName,
    },
    /// There is no CUDA driver on this machine.
    #[error("no CUDA driver: the library libcuda.so was not found. A GPU needs NVIDIA's driver")]
    NoDriver,
    /// The GPU asked for is not there.
    #[error("device cuda:{index}: the driver finds {count} GPUs, numbered from 0")]
    NoSuchDevice {
        /// Its number.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU lacks instructions that the kernels use.
    #[error("{name} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or newer")]
    CapabilityTooLow {
        /// Name of the GPU.
        name: String,
        /// Its capability.
        major: i32,
        /// Behind the dot.
        minor: i32,
    },
    /// The driver does not read the kernels' PTX.
    #[error("the driver is too old for the kernels: it knows CUDA up to {cuda}, they need 11.4 (driver 470) or newer")]
    DriverTooOld {
        /// The newest CUDA it knows.
        cuda: String,
    },
    /// The GPU's memory is full.
    #[error(
        "the GPU has no {bytes} bytes left: smaller batches, a smaller model, or fewer other programs on it may help"
    )]
    OutOfMemory {
        /// What could not be had.
        bytes: usize,
    },
    /// A kernel could not be loaded or started.
    #[error("kernel {kernel}: {reason}")]
    Launch {
        /// Its name.
        kernel: &'static str,
        /// The driver's words.
        reason: String,
    },
    /// The GPU does nothing more for this process.
    #[error(
        "the GPU was lost while {action} ({reason}); what was finished is kept, and the same command goes on from there"
    )]
    Lost {
        /// What was going on.
        action: String,
        /// The driver's words.
        reason: String,
    },
    /// The driver failed, which may be late news of a kernel that did.
    #[error("{action}: {reason}")]
    Device {
        /// What was going on.
        action: &'static str,
        /// The driver's words.
        reason: String,
    },
    /// A size beyond what kernels count.
    #[error("a size of {size} is more than the GPU kernels can count")]
    TooLarge {
        /// The size.
        size: usize,
    },
    /// Attention heads that are too wide for the kernels.
    #[error("heads of width {width}: the GPU kernels take at most {most}")]
    HeadTooWide {
        /// Width of a head.
        width: usize,
        /// The limit.
        most: usize,
    },
}

/// Result of a device operation.
pub type Result<T> = std::result::Result<T, BackendError>;

choices! {
    /// Number format of the matrix products; everything else is f32.
    pub enum Dtype {
        /// Single precision.
        F32 = "f32",
        /// TensorFloat-32 products, on a GPU.
        ///
        /// Weights and activations are rounded to 10 bits behind the point before each product, sums in f32.
        Tf32 = "tf32",
        /// bfloat16 products: half the memory for weights, and faster on a GPU and on processors that multiply
        /// bfloat16.
        ///
        /// Weights and activations are rounded to 7 bits behind the point before each product, sums in f32.
        Bf16 = "bf16",
        /// f16 products, on a GPU; values from 65520 on overflow.
        ///
        /// Weights and activations are rounded to 10 bits behind the point before each product, sums in f32.
        F16 = "f16",
    }
}

impl Dtype {
    /// Bytes of a weight in memory.
    pub fn weight_bytes(self) -> usize {
        match self {
            Dtype::F32 | Dtype::Tf32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }
}

/// A range of columns of a row-major matrix: how a head, or the values behind the keys, are addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Values from one row to the next.
    pub stride: usize,
    /// First column.
    pub start: usize,
    /// Number of columns.
    pub width: usize,
}

impl Columns {
    /// All columns of a matrix of this width.
    pub fn all(width: usize) -> Self {
        Self { stride: width, start: 0, width }
    }
}

/// A norm over rows, then gain and bias where they are there and were not folded away.
pub struct Norm<T> {
    /// Layer norm or RMS norm.
    pub kind: NormKind,
    /// Length of a row.
    pub width: usize,
    /// Added under the root.
    pub eps: f32,
    /// Gain, `width` values.
    pub gain: Option<T>,
    /// Bias, `width` values; never without a gain.
    pub bias: Option<T>,
}

/// What a matrix product does with its result.
pub enum Epilogue<'a, T> {
    /// `y = x W + b`.
    Store,
    /// `y += x W + b`.
    Accumulate,
    /// `y = f(x W + b)`; the value before `f` is kept when asked for.
    Activate(Activation, Option<&'a mut T>),
}

/// Shape of an attention's heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Number of query heads.
    pub count: usize,
    /// Number of key and value heads, a divisor of `count`: `count / kv_count` query heads share one.
    pub kv_count: usize,
    /// Width of one head.
    pub width: usize,
    /// Scores are multiplied by this (`1 / sqrt(d_head)`).
    pub scale: f32,
    /// A query sees only its last `window` keys, itself included.
    pub window: Option<usize>,
}

impl Heads {
    /// Values per row of keys and values.
    pub fn kv_stride(&self) -> usize {
        2 * self.kv_count * self.width
    }
}

/// One sequence's share of a ragged attention.
///
/// The row's keys are `n_prefix` rows of the captured prefix followed by `n_keys` rows of the batch. Its queries are
/// the last `n_queries` positions; the query at position `p` sees the keys at positions `<= p` (and within the window, if
/// there is one).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionRow {
    /// First row in the queries and outputs.
    pub query_start: usize,
    /// Number of queries.
    pub n_queries: usize,
    /// First row in the batch's keys and values.
    pub key_start: usize,
    /// Number of the batch's keys.
    pub n_keys: usize,
    /// First row in the prefix's keys and values.
    pub prefix_start: usize,
    /// Number of the prefix's keys.
    pub n_prefix: usize,
    /// Where this row's patterns start in a pattern buffer: `count * n_queries * (n_prefix + n_keys)` values.
    pub pattern_start: usize,
}

impl AttentionRow {
    /// Number of keys, the prefix included.
    pub fn total_keys(&self) -> usize {
        self.n_prefix + self.n_keys
    }

    /// Number of keys that query `index` sees.
    pub fn visible(&self, index: usize) -> usize {
        self.total_keys() - self.n_queries + index + 1
    }
}

/// Keys and values an attention reads: the batch's own and those of a captured prefix.
///
/// Both hold rows of `2 * kv_count * width` values: all heads' keys (rotated), then all heads' values.
pub struct KeyValues<'a, T> {
    /// Of the tokens in the batch.
    pub own: &'a T,
    /// Of captured positions in front of them.
    pub prefix: Option<&'a T>,
}

/// Which rows of a matrix a patch writes, and from where. All lists have one item per patched row.
pub struct PatchRows<'a, I> {
    /// Row written.
    pub target: &'a I,
    /// Row of the source.
    pub source: &'a I,
}

/// `k` directions for each of several bases, stored `(n_bases, k, width)`, rows of unit length.
pub struct Bases<'a, T, I> {
    /// The directions.
    pub directions: &'a T,
    /// Directions per basis.
    pub k: usize,
    /// Per patched row: its basis.
    pub basis: &'a I,
}

/// A device that runs transformers. Buffers are flat f32 arrays; shapes are stated per operation.
///
/// `T` tokens are the rows of a ragged batch. An operation never depends on the number of threads.
pub trait Backend: Send + Sync {
    /// A device array of f32.
    type Tensor: Send + Sync;
    /// A matrix packed for products, with its bias.
    type Weight: Send + Sync;
    /// A device array of row numbers.
    type Indices: Send + Sync;
    /// The rows of a ragged attention, on the device.
    type AttentionRows: Send + Sync;
    /// What the device keeps of work that is repeated, to do it faster the next time.
    type Recording: Default + Send + Sync;

    /// Does `work`. Work of the same shape should come with the same recording: a GPU then does it as CUDA graphs. It may
    /// do other things, or the same with other values, and all results are those of doing it without a recording.
    ///
    /// # Errors
    /// Those of `work`.
    fn repeat<T, E: From<BackendError>>(
        &self,
        recording: &mut Self::Recording,
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E>;

    /// Short description for manifests, for example `cpu (AVX-512, 2 threads, f32)`.
    fn describe(&self) -> String;
    /// Floating-point operations per second that the device does at most in the products' number format, measured now;
    /// `None` where nothing measures it.
    fn peak(&self) -> Option<f64> {
        None
    }
    /// Bytes of the device's memory that nobody uses now; `None` where the system does not say.
    fn free_memory(&self) -> Option<usize>;

    /// An array of `len` values whose contents are unspecified.
    fn tensor(&self, len: usize) -> Result<Self::Tensor>;
    /// Number of values of an array.
    fn len(&self, tensor: &Self::Tensor) -> usize;
    /// Sets every value to zero.
    fn zero(&self, tensor: &mut Self::Tensor) -> Result<()>;
    /// Copies host values to the device.
    fn upload(&self, values: &[f32]) -> Result<Self::Tensor>;
    /// Copies device values to the host.
    fn download(&self, tensor: &Self::Tensor) -> Result<Vec<f32>>;
    /// Copies row numbers to the device.
    fn upload_indices(&self, indices: &[u32]) -> Result<Self::Indices>;
    /// Number of row numbers.
    fn indices_len(&self, indices: &Self::Indices) -> usize;
    /// Copies attention rows to the device.
    fn upload_attention_rows(&self, rows: &[AttentionRow]) -> Result<Self::AttentionRows>;
    /// Packs `W` of shape (in, out) and its bias (`out` values) for products.
    fn pack(&self, weight: &Matrix, bias: &[f32]) -> Result<Self::Weight>;

    /// `y = norm(x)`, row by row; `x` and `y` are `(T, width)`.
    fn layer_norm(&self, x: &Self::Tensor, norm: &Norm<Self::Tensor>, y: &mut Self::Tensor) -> Result<()>;
    /// `x := x * gain + bias` in place: the second half of a norm that has them.
    fn gain_and_bias(&self, x: &mut Self::Tensor, norm: &Norm<Self::Tensor>) -> Result<()>;
    /// `dx += ∂norm/∂x · dy`; everything is `(T, width)`.
    fn layer_norm_backward(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        norm: &Norm<Self::Tensor>,
        dx: &mut Self::Tensor,
    ) -> Result<()>;

    /// `y = epilogue(x W + b)`; `x` is `(T, in)`, `y` is `(T, out)`.
    fn linear(
        &self,
        x: &Self::Tensor,
        weight: &Self::Weight,
        epilogue: Epilogue<'_, Self::Tensor>,
        y: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dx = dy Wᵀ`; `dy` is `(T, out)`, `dx` is `(T, in)`.
    fn linear_backward(&self, dy: &Self::Tensor, weight: &Self::Weight, dx: &mut Self::Tensor) -> Result<()>;

    /// Rotates the first `2 * half` columns of every head of `x` in place: pair `(i, i + half)` of the row at
    /// position `p` by the angle `p / base^(i / half)`; backwards when `inverse` (the transposed map).
    ///
    /// `table` is `(n_ctx, 2, half)`: cosines, then sines. `columns` holds whole heads.
    #[allow(clippy::too_many_arguments)]
    fn rotary(
        &self,
        x: &mut Self::Tensor,
        columns: Columns,
        heads: Heads,
        half: usize,
        table: &Self::Tensor,
        positions: &Self::Indices,
        inverse: bool,
    ) -> Result<()>;

    /// Causal attention: `z = softmax(scale q kᵀ) v` per row and head, never storing the scores of all rows.
    ///
    /// `q` and `z` are `(T_q, count * width)`. `log_sum_exp`, `(T_q, count)`, is written when given.
    fn attention(
        &self,
        q: &Self::Tensor,
        kv: KeyValues<'_, Self::Tensor>,
        rows: &Self::AttentionRows,
        heads: Heads,
        z: &mut Self::Tensor,
        log_sum_exp: Option<&mut Self::Tensor>,
    ) -> Result<()>;
    /// Gradient of [`Backend::attention`] to the queries and to the batch's own keys and values (overwritten).
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        q: &Self::Tensor,
        kv: KeyValues<'_, Self::Tensor>,
        rows: &Self::AttentionRows,
        heads: Heads,
        log_sum_exp: &Self::Tensor,
        dz: &Self::Tensor,
        dq: &mut Self::Tensor,
        dkv: &mut Self::Tensor,
    ) -> Result<()>;
    /// The attention probabilities themselves, per row `(count, n_queries, total_keys)` at `pattern_start`.
    fn attention_pattern(
        &self,
        q: &Self::Tensor,
        kv: KeyValues<'_, Self::Tensor>,
        rows: &Self::AttentionRows,
        heads: Heads,
        pattern: &mut Self::Tensor,
    ) -> Result<()>;
    /// `z = pattern v` with given probabilities.
    fn apply_pattern(
        &self,
        pattern: &Self::Tensor,
        kv: KeyValues<'_, Self::Tensor>,
        rows: &Self::AttentionRows,
        heads: Heads,
        z: &mut Self::Tensor,
    ) -> Result<()>;

    /// `y = f(x)`, element by element.
    fn activate(&self, activation: Activation, x: &Self::Tensor, y: &mut Self::Tensor) -> Result<()>;
    /// `dy := f'(x) dy`, element by element, in place.
    fn activate_backward(&self, activation: Activation, x: &Self::Tensor, dy: &mut Self::Tensor) -> Result<()>;
    /// `y := f(gate) * y`, element by element: a gated MLP (Shazeer 2020, arXiv 2002.05202).
    fn gate(&self, activation: Activation, gate: &Self::Tensor, y: &mut Self::Tensor) -> Result<()>;
    /// Gradient of [`Backend::gate`]: `dy` becomes the gradient to the value, `d_gate` is overwritten.
    fn gate_backward(
        &self,
        activation: Activation,
        gate: &Self::Tensor,
        value: &Self::Tensor,
        dy: &mut Self::Tensor,
        d_gate: &mut Self::Tensor,
    ) -> Result<()>;

    /// `y += x`.
    fn add(&self, x: &Self::Tensor, y: &mut Self::Tensor) -> Result<()>;
    /// `y[i] = x[rows[i]]` for rows of `width` values.
    fn gather_rows(&self, x: &Self::Tensor, width: usize, rows: &Self::Indices, y: &mut Self::Tensor) -> Result<()>;
    /// `y[rows[i]] += x[i]` for rows of `width` values; no row number occurs twice.
    fn scatter_add_rows(
        &self,
        x: &Self::Tensor,
        width: usize,
        rows: &Self::Indices,
        y: &mut Self::Tensor,
    ) -> Result<()>;
    /// Copies all of `x` into `y` from value `offset` on.
    fn copy_into(&self, x: &Self::Tensor, y: &mut Self::Tensor, offset: usize) -> Result<()>;

    /// Copies spans of values: `spans` lists (start in `y`, start in `x`, length) one after the other.
    fn copy_spans(&self, x: &Self::Tensor, spans: &Self::Indices, y: &mut Self::Tensor) -> Result<()>;

    /// Replaces: `x[target, columns] = source[source row, source columns]`.
    fn patch_replace(
        &self,
        x: &mut Self::Tensor,
        columns: Columns,
        source: &Self::Tensor,
        source_columns: Columns,
        rows: PatchRows<'_, Self::Indices>,
    ) -> Result<()>;
    /// Swaps along a subspace: `x += R Rᵀ (source - x)` on the patched rows, `R` the row's basis.
    fn patch_swap(
        &self,
        x: &mut Self::Tensor,
        columns: Columns,
        source: &Self::Tensor,
        source_columns: Columns,
        rows: PatchRows<'_, Self::Indices>,
        bases: Bases<'_, Self::Tensor, Self::Indices>,
    ) -> Result<()>;
    /// Adds: `x[target, columns] += scale * source[source row, source columns]`.
    fn patch_add(
        &self,
        x: &mut Self::Tensor,
        columns: Columns,
        source: &Self::Tensor,
        source_columns: Columns,
        rows: PatchRows<'_, Self::Indices>,
        scale: f32,
    ) -> Result<()>;
    /// Gradient of [`Backend::patch_swap`] to the one basis all rows share: with `δ = source - x` before the patch,
    /// `dR = Σ δ (dyᵀ R) + dy (δᵀ R)`, stored `(k, width)`; `dy` and `x` have rows of `width` values.
    #[allow(clippy::too_many_arguments)]
    fn patch_swap_backward(
        &self,
        dy: &Self::Tensor,
        x: &Self::Tensor,
        source: &Self::Tensor,
        rows: SwapGradientRows<'_, Self::Indices>,
        basis: &Self::Tensor,
        width: usize,
        d_basis: &mut Self::Tensor,
    ) -> Result<()>;

    /// `y = x Cᵀ + b` for a few columns of the unembedding: `x` `(T, width)`, `C` `(n, width)`, `b` `n` values.
    fn answer_logits(
        &self,
        x: &Self::Tensor,
        columns: &Self::Tensor,
        bias: &Self::Tensor,
        y: &mut Self::Tensor,
    ) -> Result<()>;
    /// `dx = dy C`.
    fn answer_logits_backward(
        &self,
        dy: &Self::Tensor,
        columns: &Self::Tensor,
        n: usize,
        dx: &mut Self::Tensor,
    ) -> Result<()>;
    /// `y[t] = log Σ exp x[t, :]` over rows of `width` values.
    fn log_sum_exp(&self, x: &Self::Tensor, width: usize, y: &mut Self::Tensor) -> Result<()>;

    /// `β₁ … βₙ` of up to `steps` steps of the Lanczos recurrence `A vⱼ = βⱼ vⱼ₊₁ - βⱼ₋₁ vⱼ₋₁` of the skew matrix that
    /// `triangle` stands for, from `start`, `d` values of length one. A subspace that is exhausted ends the list.
    fn rotation_lanczos(&self, triangle: &Self::Tensor, start: &Self::Tensor, steps: usize) -> Result<Vec<f64>>;
    /// `φ₀ … φₘ` of a Chebyshev series for the first `k` unit vectors, `(m + 1, k, d)`.
    fn rotation_basis(
        &self,
        triangle: &Self::Tensor,
        k: usize,
        series: &ChebyshevSeries,
        basis: &mut Self::Tensor,
    ) -> Result<()>;
    /// `Σ cⱼ φⱼ`, the first `k` columns of `exp(A)` as rows, `(k, d)`, summed in f64.
    fn rotation_columns(
        &self,
        basis: &Self::Tensor,
        series: &ChebyshevSeries,
        columns: &mut Self::Tensor,
    ) -> Result<()>;
    /// The adjoint of [`Backend::rotation_basis`] and [`Backend::rotation_columns`] together: `(m, k, d)` vectors which
    /// are, beside the basis, the factor `L` of the triangle's gradient, for `gradient`, `(k, d)`, of the columns.
    ///
    /// The recurrence runs backwards (Clenshaw), `λⱼ = cⱼ g - 2 B λⱼ₊₁ + λⱼ₊₂`; with it `∂A = Σ αⱼ λⱼ₊₁ φⱼᵀ / ρ`,
    /// `α₀ = 1` and `αⱼ = 2`.
    fn rotation_adjoint(
        &self,
        triangle: &Self::Tensor,
        series: &ChebyshevSeries,
        gradient: &Self::Tensor,
        adjoints: &mut Self::Tensor,
    ) -> Result<()>;
    /// One step of Adam against a gradient of the triangle; its norm before clipping goes to `norm`, one value. A
    /// gradient that is not finite moves nothing.
    fn rotation_step(
        &self,
        gradient: LowRank<'_, Self::Tensor>,
        step: &AdamStep,
        state: AdamState<'_, Self::Tensor>,
        norm: &mut Self::Tensor,
    ) -> Result<()>;
}

/// Row numbers for [`Backend::patch_swap_backward`], one item per patched row.
pub struct SwapGradientRows<'a, I> {
    /// Row of the gradient at the patched activation.
    pub gradient: &'a I,
    /// Row of the activation before the patch.
    pub base: &'a I,
    /// Row of the source.
    pub source: &'a I,
}
