//! Adam on the triangle, with clipping, fused with the gradient that is never written out.
//!
//! One pass reads and writes `T` and its two moments once; each tile of the gradient `L Rᵀ - R Lᵀ` is made in registers
//! from panels of eight columns. Clipping needs the norm before the first entry is touched: it comes from the Gram
//! matrices of `L` and `R`.

use super::exponential::LowRank;
use super::triangle::{BLOCK, LANES, Triangle, row_start};
use crate::directions::linalg::{Strided, multiply_add};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Adam (Kingma and Ba 2015) without weight decay, and the largest gradient norm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdamSettings {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f64,
    /// A longer gradient is scaled down to this Euclidean norm.
    pub max_gradient_norm: f64,
}

impl Default for AdamSettings {
    /// The paper's: rate 1e-3, betas 0.9 and 0.999, epsilon 1e-8, norm 1.
    fn default() -> Self {
        Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_gradient_norm: 1.0 }
    }
}

/// The optimiser's state.
#[derive(Debug, Clone)]
pub(super) struct Adam {
    settings: AdamSettings,
    steps: i32,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// One step's constants.
#[derive(Clone, Copy)]
struct Step {
    clip: f32,
    keep_first: f32,
    keep_second: f32,
    add_first: f32,
    add_second: f32,
    inverse_correction: f32,
    epsilon: f32,
    rate: f32,
}

/// Rows of one task with their parameters and moments.
struct Task<'a> {
    rows: Range<usize>,
    values: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
}

impl Adam {
    pub fn new(settings: AdamSettings, parameters: usize) -> Self {
        Self { settings, steps: 0, first: vec![0.0; parameters], second: vec![0.0; parameters] }
    }

    /// Moves `triangle` against the gradient, whose Euclidean norm is `norm`.
    pub fn step(&mut self, triangle: &mut Triangle, gradient: &LowRank, norm: f64) {
        let step = self.next_step(norm);
        let left = Panels::new(&gradient.left, gradient.rank, triangle.d);
        let right = Panels::new(&gradient.right, gradient.rank, triangle.d);
        let mut tasks = Vec::with_capacity(triangle.chunks.len());
        let (mut values, mut first, mut second) = (&mut triangle.values[..], &mut self.first[..], &mut self.second[..]);
        for rows in &triangle.chunks {
            let count = row_start(rows.end) - row_start(rows.start);
            tasks.push(Task {
                rows: rows.clone(),
                values: take(&mut values, count),
                first: take(&mut first, count),
                second: take(&mut second, count),
            });
        }
        tasks.into_par_iter().for_each(|task| update_rows(task, &left, &right, step));
    }

    /// Counts the step and derives its constants, as PyTorch's Adam and `clip_grad_norm_` do.
    fn next_step(&mut self, norm: f64) -> Step {
        let AdamSettings { learning_rate, beta1, beta2, epsilon, max_gradient_norm } = self.settings;
        self.steps += 1;
        Step {
            clip: (max_gradient_norm / (norm + 1e-6)).min(1.0) as f32,
            keep_first: beta1 as f32,
            keep_second: beta2 as f32,
            add_first: (1.0 - beta1) as f32,
            add_second: (1.0 - beta2) as f32,
            inverse_correction: (1.0 / (1.0 - beta2.powi(self.steps)).sqrt()) as f32,
            epsilon: epsilon as f32,
            rate: (learning_rate / (1.0 - beta1.powi(self.steps))) as f32,
        }
    }
}

fn take<'a>(rest: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    let (head, tail) = std::mem::take(rest).split_at_mut(count);
    *rest = tail;
    head
}

impl LowRank {
    /// Euclidean norm of the strictly lower triangle of `M = L Rᵀ - R Lᵀ`: half of
    /// `‖M‖² = 2 tr(LᵀL RᵀR) - 2 tr((RᵀL)²)`, in f64.
    pub fn norm(&self, d: usize) -> f64 {
        let rank = self.rank;
        let both: Vec<f64> = self.left.iter().chain(&self.right).map(|value| f64::from(*value)).collect();
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
        squared.max(0.0).sqrt()
    }
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

fn update_rows(task: Task, left: &Panels, right: &Panels, step: Step) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { update_rows_avx2(task, left, right, step) };
    }
    update_rows_body(task, left, right, step);
}

/// The same code, and the same bits, compiled for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn update_rows_avx2(task: Task, left: &Panels, right: &Panels, step: Step) {
    update_rows_body(task, left, right, step);
}

#[inline(always)]
fn update_rows_body(task: Task, left: &Panels, right: &Panels, step: Step) {
    let Task { rows, values, first, second } = task;
    let offset = row_start(rows.start);
    for row in rows.clone().step_by(BLOCK) {
        let count = BLOCK.min(rows.end - row);
        for column in (0..row + count - 1).step_by(LANES) {
            let gradient = gradient_tile(left, right, row, column);
            for (r, gradient) in gradient.iter().enumerate().take(count) {
                let lanes = LANES.min((row + r).saturating_sub(column));
                let start = row_start(row + r) + column - offset;
                let (values, first) = (&mut values[start..start + lanes], &mut first[start..start + lanes]);
                let second = &mut second[start..start + lanes];
                if lanes == LANES {
                    // The same call with a length the compiler knows.
                    update(gradient, &mut values[..LANES], &mut first[..LANES], &mut second[..LANES], step);
                } else {
                    update(&gradient[..lanes], values, first, second, step);
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
fn update(gradient: &[f32], values: &mut [f32], first: &mut [f32], second: &mut [f32], step: Step) {
    for (((gradient, value), first), second) in gradient.iter().zip(values).zip(first).zip(second) {
        let gradient = gradient * step.clip;
        *first = step.keep_first * *first + step.add_first * gradient;
        *second = step.keep_second * *second + step.add_second * gradient * gradient;
        *value -= step.rate * *first / (second.sqrt() * step.inverse_correction + step.epsilon);
    }
}
