//! One step of Adam on a packed triangle, with clipping, fused with the gradient that is never written out.
//!
//! One pass reads and writes `T` and its two moments once; each tile of the gradient `L Rᵀ - R Lᵀ` is made in registers
//! from panels of eight columns. Clipping needs the norm before the first entry is touched: it comes from the Gram
//! matrices of `L` and `R`.

use super::CpuTensor;
use super::triangle::{BLOCK, LANES, chunks};
use crate::backend::{AdamState, AdamStep, LowRank, packed_row, packed_side};
use crate::strided::{Strided, multiply_add};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of one task with their parameters and moments.
struct Task<'a> {
    rows: Range<usize>,
    values: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

/// Moves a triangle against a gradient; returns the gradient's Euclidean norm, and moves nothing when that is not finite.
pub fn step(gradient: LowRank<'_, CpuTensor>, step: &AdamStep, state: AdamState<'_, CpuTensor>) -> f64 {
    let (rank, d) = (gradient.rank, packed_side(state.triangle.len()));
    let (left, right) = (&gradient.left[..rank * d], &gradient.right[..rank * d]);
    let norm = norm(left, right, rank, d);
    if !norm.is_finite() {
        return norm;
    }
    let clip = step.clip(norm);
    let (left, right) = (Panels::new(left, rank, d), Panels::new(right, rank, d));
    let AdamState { triangle, first, second } = state;
    let (mut triangle, mut first, mut second) = (&mut triangle[..], &mut first[..], &mut second[..]);
    let chunks = chunks(d);
    let mut tasks = Vec::with_capacity(chunks.len());
    for rows in chunks {
        let count = packed_row(rows.end) - packed_row(rows.start);
        tasks.push(Task {
            rows,
            values: take(&mut triangle, count),
            first: take(&mut first, count),
            second: take(&mut second, count),
        });
    }
    tasks.into_par_iter().for_each(|task| update_rows(task, &left, &right, clip, step));
    norm
}

fn take<'a>(rest: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(count);
    *rest = tail;
    head
}

/// Euclidean norm of the strictly lower triangle of `M = L Rᵀ - R Lᵀ`: half of `‖M‖² = 2 tr(LᵀL RᵀR) - 2 tr((RᵀL)²)`,
/// in f64; not finite when an entry is not.
fn norm(left: &[f32], right: &[f32], rank: usize, d: usize) -> f64 {
    let both: Vec<f64> = left.iter().chain(right).map(|value| f64::from(*value)).collect();
    let both = Strided::new(&both, 2 * rank, d);
    let mut gram = vec![0.0; 4 * rank * rank];
    multiply_add(&mut gram, 2 * rank, 1.0, both, both.transposed());
    let entry = |i: usize, j: usize| gram[i * 2 * rank + j];
    let mut squared = 0.0;
    for i in 0..rank {
        for j in 0..rank {
            squared += entry(i, j) * entry(rank + i, rank + j) - entry(rank + i, j) * entry(rank + j, i);
        }
    }
    // Rounding may leave a zero norm a little below zero; NaN stays.
    if squared < 0.0 { 0.0 } else { squared.sqrt() }
}

/// A `(rank, d)` matrix cut into panels of [`LANES`] columns, each `(rank, LANES)` and contiguous: the rows of the
/// original lie a power of two apart, which the cache does not like.
struct Panels {
    rank: usize,
    data: Vec<[f32; LANES]>,
}

impl Panels {
    fn new(rows: &[f32], rank: usize, d: usize) -> Self {
        let mut data = vec![[0.0; LANES]; d.div_ceil(LANES) * rank];
        for (r, row) in rows.chunks(d).enumerate() {
            for (panel, values) in row.chunks(LANES).enumerate() {
                data[panel * rank + r][..values.len()].copy_from_slice(values);
            }
        }
        Self { rank, data }
    }

    #[inline(always)]
    fn panel(&self, index: usize) -> &[[f32; LANES]] {
        &self.data[index * self.rank..(index + 1) * self.rank]
    }
}

fn update_rows(task: Task, left: &Panels, right: &Panels, clip: f32, step: &AdamStep) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { update_rows_avx2(task, left, right, clip, step) };
    }
    update_rows_body(task, left, right, clip, step);
}

/// The same code, and the same bits, compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn update_rows_avx2(task: Task, left: &Panels, right: &Panels, clip: f32, step: &AdamStep) {
    update_rows_body(task, left, right, clip, step);
}

#[inline(always)]
fn update_rows_body(task: Task, left: &Panels, right: &Panels, clip: f32, step: &AdamStep) {
    let Task { rows, values, first, second } = task;
    let offset = packed_row(rows.start);
    for row in rows.clone().step_by(BLOCK) {
        let count = BLOCK.min(rows.end - row);
        for column in (0..row + count - 1).step_by(LANES) {
            let gradient = gradient_tile(left, right, row, column);
            for (r, gradient) in gradient.iter().enumerate().take(count) {
                let lanes = LANES.min((row + r).saturating_sub(column));
                let start = packed_row(row + r) + column - offset;
                let (values, first) = (&mut values[start..start + lanes], &mut first[start..start + lanes]);
                let second = &mut second[start..start + lanes];
                if lanes == LANES {
                    // The same call with a length the compiler knows.
                    update(gradient, &mut values[..LANES], &mut first[..LANES], &mut second[..LANES], clip, step);
                } else {
                    update(&gradient[..lanes], values, first, second, clip, step);
                }
            }
        }
    }
}

/// Rows `row .. row + BLOCK`, columns `column .. column + LANES` of `L Rᵀ - R Lᵀ`; both starts are multiples.
#[inline(always)]
fn gradient_tile(left: &Panels, right: &Panels, row: usize, column: usize) -> [[f32; LANES]; BLOCK] {
    let (row_panel, within) = (row / LANES, row % LANES);
    let rows = left.panel(row_panel).iter().zip(right.panel(row_panel));
    let columns = left.panel(column / LANES).iter().zip(right.panel(column / LANES));
    let mut tile = [[0.0; LANES]; BLOCK];
    for ((row_left, row_right), (column_left, column_right)) in rows.zip(columns) {
        for r in 0..BLOCK {
            let (a, b) = (row_left[within + r], row_right[within + r]);
            for lane in 0..LANES {
                tile[r][lane] += a * column_right[lane] - b * column_left[lane];
            }
        }
    }
    tile
}

/// Adam's update of a few neighbouring parameters.
#[inline(always)]
fn update(gradient: &[f32], values: &mut [f32], first: &mut [f32], second: &mut [f32], clip: f32, step: &AdamStep) {
    for (((gradient, value), first), second) in gradient.iter().zip(values).zip(first).zip(second) {
        let gradient = gradient * clip;
        *first = step.keep_first * *first + step.add_first * gradient;
        *second = step.keep_second * *second + step.add_second * gradient * gradient;
        *value -= step.rate * *first / (second.sqrt() * step.inverse_correction + step.epsilon);
    }
}
