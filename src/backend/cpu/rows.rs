//! Moving and patching rows: gather, scatter, replace, swap along a subspace, add.

use super::SharedPointer;
use super::layer_norm::lane_sum;
use crate::backend::Columns;
use rayon::prelude::*;

/// Items per parallel task.
const ROWS: usize = 32;

/// `y[i] = x[rows[i]]`.
pub fn gather(x: &[f32], width: usize, rows: &[u32], y: &mut [f32]) {
    y.par_chunks_mut(width).with_min_len(ROWS).zip(rows).for_each(|(y, &row)| {
        y.copy_from_slice(&x[row as usize * width..][..width]);
    });
}

/// `y[rows[i]] += x[i]`; no row occurs twice.
pub fn scatter_add(x: &[f32], width: usize, rows: &[u32], y: &mut [f32]) {
    for (x, &row) in x.chunks_exact(width).zip(rows) {
        for (y, &x) in y[row as usize * width..][..width].iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// Calls `edit(i, target columns, source columns)` for every patched row `i`, in parallel.
///
/// A target row occurs once in `target`: the planner puts every patch of a row into its own place.
fn edit_rows(
    x: &mut [f32],
    columns: Columns,
    source: &[f32],
    source_columns: Columns,
    target: &[u32],
    source_rows: &[u32],
    edit: impl Fn(usize, &mut [f32], &[f32]) + Sync,
) {
    let rows = x.len() / columns.stride;
    assert!(target.iter().all(|&row| (row as usize) < rows), "a patched row lies outside the batch");
    let pointer = SharedPointer(x.as_mut_ptr());
    target.par_iter().zip(source_rows).enumerate().with_min_len(ROWS).for_each(|(i, (&target, &from))| {
        // SAFETY: the row exists (checked above) and no other item writes it.
        let out = unsafe {
            let start = pointer.get().add(target as usize * columns.stride + columns.start);
            std::slice::from_raw_parts_mut(start, columns.width)
        };
        let from = &source[from as usize * source_columns.stride + source_columns.start..][..columns.width];
        edit(i, out, from);
    });
}

/// `x[target] = source`.
pub fn replace(
    x: &mut [f32],
    columns: Columns,
    source: &[f32],
    source_columns: Columns,
    target: &[u32],
    source_rows: &[u32],
) {
    edit_rows(x, columns, source, source_columns, target, source_rows, |_, out, from| out.copy_from_slice(from));
}

/// `x[target] += scale * source`.
pub fn add_rows(
    x: &mut [f32],
    columns: Columns,
    source: &[f32],
    source_columns: Columns,
    target: &[u32],
    source_rows: &[u32],
    scale: f32,
) {
    edit_rows(x, columns, source, source_columns, target, source_rows, |_, out, from| {
        for (x, &s) in out.iter_mut().zip(from) {
            *x += scale * s;
        }
    });
}

/// `x[target] += R Rᵀ (source - x)`, `R` the `k` directions of the row's basis.
#[allow(clippy::too_many_arguments)]
pub fn swap(
    x: &mut [f32],
    columns: Columns,
    source: &[f32],
    source_columns: Columns,
    target: &[u32],
    source_rows: &[u32],
    directions: &[f32],
    k: usize,
    basis: &[u32],
) {
    let width = columns.width;
    edit_rows(x, columns, source, source_columns, target, source_rows, |i, out, from| {
        let directions = &directions[basis[i] as usize * k * width..][..k * width];
        // All coefficients are read before the first write: a basis need not be orthogonal.
        let coefficients: Vec<f32> =
            directions.chunks_exact(width).map(|r| lane_sum(r, |j, r| r * (from[j] - out[j]))).collect();
        for (&c, r) in coefficients.iter().zip(directions.chunks_exact(width)) {
            for (x, &r) in out.iter_mut().zip(r) {
                *x += c * r;
            }
        }
    });
}

/// `dR = Σ δ (dyᵀ R) + dy (δᵀ R)`, `δ = source - x`; see [`crate::backend::Backend::patch_swap_backward`].
pub fn swap_backward(
    dy: &[f32],
    x: &[f32],
    source: &[f32],
    rows: [&[u32]; 3],
    basis: &[f32],
    width: usize,
    d_basis: &mut [f32],
) {
    d_basis.fill(0.0);
    let [gradient_rows, base_rows, source_rows] = rows;
    let mut delta = vec![0.0f32; width];
    for ((&g, &b), &s) in gradient_rows.iter().zip(base_rows).zip(source_rows) {
        let dy = &dy[g as usize * width..][..width];
        let (x, source) = (&x[b as usize * width..][..width], &source[s as usize * width..][..width]);
        for ((d, &s), &x) in delta.iter_mut().zip(source).zip(x) {
            *d = s - x;
        }
        for (r, out) in basis.chunks_exact(width).zip(d_basis.chunks_exact_mut(width)) {
            let along_dy = lane_sum(r, |j, r| r * dy[j]);
            let along_delta = lane_sum(r, |j, r| r * delta[j]);
            for ((out, &d), &g) in out.iter_mut().zip(&delta).zip(dy) {
                *out += along_dy * d + along_delta * g;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::test_support::random;

    const WIDE: Columns = Columns { stride: 40, start: 5, width: 20 };
    const SOURCE: Columns = Columns { stride: 23, start: 2, width: 20 };

    fn part(x: &[f32], columns: Columns, row: usize) -> &[f32] {
        &x[row * columns.stride + columns.start..][..columns.width]
    }

    fn untouched(before: &[f32], after: &[f32], targets: &[u32]) {
        for (i, (b, a)) in before.iter().zip(after).enumerate() {
            let (row, column) = (i / 40, i % 40);
            if !(targets.contains(&(row as u32)) && (5..25).contains(&column)) {
                assert_eq!(a, b, "value {i} was not patched");
            }
        }
    }

    #[test]
    fn replace_and_add_write_only_their_columns() {
        let (before, source) = (random(4 * 40, 1), random(3 * 23, 2));
        let (target, from) = ([3, 0], [1, 2]);
        let mut x = before.clone();
        replace(&mut x, WIDE, &source, SOURCE, &target, &from);
        untouched(&before, &x, &target);
        assert_eq!(part(&x, WIDE, 3), part(&source, SOURCE, 1));
        assert_eq!(part(&x, WIDE, 0), part(&source, SOURCE, 2));
        let mut x = before.clone();
        add_rows(&mut x, WIDE, &source, SOURCE, &target, &from, -2.0);
        untouched(&before, &x, &target);
        for j in 0..20 {
            let expected = part(&before, WIDE, 3)[j] - 2.0 * part(&source, SOURCE, 1)[j];
            assert_eq!(part(&x, WIDE, 3)[j], expected);
        }
    }

    #[test]
    fn swap_moves_exactly_the_component_in_the_subspace() {
        let (before, source) = (random(4 * 40, 1), random(3 * 23, 2));
        // Two orthonormal directions: unit vectors, so the result is known to the bit but for one rounding.
        let mut directions = vec![0.0; 2 * 2 * 20];
        directions[40 + 4] = 1.0;
        directions[60 + 7] = 1.0;
        let (target, from) = ([2, 1], [0, 2]);
        let mut x = before.clone();
        swap(&mut x, WIDE, &source, SOURCE, &target, &from, &directions, 2, &[1, 0]);
        untouched(&before, &x, &target);
        for j in 0..20 {
            let expected = if j == 4 || j == 7 { part(&source, SOURCE, 0)[j] } else { part(&before, WIDE, 2)[j] };
            assert!((part(&x, WIDE, 2)[j] - expected).abs() < 1e-6);
        }
        assert_eq!(part(&x, WIDE, 1), part(&before, WIDE, 1), "the zero basis changes nothing");
    }

    #[test]
    fn the_gradient_of_a_swap_matches_difference_quotients() {
        let width = 7;
        let (x, source, dy) = (random(3 * width, 1), random(2 * width, 2), random(4 * width, 3));
        let basis = random(2 * width, 4);
        let rows: [&[u32]; 3] = [&[3, 1], &[0, 2], &[1, 0]];
        let mut found = vec![0.0; 2 * width];
        swap_backward(&dy, &x, &source, rows, &basis, width, &mut found);
        let value = |basis: &[f64]| {
            let mut sum = 0.0;
            for i in 0..2 {
                let at = |m: &[f32], list: &[u32], j: usize| m[list[i] as usize * width + j] as f64;
                for r in basis.chunks(width) {
                    let c: f64 = (0..width).map(|j| r[j] * (at(&source, rows[2], j) - at(&x, rows[1], j))).sum();
                    sum += (0..width).map(|j| c * r[j] * at(&dy, rows[0], j)).sum::<f64>();
                }
            }
            sum
        };
        let basis: Vec<f64> = basis.iter().map(|&v| v as f64).collect();
        for i in 0..basis.len() {
            let (mut up, mut down) = (basis.clone(), basis.clone());
            up[i] += 1e-4;
            down[i] -= 1e-4;
            let quotient = (value(&up) - value(&down)) / 2e-4;
            // 1e-5: f32 sums of order 1; the quotient of a quadratic is exact.
            assert!((found[i] as f64 - quotient).abs() < 1e-5, "{} {quotient}", found[i]);
        }
    }

    #[test]
    fn gather_and_scatter_are_each_others_transpose() {
        let x = random(5 * 3, 1);
        let mut y = vec![0.0; 2 * 3];
        gather(&x, 3, &[4, 1], &mut y);
        assert_eq!(y, [&x[12..15], &x[3..6]].concat());
        let mut back = vec![1.0; 15];
        scatter_add(&y, 3, &[4, 1], &mut back);
        for i in 0..15 {
            let expected = if i >= 12 || (3..6).contains(&i) { 1.0 + x[i] } else { 1.0 };
            assert_eq!(back[i], expected);
        }
    }
}
