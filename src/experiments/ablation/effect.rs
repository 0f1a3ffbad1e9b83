//! What an ablation did: logit difference, accuracy, and how many prompts changed sides.

use crate::engine::Scores;

/// What an ablation did to some prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// How many.
    pub prompts: usize,
    /// Their mean logit difference without and with the ablation.
    pub logit_difference: (f64, f64),
    /// The share of them with a positive logit difference, without and with.
    pub accuracy: (f64, f64),
    /// How many have another sign than before.
    pub flipped: usize,
    /// The mean size of their logit differences without the ablation, whatever their sign.
    pub size: f64,
}

/// A mean logit difference, or its change, is zero up to this share of their size: classes that cancel leave nothing but
/// rounding.
pub const NEGLIGIBLE: f64 = 1e-4;

impl Effect {
    /// The effect on the prompts that `among` keeps; none if it keeps none.
    pub fn new(clean: &Scores, ablated: &Scores, among: impl Fn(usize) -> bool) -> Option<Self> {
        let numbers: Vec<usize> = (0..clean.logit_differences.len()).filter(|&prompt| among(prompt)).collect();
        if numbers.is_empty() {
            return None;
        }
        let (clean, ablated) = (clean.select(&numbers), ablated.select(&numbers));
        let pairs = clean.logit_differences.iter().zip(&ablated.logit_differences);
        Some(Self {
            prompts: numbers.len(),
            logit_difference: (clean.logit_difference(), ablated.logit_difference()),
            accuracy: (clean.accuracy(), ablated.accuracy()),
            size: clean.logit_differences.iter().map(|difference| difference.abs()).sum::<f64>() / numbers.len() as f64,
            flipped: pairs.filter(|(before, after)| (**before > 0.0) != (**after > 0.0)).count(),
        })
    }

    /// Change of the logit difference in percent of what it was; none where it was zero.
    pub fn change(&self) -> Option<f64> {
        let (before, after) = self.logit_difference;
        (before.abs() > NEGLIGIBLE * self.size).then(|| 100.0 * (after - before) / before)
    }

    /// Accuracy lost in percent of what it was above chance (one half); none where it was not above it.
    pub fn lost_above_chance(&self) -> Option<f64> {
        let (before, after) = self.accuracy;
        (before > 0.5).then(|| 100.0 * (before - after) / (before - 0.5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f64]) -> Scores {
        Scores { logit_differences: values.to_vec(), ..Scores::default() }
    }

    #[test]
    fn effects_count_and_compare() {
        let (clean, ablated) = (scores(&[2.0, 1.0, -1.0, 2.0]), scores(&[1.0, -1.0, -1.0, 1.0]));
        let all = Effect::new(&clean, &ablated, |_| true).unwrap();
        assert_eq!((all.prompts, all.flipped, all.logit_difference), (4, 1, (1.0, 0.0)));
        assert_eq!((all.change(), all.lost_above_chance()), (Some(-100.0), Some(100.0)));
        let one = Effect::new(&clean, &ablated, |prompt| prompt == 2).unwrap();
        assert_eq!((one.change(), one.lost_above_chance()), (Some(0.0), None));
        assert_eq!(Effect::new(&clean, &ablated, |_| false), None);
        // Classes that cancel.
        let cancelled = Effect::new(&scores(&[2.0, -2.0 + 1e-6]), &scores(&[1.0, -2.0]), |_| true).unwrap();
        assert_eq!((cancelled.change(), cancelled.size > 1.9), (None, true));
    }
}
