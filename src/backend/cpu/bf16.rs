//! bfloat16 products: both factors rounded, sums in f32, forward and backward.
//!
//! The same panels as in f32, but two consecutive inputs share one 32-bit lane: `vdpbf16ps` multiplies and adds a pair per lane,
//! and a matrix unit ([`super::amx`]) tiles of them. For the backward product a task transposes its panels into pairs of outputs.
//! A processor without that instruction unpacks a task's panels to f32 and multiplies those: the same rounded factors and half
//! the memory, at the speed of f32.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::matmul::{PackedWeight, Product, panels_per_task};
use super::pool::{CpuTensor, Pool};
use super::simd::{Isa, has_bf16, multiversion};
use super::tile::{PANEL, row_tiles};
use super::values::{CHUNK, Values};
use crate::types::Matrix;
use half::bf16;
use rayon::prelude::*;
use std::ops::Range;

fn pair(low: f32, high: f32) -> u32 {
    u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
}

/// `[panel][input / 2][32]` pairs; an odd number of inputs is padded with zero.
pub fn pack(weight: &Matrix) -> Values {
    let (inputs, outputs) = (weight.rows, weight.cols);
    let pairs = inputs.div_ceil(2);
    let mut values = Values::zeros(outputs.div_ceil(PANEL) * pairs * PANEL);
    let packed: &mut [u32] = bytemuck::cast_slice_mut::<f32, u32>(&mut values);
    packed.par_chunks_mut(pairs * PANEL).enumerate().for_each(|(j, panel)| {
        for (p, out) in panel.chunks_exact_mut(PANEL).enumerate() {
            for (lane, value) in out.iter_mut().enumerate().take(outputs - (j * PANEL).min(outputs)) {
                let at = |row: usize| if row < inputs { weight.data[row * outputs + j * PANEL + lane] } else { 0.0 };
                *value = pair(at(2 * p), at(2 * p + 1));
            }
        }
    });
    values
}

#[inline(always)]
fn unpack_body<const FMA: bool>(pairs: &[u32], values: &mut [f32]) {
    for (lanes, out) in pairs.chunks_exact(PANEL).zip(values.chunks_exact_mut(2 * PANEL)) {
        let (low, high) = out.split_at_mut(PANEL);
        for ((low, high), &lanes) in low.iter_mut().zip(high).zip(lanes) {
            (*low, *high) = (f32::from_bits(lanes << 16), f32::from_bits(lanes & 0xffff_0000));
        }
    }
}

multiversion! {
    /// Rows of pairs as twice as many rows of values.
    pub fn unpack(pairs: &[u32], values: &mut [f32]) unpack_body
}

#[inline(always)]
fn repack_body<const FMA: bool>(values: &[f32], pairs: &mut [u32]) {
    for (rows, out) in values.chunks_exact(2 * PANEL).zip(pairs.chunks_exact_mut(PANEL)) {
        let (low, high) = rows.split_at(PANEL);
        for ((low, high), lanes) in low.iter().zip(high).zip(out) {
            *lanes = low.to_bits() >> 16 | high.to_bits() & 0xffff_0000;
        }
    }
}

multiversion! {
    /// Two rows each of values that bfloat16 holds as one row of pairs.
    pub fn repack(values: &[f32], pairs: &mut [u32]) repack_body
}

/// Values rounded to what bfloat16 holds.
pub fn rounded(pool: &Pool, values: &[f32]) -> CpuTensor {
    let mut rounded = pool.take(values.len());
    rounded.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(out, values)| {
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = bf16::from_f32(value).to_f32());
    });
    rounded
}

/// The panels of pairs that a product multiplies by.
pub enum Pairs<'a> {
    /// Those of a packed weight.
    Packed(&'a [u32]),
    /// Those of its transpose, made task by task.
    Transposed(&'a PackedWeight),
}

impl Pairs<'_> {
    /// Some panels of `pairs` rows of 32 each, behind one another.
    /// Made ones lie in `made`, which is taken from the pool.
    pub fn of<'s>(
        &'s self,
        isa: Isa,
        panels: Range<usize>,
        pairs: usize,
        pool: &Pool,
        made: &'s mut Option<CpuTensor>,
    ) -> &'s [u32] {
        let len = pairs * PANEL;
        match self {
            Pairs::Packed(packed) => &packed[panels.start * len..panels.end * len],
            Pairs::Transposed(weight) => {
                let made: &mut [u32] = bytemuck::cast_slice_mut(made.insert(pool.take(panels.len() * len)));
                for (panel, out) in panels.zip(made.chunks_exact_mut(len)) {
                    weight.transpose_pairs(isa, panel, out);
                }
                made
            }
        }
    }
}

/// Does the processor multiply pairs?
pub fn multiplies_pairs(isa: Isa) -> bool {
    isa == Isa::Avx512 && has_bf16()
}

