//! The CUDA backend: hand-written kernels (`kernels/*.cu`), embedded as PTX, launched on one stream.
//!
//! One file per kernel file, named as its twin in [`crate::backend::cpu`]. The driver is looked for when a GPU is asked
//! for; a program with this backend starts and runs on machines that have none.
//!
//! Shapes are checked on the host before every launch (indices when they are uploaded), so that no kernel touches
//! memory outside of its arrays; a failed check is a bug of the caller and panics, as on the CPU.

mod activation;
mod attention;
mod device;
mod layer_norm;
mod logits;
mod matmul;
mod pool;
mod queue;
mod recording;
mod rotary;
mod rotation;
mod rows;
mod staging;

pub use attention::CudaAttentionRows;
pub use device::device_count;
pub use matmul::{CudaWeight, Tile};
pub use pool::CudaTensor;
pub use recording::Recording;

use super::{
    AdamState, AdamStep, AttentionRow, Backend, BackendError, Bases, ChebyshevSeries, Columns, Dtype, Epilogue, Heads,
    KeyValues, LowRank, Norm, PatchRows, Result, SwapGradientRows,
};
use crate::types::{Activation, Matrix};
use device::{Device, Kernel};
use rows::Edit;

/// Runs on one GPU.
#[derive(Debug)]
pub struct CudaBackend {
    device: Device,
    dtype: Dtype,
    /// Of every product, instead of the one that suits its shape.
    tile: Option<Tile>,
}

/// Row numbers, or spans, on the device.
#[derive(Debug)]
pub struct CudaIndices {
    values: CudaTensor,
    len: usize,
    /// One more than the largest number.
    end: usize,
    /// Read as spans: one more than the last value written and read.
    span_ends: (usize, usize),
}

impl CudaIndices {
    fn address(&self) -> u64 {
        self.values.address()
    }
}

/// The address of an array that need not be there.
fn address(tensor: Option<&CudaTensor>) -> u64 {
    tensor.map_or(0, CudaTensor::address)
}

impl CudaBackend {
    /// Opens GPU `index` and loads the kernels. Products are f32-grade, or in bfloat16 with f32 sums.
    ///
    /// # Errors
    /// [`super::BackendError`]: no driver, no such GPU, one below compute capability 8.0, a driver that is too old.
    pub fn new(index: usize, dtype: Dtype) -> Result<Self> {
        let backend = Self { device: Device::open(index)?, dtype, tile: None };
        backend.allow_shared_of_products()?;
        backend.allow_shared_of_attention()?;
        Ok(backend)
    }

    fn upload_values(&self, values: &[f32]) -> Result<CudaTensor> {
        let tensor = self.device.take(values.len())?;
        if !values.is_empty() {
            // SAFETY: the array was just made, this long.
            unsafe { self.device.queue().upload(values, tensor.address()) }?;
        }
        Ok(tensor)
    }

    /// Copies words in the bits of floats: the device has one kind of array.
    fn upload_words(&self, words: &[u32]) -> Result<CudaTensor> {
        self.upload_values(bytemuck::cast_slice(words))
    }
}

impl Backend for CudaBackend {
    type Tensor = CudaTensor;
    type Weight = CudaWeight;
    type Indices = CudaIndices;
    type AttentionRows = CudaAttentionRows;
    type Recording = Recording;

    fn repeat<T, E: From<BackendError>>(
        &self,
        recording: &mut Recording,
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.device.queue().repeat(recording, work)
    }

    fn describe(&self) -> String {
        format!("{}, {})", self.device.describe(), self.dtype)
    }

    fn free_memory(&self) -> Option<usize> {
        self.device.free_memory()
    }

    fn tensor(&self, len: usize) -> Result<CudaTensor> {
        self.device.take(len)
    }

    fn len(&self, tensor: &CudaTensor) -> usize {
        tensor.len()
    }

    fn zero(&self, tensor: &mut CudaTensor) -> Result<()> {
        if tensor.is_empty() {
            return Ok(());
        }
        // SAFETY: the array is there, this long.
        unsafe { self.device.queue().zero(tensor.address(), tensor.len() * size_of::<f32>()) }
    }

    fn upload(&self, values: &[f32]) -> Result<CudaTensor> {
        self.upload_values(values)
    }

    fn download(&self, tensor: &CudaTensor) -> Result<Vec<f32>> {
        let mut values = vec![0.0; tensor.len()];
        if !values.is_empty() {
            // SAFETY: the array is there, this long.
            unsafe { self.device.queue().download(tensor.address(), &mut values) }?;
        }
        Ok(values)
    }

