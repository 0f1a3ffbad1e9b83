//! Matrix products with weights packed once: `y = x W + b` forward, `dx = dy Wᵀ` backward from the same packing.
//!
//! `W` (in, out) is cut into panels of 32 output columns; a panel holds `in` rows of 32 values. A task owns a group of
//! panels that fits the second-level cache and walks over all rows of `x`, so the weights are read once per batch.
//! The backward product needs panels along the other axis: a task transposes what it needs next of its panels of `Wᵀ` into
//! scratch, which stays in the second-level cache, instead of a second copy of every weight in memory.

use super::activation::activate_slice;
use super::bf16::Pairs;
use super::pool::{CpuTensor, Pool};
use super::simd::Isa;
use super::tile::{PANEL, Start, Tile, multiply, row_tiles};
use super::transpose::{BLOCK, transpose};
use super::values::Values;
use super::{SharedPointer, bf16};
use crate::backend::{Dtype, Epilogue};
use crate::types::{Activation, Matrix};
use rayon::prelude::*;
use std::ops::Range;

/// Depth of one pass over a panel: deep enough that loading and storing `y` hardly counts, while a task's four panels of
/// 32 columns stay in the second-level cache (512 KB of them where AVX-512 is, 192 KB elsewhere).
fn depth_of_pass(isa: Isa) -> usize {
    if isa == Isa::Avx512 { 1024 } else { 384 }
}

/// A packed weight with its bias, padded to whole panels.
pub struct PackedWeight {
    inputs: usize,
    outputs: usize,
    bias: Vec<f32>,
    panels: Panels,
}

enum Panels {
    /// `[panel][input][32]`.
    F32(Values),
    /// `[panel][input / 2][32]` pairs of inputs.
    Bf16(Values),
}

impl PackedWeight {
    /// Packs `weight` (in, out) and `bias` (out).
    pub fn pack(weight: &Matrix, bias: &[f32], dtype: Dtype) -> Self {
        let (inputs, outputs) = (weight.rows, weight.cols);
        let n_panels = outputs.div_ceil(PANEL);
        let mut padded = bias.to_vec();
        padded.resize(n_panels * PANEL, 0.0);
        let panels = match dtype {
            Dtype::Bf16 => Panels::Bf16(bf16::pack(weight)),
            // A backend for the formats of GPUs alone is never made.
            Dtype::F32 | Dtype::Tf32 | Dtype::F16 => {
                let mut values = Values::zeros(n_panels * inputs * PANEL);
                values.par_chunks_mut(inputs * PANEL).enumerate().for_each(|(j, panel)| {
                    let columns = j * PANEL..((j + 1) * PANEL).min(outputs);
                    for (row, out) in panel.chunks_exact_mut(PANEL).enumerate() {
                        out[..columns.len()].copy_from_slice(&weight.row(row)[columns.clone()]);
                    }
                });
                Panels::F32(values)
            }
        };
        Self { inputs, outputs, bias: padded, panels }
    }

    /// Number of inputs and outputs.
    pub fn shape(&self) -> (usize, usize) {
        (self.inputs, self.outputs)
    }
}

/// How many panels one task owns: few enough for every thread to have several tasks, at most 4.
pub(super) fn panels_per_task(n_panels: usize) -> usize {
    (n_panels / (4 * rayon::current_num_threads())).clamp(1, 4)
}

