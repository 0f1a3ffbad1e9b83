//! Subspaces beside each other: the part of one that is parallel or orthogonal to another, and how alike they are.

use crate::types::Matrix;

/// Columns shorter than this share of their original length count as zero: what is left is rounding.
const NOTHING: f64 = 1e-5;

/// Every column of `columns` `(d, k)`, projected on the span of `onto` `(d, j)` (`parallel`) or on its orthogonal
/// complement, scaled to unit length. A column with nothing left becomes zero.
pub fn projected(columns: &Matrix, onto: &Matrix, parallel: bool) -> Matrix {
    let basis = orthonormal(onto);
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

/// How alike two directions or subspaces of one space are. Of two directions, their cosine. Where one of them has more
/// dimensions, the root mean square of the cosines of the principal angles: 1 when the smaller one lies in the other,
/// 0 when they are orthogonal; a sign has no meaning there.
pub fn similarity(a: &Matrix, b: &Matrix) -> f64 {
    let (first, second) = (orthonormal(a), orthonormal(b));
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    if let ([first], [second]) = (&first[..], &second[..]) {
        return dot(first, second);
    }
    // The sum of the squares of all cosines: the squared norm of the product of the two bases.
    let squares: f64 = first.iter().flat_map(|x| second.iter().map(move |y| dot(x, y).powi(2))).sum();
    (squares / first.len().min(second.len()) as f64).sqrt()
}

fn column(matrix: &Matrix, c: usize) -> Vec<f64> {
    (0..matrix.rows).map(|r| f64::from(matrix.data[r * matrix.cols + c])).collect()
}

/// An orthonormal basis of the span of the columns.
pub(super) fn orthonormal(columns: &Matrix) -> Vec<Vec<f64>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for c in 0..columns.cols {
        let vector = column(columns, c);
        let size = length(&vector);
        let rest = orthogonal(vector, &basis);
        if length(&rest) > NOTHING * size {
            basis.push(unit(rest));
        }
    }
    basis
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

    #[test]
    fn similarity_is_a_cosine_and_for_subspaces_that_of_their_angles() {
        let direction = |values: &[f32]| Matrix::new(values.len(), 1, values.to_vec());
        let (x, y) = (direction(&[2.0, 0.0, 0.0]), direction(&[-3.0, 4.0, 0.0]));
        assert!((similarity(&x, &y) + 0.6).abs() < 1e-12 && (similarity(&y, &y) - 1.0).abs() < 1e-12);
        // The plane of the first two axes, whatever its columns.
        let plane = Matrix::new(3, 2, vec![1.0, 1.0, 0.0, 2.0, 0.0, 0.0]);
        assert!((similarity(&plane, &y) - 1.0).abs() < 1e-12);
        assert!((similarity(&plane, &direction(&[3.0, 0.0, 4.0])) - 0.6).abs() < 1e-7);
        assert_eq!(similarity(&direction(&[0.0, 0.0, 1.0]), &plane), 0.0);
        // Turned about the first axis by the angle whose cosine is 0.6: principal cosines 1 and 0.6.
        let turned = Matrix::new(3, 2, vec![1.0, 0.0, 0.0, 0.6, 0.0, 0.8]);
        assert!((similarity(&plane, &turned) - (0.5f64 * (1.0 + 0.36)).sqrt()).abs() < 1e-7);
    }
}