    fn upload_indices(&self, indices: &[u32]) -> Result<CudaIndices> {
        let spans = indices.as_chunks::<3>().0;
        let span_end = |part: usize| spans.iter().map(|span| span[part] as usize + span[2] as usize).max();
        Ok(CudaIndices {
            values: self.upload_words(indices)?,
            len: indices.len(),
            end: indices.iter().max().map_or(0, |&largest| largest as usize + 1),
            span_ends: (span_end(0).unwrap_or(0), span_end(1).unwrap_or(0)),
        })
    }

    fn indices_len(&self, indices: &CudaIndices) -> usize {
        indices.len
    }

    fn upload_attention_rows(&self, rows: &[AttentionRow]) -> Result<CudaAttentionRows> {
        self.upload_rows(rows)
    }

    fn pack(&self, weight: &Matrix, bias: &[f32]) -> Result<CudaWeight> {
        self.pack_weight(weight, bias)
    }

    fn layer_norm(&self, x: &CudaTensor, norm: &Norm<CudaTensor>, y: &mut CudaTensor) -> Result<()> {
        self.norm_forward(x, norm, y)
    }

    fn gain_and_bias(&self, x: &mut CudaTensor, norm: &Norm<CudaTensor>) -> Result<()> {
        self.norm_gain_and_bias(x, norm)
    }

    fn layer_norm_backward(
        &self,
        dy: &CudaTensor,
        x: &CudaTensor,
        norm: &Norm<CudaTensor>,
        dx: &mut CudaTensor,
    ) -> Result<()> {
        self.norm_backward(dy, x, norm, dx)
    }

    fn linear(
        &self,
        x: &CudaTensor,
        weight: &CudaWeight,
        epilogue: Epilogue<'_, CudaTensor>,
        y: &mut CudaTensor,
    ) -> Result<()> {
        self.product(x, weight, epilogue, y)
    }

    fn linear_backward(&self, dy: &CudaTensor, weight: &CudaWeight, dx: &mut CudaTensor) -> Result<()> {
        self.product_backward(dy, weight, dx)
    }

    fn rotary(
        &self,
        x: &mut CudaTensor,
        columns: Columns,
        heads: Heads,
        half: usize,
        table: &CudaTensor,
        positions: &CudaIndices,
        inverse: bool,
    ) -> Result<()> {
        self.rotate(x, columns, heads, half, table, positions, inverse)
    }

    fn attention(
        &self,
        q: &CudaTensor,
        kv: KeyValues<'_, CudaTensor>,
        rows: &CudaAttentionRows,
        heads: Heads,
        z: &mut CudaTensor,
        log_sum_exp: Option<&mut CudaTensor>,
    ) -> Result<()> {
        self.attend(q, kv, rows, heads, z, log_sum_exp)
    }

    fn attention_backward(
        &self,
        q: &CudaTensor,
        kv: KeyValues<'_, CudaTensor>,
        rows: &CudaAttentionRows,
        heads: Heads,
        log_sum_exp: &CudaTensor,
        dz: &CudaTensor,
        dq: &mut CudaTensor,
        dkv: &mut CudaTensor,
    ) -> Result<()> {
        self.attend_backward(q, kv, rows, heads, log_sum_exp, dz, dq, dkv)
    }

    fn attention_pattern(
        &self,
        q: &CudaTensor,
        kv: KeyValues<'_, CudaTensor>,
        rows: &CudaAttentionRows,
        heads: Heads,
        pattern: &mut CudaTensor,
    ) -> Result<()> {
        self.pattern(q, kv, rows, heads, pattern)
    }

    fn apply_pattern(
        &self,
        pattern: &CudaTensor,
        kv: KeyValues<'_, CudaTensor>,
        rows: &CudaAttentionRows,
        heads: Heads,
        z: &mut CudaTensor,
    ) -> Result<()> {
        self.attend_with(pattern, kv, rows, heads, z)
    }

    fn activate(&self, activation: Activation, x: &CudaTensor, y: &mut CudaTensor) -> Result<()> {
        self.element_by_element(Kernel::Activate, activation, x, y)
    }

    fn activate_backward(&self, activation: Activation, x: &CudaTensor, dy: &mut CudaTensor) -> Result<()> {
        self.element_by_element(Kernel::ActivateBackward, activation, x, dy)
    }

    fn gate(&self, activation: Activation, gate: &CudaTensor, y: &mut CudaTensor) -> Result<()> {
        self.element_by_element(Kernel::Gate, activation, gate, y)
    }

    fn gate_backward(
        &self,
        activation: Activation,
        gate: &CudaTensor,
        value: &CudaTensor,
        dy: &mut CudaTensor,
        d_gate: &mut CudaTensor,
    ) -> Result<()> {
        self.gate_gradient(activation, gate, value, dy, d_gate)
    }

