//! Difference of the class means.

use super::fit::{Classifier, Data, Fit, difference};
use super::{DirectionError, Method};
use crate::types::Matrix;

/// `mean(X | positive) - mean(X | negative)`, not normalised. Its classifier: the nearer class mean.
///
/// # Errors
/// [`DirectionError::Shape`] unless `embeddings` is `(labels.len(), d_model)`; [`DirectionError::NotFinite`],
/// [`DirectionError::OneClass`], and [`DirectionError::Degenerate`] for equal means.
pub fn fit_mean_diff(embeddings: &Matrix, labels: &[bool]) -> Result<Fit, DirectionError> {
    let data = Data::new(embeddings, labels)?;
    let (positive, negative) = data.class_means();
    data.fit(Method::MeanDiff, &difference(&positive, &negative), Classifier::nearest(&positive, &negative), None)
}
