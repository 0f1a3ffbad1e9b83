//! Products with `A = T - Tᵀ`, `T` a packed strictly lower triangle.
//!
//! Every step of DAS is a few dozen passes over `T` (8 MB at `d_model` 2048), so memory sets its pace: the triangle is
//! stored once, without the other half that skew symmetry implies, and one pass gives both `T x` and `Tᵀ x`.
//! Rows are cut into chunks by size alone and their partial sums are added in chunk order with fixed lanes, so the
//! numbers depend neither on the number of threads nor on the width of the processor's vectors.

use crate::backend::packed_row;
use rayon::prelude::*;
use std::ops::Range;

/// Width of the partial sums. Fixed: it is part of the order of summation.
pub(super) const LANES: usize = 8;

/// Rows that share one pass over the vectors.
pub(super) const BLOCK: usize = 4;

/// Entries of the triangle that one task handles: large enough to hide the cost of a task, small enough for two
/// cores to share a `d_model` of 768.
const CHUNK_ENTRIES: usize = 1 << 15;

/// The strictly lower triangle of a `d x d` matrix.
#[derive(Debug, Clone, Copy)]
pub(super) struct Triangle<'a> {
    /// Side of the square.
    pub d: usize,
    /// The packed values.
    pub values: &'a [f32],
}

/// The rows of each task; every start is a multiple of [`BLOCK`].
pub(super) fn chunks(d: usize) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < d {
        let mut end = start;
        while end < d && packed_row(end) - packed_row(start) < CHUNK_ENTRIES {
            end = (end + BLOCK).min(d);
        }
        chunks.push(start..end);
        start = end;
    }
    chunks
}

impl<'a> Triangle<'a> {
    /// Wraps the `d (d - 1) / 2` packed `values`.
    pub fn new(d: usize, values: &'a [f32]) -> Self {
        assert_eq!(values.len(), packed_row(d), "a packed triangle of side {d}");
        Self { d, values }
    }

    /// `(T - Tᵀ) x` for `columns` vectors; `x` and `out` hold them one after another, `(columns, d)`.
    pub fn skew_product(&self, columns: usize, x: &[f32], out: &mut [f32], scratch: &mut Vec<f32>) {
        let d = self.d;
        for first in (0..columns).step_by(3) {
            let count = (columns - first).min(3);
            let (x, out) = (&x[first * d..(first + count) * d], &mut out[first * d..(first + count) * d]);
            match count {
                1 => self.skew_product_of::<1>(x, out, scratch),
                2 => self.skew_product_of::<2>(x, out, scratch),
                _ => self.skew_product_of::<3>(x, out, scratch),
            }
        }
    }

    fn skew_product_of<const K: usize>(&self, x: &[f32], out: &mut [f32], scratch: &mut Vec<f32>) {
        let (d, chunks) = (self.d, chunks(self.d));
        scratch.clear();
        scratch.resize(chunks.len() * K * d, 0.0);
        let task = |(partial, rows): (&mut [f32], &Range<usize>)| {
            chunk_product::<K>(d, self.values, rows.clone(), x, partial);
        };
        if chunks.len() == 1 {
            task((scratch, &chunks[0]));
        } else {
            scratch.par_chunks_mut(K * d).zip(&chunks).for_each(task);
        }
        out.fill(0.0);
        for (partial, rows) in scratch.chunks(K * d).zip(&chunks) {
            for (out, partial) in out.chunks_mut(d).zip(partial.chunks(d)) {
                for (sum, value) in out[..rows.end].iter_mut().zip(partial) {
                    *sum += value;
                }
            }
        }
    }
}

/// What the rows `rows` contribute to `(T - Tᵀ) x`, added to `y`; both are `(K, d)`.
fn chunk_product<const K: usize>(d: usize, values: &[f32], rows: Range<usize>, x: &[f32], y: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { chunk_product_avx2::<K>(d, values, rows, x, y) };
    }
    chunk_product_body::<K>(d, values, rows, x, y);
}

/// The same code compiled for AVX2. Products and sums stay apart (no fused multiply-add): the same bits everywhere.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn chunk_product_avx2<const K: usize>(d: usize, values: &[f32], rows: Range<usize>, x: &[f32], y: &mut [f32]) {
    chunk_product_body::<K>(d, values, rows, x, y);
}