    fn add(&self, x: &CudaTensor, y: &mut CudaTensor) -> Result<()> {
        self.add_values(x, y)
    }

    fn gather_rows(&self, x: &CudaTensor, width: usize, rows: &CudaIndices, y: &mut CudaTensor) -> Result<()> {
        self.gather(x, width, rows, y)
    }

    fn scatter_add_rows(&self, x: &CudaTensor, width: usize, rows: &CudaIndices, y: &mut CudaTensor) -> Result<()> {
        self.scatter_add(x, width, rows, y)
    }

    fn copy_into(&self, x: &CudaTensor, y: &mut CudaTensor, offset: usize) -> Result<()> {
        assert!(offset + x.len() <= y.len(), "{offset} + {} values do not fit an array of {}", x.len(), y.len());
        if x.is_empty() {
            return Ok(());
        }
        let to = y.address() + (offset * size_of::<f32>()) as u64;
        // SAFETY: two arrays, one borrowed for writing, and the values fit.
        unsafe { self.device.queue().copy(x.address(), to, x.len() * size_of::<f32>()) }
    }

    fn copy_spans(&self, x: &CudaTensor, spans: &CudaIndices, y: &mut CudaTensor) -> Result<()> {
        self.spans(x, spans, y)
    }

    fn patch_replace(
        &self,
        x: &mut CudaTensor,
        columns: Columns,
        source: &CudaTensor,
        source_columns: Columns,
        rows: PatchRows<'_, CudaIndices>,
    ) -> Result<()> {
        self.replace(Edit { x, columns, source, source_columns, rows })
    }

    fn patch_swap(
        &self,
        x: &mut CudaTensor,
        columns: Columns,
        source: &CudaTensor,
        source_columns: Columns,
        rows: PatchRows<'_, CudaIndices>,
        bases: Bases<'_, CudaTensor, CudaIndices>,
    ) -> Result<()> {
        self.swap(Edit { x, columns, source, source_columns, rows }, bases)
    }

    fn patch_add(
        &self,
        x: &mut CudaTensor,
        columns: Columns,
        source: &CudaTensor,
        source_columns: Columns,
        rows: PatchRows<'_, CudaIndices>,
        scale: f32,
    ) -> Result<()> {
        self.add_rows(Edit { x, columns, source, source_columns, rows }, scale)
    }

    fn patch_swap_backward(
        &self,
        dy: &CudaTensor,
        x: &CudaTensor,
        source: &CudaTensor,
        rows: SwapGradientRows<'_, CudaIndices>,
        basis: &CudaTensor,
        width: usize,
        d_basis: &mut CudaTensor,
    ) -> Result<()> {
        self.swap_backward(dy, x, source, rows, basis, width, d_basis)
    }

    fn answer_logits(&self, x: &CudaTensor, columns: &CudaTensor, bias: &CudaTensor, y: &mut CudaTensor) -> Result<()> {
        self.logits_forward(x, columns, bias, y)
    }

    fn answer_logits_backward(
        &self,
        dy: &CudaTensor,
        columns: &CudaTensor,
        n: usize,
        dx: &mut CudaTensor,
    ) -> Result<()> {
        self.logits_backward(dy, columns, n, dx)
    }

    fn log_sum_exp(&self, x: &CudaTensor, width: usize, y: &mut CudaTensor) -> Result<()> {
        self.rows_log_sum_exp(x, width, y)
    }

    fn rotation_lanczos(&self, triangle: &CudaTensor, start: &CudaTensor, steps: usize) -> Result<Vec<f64>> {
        self.lanczos(triangle, start, steps)
    }

    fn rotation_basis(
        &self,
        triangle: &CudaTensor,
        k: usize,
        series: &ChebyshevSeries,
        basis: &mut CudaTensor,
    ) -> Result<()> {
        self.chebyshev_basis(triangle, k, series, basis)
    }

    fn rotation_columns(&self, basis: &CudaTensor, series: &ChebyshevSeries, columns: &mut CudaTensor) -> Result<()> {
        self.chebyshev_columns(basis, series, columns)
    }

    fn rotation_adjoint(
        &self,
        triangle: &CudaTensor,
        series: &ChebyshevSeries,
        gradient: &CudaTensor,
        adjoints: &mut CudaTensor,
    ) -> Result<()> {
        self.chebyshev_adjoint(triangle, series, gradient, adjoints)
    }

    fn rotation_step(
        &self,
        gradient: LowRank<'_, CudaTensor>,
        step: &AdamStep,
        state: AdamState<'_, CudaTensor>,
        norm: &mut CudaTensor,
    ) -> Result<()> {
        self.low_rank_step(gradient, step, state, norm)
    }
}
