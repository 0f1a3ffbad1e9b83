//! Causal attention over ragged rows, one task per row and head.
//!
//! A task packs its keys and values into panels once and then takes its queries twelve at a time through the same tile
//! as every other product, so short rows (a prompt) and long ones (a text) run near the processor's rate, and the
//! scores of only twelve queries exist at any moment.

use super::SharedPointer;
use super::layer_norm::lane_sum;
use super::pool::{CpuTensor, Pool};
use super::simd::{Isa, exp, multiversion};
use super::tile::{PANEL, Start, TILE_ROWS, Tile, multiply};
use crate::backend::{AttentionRow, Heads, KeyValues};
use rayon::prelude::*;
use std::ops::Range;

/// What one (row, head) task works on.
struct Task<'a> {
    isa: Isa,
    row: AttentionRow,
    head: usize,
    heads: Heads,
    own: &'a [f32],
    prefix: &'a [f32],
}

/// Which half of a key-value row.
#[derive(Clone, Copy)]
enum Part {
    Keys,
    Values,
}

impl<'a> Task<'a> {
    /// The key or value vector at `position`.
    fn vector(&self, part: Part, position: usize) -> &'a [f32] {
        let (source, row) = if position < self.row.n_prefix {
            (self.prefix, self.row.prefix_start + position)
        } else {
            (self.own, self.row.key_start + position - self.row.n_prefix)
        };
        &source[row * self.heads.kv_stride() + self.kv_column(part)..][..self.heads.width]
    }

    /// Where this head's keys or values stand in a row of them.
    fn kv_column(&self, part: Part) -> usize {
        let kv_head = self.head / (self.heads.count / self.heads.kv_count);
        let first = if matches!(part, Part::Values) { self.heads.kv_count } else { 0 };
        (first + kv_head) * self.heads.width
    }

    /// The keys that query `index` sees.
    fn seen(&self, index: usize) -> Range<usize> {
        let end = self.row.visible(index);
        self.heads.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Panels of 32 positions, `[panel][dimension][32]`: for products over a head's dimensions.
    fn pack_positions(&self, part: Part, pool: &Pool) -> CpuTensor {
        let keys = self.row.total_keys();
        let width = self.heads.width;
        let mut panels = pool.take(keys.next_multiple_of(PANEL) * width);
        panels.fill(0.0);
        for position in 0..keys {
            let panel = &mut panels[position / PANEL * width * PANEL..][..width * PANEL];
            for (out, &value) in panel[position % PANEL..].iter_mut().step_by(PANEL).zip(self.vector(part, position)) {
                *out = value;
            }
        }
        panels
    }

    /// Panels of 32 dimensions, `[panel][position][32]`: for products over positions.
    fn pack_dimensions(&self, part: Part, pool: &Pool) -> CpuTensor {
        let keys = self.row.total_keys();
        let mut panels = pool.take(self.heads.width.next_multiple_of(PANEL) * keys);
        panels.fill(0.0);
        for position in 0..keys {
            for (p, values) in self.vector(part, position).chunks(PANEL).enumerate() {
                panels[(p * keys + position) * PANEL..][..values.len()].copy_from_slice(values);
            }
        }
        panels
    }

    #[allow(clippy::too_many_arguments)]
    /// `out[m, keys] = a[m, width] · panelsᵀ` for the first `keys` positions; rows of `out` are `ldc` apart.
    fn times_positions(
        &self,
        a: &[f32],
        lda: usize,
        m: usize,
        panels: &[f32],
        keys: usize,
        out: &mut [f32],
        ldc: usize,
    ) {
        let width = self.heads.width;
        debug_assert!(a.len() >= (m - 1) * lda + width && out.len() >= (m - 1) * ldc + keys);
        for (p, panel) in panels.chunks_exact(width * PANEL).take(keys.div_ceil(PANEL)).enumerate() {
            let start = Start { load: false, bias: std::ptr::null() };
            // SAFETY: shapes were checked above; the panel holds `width` rows of 32.
            unsafe {
                let c = out.as_mut_ptr().add(p * PANEL);
                let n = PANEL.min(keys - p * PANEL);
                multiply(self.isa, &Tile { m, n, k: width, a: a.as_ptr(), lda, panel: panel.as_ptr(), c, ldc, start });
            }
        }
    }

    /// `out[m, width] = a[m, keys] · panels`, written straight to rows `d_attn` apart.
    ///
    /// # Safety
    /// `out` must be valid for `m` rows, `d_attn` apart, of `width` values that no other task touches.
    unsafe fn times_dimensions(&self, a: &[f32], lda: usize, m: usize, panels: &[f32], keys: usize, out: *mut f32) {
        let total = self.row.total_keys();
        let ldc = self.heads.count * self.heads.width;
        debug_assert!(a.len() >= (m - 1) * lda + keys);
        for (p, panel) in panels.chunks_exact(total * PANEL).enumerate() {
            let start = Start { load: false, bias: std::ptr::null() };
            // SAFETY: by the caller's promise; the panel holds `total >= keys` rows of 32.
            unsafe {
                let c = out.add(p * PANEL);
                let n = PANEL.min(self.heads.width - p * PANEL);
                multiply(self.isa, &Tile { m, n, k: keys, a: a.as_ptr(), lda, panel: panel.as_ptr(), c, ldc, start });
            }
        }
    }

    /// Where this head's part of query `index` starts in a `(T_q, count * width)` matrix.
    fn query_offset(&self, index: usize) -> usize {
        ((self.row.query_start + index) * self.heads.count + self.head) * self.heads.width
    }

    /// Scaled scores of `m` queries from `first` on, `(m, ld)`; returns how many keys the last one sees.
    fn scores(&self, q: &[f32], first: usize, m: usize, keys: &[f32], out: &mut [f32], ld: usize) -> usize {
        let visible = self.row.visible(first + m - 1);
        let lda = self.heads.count * self.heads.width;
        self.times_positions(&q[self.query_offset(first)..], lda, m, keys, visible, out, ld);
        visible
    }
}

