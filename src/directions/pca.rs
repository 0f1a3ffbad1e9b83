//! First principal component.

use super::fit::{Classifier, Data, Fit, Projection, difference, mean};
use super::kmeans::two_means;
use super::linalg::{dot, right_singular_vectors};
use super::{DirectionError, Method};
use crate::types::Matrix;

/// The first principal component of the centred embeddings, unit length, turned to the positive class mean.
///
/// Its classifier: two k-means clusters of the embeddings' coordinates along it.
///
/// # Errors
/// [`DirectionError::Shape`] unless `embeddings` is `(labels.len(), d_model)`; [`DirectionError::NotFinite`],
/// [`DirectionError::OneClass`], and [`DirectionError::Degenerate`] for equal rows.
pub fn fit_pca(embeddings: &Matrix, labels: &[bool]) -> Result<Fit, DirectionError> {
    let data = Data::new(embeddings, labels)?;
    let centre = data.mean(|_| true);
    fit_components(Method::Pca, &data, centre)
}

/// Leading right singular vectors of the embeddings less `centre`.
pub(super) fn fit_components(method: Method, data: &Data, centre: Vec<f64>) -> Result<Fit, DirectionError> {
    let centred: Vec<f64> = data.x.chunks(data.d).flat_map(|row| difference(row, &centre)).collect();
    let mut vectors = right_singular_vectors(&centred, data.n, data.d, 2).into_iter();
    let (mut first, second) = (vectors.next().unwrap_or_default(), vectors.next().unwrap_or_default());
    let (positive, negative) = data.class_means();
    if dot(&first, &difference(&positive, &negative)) < 0.0 {
        first.iter_mut().for_each(|value| *value = -*value);
    }
    let projection = Projection { mean: centre, components: [first, second] };
    let classifier = cluster_along(data, &projection);
    data.fit(method, &projection.components[0].clone(), classifier, Some(projection))
}

/// The nearest-centroid rule of the clusters along the first component, as a rule for embeddings. The second one, which the
/// scatter plots show, has no part in it.
fn cluster_along(data: &Data, projection: &Projection) -> Classifier {
    let first = &projection.components[0];
    let offset = dot(first, &projection.mean);
    let coordinates: Vec<f64> = data.x.chunks(data.d).map(|row| dot(row, first) - offset).collect();
    let clusters = two_means(&coordinates, 1, data.labels);
    let centroid = |which: bool| mean(&coordinates, 1, |row| clusters[row] == which);
    let line = Classifier::nearest(&centroid(true), &centroid(false));
    let weight: Vec<f64> = first.iter().map(|value| line.weight[0] * value).collect();
    Classifier { bias: line.bias - line.weight[0] * offset, weight }
}