/// `y = epilogue(x W + b)` for `rows` rows.
pub fn linear(
    isa: Isa,
    pool: &Pool,
    x: &[f32],
    weight: &PackedWeight,
    epilogue: Epilogue<'_, CpuTensor>,
    y: &mut [f32],
) {
    let rows = x.len() / weight.inputs;
    debug_assert_eq!(y.len(), rows * weight.outputs);
    let load = matches!(epilogue, Epilogue::Accumulate);
    let (activation, before) = match epilogue {
        Epilogue::Activate(activation, before) => (Some(activation), before),
        _ => (None, None),
    };
    let job = Product {
        isa,
        rows,
        depth: weight.inputs,
        columns: weight.outputs,
        load,
        bias: Some(&weight.bias),
        activation,
        before: before.map(|tensor| SharedPointer(tensor.as_mut_ptr())),
        y: SharedPointer(y.as_mut_ptr()),
    };
    match &weight.panels {
        Panels::F32(values) => {
            let n_panels = weight.outputs.div_ceil(PANEL);
            let per_task = panels_per_task(n_panels);
            (0..n_panels.div_ceil(per_task)).into_par_iter().for_each(|task| {
                let panels = task * per_task..((task + 1) * per_task).min(n_panels);
                job.run(x, panels, |panel| &values[panel * weight.inputs * PANEL..(panel + 1) * weight.inputs * PANEL]);
            });
        }
        Panels::Bf16(pairs) => {
            let packed = bytemuck::cast_slice::<f32, u32>(pairs);
            match bf16::multiplies_pairs(isa) {
                true => bf16::linear(&job, pool, x, &Pairs::Packed(packed)),
                false => bf16::unpacked(&job, pool, x, packed),
            }
        }
    }
}

/// One product's fixed facts; the panels it runs over are a task's own.
pub(super) struct Product<'a> {
    pub(super) isa: Isa,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) columns: usize,
    /// Add to `y` instead of overwriting it.
    pub(super) load: bool,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) activation: Option<Activation>,
    /// Keeps the value before the activation.
    pub(super) before: Option<SharedPointer>,
    pub(super) y: SharedPointer,
}

impl Product<'_> {
    /// Runs one task: every row against `panels`.
    pub(super) fn run<'p>(&self, x: &[f32], panels: Range<usize>, panel_of: impl Fn(usize) -> &'p [f32]) {
        for depths in self.passes() {
            let part = |panel| &panel_of(panel)[depths.start * PANEL..depths.end * PANEL];
            self.pass(x, panels.clone(), depths.clone(), part);
        }
    }

    /// The depths of one pass each, which begin at whole blocks.
    fn passes(&self) -> impl Iterator<Item = Range<usize>> {
        // A single row reads every weight once: cutting the depth would only break the stream.
        let step = if self.rows == 1 { self.depth } else { depth_of_pass(self.isa) };
        let depth = self.depth;
        (0..depth).step_by(step).map(move |first| first..(first + step).min(depth))
    }

    /// One pass of a task: every row against the part of `panels` at these depths.
    fn pass<'p>(&self, x: &[f32], panels: Range<usize>, depths: Range<usize>, part_of: impl Fn(usize) -> &'p [f32]) {
        let first = depths.start == 0;
        for (row, m) in row_tiles(self.isa, self.rows) {
            for panel in panels.clone() {
                let n = PANEL.min(self.columns - panel * PANEL);
                let bias = match self.bias {
                    Some(bias) if first => bias[panel * PANEL..].as_ptr(),
                    _ => std::ptr::null(),
                };
                let values = &part_of(panel)[..depths.len() * PANEL];
                // SAFETY: `y` holds `rows * columns` values and tasks own disjoint panels of it; `x` holds `rows * depth`
                // values; `values` holds a row of 32 for every depth; `bias` is padded to whole panels.
                unsafe {
                    let tile = Tile {
                        m,
                        n,
                        k: depths.len(),
                        a: x.as_ptr().add(row * self.depth + depths.start),
                        lda: self.depth,
                        panel: values.as_ptr(),
                        c: self.y.get().add(row * self.columns + panel * PANEL),
                        ldc: self.columns,
                        start: Start { load: self.load || !first, bias },
                    };
                    multiply(self.isa, &tile);
                    if depths.end == self.depth {
                        self.finish(row, m, panel * PANEL, n);
                    }
                }
            }
        }
    }

    /// Applies the activation to a finished tile while it is still in the first-level cache.
    ///
    /// # Safety
    /// The tile must lie inside `y` (and `before`) and be owned by the calling task.
    pub(super) unsafe fn finish(&self, row: usize, m: usize, column: usize, n: usize) {
        let Some(activation) = self.activation else { return };
        for i in row..row + m {
            // SAFETY: by the caller's promise.
            unsafe {
                let at = i * self.columns + column;
                let values = std::slice::from_raw_parts_mut(self.y.get().add(at), n);
                if let Some(before) = self.before {
                    std::slice::from_raw_parts_mut(before.get().add(at), n).copy_from_slice(values);
                }
                activate_slice(self.isa, activation, values);
            }
        }
    }
}