/// The part of a row that its query sees; the rest becomes zero.
#[inline(always)]
fn only(row: &mut [f32], seen: Range<usize>) -> &mut [f32] {
    row[..seen.start].fill(0.0);
    row[seen.end..].fill(0.0);
    &mut row[seen]
}

#[inline(always)]
fn softmax_body<const FMA: bool>(row: &mut [f32], seen: Range<usize>, scale: f32, log_sum_exp: &mut f32) {
    let seen = only(row, seen);
    let largest = seen.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for v in seen.iter_mut() {
        *v = exp::<FMA>((*v - largest) * scale);
    }
    let sum = lane_sum(seen, |_, v| v);
    let factor = 1.0 / sum;
    seen.iter_mut().for_each(|v| *v *= factor);
    *log_sum_exp = largest * scale + sum.ln();
}

multiversion! {
    /// Probabilities of the keys `seen`, zero elsewhere.
    fn softmax(row: &mut [f32], seen: Range<usize>, scale: f32, log_sum_exp: &mut f32) softmax_body
}

fn tasks<'a>(
    isa: Isa,
    kv: KeyValues<'a, CpuTensor>,
    rows: &'a [AttentionRow],
    heads: Heads,
) -> impl IndexedParallelIterator<Item = Task<'a>> {
    let (own, prefix): (&[f32], &[f32]) = (kv.own, kv.prefix.map_or(&[], |prefix| prefix));
    (0..rows.len() * heads.count).into_par_iter().map(move |i| Task {
        isa,
        row: rows[i / heads.count],
        head: i % heads.count,
        heads,
        own,
        prefix,
    })
}

/// Blocks of up to twelve queries: (first, number).
fn blocks(n_queries: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n_queries).step_by(TILE_ROWS).map(move |first| (first, TILE_ROWS.min(n_queries - first)))
}

/// `z = softmax(scale q kᵀ) v`; see [`crate::backend::Backend::attention`].
#[allow(clippy::too_many_arguments)]
pub fn attention(
    isa: Isa,
    pool: &Pool,
    q: &[f32],
    kv: KeyValues<'_, CpuTensor>,
    rows: &[AttentionRow],
    heads: Heads,
    z: &mut [f32],
    log_sum_exp: Option<&mut [f32]>,
) {
    let z = SharedPointer(z.as_mut_ptr());
    let log_sum_exp = log_sum_exp.map(|values| SharedPointer(values.as_mut_ptr()));
    tasks(isa, kv, rows, heads).for_each(|task| {
        let keys = task.pack_positions(Part::Keys, pool);
        let values = task.pack_dimensions(Part::Values, pool);
        let ld = task.row.total_keys();
        let mut scores = pool.take(TILE_ROWS * ld);
        for (first, m) in blocks(task.row.n_queries) {
            let visible = task.scores(q, first, m, &keys, &mut scores, ld);
            for (i, row) in scores.chunks_exact_mut(ld).take(m).enumerate() {
                let mut total = 0.0;
                softmax(isa, &mut row[..visible], task.seen(first + i), heads.scale, &mut total);
                if let Some(out) = log_sum_exp {
                    // SAFETY: one value per query and head, written by this task alone.
                    unsafe { *out.get().add((task.row.query_start + first + i) * heads.count + task.head) = total };
                }
            }
            // SAFETY: this task alone writes its head's columns of its queries.
            unsafe { task.times_dimensions(&scores, ld, m, &values, visible, z.get().add(task.query_offset(first))) };
        }
    });
}

