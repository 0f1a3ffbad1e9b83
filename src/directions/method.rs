//! The methods that fit a direction.

use super::DirectionError;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How a direction was found. Names are those of direction files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Difference of the two k-means centroids.
    Kmeans,
    /// Difference of the two class means.
    MeanDiff,
    /// First principal component.
    Pca,
    /// First right singular vector of the uncentred embeddings.
    Svd,
    /// Coefficients of an L2-regularised logistic regression.
    LogisticRegression,
    /// A Gaussian vector of unit length.
    #[value(alias = "random")]
    RandomDirection,
    /// Distributed alignment search in one dimension.
    Das,
    /// Distributed alignment search in two dimensions.
    Das2d,
    /// Distributed alignment search in three dimensions.
    Das3d,
    /// Contrast-consistent search on completions: the command `ccs`, not `fit-directions`.
    #[value(skip)]
    Ccs,
}

impl Method {
    /// The methods of `fit-directions`, in the order of the enumeration.
    pub fn of_fits() -> &'static [Self] {
        Self::value_variants()
    }

    /// Every method, in the order of the enumeration.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::of_fits().iter().copied().chain([Self::Ccs])
    }

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kmeans => "kmeans",
            Self::MeanDiff => "mean_diff",
            Self::Pca => "pca",
            Self::Svd => "svd",
            Self::LogisticRegression => "logistic_regression",
            Self::RandomDirection => "random_direction",
            Self::Das => "das",
            Self::Das2d => "das2d",
            Self::Das3d => "das3d",
            Self::Ccs => "ccs",
        }
    }

    /// Dimensions of the subspace it finds.
    pub fn dimensions(self) -> usize {
        match self {
            Self::Das2d => 2,
            Self::Das3d => 3,
            _ => 1,
        }
    }

    /// Does it need the model's gradient?
    pub fn is_das(self) -> bool {
        matches!(self, Self::Das | Self::Das2d | Self::Das3d)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Method {
    type Err = DirectionError;

    /// Takes the names of direction files, and `random`.
    fn from_str(text: &str) -> Result<Self, DirectionError> {
        let name = if text == "random" { Self::RandomDirection.name() } else { text };
        Self::all().find(|method| method.name() == name).ok_or_else(|| DirectionError::Method {
            expected: Self::all().map(Self::name).collect::<Vec<_>>().join(", "),
            found: text.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for method in Method::all() {
            assert_eq!(method.name().parse::<Method>().unwrap(), method);
            assert_eq!(serde_json::to_string(&method).unwrap(), format!("\"{method}\""));
        }
        assert_eq!("random".parse::<Method>().unwrap(), Method::RandomDirection);
        assert_eq!(Method::Das3d.dimensions(), 3);
        // Of completions, which fit-directions does not look at.
        assert!(Method::all().any(|method| method == Method::Ccs) && !Method::of_fits().contains(&Method::Ccs));
        assert!(<Method as ValueEnum>::from_str("ccs", false).is_err());
        let message = "das4d".parse::<Method>().unwrap_err().to_string();
        assert!(message.contains("das4d") && message.contains("logistic_regression"), "{message}");
    }
}