/// Is there a matrix unit that multiplies bfloat16?
pub fn has_unit(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        isa == Isa::Avx512 && amx::available()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        false
    }
}

/// The product of [`super::matmul::linear`] or its backward twin on pairs, where the processor [`multiplies_pairs`].
pub fn linear(job: &Product<'_>, pool: &Pool, x: &[f32], pairs: &Pairs<'_>) {
    match job.isa {
        #[cfg(target_arch = "x86_64")]
        _ if amx::takes(job.depth) => amx::linear(job, pool, x, pairs),
        _ => paired(job, pool, x, pairs),
    }
}

/// The product on packed pairs with f32 instructions.
pub fn unpacked(job: &Product<'_>, pool: &Pool, x: &[f32], packed: &[u32]) {
    let rounded = rounded(pool, x);
    let rows = 2 * job.depth.div_ceil(2);
    let n_panels = job.columns.div_ceil(PANEL);
    let per_task = panels_per_task(n_panels);
    (0..n_panels.div_ceil(per_task)).into_par_iter().for_each(|task| {
        let panels = task * per_task..((task + 1) * per_task).min(n_panels);
        let mut scratch = pool.take(panels.len() * rows * PANEL);
        unpack(job.isa, &packed[panels.start * rows / 2 * PANEL..panels.end * rows / 2 * PANEL], &mut scratch);
        job.run(&rounded, panels.clone(), |panel| &scratch[(panel - panels.start) * rows * PANEL..][..rows * PANEL]);
    });
}

