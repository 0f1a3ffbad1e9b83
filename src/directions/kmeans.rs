//! Two k-means clusters.

use super::fit::{Classifier, Data, Fit, difference, mean};
use super::{DirectionError, Method};
use crate::types::Matrix;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Starts; the best one is kept (scikit-learn's `n_init`).
const STARTS: u64 = 10;

/// Candidates for the second centre of a start (`2 + ⌊ln 2⌋`, greedy k-means++ as in scikit-learn).
const CANDIDATES: usize = 2;

/// Lloyd iterations at most, and the squared movement of the centres, relative to the mean variance of the columns,
/// at which they stop (scikit-learn's `max_iter` and `tol`).
const ITERATIONS: usize = 300;
const TOLERANCE: f64 = 1e-4;

/// Positive centroid minus negative centroid of two k-means clusters, not normalised; the positive cluster is the one
/// that agrees with the majority of the labels. Its classifier: the nearer centroid.
///
/// # Errors
/// [`DirectionError::Shape`] unless `embeddings` is `(labels.len(), d_model)`; [`DirectionError::NotFinite`],
/// [`DirectionError::OneClass`], and [`DirectionError::Degenerate`] for equal rows.
pub fn fit_kmeans(embeddings: &Matrix, labels: &[bool]) -> Result<Fit, DirectionError> {
    let data = Data::new(embeddings, labels)?;
    let Some((positive, negative)) = centroids(&data) else {
        return Err(DirectionError::Degenerate { method: Method::Kmeans, reason: "all rows are equal" });
    };
    data.fit(Method::Kmeans, &difference(&positive, &negative), Classifier::nearest(&positive, &negative), None)
}

/// The centroids of the positive and of the negative one of two clusters; none where all rows are equal.
pub(super) fn centroids(data: &Data) -> Option<(Vec<f64>, Vec<f64>)> {
    let clusters = two_means(&data.x, data.d, data.labels);
    let several = clusters.iter().any(|cluster| *cluster != clusters[0]);
    several.then(|| (data.mean(|row| clusters[row]), data.mean(|row| !clusters[row])))
}

/// Which rows of `x`, `d` values each, belong to the positive one of two clusters: the cluster of the row's own label
/// for at least half of the rows.
pub(super) fn two_means(x: &[f64], d: usize, labels: &[bool]) -> Vec<bool> {
    // Distances do not change with the origin; near the data's own centre they lose no digits.
    let centre = mean(x, d, |_| true);
    let x: Vec<f64> = x.chunks(d).flat_map(|row| difference(row, &centre)).collect();
    let tolerance = TOLERANCE * x.iter().map(|value| value * value).sum::<f64>() / x.len().max(1) as f64;
    let mut best = (f64::INFINITY, vec![true; labels.len()]);
    for start in 0..STARTS {
        let found = lloyd(&x, d, plus_plus(&x, d, start), tolerance);
        // Equal optima differ by rounding; the first one stays.
        if found.0 < best.0 * (1.0 - 1e-9) {
            best = found;
        }
    }
    let mut clusters = best.1;
    let agreeing = clusters.iter().zip(labels).filter(|(cluster, label)| cluster == label).count();
    if 2 * agreeing < labels.len() {
        clusters.iter_mut().for_each(|cluster| *cluster = !*cluster);
    }
    clusters
}

/// Two starting centres: a random row, then the better of a few rows drawn by squared distance to it
/// (Arthur and Vassilvitskii 2007).
fn plus_plus(x: &[f64], d: usize, seed: u64) -> [Vec<f64>; 2] {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    random.set_stream(seed);
    let rows: Vec<&[f64]> = x.chunks(d).collect();
    let first = rows[random.random_range(0..rows.len())];
    let distances: Vec<f64> = rows.iter().map(|row| squared_distance(row, first)).collect();
    let total: f64 = distances.iter().sum();
    let mut best = (f64::INFINITY, first);
    for _ in 0..CANDIDATES {
        let mut rest = random.random::<f64>() * total;
        let drawn = distances.iter().position(|distance| {
            rest -= distance;
            rest < 0.0
        });
        let candidate = rows[drawn.unwrap_or(rows.len() - 1)];
        let closest = |(row, distance): (&&[f64], &f64)| squared_distance(row, candidate).min(*distance);
        let inertia = rows.iter().zip(&distances).map(closest).sum();
        if inertia < best.0 {
            best = (inertia, candidate);
        }
    }
    [first.to_vec(), best.1.to_vec()]
}

/// Lloyd's iteration from `centres`: inertia and whether each row belongs to the second centre.
fn lloyd(x: &[f64], d: usize, mut centres: [Vec<f64>; 2], tolerance: f64) -> (f64, Vec<bool>) {
    let assign = |centres: &[Vec<f64>; 2]| -> Vec<bool> {
        x.chunks(d).map(|row| squared_distance(row, &centres[1]) < squared_distance(row, &centres[0])).collect()
    };
    let mut clusters = assign(&centres);
    for _ in 0..ITERATIONS {
        let moved = [false, true].map(|which| mean(x, d, |row| clusters[row] == which));
        let movement: f64 = moved.iter().zip(&centres).map(|(new, old)| squared_distance(new, old)).sum();
        centres = moved;
        let next = assign(&centres);
        let settled = next == clusters || movement <= tolerance;
        clusters = next;
        if settled {
            break;
        }
    }
    let own = |(row, second): (&[f64], &bool)| squared_distance(row, &centres[usize::from(*second)]);
    (x.chunks(d).zip(&clusters).map(own).sum(), clusters)
}

fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majority_decides_the_sign() {
        let x = Matrix::new(5, 1, vec![0.0, 0.1, 5.0, 5.1, 5.2]);
        let fit = fit_kmeans(&x, &[true, false, false, false, false]).unwrap();
        assert!((fit.direction.data[0] + 5.05).abs() < 1e-6, "{:?}", fit.direction);
        assert_eq!((fit.train_accuracy.correct, fit.train_accuracy.total), (4, 5));
        let far = Matrix::new(2, 1, vec![-3.0, 9.0]);
        assert_eq!(fit.accuracy(&far, &[true, false]).unwrap().share(), 1.0);
    }

    #[test]
    fn equal_rows_are_an_error() {
        let x = Matrix::new(3, 2, vec![1.0; 6]);
        let message = fit_kmeans(&x, &[true, false, true]).unwrap_err().to_string();
        assert!(message.contains("kmeans") && message.contains("equal"), "{message}");
    }
}
