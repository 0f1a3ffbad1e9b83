//! The methods that fit a direction.

use crate::choice::choices;

choices! {
    /// How a direction was found. Names are those of direction files.
    pub enum Method {
        /// Difference of the two k-means centroids.
        Kmeans = "kmeans",
        /// Difference of the two class means.
        MeanDiff = "mean_diff",
        /// First principal component.
        Pca = "pca",
        /// First right singular vector of the uncentred embeddings.
        Svd = "svd",
        /// Coefficients of an L2-regularised logistic regression.
        LogisticRegression = "logistic_regression",
        /// A Gaussian vector of unit length.
        RandomDirection = "random_direction" | "random",
        /// Distributed alignment search in one dimension.
        Das = "das",
        /// Distributed alignment search in two dimensions.
        Das2d = "das2d",
        /// Distributed alignment search in three dimensions.
        Das3d = "das3d",
        /// Contrast-consistent search on completions: the command `ccs`, not `fit-directions`.
        Ccs = "ccs",
    }
}

impl Method {
    /// The methods of `fit-directions`, in the order of the enumeration.
    pub fn of_fits() -> &'static [Self] {
        match &Self::ALL {
            [fits @ .., Self::Ccs] => fits,
            all => all,
        }
    }

    /// Every method, in the order of the enumeration.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter()
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
        assert_eq!(Method::of_fits().len() + 1, Method::ALL.len());
        let message = "das4d".parse::<Method>().unwrap_err().to_string();
        assert!(message.contains("das4d") && message.contains("logistic_regression"), "{message}");
    }
}
