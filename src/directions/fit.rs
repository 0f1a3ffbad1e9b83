//! What the methods without a gradient share: checked embeddings, classifiers, accuracies and projections.

use super::linalg::dot;
use super::{DirectionError, Method};
use crate::types::Matrix;
use serde::{Deserialize, Serialize};

/// A fitted direction and what it says about its own data.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// The direction, `(d_model, 1)`.
    pub direction: Matrix,
    /// The rule that [`Fit::accuracy`] measures.
    pub classifier: Classifier,
    /// On the embeddings of the fit.
    pub train_accuracy: Accuracy,
    /// The plane of the scatter plots (PCA and SVD).
    pub projection: Option<Projection>,
}

/// Says positive where `x · weight + bias > 0`. Nearest of two centroids is such a rule, too.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    /// `d_model` values.
    pub weight: Vec<f64>,
    /// The intercept.
    pub bias: f64,
}

/// A share of right answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Right answers.
    pub correct: usize,
    /// All answers.
    pub total: usize,
}

/// Two components, to project embeddings on.
#[derive(Debug, Clone, PartialEq)]
pub struct Projection {
    /// Subtracted first, `d_model` values: the mean of the fit's embeddings (PCA) or zeros (SVD).
    pub mean: Vec<f64>,
    /// Orthonormal, `d_model` values each; the first one points to positive. Zeros where the rank is one.
    pub components: [Vec<f64>; 2],
}

impl Accuracy {
    /// Between 0 and 1; NaN of nothing.
    pub fn share(self) -> f64 {
        self.correct as f64 / self.total as f64
    }
}

impl Fit {
    /// The classifier's accuracy on other embeddings, `(n, d_model)`, such as the test set's.
    ///
    /// # Errors
    /// [`DirectionError::Shape`], [`DirectionError::NotFinite`].
    pub fn accuracy(&self, embeddings: &Matrix, labels: &[bool]) -> Result<Accuracy, DirectionError> {
        self.classifier.accuracy_on(embeddings, labels)
    }
}

impl Classifier {
    /// Its accuracy on embeddings `(n, d_model)`.
    ///
    /// # Errors
    /// [`DirectionError::Shape`], [`DirectionError::NotFinite`].
    pub fn accuracy_on(&self, embeddings: &Matrix, labels: &[bool]) -> Result<Accuracy, DirectionError> {
        check_embeddings(embeddings, labels)?;
        DirectionError::check_shape("embeddings", embeddings, embeddings.rows, self.weight.len())?;
        Ok(self.accuracy(&widened(embeddings), labels))
    }

    /// Nearest of two centroids.
    pub(super) fn nearest(positive: &[f64], negative: &[f64]) -> Self {
        let weight = difference(positive, negative);
        Self { bias: 0.5 * (dot(negative, negative) - dot(positive, positive)), weight }
    }

    pub(super) fn accuracy(&self, x: &[f64], labels: &[bool]) -> Accuracy {
        let says = |row| dot(row, &self.weight) + self.bias > 0.0;
        let rows = x.chunks(self.weight.len());
        Accuracy { correct: rows.zip(labels).filter(|(row, label)| says(row) == **label).count(), total: labels.len() }
    }
}

impl Projection {
    /// Coordinates of embeddings `(n, d_model)` in the plane, `(n, 2)`.
    ///
    /// # Errors
    /// [`DirectionError::Shape`].
    pub fn project(&self, embeddings: &Matrix) -> Result<Matrix, DirectionError> {
        DirectionError::check_shape("embeddings", embeddings, embeddings.rows, self.mean.len())?;
        let coordinates = self.coordinates(&widened(embeddings));
        Ok(Matrix::new(embeddings.rows, 2, coordinates.into_iter().map(|value| value as f32).collect()))
    }

    pub(super) fn coordinates(&self, x: &[f64]) -> Vec<f64> {
        let offsets = self.components.each_ref().map(|component| dot(component, &self.mean));
        let place = |row| [0, 1].map(|i| dot(row, &self.components[i]) - offsets[i]);
        x.chunks(self.mean.len()).flat_map(place).collect()
    }
}

/// Embeddings in f64, row-major, and their labels, checked.
pub(super) struct Data<'a> {
    pub x: Vec<f64>,
    pub n: usize,
    pub d: usize,
    pub labels: &'a [bool],
}

impl<'a> Data<'a> {
    /// Checks that every row has a label, that both labels occur and that all values are finite.
    pub fn new(embeddings: &Matrix, labels: &'a [bool]) -> Result<Self, DirectionError> {
        check_embeddings(embeddings, labels)?;
        let positive = labels.iter().filter(|label| **label).count();
        if positive == 0 || positive == labels.len() {
            return Err(DirectionError::OneClass { positive, total: labels.len() });
        }
        Ok(Self { x: widened(embeddings), n: embeddings.rows, d: embeddings.cols, labels })
    }

    /// Mean of the rows that `keep`s.
    pub fn mean(&self, keep: impl Fn(usize) -> bool) -> Vec<f64> {
        mean(&self.x, self.d, keep)
    }

    /// Means of the positive and of the negative rows.
    pub fn class_means(&self) -> (Vec<f64>, Vec<f64>) {
        (self.mean(|row| self.labels[row]), self.mean(|row| !self.labels[row]))
    }

    /// A fit from its direction; `classifier` says which label a row gets.
    pub fn fit(
        &self,
        method: Method,
        direction: &[f64],
        classifier: Classifier,
        projection: Option<Projection>,
    ) -> Result<Fit, DirectionError> {
        let direction: Vec<f32> = direction.iter().map(|value| *value as f32).collect();
        if direction.iter().all(|value| *value == 0.0) {
            return Err(DirectionError::Degenerate {
                method,
                reason: "it is zero: positive and negative rows coincide",
            });
        }
        let train_accuracy = classifier.accuracy(&self.x, self.labels);
        Ok(Fit { direction: Matrix::new(self.d, 1, direction), classifier, train_accuracy, projection })
    }
}

/// Mean of the rows of `x`, `d` values each, that `keep`s; zeros when there is none.
pub(super) fn mean(x: &[f64], d: usize, keep: impl Fn(usize) -> bool) -> Vec<f64> {
    let mut sum = vec![0.0; d];
    let mut count = 0usize;
    for (_, row) in x.chunks(d).enumerate().filter(|(row, _)| keep(*row)) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        count += 1;
    }
    sum.iter_mut().for_each(|value| *value /= count.max(1) as f64);
    sum
}

/// `a - b`.
pub(super) fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

fn widened(embeddings: &Matrix) -> Vec<f64> {
    embeddings.data.iter().map(|value| f64::from(*value)).collect()
}

fn check_embeddings(embeddings: &Matrix, labels: &[bool]) -> Result<(), DirectionError> {
    let cols = embeddings.cols.max(1);
    DirectionError::check_shape("embeddings", embeddings, labels.len(), cols)?;
    DirectionError::check_finite("embeddings", embeddings)
}