/// `dx = dy Wᵀ`: `dy` is (rows, out), `dx` is (rows, in).
pub fn linear_backward(isa: Isa, pool: &Pool, dy: &[f32], weight: &PackedWeight, dx: &mut [f32]) {
    let rows = dy.len() / weight.outputs;
    debug_assert_eq!(dx.len(), rows * weight.inputs);
    let job = Product {
        isa,
        rows,
        depth: weight.outputs,
        columns: weight.inputs,
        load: false,
        bias: None,
        activation: None,
        before: None,
        y: SharedPointer(dx.as_mut_ptr()),
    };
    let is_bf16 = matches!(weight.panels, Panels::Bf16(_));
    if is_bf16 && bf16::multiplies_pairs(isa) {
        return bf16::linear(&job, pool, dy, &Pairs::Transposed(weight));
    }
    let rounded = is_bf16.then(|| bf16::rounded(pool, dy));
    let dy = rounded.as_deref().unwrap_or(dy);
    let n_panels = weight.inputs.div_ceil(PANEL);
    let per_task = panels_per_task(n_panels);
    (0..n_panels.div_ceil(per_task)).into_par_iter().for_each(|task| {
        let panels = task * per_task..((task + 1) * per_task).min(n_panels);
        let values = |depths: &Range<usize>| depths.len().next_multiple_of(PANEL) * PANEL;
        // The first pass is the longest.
        let mut scratch = pool.take(panels.len() * job.passes().next().as_ref().map_or(0, values));
        for depths in job.passes() {
            let part = values(&depths);
            for (panel, out) in panels.clone().zip(scratch.chunks_exact_mut(part)) {
                weight.transpose(isa, panel, depths.start, out);
            }
            job.pass(dy, panels.clone(), depths, |panel| &scratch[(panel - panels.start) * part..][..part]);
        }
    });
}

impl PackedWeight {
    /// Writes inputs `32 * panel ..` of outputs `first ..` as a part of a panel of `Wᵀ`: row `n` holds 32 consecutive inputs of
    /// output `first + n`, zeros behind the last input. `first` begins a block.
    fn transpose(&self, isa: Isa, panel: usize, first: usize, out: &mut [f32]) {
        let inputs = panel * PANEL..((panel + 1) * PANEL).min(self.inputs);
        let mut padded = [0.0; BLOCK];
        for (index, block) in out.chunks_exact_mut(BLOCK).enumerate() {
            let rows = match &self.panels {
                Panels::F32(values) => {
                    let at = (first / PANEL + index) * self.inputs;
                    let rows = &values[(at + inputs.start) * PANEL..(at + inputs.end) * PANEL];
                    if rows.len() == BLOCK {
                        rows
                    } else {
                        padded[..rows.len()].copy_from_slice(rows);
                        &padded
                    }
                }
                Panels::Bf16(pairs) => {
                    let at = (first / PANEL + index) * self.inputs.div_ceil(2);
                    let pairs = &pairs[(at + inputs.start / 2) * PANEL..(at + inputs.end.div_ceil(2)) * PANEL];
                    bf16::unpack(isa, bytemuck::cast_slice(pairs), &mut padded);
                    &padded
                }
            };
            transpose(isa, rows, block);
        }
    }

