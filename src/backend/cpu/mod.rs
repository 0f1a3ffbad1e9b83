//! The CPU backend: one file per operation, each the plain twin of the CUDA kernel of the same name.

mod activation;
mod adam;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod bf16;
mod layer_norm;
mod logits;
mod matmul;
mod peak;
mod pool;
mod rotary;
mod rotation;
mod rows;
mod simd;
mod tile;
mod transpose;
mod triangle;
mod values;

pub use matmul::PackedWeight;
pub use pool::{CpuTensor, Pool};
pub use simd::Isa;
use simd::Limit;

use super::{
    AdamState, AdamStep, AttentionRow, Backend, BackendError, Bases, ChebyshevSeries, Columns, Dtype, Epilogue, Heads,
    KeyValues, LowRank, Norm, PatchRows, Result, SwapGradientRows,
};
use crate::types::{Activation, Matrix};

/// A pointer that parallel tasks share; each task writes a part of its own.
#[derive(Clone, Copy)]
struct SharedPointer(*mut f32);

impl SharedPointer {
    /// The pointer itself. A method, so that closures capture the wrapper and not the field.
    fn get(self) -> *mut f32 {
        self.0
    }
}

// SAFETY: every use states which disjoint part the task at hand writes.
unsafe impl Send for SharedPointer {}
// SAFETY: as above.
unsafe impl Sync for SharedPointer {}

/// Runs on the processor, in the current rayon thread pool.
#[derive(Debug)]
pub struct CpuBackend {
    isa: Isa,
    dtype: Dtype,
    pool: Pool,
}