#[inline(always)]
fn chunk_product_body<const K: usize>(d: usize, values: &[f32], rows: Range<usize>, x: &[f32], y: &mut [f32]) {
    let whole = rows.len() / BLOCK * BLOCK;
    for row in rows.clone().take(whole).step_by(BLOCK) {
        let block = std::array::from_fn(|r| &values[packed_row(row + r)..packed_row(row + r + 1)]);
        block_product::<K, BLOCK>(d, row, block, x, y);
    }
    for row in rows.skip(whole) {
        block_product::<K, 1>(d, row, [&values[packed_row(row)..packed_row(row + 1)]], x, y);
    }
}

/// `R` consecutive rows from `row`: a dot product each with `x`, and their multiples subtracted from `y`.
#[inline(always)]
fn block_product<const K: usize, const R: usize>(d: usize, row: usize, block: [&[f32]; R], x: &[f32], y: &mut [f32]) {
    let whole = row / LANES * LANES;
    let lanes = block.map(|entries| entries[..whole].as_chunks::<LANES>().0);
    let mut sums = [[0.0; R]; K];
    for (column, sums) in sums.iter_mut().enumerate() {
        let (x, y) = (&x[column * d..(column + 1) * d], &mut y[column * d..(column + 1) * d]);
        let pivots: [f32; R] = std::array::from_fn(|r| x[row + r]);
        *sums = lanes_product(lanes, &x[..whole], &mut y[..whole], pivots);
        for r in 0..R {
            for j in whole..row + r {
                sums[r] += block[r][j] * x[j];
                y[j] -= block[r][j] * pivots[r];
            }
            y[row + r] += sums[r];
        }
    }
}

/// The part of [`block_product`] that all rows share and whole lanes cover; returns the dot products.
#[inline(always)]
fn lanes_product<const R: usize>(lanes: [&[[f32; LANES]]; R], x: &[f32], y: &mut [f32], pivots: [f32; R]) -> [f32; R] {
    let mut sums = [[0.0; LANES]; R];
    let (x, y) = (x.as_chunks::<LANES>().0, y.as_chunks_mut::<LANES>().0);
    let lanes = lanes.map(|entries| &entries[..x.len()]);
    for (index, (x, y)) in x.iter().zip(y).enumerate() {
        for r in 0..R {
            let entries = lanes[r][index];
            for lane in 0..LANES {
                sums[r][lane] += entries[lane] * x[lane];
                y[lane] -= entries[lane] * pivots[r];
            }
        }
    }
    sums.map(|sum| ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed sequence in (-1, 1).
    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i as f32 * 12.9898).sin() * 43758.547).fract()).collect()
    }

    #[test]
    fn product_equals_the_dense_one() {
        for (d, columns) in [(1, 1), (2, 2), (20, 1), (65, 3), (130, 4), (300, 2)] {
            let lower = values(packed_row(d));
            let triangle = Triangle::new(d, &lower);
            let x = values(columns * d);
            let mut out = vec![f32::NAN; columns * d];
            triangle.skew_product(columns, &x, &mut out, &mut Vec::new());
            for column in 0..columns {
                for i in 0..d {
                    let row = |j: usize| match j.cmp(&i) {
                        std::cmp::Ordering::Less => lower[packed_row(i) + j],
                        std::cmp::Ordering::Equal => 0.0,
                        std::cmp::Ordering::Greater => -lower[packed_row(j) + i],
                    };
                    let exact: f64 = (0..d).map(|j| f64::from(row(j)) * f64::from(x[column * d + j])).sum();
                    // Sums of up to 300 terms below 1 in f32: 300 * 6e-8, far from the size of a wrong term.
                    assert!((f64::from(out[column * d + i]) - exact).abs() < 2e-5, "d {d} column {column} row {i}");
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let d = 400;
        let lower = values(packed_row(d));
        let triangle = Triangle::new(d, &lower);
        assert!(chunks(d).len() > 2);
        let x = values(d);
        let run = |threads: usize| {
            let mut out = vec![0.0; d];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| triangle.skew_product(1, &x, &mut out, &mut Vec::new()));
            out
        };
        assert_eq!(run(1), run(3));
    }
}