    /// A whole panel of `Wᵀ` as pairs of outputs.
    pub(super) fn transpose_pairs(&self, isa: Isa, panel: usize, out: &mut [u32]) {
        let mut block = [0.0; BLOCK];
        for (index, out) in out.chunks_mut(BLOCK / 2).enumerate() {
            self.transpose(isa, panel, index * PANEL, &mut block);
            bf16::repack(isa, &block, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::test_support::{isas, random};

    fn weight(inputs: usize, outputs: usize) -> (Matrix, Vec<f32>) {
        (Matrix::new(inputs, outputs, random(inputs * outputs, 11)), random(outputs, 12))
    }

    fn reference(x: &[f32], w: &Matrix, b: &[f32]) -> Vec<f64> {
        let rows = x.len() / w.rows;
        let mut y = vec![0.0; rows * w.cols];
        for i in 0..rows {
            for j in 0..w.cols {
                y[i * w.cols + j] = b[j] as f64
                    + (0..w.rows).map(|p| x[i * w.rows + p] as f64 * w.data[p * w.cols + j] as f64).sum::<f64>();
            }
        }
        y
    }

    fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            assert!((*f as f64 - e).abs() < tolerance, "{what}: value {i} is {f}, expected {e}");
        }
    }

    #[test]
    fn products_equal_the_plain_sum() {
        let pool = Pool::default();
        for isa in isas() {
            for (rows, inputs, outputs) in [(1, 5, 3), (7, 48, 33), (13, 400, 100), (25, 769, 65), (2, 1, 1)] {
                let x = random(rows * inputs, 1);
                let (w, b) = weight(inputs, outputs);
                let packed = PackedWeight::pack(&w, &b, Dtype::F32);
                let expected = reference(&x, &w, &b);
                let mut y = vec![f32::NAN; rows * outputs];
                linear(isa, &pool, &x, &packed, Epilogue::Store, &mut y);
                // 5e-5: up to 769 roundings of sums of order 20.
                assert_close(&y, &expected, 5e-5, "store");
                let base = random(rows * outputs, 3);
                let mut y = base.clone();
                linear(isa, &pool, &x, &packed, Epilogue::Accumulate, &mut y);
                let sums: Vec<f64> = expected.iter().zip(&base).map(|(e, b)| e + *b as f64).collect();
                assert_close(&y, &sums, 5e-5, "accumulate");
            }
        }
    }

    #[test]
    fn the_activation_epilogue_keeps_what_it_was_given() {
        let pool = Pool::default();
        for isa in isas() {
            let x = random(5 * 40, 1);
            let (w, b) = weight(40, 70);
            let packed = PackedWeight::pack(&w, &b, Dtype::F32);
            let mut y = vec![0.0; 5 * 70];
            let mut before = pool.take(5 * 70);
            linear(isa, &pool, &x, &packed, Epilogue::Activate(Activation::Relu, Some(&mut before)), &mut y);
            let expected = reference(&x, &w, &b);
            assert_close(&before, &expected, 5e-5, "before");
            let relu: Vec<f64> = expected.iter().map(|v| v.max(0.0)).collect();
            assert_close(&y, &relu, 5e-5, "after");
        }
    }

    #[test]
    fn the_backward_product_is_the_transposed_one() {
        let pool = Pool::default();
        for isa in isas() {
            for (rows, inputs, outputs) in [(1, 5, 3), (7, 48, 33), (13, 100, 400), (3, 65, 31)] {
                let dy = random(rows * outputs, 1);
                let (w, b) = weight(inputs, outputs);
                let packed = PackedWeight::pack(&w, &b, Dtype::F32);
                let transposed = Matrix::new(
                    outputs,
                    inputs,
                    (0..outputs * inputs).map(|i| w.data[(i % inputs) * outputs + i / inputs]).collect(),
                );
                let expected = reference(&dy, &transposed, &vec![0.0; inputs]);
                let mut dx = vec![f32::NAN; rows * inputs];
                linear_backward(isa, &pool, &dy, &packed, &mut dx);
                assert_close(&dx, &expected, 5e-5, "backward");
            }
        }
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        let x = random(37 * 500, 1);
        let (w, b) = weight(500, 300);
        let packed = PackedWeight::pack(&w, &b, Dtype::F32);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut y = vec![0.0; 37 * 300];
            pool.install(|| linear(Isa::detect(), &Pool::default(), &x, &packed, Epilogue::Store, &mut y));
            y
        };
        assert_eq!(run(1), run(5));
    }
}
