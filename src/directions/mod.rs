//! Directions: one file per fitting method; naming and storage of direction files.
//!
//! A direction of layer `l` lives at `blocks.{l}.hook_resid_pre`, that of layer `n_layers` at the last block's
//! `hook_resid_post`. The fits take embeddings (residual vectors at one position, `(n, d_model)`) and labels (positive
//! or not); DAS takes gradients from the engine instead, see [`das`].

mod ccs;
pub mod das;
mod embeddings;
mod error;
mod fit;
mod formats;
mod found_by;
mod import;
mod kmeans;
mod linalg;
mod logistic_regression;
mod mean_diff;
mod method;
mod name;
mod pca;
mod projection;
mod random_direction;
mod storage;
mod svd;

pub use ccs::{Ccs, CcsSettings, fit_ccs, fit_ccs_from};
pub use embeddings::{cosine, embedding_positions, embeddings};
pub use error::DirectionError;
pub use fit::{Accuracy, Classifier, Fit, Projection};
pub use found_by::FoundBy;
pub use import::{FoundDirections, ImportSource, LeftOut, Wanted, read_files};
pub use kmeans::fit_kmeans;
pub use logistic_regression::{fit_logistic_regression, fit_probe};
pub use mean_diff::fit_mean_diff;
pub use method::Method;
pub use name::{DirectionName, Matched, family, matched, model_folder, select, spelled};
pub use pca::fit_pca;
pub use projection::{projected, similarity};
pub use random_direction::{RANDOM_DIRECTION_SEED, random_direction, random_subspace};
pub use storage::{Direction, FitRecord, list};
pub use svd::fit_svd;

use crate::types::Matrix;

/// Fits `embeddings`, `(n, d_model)`, by `method`; `None` for the methods that do not look at embeddings
/// ([`Method::RandomDirection`] and DAS), or at pairs of them ([`Method::Ccs`]).
///
/// # Errors
/// Those of the method's own function.
pub fn fit(method: Method, embeddings: &Matrix, labels: &[bool]) -> Result<Option<Fit>, DirectionError> {
    match method {
        Method::Kmeans => fit_kmeans(embeddings, labels).map(Some),
        Method::MeanDiff => fit_mean_diff(embeddings, labels).map(Some),
        Method::Pca => fit_pca(embeddings, labels).map(Some),
        Method::Svd => fit_svd(embeddings, labels).map(Some),
        Method::LogisticRegression => fit_logistic_regression(embeddings, labels).map(Some),
        Method::RandomDirection | Method::Das | Method::Das2d | Method::Das3d | Method::Ccs => Ok(None),
    }
}
