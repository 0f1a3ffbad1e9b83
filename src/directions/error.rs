//! What can be wrong with a direction, its file or its fit.

use crate::types::Matrix;
use std::path::PathBuf;

/// Every variant names the file or the quantity, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum DirectionError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    File {
        /// The file.
        path: PathBuf,
        /// The part of it.
        field: &'static str,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A name that is not a direction's.
    #[error("direction name {name:?}: {field}: expected {expected}")]
    Name {
        /// The whole name.
        name: String,
        /// The part at fault.
        field: &'static str,
        /// What the part should look like.
        expected: String,
    },
    /// The same of a file that is to be a direction, or of an array in it.
    #[error("{path}: direction name {name:?}: {field}: expected {expected}")]
    NameIn {
        /// The file.
        path: PathBuf,
        /// The whole name.
        name: String,
        /// The part at fault.
        field: &'static str,
        /// What the part should look like.
        expected: String,
    },
    /// A pattern that selects no direction.
    #[error("pattern {pattern:?} matches none of the {available} directions at hand{examples}")]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// How many names were tried.
        available: usize,
        /// A few of them.
        examples: String,
    },
    /// A matrix or list of the wrong size.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// The quantity.
        what: &'static str,
        /// Its right size.
        expected: String,
        /// Its size.
        found: String,
    },
    /// NaN or infinity.
    #[error("{what}: expected finite values, found {value} at row {row}, column {col}")]
    NotFinite {
        /// The quantity.
        what: &'static str,
        /// The value.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
    },
    /// Labels of one class only.
    #[error("labels: expected positive and negative prompts, found {positive} positive of {total}")]
    OneClass {
        /// Positive labels.
        positive: usize,
        /// All labels.
        total: usize,
    },
    /// Data from which the method gives no direction.
    #[error("{method}: the embeddings give no direction: {reason}")]
    Degenerate {
        /// The method.
        method: super::Method,
        /// Why.
        reason: &'static str,
    },
    /// A subspace that does not fit its space.
    #[error("rotation: expected 1 <= k <= d_model = {d}, found k = {k}")]
    Dimensions {
        /// Width of the space.
        d: usize,
        /// Dimensions asked for.
        k: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] crate::backend::BackendError),
    /// A rotation parameter that grew beyond use.
    #[error("rotation: expected a spectral radius of T - Tᵀ up to {limit}, found about {radius}: training diverged")]
    Diverged {
        /// Estimated spectral radius.
        radius: f64,
        /// The largest one allowed.
        limit: f64,
    },
}

impl DirectionError {
    /// The same error, as one of a file if it is one of a name.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Name { name, field, expected } => Self::NameIn { path: path.into(), name, field, expected },
            other => other,
        }
    }

    /// An error unless `matrix` is `(rows, cols)`.
    pub(crate) fn check_shape(what: &'static str, matrix: &Matrix, rows: usize, cols: usize) -> Result<(), Self> {
        if (matrix.rows, matrix.cols) == (rows, cols) && matrix.data.len() == rows * cols {
            return Ok(());
        }
        let found = format!("({}, {}) with {} values", matrix.rows, matrix.cols, matrix.data.len());
        Err(Self::Shape { what, expected: format!("({rows}, {cols})"), found })
    }

    /// An error when `matrix` holds NaN or infinity.
    pub(crate) fn check_finite(what: &'static str, matrix: &Matrix) -> Result<(), Self> {
        match matrix.data.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(Self::NotFinite {
                what,
                value: matrix.data[index],
                row: index / matrix.cols,
                col: index % matrix.cols,
            }),
        }
    }
}