/// The probabilities themselves, `(count, n_queries, total_keys)` per row at its `pattern_start`.
pub fn attention_pattern(
    isa: Isa,
    pool: &Pool,
    q: &[f32],
    kv: KeyValues<'_, CpuTensor>,
    rows: &[AttentionRow],
    heads: Heads,
    pattern: &mut [f32],
) {
    let pattern = SharedPointer(pattern.as_mut_ptr());
    tasks(isa, kv, rows, heads).for_each(|task| {
        let keys = task.pack_positions(Part::Keys, pool);
        let ld = task.row.total_keys();
        let start = task.row.pattern_start + task.head * task.row.n_queries * ld;
        // SAFETY: this task alone writes its head's pattern.
        let out = unsafe { std::slice::from_raw_parts_mut(pattern.get().add(start), task.row.n_queries * ld) };
        for (first, m) in blocks(task.row.n_queries) {
            let block = &mut out[first * ld..(first + m) * ld];
            task.scores(q, first, m, &keys, block, ld);
            for (i, row) in block.chunks_exact_mut(ld).enumerate() {
                softmax(isa, row, task.seen(first + i), heads.scale, &mut 0.0);
            }
        }
    });
}

/// `z = pattern v`.
pub fn apply_pattern(
    isa: Isa,
    pool: &Pool,
    pattern: &[f32],
    kv: KeyValues<'_, CpuTensor>,
    rows: &[AttentionRow],
    heads: Heads,
    z: &mut [f32],
) {
    let z = SharedPointer(z.as_mut_ptr());
    tasks(isa, kv, rows, heads).for_each(|task| {
        let values = task.pack_dimensions(Part::Values, pool);
        let ld = task.row.total_keys();
        let start = task.row.pattern_start + task.head * task.row.n_queries * ld;
        let pattern = &pattern[start..][..task.row.n_queries * ld];
        for (first, m) in blocks(task.row.n_queries) {
            // SAFETY: this task alone writes its head's columns of its queries.
            unsafe {
                let out = z.get().add(task.query_offset(first));
                task.times_dimensions(&pattern[first * ld..], ld, m, &values, ld, out);
            }
        }
    });
}

/// One query's share of the gradient to keys and values, and its score gradients.
struct QueryGradient<'a> {
    /// Probabilities on entry; score gradients (scaled) on return.
    scores: &'a mut [f32],
    /// Gradient to the probabilities.
    d_pattern: &'a [f32],
    q: &'a [f32],
    dz: &'a [f32],
    scale: f32,
    /// Keys in front of the batch's own: constants without a gradient.
    n_prefix: usize,
    /// `(own keys, width)`.
    dk: &'a mut [f32],
    /// `(own keys, width)`.
    dv: &'a mut [f32],
}

#[inline(always)]
fn query_gradient_body<const FMA: bool>(part: QueryGradient<'_>) {
    let QueryGradient { scores, d_pattern, q, dz, scale, n_prefix, dk, dv } = part;
    let width = q.len();
    for ((dv, &p), _) in
        dv.chunks_exact_mut(width).zip(scores.iter().skip(n_prefix)).zip(d_pattern.iter().skip(n_prefix))
    {
        for (out, &g) in dv.iter_mut().zip(dz) {
            *out += p * g;
        }
    }
    let mean = lane_sum(scores, |j, p| p * d_pattern[j]);
    for (s, &d) in scores.iter_mut().zip(d_pattern) {
        *s *= (d - mean) * scale;
    }
    for (dk, &s) in dk.chunks_exact_mut(width).zip(scores.iter().skip(n_prefix)) {
        for (out, &q) in dk.iter_mut().zip(q) {
            *out += s * q;
        }
    }
}