/// With `vdpbf16ps`.
fn paired(job: &Product<'_>, pool: &Pool, x: &[f32], weight: &Pairs<'_>) {
    let pairs = job.depth.div_ceil(2);
    let mut rounded = pool.take(job.rows * pairs);
    let rounded: &mut [u32] = bytemuck::cast_slice_mut(&mut rounded);
    rounded.par_chunks_mut(pairs).zip(x.par_chunks(job.depth)).for_each(|(out, row)| {
        for (lanes, values) in out.iter_mut().zip(row.chunks(2)) {
            *lanes = pair(values[0], values.get(1).copied().unwrap_or(0.0));
        }
    });
    let rounded: &[u32] = rounded;
    let n_panels = job.columns.div_ceil(PANEL);
    let per_task = (n_panels / (4 * rayon::current_num_threads())).clamp(1, 16);
    (0..n_panels.div_ceil(per_task)).into_par_iter().for_each(|task| {
        let panels = task * per_task..((task + 1) * per_task).min(n_panels);
        let mut made = None;
        let values = weight.of(job.isa, panels.clone(), pairs, pool, &mut made);
        for (row, m) in row_tiles(job.isa, job.rows) {
            for (panel, values) in panels.clone().zip(values.chunks_exact(pairs * PANEL)) {
                let n = PANEL.min(job.columns - panel * PANEL);
                // SAFETY: tasks own disjoint panels of `y`; shapes are those of `job`; `linear` comes here only where
                // the processor has the instruction.
                unsafe {
                    multiply(job, &rounded[row * pairs..], values, row, m, panel, n);
                    job.finish(row, m, panel * PANEL, n);
                }
            }
        }
    });
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn multiply(_: &Product<'_>, _: &[u32], _: &[u32], _: usize, _: usize, _: usize, _: usize) {
    unreachable!("no other processor has AVX-512")
}

#[cfg(target_arch = "x86_64")]
unsafe fn multiply(job: &Product<'_>, a: &[u32], panel: &[u32], row: usize, m: usize, index: usize, n: usize) {
    macro_rules! dispatch {
        ($($rows:literal),*) => {
            match m {
                // SAFETY: the caller's promises.
                $($rows => unsafe { rows_bf16::<$rows>(job, a, panel, row, index, n) },)*
                _ => {}
            }
        };
    }
    dispatch!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn rows_bf16<const M: usize>(job: &Product<'_>, a: &[u32], panel: &[u32], row: usize, index: usize, n: usize) {
    use std::arch::x86_64::*;
    let pairs = job.depth.div_ceil(2);
    let low: __mmask16 = if n >= 16 { u16::MAX } else { (1 << n) - 1 };
    let high: __mmask16 = if n >= 32 { u16::MAX } else { (1u16 << n.saturating_sub(16)) - 1 };
    debug_assert!(a.len() >= M * pairs && panel.len() >= pairs * PANEL);
    // SAFETY: the slices were checked above; `y` is masked to the `n` columns that exist.
    unsafe {
        let c = job.y.get().add(row * job.columns + index * PANEL);
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        if job.load {
            for (i, sum) in sums.iter_mut().enumerate() {
                sum[0] = _mm512_maskz_loadu_ps(low, c.add(i * job.columns));
                sum[1] = _mm512_maskz_loadu_ps(high, c.wrapping_add(i * job.columns + 16));
            }
        }
        if let Some(bias) = job.bias {
            let bias = bias[index * PANEL..].as_ptr();
            let bias = [_mm512_loadu_ps(bias), _mm512_loadu_ps(bias.add(16))];
            for sum in &mut sums {
                sum[0] = _mm512_add_ps(sum[0], bias[0]);
                sum[1] = _mm512_add_ps(sum[1], bias[1]);
            }
        }
        for p in 0..pairs {
            let b = panel.as_ptr().add(p * PANEL);
            let b0: __m512bh = std::mem::transmute(_mm512_loadu_si512(b.cast()));
            let b1: __m512bh = std::mem::transmute(_mm512_loadu_si512(b.add(16).cast()));
            for (i, sum) in sums.iter_mut().enumerate() {
                let lanes = _mm512_set1_epi32(*a.get_unchecked(i * pairs + p) as i32);
                let lanes: __m512bh = std::mem::transmute(lanes);
                sum[0] = _mm512_dpbf16_ps(sum[0], lanes, b0);
                sum[1] = _mm512_dpbf16_ps(sum[1], lanes, b1);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            _mm512_mask_storeu_ps(c.add(i * job.columns), low, sum[0]);
            _mm512_mask_storeu_ps(c.wrapping_add(i * job.columns + 16), high, sum[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::cpu::Pool;
    use crate::backend::cpu::matmul::{PackedWeight, linear, linear_backward};
    use crate::backend::cpu::simd::Isa;
    use crate::backend::cpu::test_support::{isas, random};
    use crate::backend::{Dtype, Epilogue};
    use crate::types::Matrix;
    use half::bf16;

    fn round(x: f32) -> f64 {
        f64::from(bf16::from_f32(x).to_f32())
    }

    #[test]
    fn products_equal_the_sum_of_rounded_factors() {
        // Depths of 32 go through the matrix unit where there is one: whole and cut blocks of rows and columns.
        let shapes = [(1, 5, 3), (13, 47, 33), (5, 128, 64), (1, 32, 40), (32, 64, 32), (71, 96, 129)];
        for (isa, (rows, inputs, outputs)) in isas().into_iter().flat_map(|isa| shapes.map(|shape| (isa, shape))) {
            let x = random(rows * inputs, 1);
            let w = Matrix::new(inputs, outputs, random(inputs * outputs, 2));
            let b = random(outputs, 3);
            let packed = PackedWeight::pack(&w, &b, Dtype::Bf16);
            let mut y = vec![f32::NAN; rows * outputs];
            linear(isa, &Pool::default(), &x, &packed, Epilogue::Store, &mut y);
            let dy = random(rows * outputs, 4);
            let mut dx = vec![f32::NAN; rows * inputs];
            linear_backward(isa, &Pool::default(), &dy, &packed, &mut dx);
            for i in 0..rows {
                for j in 0..outputs {
                    let sum: f64 = (0..inputs).map(|p| round(x[i * inputs + p]) * round(w.data[p * outputs + j])).sum();
                    // 1e-5: the factors are exact, only sums of order 10 are rounded to f32.
                    assert!((y[i * outputs + j] as f64 - sum - b[j] as f64).abs() < 1e-5, "{rows}x{inputs}x{outputs}");
                }
                for p in 0..inputs {
                    let sum: f64 =
                        (0..outputs).map(|j| round(dy[i * outputs + j]) * round(w.data[p * outputs + j])).sum();
                    assert!((dx[i * inputs + p] as f64 - sum).abs() < 1e-5, "backward {rows}x{inputs}x{outputs}");
                }
            }
        }
    }

    /// A sweep that goes on where it was stopped has other batches, and the same results. (The `gemm` crate, which other
    /// processors use, adds in an order of its own for every number of rows.)
    #[test]
    fn a_row_alone_has_the_bits_that_it_has_among_others() {
        for isa in isas().into_iter().filter(|isa| *isa != Isa::Portable) {
            for (inputs, outputs) in [(96, 129), (97, 40)] {
                let x = random(71 * inputs, 1);
                let w = Matrix::new(inputs, outputs, random(inputs * outputs, 2));
                let packed = PackedWeight::pack(&w, &random(outputs, 3), Dtype::Bf16);
                let product = |x: &[f32]| {
                    let mut y = vec![f32::NAN; x.len() / inputs * outputs];
                    linear(isa, &Pool::default(), x, &packed, Epilogue::Store, &mut y);
                    y
                };
                let together = product(&x);
                for row in [0, 15, 16, 31, 32, 70] {
                    let alone = product(&x[row * inputs..(row + 1) * inputs]);
                    assert_eq!(alone, together[row * outputs..(row + 1) * outputs], "{isa:?}, row {row}");
                }
            }
        }
    }
}