impl CpuBackend {
    /// A backend for the best instructions of this processor that the environment variable `ACTPATCH_ISA` allows.
    ///
    /// # Errors
    /// [`BackendError::Dtype`] for the formats that only GPUs multiply, [`BackendError::Instructions`] for a value of the
    /// variable that means nothing.
    pub fn new(dtype: Dtype) -> Result<Self> {
        Limit::asked().map_err(|unknown| BackendError::Instructions { variable: Limit::VARIABLE, unknown })?;
        if matches!(dtype, Dtype::Tf32 | Dtype::F16) {
            let reason = "only a GPU multiplies in this format".into();
            return Err(BackendError::Dtype { dtype: dtype.name(), reason });
        }
        Ok(Self { isa: Isa::detect(), dtype, pool: Pool::default() })
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Weight = PackedWeight;
    type Indices = Vec<u32>;
    type AttentionRows = Vec<AttentionRow>;
    type Recording = ();

    fn repeat<T, E: From<BackendError>>(
        &self,
        (): &mut (),
        work: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        work()
    }

    fn describe(&self) -> String {
        let unit = if self.dtype == Dtype::Bf16 && bf16::has_unit(self.isa) { " with AMX" } else { "" };
        format!("cpu ({}{unit}, {} threads, {})", self.isa.name(), rayon::current_num_threads(), self.dtype)
    }

    fn peak(&self) -> Option<f64> {
        Some(peak::peak(self.isa, self.dtype))
    }

    fn free_memory(&self) -> Option<usize> {
        let mut system = sysinfo::System::new();
        system.refresh_memory();
        // A job may be allowed less than the machine has.
        let allowed = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
        usize::try_from(system.available_memory().min(allowed)).ok().filter(|bytes| *bytes > 0)
    }

    fn tensor(&self, len: usize) -> Result<CpuTensor> {
        Ok(self.pool.take(len))
    }

    fn len(&self, tensor: &CpuTensor) -> usize {
        tensor.len()
    }

    fn zero(&self, tensor: &mut CpuTensor) -> Result<()> {
        tensor.fill(0.0);
        Ok(())
    }

    fn upload(&self, values: &[f32]) -> Result<CpuTensor> {
        let mut tensor = self.pool.take(values.len());
        tensor.copy_from_slice(values);
        Ok(tensor)
    }

    fn download(&self, tensor: &CpuTensor) -> Result<Vec<f32>> {
        Ok(tensor.to_vec())
    }

    fn upload_indices(&self, indices: &[u32]) -> Result<Vec<u32>> {
        Ok(indices.to_vec())
    }

    fn indices_len(&self, indices: &Vec<u32>) -> usize {
        indices.len()
    }

    fn upload_attention_rows(&self, rows: &[AttentionRow]) -> Result<Vec<AttentionRow>> {
        Ok(rows.to_vec())
    }

    fn pack(&self, weight: &Matrix, bias: &[f32]) -> Result<PackedWeight> {
        Ok(PackedWeight::pack(weight, bias, self.dtype))
    }

    fn layer_norm(&self, x: &CpuTensor, norm: &Norm<CpuTensor>, y: &mut CpuTensor) -> Result<()> {
        layer_norm::layer_norm(self.isa, x, norm, y);
        Ok(())
    }

    fn gain_and_bias(&self, x: &mut CpuTensor, norm: &Norm<CpuTensor>) -> Result<()> {
        layer_norm::gain_and_bias(x, norm);
        Ok(())
    }

    fn layer_norm_backward(
        &self,
        dy: &CpuTensor,
        x: &CpuTensor,
        norm: &Norm<CpuTensor>,
        dx: &mut CpuTensor,
    ) -> Result<()> {
        layer_norm::layer_norm_backward(self.isa, dy, x, norm, dx);
        Ok(())
    }

    fn linear(
        &self,
        x: &CpuTensor,
        weight: &PackedWeight,
        epilogue: Epilogue<'_, CpuTensor>,
        y: &mut CpuTensor,
    ) -> Result<()> {
        matmul::linear(self.isa, &self.pool, x, weight, epilogue, y);
        Ok(())
    }

    fn linear_backward(&self, dy: &CpuTensor, weight: &PackedWeight, dx: &mut CpuTensor) -> Result<()> {
        matmul::linear_backward(self.isa, &self.pool, dy, weight, dx);
        Ok(())
    }

    fn rotary(
        &self,
        x: &mut CpuTensor,
        columns: Columns,
        heads: Heads,
        half: usize,
        table: &CpuTensor,
        positions: &Vec<u32>,
        inverse: bool,
    ) -> Result<()> {
        rotary::rotary(x, columns, heads, half, table, positions, inverse);
        Ok(())
    }

    fn attention(
        &self,
        q: &CpuTensor,
        kv: KeyValues<'_, CpuTensor>,
        rows: &Vec<AttentionRow>,
        heads: Heads,
        z: &mut CpuTensor,
        log_sum_exp: Option<&mut CpuTensor>,
    ) -> Result<()> {
        attention::attention(self.isa, &self.pool, q, kv, rows, heads, z, log_sum_exp.map(|t| &mut t[..]));
        Ok(())
    }

    fn attention_backward(
        &self,
        q: &CpuTensor,
        kv: KeyValues<'_, CpuTensor>,
        rows: &Vec<AttentionRow>,
        heads: Heads,
        log_sum_exp: &CpuTensor,
        dz: &CpuTensor,
        dq: &mut CpuTensor,
        dkv: &mut CpuTensor,
    ) -> Result<()> {
        attention::attention_backward(self.isa, &self.pool, q, kv, rows, heads, log_sum_exp, dz, dq, dkv);
        Ok(())
    }

    fn attention_pattern(
        &self,
        q: &CpuTensor,
        kv: KeyValues<'_, CpuTensor>,
        rows: &Vec<AttentionRow>,
        heads: Heads,
        pattern: &mut CpuTensor,
    ) -> Result<()> {
        attention::attention_pattern(self.isa, &self.pool, q, kv, rows, heads, pattern);
        Ok(())
    }

    fn apply_pattern(
        &self,
        pattern: &CpuTensor,
        kv: KeyValues<'_, CpuTensor>,
        rows: &Vec<AttentionRow>,
        heads: Heads,
        z: &mut CpuTensor,
    ) -> Result<()> {
        attention::apply_pattern(self.isa, &self.pool, pattern, kv, rows, heads, z);
        Ok(())
    }

    fn activate(&self, activation: Activation, x: &CpuTensor, y: &mut CpuTensor) -> Result<()> {
        activation::activate(self.isa, activation, x, y);
        Ok(())
    }

    fn activate_backward(&self, activation: Activation, x: &CpuTensor, dy: &mut CpuTensor) -> Result<()> {
        activation::activate_backward(self.isa, activation, x, dy);
        Ok(())
    }

    fn gate(&self, activation: Activation, gate: &CpuTensor, y: &mut CpuTensor) -> Result<()> {
        activation::gate(self.isa, activation, gate, y);
        Ok(())
    }

    fn gate_backward(
        &self,
        activation: Activation,
        gate: &CpuTensor,
        value: &CpuTensor,
        dy: &mut CpuTensor,
        d_gate: &mut CpuTensor,
    ) -> Result<()> {
        activation::gate_backward(self.isa, activation, gate, value, dy, d_gate);
        Ok(())
    }

    fn add(&self, x: &CpuTensor, y: &mut CpuTensor) -> Result<()> {
        y.iter_mut().zip(x.iter()).for_each(|(y, x)| *y += x);
        Ok(())
    }

    fn gather_rows(&self, x: &CpuTensor, width: usize, rows: &Vec<u32>, y: &mut CpuTensor) -> Result<()> {
        rows::gather(x, width, rows, y);
        Ok(())
    }

    fn scatter_add_rows(&self, x: &CpuTensor, width: usize, rows: &Vec<u32>, y: &mut CpuTensor) -> Result<()> {
        rows::scatter_add(x, width, rows, y);
        Ok(())
    }

    fn copy_into(&self, x: &CpuTensor, y: &mut CpuTensor, offset: usize) -> Result<()> {
        y[offset..offset + x.len()].copy_from_slice(x);
        Ok(())
    }

    fn copy_spans(&self, x: &CpuTensor, spans: &Vec<u32>, y: &mut CpuTensor) -> Result<()> {
        for span in spans.chunks_exact(3) {
            let [to, from, len] = [span[0] as usize, span[1] as usize, span[2] as usize];
            y[to..to + len].copy_from_slice(&x[from..from + len]);
        }
        Ok(())
    }

    fn patch_replace(
        &self,
        x: &mut CpuTensor,
        columns: Columns,
        source: &CpuTensor,
        source_columns: Columns,
        rows: PatchRows<'_, Vec<u32>>,
    ) -> Result<()> {
        rows::replace(x, columns, source, source_columns, rows.target, rows.source);
        Ok(())
    }

    fn patch_swap(
        &self,
        x: &mut CpuTensor,
        columns: Columns,
        source: &CpuTensor,
        source_columns: Columns,
        rows: PatchRows<'_, Vec<u32>>,
        bases: Bases<'_, CpuTensor, Vec<u32>>,
    ) -> Result<()> {
        let (target, from) = (rows.target, rows.source);
        rows::swap(x, columns, source, source_columns, target, from, bases.directions, bases.k, bases.basis);
        Ok(())
    }

    fn patch_add(
        &self,
        x: &mut CpuTensor,
        columns: Columns,
        source: &CpuTensor,
        source_columns: Columns,
        rows: PatchRows<'_, Vec<u32>>,
        scale: f32,
    ) -> Result<()> {
        rows::add_rows(x, columns, source, source_columns, rows.target, rows.source, scale);
        Ok(())
    }

    fn patch_swap_backward(
        &self,
        dy: &CpuTensor,
        x: &CpuTensor,
        source: &CpuTensor,
        rows: SwapGradientRows<'_, Vec<u32>>,
        basis: &CpuTensor,
        width: usize,
        d_basis: &mut CpuTensor,
    ) -> Result<()> {
        rows::swap_backward(dy, x, source, [rows.gradient, rows.base, rows.source], basis, width, d_basis);
        Ok(())
    }

    fn answer_logits(&self, x: &CpuTensor, columns: &CpuTensor, bias: &CpuTensor, y: &mut CpuTensor) -> Result<()> {
        logits::answer_logits(x, columns, bias, columns.len() / bias.len(), y);
        Ok(())
    }

    fn answer_logits_backward(&self, dy: &CpuTensor, columns: &CpuTensor, n: usize, dx: &mut CpuTensor) -> Result<()> {
        logits::answer_logits_backward(dy, columns, n, columns.len() / n, dx);
        Ok(())
    }

    fn log_sum_exp(&self, x: &CpuTensor, width: usize, y: &mut CpuTensor) -> Result<()> {
        logits::log_sum_exp(self.isa, x, width, y);
        Ok(())
    }

    fn rotation_lanczos(&self, triangle: &CpuTensor, start: &CpuTensor, steps: usize) -> Result<Vec<f64>> {
        Ok(rotation::lanczos(triangle, start, steps))
    }

    fn rotation_basis(
        &self,
        triangle: &CpuTensor,
        k: usize,
        series: &ChebyshevSeries,
        basis: &mut CpuTensor,
    ) -> Result<()> {
        rotation::basis(triangle, k, series, basis);
        Ok(())
    }

    fn rotation_columns(&self, basis: &CpuTensor, series: &ChebyshevSeries, columns: &mut CpuTensor) -> Result<()> {
        rotation::columns(basis, series, columns);
        Ok(())
    }

    fn rotation_adjoint(
        &self,
        triangle: &CpuTensor,
        series: &ChebyshevSeries,
        gradient: &CpuTensor,
        adjoints: &mut CpuTensor,
    ) -> Result<()> {
        rotation::adjoint(triangle, series, gradient, adjoints);
        Ok(())
    }

    fn rotation_step(
        &self,
        gradient: LowRank<'_, CpuTensor>,
        step: &AdamStep,
        state: AdamState<'_, CpuTensor>,
        norm: &mut CpuTensor,
    ) -> Result<()> {
        norm[0] = adam::step(gradient, step, state) as f32;
        Ok(())
    }
}

#[cfg(test)]
mod test_support {
    use super::Isa;

    /// Every instruction set this processor runs.
    pub fn isas() -> Vec<Isa> {
        [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| *isa <= Isa::detect()).collect()
    }

    /// `len` values in [-1, 1), a different sequence for every seed.
    pub fn random(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }
}
