//! First right singular vector.

use super::fit::{Data, Fit};
use super::pca::fit_components;
use super::{DirectionError, Method};
use crate::types::Matrix;

/// The first right singular vector of the embeddings as they are (not centred), unit length, turned to the positive
/// class mean. Its classifier: two k-means clusters of the embeddings' coordinates along it.
///
/// # Errors
/// As [`super::fit_pca`].
pub fn fit_svd(embeddings: &Matrix, labels: &[bool]) -> Result<Fit, DirectionError> {
    let data = Data::new(embeddings, labels)?;
    let origin = vec![0.0; data.d];
    fit_components(Method::Svd, &data, origin)
}