multiversion! {
    fn query_gradient(part: QueryGradient<'_>) query_gradient_body
}

#[inline(always)]
fn probabilities_body<const FMA: bool>(row: &mut [f32], seen: Range<usize>, scale: f32, log_sum_exp: f32) {
    only(row, seen).iter_mut().for_each(|v| *v = exp::<FMA>(*v * scale - log_sum_exp));
}

multiversion! {
    fn probabilities(row: &mut [f32], seen: Range<usize>, scale: f32, log_sum_exp: f32) probabilities_body
}

/// Gradient to the queries and to the batch's own keys and values; see [`crate::backend::Backend::attention_backward`].
///
/// A task owns a key-value head, so that the query heads that share it add to its gradient in a fixed order.
#[allow(clippy::too_many_arguments)]
pub fn attention_backward(
    isa: Isa,
    pool: &Pool,
    q: &[f32],
    kv: KeyValues<'_, CpuTensor>,
    rows: &[AttentionRow],
    heads: Heads,
    log_sum_exp: &[f32],
    dz: &[f32],
    dq: &mut [f32],
    dkv: &mut [f32],
) {
    let (dq, dkv) = (SharedPointer(dq.as_mut_ptr()), SharedPointer(dkv.as_mut_ptr()));
    let sharing = heads.count / heads.kv_count;
    tasks(isa, kv, rows, heads).filter(|task| task.head.is_multiple_of(sharing)).for_each(|mut task| {
        let packed = BackwardPanels {
            keys: task.pack_positions(Part::Keys, pool),
            keys_by_dimension: task.pack_dimensions(Part::Keys, pool),
            values: task.pack_positions(Part::Values, pool),
        };
        let mut gradient = pool.take(2 * task.row.n_keys * heads.width);
        gradient.fill(0.0);
        let (dk, dv) = gradient.split_at_mut(task.row.n_keys * heads.width);
        for head in task.head..task.head + sharing {
            task.head = head;
            // SAFETY: this task alone handles this head.
            unsafe { head_backward(&task, pool, &packed, q, log_sum_exp, dz, dq, dk, dv) };
        }
        for position in 0..task.row.n_keys {
            let row = (task.row.key_start + position) * heads.kv_stride();
            for (part, values) in [(Part::Keys, &*dk), (Part::Values, &*dv)] {
                let values = &values[position * heads.width..][..heads.width];
                // SAFETY: this task alone writes its head's columns of its keys and values.
                unsafe {
                    let out = dkv.get().add(row + task.kv_column(part));
                    std::ptr::copy_nonoverlapping(values.as_ptr(), out, heads.width);
                }
            }
        }
    });
}

/// A key-value head's keys and values in the panels that its gradient needs.
struct BackwardPanels {
    keys: CpuTensor,
    keys_by_dimension: CpuTensor,
    values: CpuTensor,
}

/// One query head's gradient: writes `dq`, adds to `dk` and `dv`, `(own keys, width)` each.
///
/// # Safety
/// `dq` must be valid for the rows of all queries, and no other thread may write this head's columns of it.
#[allow(clippy::too_many_arguments)]
unsafe fn head_backward(
    task: &Task<'_>,
    pool: &Pool,
    packed: &BackwardPanels,
    q: &[f32],
    log_sum_exp: &[f32],
    dz: &[f32],
    dq: SharedPointer,
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let (isa, heads, ld) = (task.isa, task.heads, task.row.total_keys());
    let mut scores = pool.take(TILE_ROWS * ld);
    let mut d_pattern = pool.take(TILE_ROWS * ld);
    for (first, m) in blocks(task.row.n_queries) {
        let visible = task.scores(q, first, m, &packed.keys, &mut scores, ld);
        let dz_block = &dz[task.query_offset(first)..];
        task.times_positions(dz_block, heads.count * heads.width, m, &packed.values, visible, &mut d_pattern, ld);
        for i in 0..m {
            let row = &mut scores[i * ld..][..visible];
            let at = (task.row.query_start + first + i) * heads.count + task.head;
            probabilities(isa, row, task.seen(first + i), heads.scale, log_sum_exp[at]);
            let part = QueryGradient {
                scores: row,
                d_pattern: &d_pattern[i * ld..][..visible],
                q: &q[task.query_offset(first + i)..][..heads.width],
                dz: &dz[task.query_offset(first + i)..][..heads.width],
                scale: heads.scale,
                n_prefix: task.row.n_prefix,
                dk: &mut *dk,
                dv: &mut *dv,
            };
            query_gradient(isa, part);
        }
        // SAFETY: by the caller's promise.
        unsafe {
            let out = dq.get().add(task.query_offset(first));
            task.times_dimensions(&scores, ld, m, &packed.keys_by_dimension, visible, out);
        }
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
