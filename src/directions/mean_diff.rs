//! Difference of the class means.

use super::fit::{Classifier, Data, Fit, difference};
use super::kmeans::centroids;
use super::{DirectionError, Method};
use crate::types::Matrix;

/// `mean(X | positive) - mean(X | negative)`, not normalised. Its classifier is that of [`super::fit_kmeans`]: two clusters
/// of the embeddings, as the paper's code measures it.
///
/// # Errors
/// [`DirectionError::Shape`] unless `embeddings` is `(labels.len(), d_model)`; [`DirectionError::NotFinite`],
/// [`DirectionError::OneClass`], and [`DirectionError::Degenerate`] for equal means.
pub fn fit_mean_diff(embeddings: &Matrix, labels: &[bool]) -> Result<Fit, DirectionError> {
    let data = Data::new(embeddings, labels)?;
    let (positive, negative) = data.class_means();
    // Rows that are all equal have no clusters, and equal means: an error below.
    let (near, far) = centroids(&data).unwrap_or_else(|| (positive.clone(), negative.clone()));
    data.fit(Method::MeanDiff, &difference(&positive, &negative), Classifier::nearest(&near, &far), None)
}
