//! The little linear algebra that the fits need, in the precision they need.

use crate::strided::{Strided, multiply_add};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// `x · y`.
pub(crate) fn dot(x: &[f64], y: &[f64]) -> f64 {
    // Eight partial sums: the compiler may not reorder a single one into vectors.
    let (heads, tails) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let mut sums = [0.0; 8];
    for (x, y) in heads.0.iter().zip(tails.0) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = heads.1.iter().zip(tails.1).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

/// `y += factor · x`.
pub(crate) fn add_scaled(y: &mut [f64], factor: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
}

/// Replaces the lower triangle of the positive definite `n x n` matrix `a` (row-major) by its Cholesky factor.
/// `false` when `a` is not positive definite.
pub(crate) fn cholesky(a: &mut [f64], n: usize) -> bool {
    const BLOCK: usize = 64;
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        for i in start..n {
            for j in start..end.min(i + 1) {
                let (row_i, row_j) = (&a[i * n + start..i * n + j], &a[j * n + start..j * n + j]);
                let rest = a[i * n + j] - dot(row_i, row_j);
                if i == j && (rest.is_nan() || rest <= 0.0) {
                    return false;
                }
                a[i * n + j] = if i == j { rest.sqrt() } else { rest / a[j * n + j] };
            }
        }
        let panel: Vec<f64> = (end..n).flat_map(|i| a[i * n + start..i * n + end].to_vec()).collect();
        let width = end - start;
        for first in (end..n).step_by(4 * BLOCK) {
            let count = (4 * BLOCK).min(n - first);
            let below = Strided::new(&panel[(first - end) * width..], n - first, width);
            let across = Strided { rows: count, ..below }.transposed();
            multiply_add(&mut a[first * n + first..], n, -1.0, below, across);
        }
    }
    true
}

/// Solves `L Lᵀ x = b` in place, `l` from [`cholesky`].
pub(crate) fn cholesky_solve(l: &[f64], n: usize, b: &mut [f64]) {
    for i in 0..n {
        b[i] = (b[i] - dot(&l[i * n..i * n + i], &b[..i])) / l[i * n + i];
    }
    for i in (0..n).rev() {
        b[i] /= l[i * n + i];
        let (above, value) = b.split_at_mut(i);
        add_scaled(above, -value[0], &l[i * n..i * n + i]);
    }
}

/// Eigenvalues and eigenvectors (rows) of a symmetric `n x n` matrix, largest first, by Jacobi's cyclic rotations.
fn symmetric_eigen(mut a: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let total: f64 = a.iter().map(|value| value * value).sum();
    for _sweep in 0..60 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * n + j].powi(2)).sum();
        if off <= 1e-32 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, n, &mut vectors, p, q);
            }
        }
    }
    let mut pairs: Vec<_> = vectors.into_iter().enumerate().map(|(i, vector)| (a[i * n + i], vector)).collect();
    pairs.sort_by(|x, y| y.0.total_cmp(&x.0));
    pairs
}

