//! How far a negated word's value along a direction flips on its way through the layers.

/// A word's value in front of an early and of a late block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// Early: what the word is on its own.
    pub initial: f64,
    /// Late: what it is in its text.
    pub last: f64,
}

impl Change {
    /// `last - initial`.
    pub fn size(self) -> f64 {
        self.last - self.initial
    }

    /// Half the change in units of the way from the initial value to `mean`, that of all tokens: 1 is a value that ends as
    /// far beyond the mean as it began in front of it.
    pub fn flip(self, mean: f64) -> f64 {
        0.5 * self.size() / (mean - self.initial)
    }
}

/// What texts have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NegationScores {
    /// Mean change.
    pub raw: f64,
    /// Mean absolute change over the standard deviation of all tokens.
    pub z: Option<f64>,
    /// Share of the texts whose word moves towards the mean of all tokens and beyond.
    pub flipped: Option<f64>,
    /// Median flip.
    pub flip_size: Option<f64>,
}

impl NegationScores {
    /// Of at least one change; `all` are mean and standard deviation of all tokens' values.
    pub fn of(changes: &[Change], all: Option<(f64, f64)>) -> Self {
        let mean = |value: &dyn Fn(&Change) -> f64| changes.iter().map(value).sum::<f64>() / changes.len() as f64;
        let flips = all.map(|(mean, _)| {
            let mut flips: Vec<f64> = changes.iter().map(|change| change.flip(mean)).collect();
            flips.sort_by(f64::total_cmp);
            flips
        });
        Self {
            raw: mean(&|change| change.size()),
            z: all.map(|(_, std)| mean(&|change| change.size().abs()) / std),
            flipped: flips
                .as_ref()
                .map(|flips| flips.iter().filter(|flip| **flip > 0.0).count() as f64 / flips.len() as f64),
            flip_size: flips.as_ref().map(|flips| {
                let middle = |index: usize| flips.get(index).copied().unwrap_or(f64::NAN);
                (middle((flips.len().max(1) - 1) / 2) + middle(flips.len() / 2)) / 2.0
            }),
        }
    }
}

/// Mean and standard deviation of layers with as many tokens each, from each layer's; none without layers.
pub fn pooled(layers: &[(f64, f64)]) -> Option<(f64, f64)> {
    if layers.is_empty() {
        return None;
    }
    let n = layers.len() as f64;
    let mean = layers.iter().map(|(mean, _)| mean).sum::<f64>() / n;
    let variance = layers.iter().map(|(own, std)| std * std + (own - mean).powi(2)).sum::<f64>() / n;
    Some((mean, variance.sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_numpy() {
        let changes =
            [(0.1, -0.3), (-0.2, 0.1), (0.3, 0.35), (-0.1, -0.2)].map(|(initial, last)| Change { initial, last });
        let found = NegationScores::of(&changes, Some((0.05, 0.2)));
        // numpy: change = last - initial; flips = 0.5 * change / (0.05 - initial); change.mean(),
        // abs(change).mean() / 0.2, (flips > 0).mean(), np.median(flips)
        let expected = [-0.0375, 1.0625, 0.5, 0.25];
        for (found, expected) in [Some(found.raw), found.z, found.flipped, found.flip_size].into_iter().zip(expected) {
            assert!((found.unwrap() - expected).abs() < 1e-12, "{found:?} {expected}");
        }
        let alone = NegationScores::of(&changes[..1], None);
        assert!((alone.raw + 0.4).abs() < 1e-12 && alone.z.is_none() && alone.flip_size.is_none());
        assert_eq!(NegationScores::of(&changes[..1], Some((0.05, 0.2))).flip_size, Some(changes[0].flip(0.05)));
    }

    #[test]
    fn layers_pool_into_the_moments_of_all_their_values() {
        // Values 1, 3 and 2, 8: mean 3.5, squares about it 6.25 + 0.25 + 2.25 + 20.25 = 29, a quarter of it 7.25.
        let (mean, std) = pooled(&[(2.0, 1.0), (5.0, 3.0)]).unwrap();
        assert!((mean - 3.5).abs() < 1e-12 && (std - 7.25f64.sqrt()).abs() < 1e-12, "{mean} {std}");
        assert_eq!(pooled(&[]), None);
    }
}
