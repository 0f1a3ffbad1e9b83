//! From the layouts of checkpoint tensors to `(in, out)` matrices.

use crate::types::Matrix;
use rayon::prelude::*;
use std::ops::Range;

/// Side of the square that a transposition moves at a time: both sides of the copy then stay in the first-level cache.
const TILE: usize = 32;

/// Columns `columns` of a row-major matrix with `width` columns.
pub(super) fn columns(values: &[f32], width: usize, columns: Range<usize>) -> Matrix {
    let (rows, cols) = (values.len() / width, columns.len());
    let mut out = Matrix::zeros(rows, cols);
    out.data.par_chunks_mut(cols).zip(values.par_chunks(width)).for_each(|(target, source)| {
        target.copy_from_slice(&source[columns.clone()]);
    });
    out
}

/// An (out, in) matrix as (in, `count`): column `j` is row `row(j)` of `values`, whose rows have `width` values.
pub(super) fn transposed(values: &[f32], width: usize, count: usize, row: impl Fn(usize) -> usize + Sync) -> Matrix {
    let mut out = Matrix::zeros(width, count);
    out.data.par_chunks_mut(TILE * count).enumerate().for_each(|(block, target)| {
        let first = block * TILE;
        let lines = target.len() / count;
        for start in (0..count).step_by(TILE) {
            for column in start..(start + TILE).min(count) {
                let offset = row(column) * width + first;
                for (line, value) in values[offset..offset + lines].iter().enumerate() {
                    target[line * count + column] = *value;
                }
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_cut_out() {
        let out = columns(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 1..3);
        assert_eq!(out, Matrix::new(2, 2, vec![2.0, 3.0, 5.0, 6.0]));
    }

    #[test]
    fn transposition_takes_rows_in_the_order_asked_for_at_odd_sizes() {
        let (rows, width) = (71, 45);
        let values: Vec<f32> = (0..rows * width).map(|value| value as f32).collect();
        let out = transposed(&values, width, 50, |column| (column * 3 + 1) % rows);
        assert_eq!((out.rows, out.cols), (width, 50));
        for line in 0..width {
            for column in 0..50 {
                assert_eq!(out.row(line)[column], values[((column * 3 + 1) % rows) * width + line]);
            }
        }
    }
}