/// One Jacobi rotation, which makes `a[p, q]` zero.
fn rotate(a: &mut [f64], n: usize, vectors: &mut [Vec<f64>], p: usize, q: usize) {
    let off = a[p * n + q];
    if off == 0.0 {
        return;
    }
    let ratio = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
    let tangent = ratio.signum() / (ratio.abs() + ratio.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    for i in 0..n {
        let (x, y) = (a[i * n + p], a[i * n + q]);
        (a[i * n + p], a[i * n + q]) = (cosine * x - sine * y, sine * x + cosine * y);
    }
    for i in 0..n {
        let (x, y) = (a[p * n + i], a[q * n + i]);
        (a[p * n + i], a[q * n + i]) = (cosine * x - sine * y, sine * x + cosine * y);
    }
    let (before, from_q) = vectors.split_at_mut(q);
    for (x, y) in before[p].iter_mut().zip(&mut from_q[0]) {
        (*x, *y) = (cosine * *x - sine * *y, sine * *x + cosine * *y);
    }
}

/// The `count` leading right singular vectors (unit, `d` values each) of the row-major `n x d` matrix `x`, largest
/// singular value first; zero vectors where the rank is smaller.
///
/// Lanczos on `XᵀX` with full reorthogonalisation: nothing of size `n x n` or `d x d` is formed, and it stops when the
/// residual of every wanted pair is at f64's rounding.
pub(crate) fn right_singular_vectors(x: &[f64], n: usize, d: usize, count: usize) -> Vec<Vec<f64>> {
    let apply = |v: &[f64]| {
        let mut out = vec![0.0; d];
        x.chunks(d).for_each(|row| add_scaled(&mut out, dot(row, v), row));
        out
    };
    // A random combination of the rows lies in the row space, which is all that matters.
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut start = vec![0.0; d];
    x.chunks(d).for_each(|row| add_scaled(&mut start, random.sample(StandardNormal), row));
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let (mut alphas, mut betas): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut next = start;
    let mut check = count;
    loop {
        let beta = dot(&next, &next).sqrt();
        let scale = alphas.iter().fold(0.0f64, |most, alpha| most.max(*alpha));
        let exhausted = basis.len() == n.min(d) || beta <= 1e-13 * scale || beta == 0.0;
        if exhausted || basis.len() >= check {
            let (vectors, settled) = ritz_vectors(&basis, &alphas, &betas, beta, count);
            if exhausted || settled {
                return vectors.into_iter().chain(std::iter::repeat(vec![0.0; d])).take(count).collect();
            }
            check += (check / 4).max(4);
        }
        if !basis.is_empty() {
            betas.push(beta);
        }
        next.iter_mut().for_each(|value| *value /= beta);
        basis.push(next);
        next = apply(&basis[basis.len() - 1]);
        alphas.push(dot(&next, &basis[basis.len() - 1]));
        // Twice is enough (Kahan).
        for vector in basis.iter().chain(&basis) {
            let along = dot(&next, vector);
            add_scaled(&mut next, -along, vector);
        }
    }
}

/// The leading `count` Ritz vectors, and whether their residuals vanish.
fn ritz_vectors(basis: &[Vec<f64>], alphas: &[f64], betas: &[f64], last: f64, count: usize) -> (Vec<Vec<f64>>, bool) {
    let size = basis.len();
    let mut projected = vec![0.0; size * size];
    for i in 0..size {
        projected[i * size + i] = alphas[i];
        if i + 1 < size {
            projected[i * size + i + 1] = betas[i];
            projected[(i + 1) * size + i] = betas[i];
        }
    }
    let pairs = symmetric_eigen(projected, size);
    let largest = pairs.first().map_or(0.0, |pair| pair.0);
    let leading = &pairs[..count.min(size)];
    let settled = size > count && leading.iter().all(|(_, s)| (last * s[size - 1]).abs() <= 1e-14 * largest);
    let combine = |weights: &Vec<f64>| {
        let mut vector = vec![0.0; basis[0].len()];
        basis.iter().zip(weights).for_each(|(basis, weight)| add_scaled(&mut vector, *weight, basis));
        vector
    };
    (leading.iter().map(|(_, weights)| combine(weights)).collect(), settled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaussian(count: usize, seed: u64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| random.sample(StandardNormal)).collect()
    }

    #[test]
    fn cholesky_solves_what_it_factorises() {
        for n in [1, 5, 64, 65, 400] {
            let x = gaussian(n * n, 1);
            let mut a = vec![0.0; n * n];
            multiply_add(&mut a, n, 1.0, Strided::new(&x, n, n), Strided::new(&x, n, n).transposed());
            (0..n).for_each(|i| a[i * n + i] += 1.0);
            let solution = gaussian(n, 2);
            let mut b: Vec<f64> = (0..n).map(|i| dot(&a[i * n..(i + 1) * n], &solution)).collect();
            assert!(cholesky(&mut a, n));
            cholesky_solve(&a, n, &mut b);
            // The condition number is at most about 4n + 1 = 1601: 1601 * 1e-16 * a growth below 100.
            assert!(b.iter().zip(&solution).all(|(x, y)| (x - y).abs() < 1e-10), "n {n}");
        }
        assert!(!cholesky(&mut [1.0, 0.0, 2.0, 1.0], 2), "an indefinite matrix has no factor");
    }

    #[test]
    fn singular_vectors_of_a_known_matrix() {
        // X = 3 u₁ v₁ᵀ + 2 u₂ v₂ᵀ + u₃ v₃ᵀ with v the axes.
        let (n, d) = (5, 4);
        let mut x = vec![0.0; n * d];
        (x[0], x[d + 1], x[2 * d + 2]) = (3.0, 2.0, 1.0);
        let vectors = right_singular_vectors(&x, n, d, 2);
        assert!((vectors[0][0].abs() - 1.0).abs() < 1e-12 && (vectors[1][1].abs() - 1.0).abs() < 1e-12);
        let single = right_singular_vectors(&[1.0, 2.0, 2.0], 1, 3, 2);
        assert!((single[0][1].abs() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(single[1], vec![0.0; 3], "rank one has no second vector");
        assert_eq!(right_singular_vectors(&[0.0; 6], 2, 3, 1)[0], vec![0.0; 3]);
    }

    #[test]
    fn singular_vectors_are_stationary() {
        let (n, d) = (90, 70);
        let x = gaussian(n * d, 5);
        for vector in right_singular_vectors(&x, n, d, 2) {
            let mut image = vec![0.0; d];
            x.chunks(d).for_each(|row| add_scaled(&mut image, dot(row, &vector), row));
            let eigenvalue = dot(&image, &vector);
            add_scaled(&mut image, -eigenvalue, &vector);
            assert!(dot(&image, &image).sqrt() < 1e-11 * eigenvalue, "XᵀX v = λ v up to rounding");
        }
    }
}
