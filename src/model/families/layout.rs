//! From the layouts of checkpoint tensors to `(in, out)` matrices.

use crate::model::ModelError;
use crate::types::Matrix;
use rayon::prelude::*;
use std::ops::Range;

/// Side of the square that a transposition moves at a time.
const TILE: usize = 32;

/// Rows of the checkpoint that are converted at a time: they stay in the cache until they are written transposed.
const STRIPE: usize = 256;

/// Columns `columns` of a row-major matrix with `width` columns.
pub(super) fn columns(values: &[f32], width: usize, columns: Range<usize>) -> Matrix {
    let (rows, cols) = (values.len() / width, columns.len());
    let mut out = Matrix::zeros(rows, cols);
    out.data.par_chunks_mut(cols).zip(values.par_chunks(width)).for_each(|(target, source)| {
        target.copy_from_slice(&source[columns.clone()]);
    });
    out
}

/// An (out, in) tensor as (in, out): column `j` is the row `rows[j]` that `read` puts into a buffer, rows of `width`
/// values one after the other.
///
/// Only a stripe of the tensor is ever held in its own layout. A square goes through a small buffer, so that both
/// sides are touched a run of values at a time: columns of a wide matrix lie at multiples of a power of two, where
/// single values would evict each other from the cache.
pub(crate) fn transposed(
    width: usize,
    rows: &[u32],
    mut read: impl FnMut(&[u32], &mut [f32]) -> Result<(), ModelError>,
) -> Result<Matrix, ModelError> {
    let count = rows.len();
    let mut out = Matrix::zeros(width, count);
    let mut stripe = vec![0.0; STRIPE.min(count) * width];
    for (index, rows) in rows.chunks(STRIPE).enumerate() {
        let stripe = &mut stripe[..rows.len() * width];
        read(rows, stripe)?;
        out.data.par_chunks_mut(TILE * count).enumerate().for_each(|(block, target)| {
            scatter(stripe, width, block * TILE, target, count, index * STRIPE);
        });
    }
    Ok(out)
}

/// Writes values `first ..` of every row of `stripe` as columns `start ..` of the lines in `target`.
fn scatter(stripe: &[f32], width: usize, first: usize, target: &mut [f32], count: usize, start: usize) {
    let lines = target.len() / count;
    let mut square = [[0.0; TILE]; TILE];
    for (tile, rows) in stripe.chunks(TILE * width).enumerate() {
        let columns = rows.len() / width;
        for (column, row) in rows.chunks_exact(width).enumerate() {
            for (line, value) in square.iter_mut().zip(&row[first..first + lines]) {
                line[column] = *value;
            }
        }
        let place = start + tile * TILE;
        for (line, square) in target.chunks_exact_mut(count).zip(&square) {
            line[place..place + columns].copy_from_slice(&square[..columns]);
        }
    }
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
        let width = 45;
        let rows: Vec<u32> = (0..600).map(|column| (column * 7 + 1) % 611).collect();
        let value = |row: u32, line: usize| (row as usize * width + line) as f32;
        let out = transposed(width, &rows, |rows, values| {
            for (row, values) in rows.iter().zip(values.chunks_mut(width)) {
                values.iter_mut().enumerate().for_each(|(line, target)| *target = value(*row, line));
            }
            Ok(())
        })
        .unwrap();
        assert_eq!((out.rows, out.cols), (width, 600));
        for line in 0..width {
            for (column, row) in rows.iter().enumerate() {
                assert_eq!(out.row(line)[column], value(*row, line), "line {line}, column {column}");
            }
        }
    }
}
