//! The part of a subspace parallel or orthogonal to another one.

use crate::types::Matrix;

/// Columns shorter than this share of their original length count as zero: what is left is rounding.
const NOTHING: f64 = 1e-5;

/// Every column of `columns` `(d, k)`, projected on the span of `onto` `(d, j)` (`parallel`) or on its orthogonal
/// complement, scaled to unit length. A column with nothing left becomes zero.
pub fn projected(columns: &Matrix, onto: &Matrix, parallel: bool) -> Matrix {
    let column =
        |m: &Matrix, c: usize| -> Vec<f64> { (0..m.rows).map(|r| f64::from(m.data[r * m.cols + c])).collect() };
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for c in 0..onto.cols {
        let vector = column(onto, c);
        let size = length(&vector);
        let rest = orthogonal(vector, &basis);
        if length(&rest) > NOTHING * size {
            basis.push(unit(rest));
        }
    }
    let mut result = Matrix::zeros(columns.rows, columns.cols);
    for c in 0..columns.cols {
        let vector = column(columns, c);
        let rest = orthogonal(vector.clone(), &basis);
        let part = if parallel { vector.iter().zip(&rest).map(|(v, r)| v - r).collect() } else { rest };
        if length(&part) > NOTHING * length(&vector) {
            for (r, value) in unit(part).into_iter().enumerate() {
                result.data[r * columns.cols + c] = value as f32;
            }
        }
    }
    result
}

fn length(vector: &[f64]) -> f64 {
    vector.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn unit(vector: Vec<f64>) -> Vec<f64> {
    let length = length(&vector);
    vector.into_iter().map(|v| v / length).collect()
}

/// What is left of `vector` behind the orthonormal `basis`.
fn orthogonal(mut vector: Vec<f64>, basis: &[Vec<f64>]) -> Vec<f64> {
    for b in basis {
        let along: f64 = vector.iter().zip(b).map(|(v, b)| v * b).sum();
        vector.iter_mut().zip(b).for_each(|(v, b)| *v -= along * b);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_unit_and_add_up_to_the_direction() {
        let d = Matrix::new(3, 1, vec![3.0, 4.0, 12.0]);
        let plane = Matrix::new(3, 2, vec![1.0, 1.0, 0.0, 2.0, 0.0, 0.0]);
        assert_eq!(projected(&d, &plane, true).data, [0.6, 0.8, 0.0]);
        assert_eq!(projected(&d, &plane, false).data, [0.0, 0.0, 1.0]);
        let scaled = Matrix::new(3, 1, d.data.iter().map(|v| -2.5 * v).collect());
        assert_eq!(projected(&d, &scaled, false).data, [0.0; 3], "nothing is left of a direction behind itself");
        let own = projected(&d, &scaled, true);
        for (found, expected) in own.data.iter().zip([3.0 / 13.0, 4.0 / 13.0, 12.0 / 13.0]) {
            assert!((found - expected).abs() < 1e-7);
        }
    }
}
