//! From answer logits to metrics.
//!
//! The logit difference of a prompt is the mean over its answer pairs of `logit[correct] - logit[incorrect]` at its
//! last position (arXiv 2310.15154, section 2). A metric is normalised by the clean and corrupted baselines:
//! denoising patches clean activations into the corrupted run and goes from 0 (corrupted) to 1 (clean), noising
//! patches corrupted activations into the clean run and goes from 0 (clean) to -1 (corrupted). `sign_flip` alone has no
//! baseline: it counts.

use super::Logits;
use crate::choice::choices;
use crate::types::Matrix;

/// Which way a patch goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Clean activations into the corrupted run.
    Denoising,
    /// Corrupted activations into the clean run.
    Noising,
}

choices! {
    /// What a cell of a sweep reports.
    pub enum Metric {
        /// Normalised logit difference, denoising.
        LogitDiff = "logit_diff",
        /// Normalised logit difference, noising.
        LogitDiffNoising = "logit_diff_noising",
        /// Normalised share of prompts whose centred logit difference is positive, denoising: the paper's "logit flip".
        LogitFlip = "logit_flip",
        /// Share of prompts whose logit difference changes its sign between the corrupted and the patched run,
        /// whichever way: neither centred nor normalised.
        SignFlip = "sign_flip",
        /// Normalised difference of the answers' probabilities, denoising.
        ProbDiff = "prob_diff",
        /// Normalised log probability of the right answers, denoising: for prompts of one sentiment beside neutral
        /// ones.
        LogProb = "log_prob",
        /// The same, noising.
        LogProbNoising = "log_prob_noising",
    }
}

impl Metric {
    /// Which run is patched.
    pub fn mode(self) -> Mode {
        match self {
            Metric::LogitDiffNoising | Metric::LogProbNoising => Mode::Noising,
            _ => Mode::Denoising,
        }
    }

    /// Does it need probabilities, and with them the logits of the whole vocabulary?
    pub fn needs_probabilities(self) -> bool {
        matches!(self, Metric::ProbDiff | Metric::LogProb | Metric::LogProbNoising)
    }
}

/// Per prompt: its answer pairs as (correct, incorrect) columns of the logits.
pub type AnswerIndices = Vec<Vec<(usize, usize)>>;

/// What the metrics need of one run over all prompts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scores {
    /// Logit difference per prompt.
    pub logit_differences: Vec<f64>,
    /// Difference of the answers' probabilities per prompt; empty when the run had no sums of exponentials.
    pub probability_differences: Vec<f64>,
    /// Log probability per prompt, the mean over its right answers; empty as well then.
    pub log_probabilities: Vec<f64>,
}

impl Scores {
    /// Reads the scores of prompts `0..answers.len()` off consecutive rows of `logits`, from row `first` on.
    pub fn new(logits: &Logits, first: usize, answers: &AnswerIndices) -> Self {
        let rows = || answers.iter().enumerate().map(|(prompt, pairs)| (logits.values.row(first + prompt), pairs));
        let difference = |values: &[f32], pairs: &[(usize, usize)], value: &dyn Fn(f32) -> f64| {
            mean_over(pairs, |&(correct, incorrect)| value(values[correct]) - value(values[incorrect]))
        };
        let logit_differences =
            rows().map(|(values, pairs)| difference(values, pairs, &|logit| logit.into())).collect();
        let mut scores = Self { logit_differences, ..Self::default() };
        if let Some(sums) = &logits.log_sum_exp {
            for ((values, pairs), sum) in rows().zip(sums.iter().skip(first)) {
                let log_probability = |logit: f32| f64::from(logit) - f64::from(*sum);
                let probability = |logit: f32| log_probability(logit).exp();
                scores.probability_differences.push(difference(values, pairs, &probability));
                scores.log_probabilities.push(mean_over(pairs, |&(correct, _)| log_probability(values[correct])));
            }
        }
        scores
    }

    /// Puts the scores of further prompts behind these.
    pub fn extend(&mut self, others: &Self) {
        self.logit_differences.extend_from_slice(&others.logit_differences);
        self.probability_differences.extend_from_slice(&others.probability_differences);
        self.log_probabilities.extend_from_slice(&others.log_probabilities);
    }

    /// Sets a prompt's scores to those of entry `entry` of others.
    pub fn set(&mut self, prompt: usize, others: &Self, entry: usize) {
        let copy = |to: &mut Vec<f64>, from: &[f64]| {
            if let (Some(to), Some(from)) = (to.get_mut(prompt), from.get(entry)) {
                *to = *from;
            }
        };
        copy(&mut self.logit_differences, &others.logit_differences);
        copy(&mut self.probability_differences, &others.probability_differences);
        copy(&mut self.log_probabilities, &others.log_probabilities);
    }

    /// Takes the scores of prompt `i` from entry `prompts[i]`.
    pub fn select(&self, prompts: &[usize]) -> Self {
        let pick = |values: &[f64]| {
            if values.is_empty() { Vec::new() } else { prompts.iter().map(|&p| values[p]).collect() }
        };
        Self {
            logit_differences: pick(&self.logit_differences),
            probability_differences: pick(&self.probability_differences),
            log_probabilities: pick(&self.log_probabilities),
        }
    }

    /// Mean logit difference.
    pub fn logit_difference(&self) -> f64 {
        mean(&self.logit_differences)
    }

    /// Share of prompts with a positive logit difference.
    pub fn accuracy(&self) -> f64 {
        share_positive(&self.logit_differences)
    }
}

fn mean(values: &[f64]) -> f64 {
    mean_over(values, |value| *value)
}

fn mean_over<T>(items: &[T], value: impl Fn(&T) -> f64) -> f64 {
    items.iter().map(value).sum::<f64>() / items.len() as f64
}

fn share_positive(values: &[f64]) -> f64 {
    values.iter().filter(|v| **v > 0.0).count() as f64 / values.len() as f64
}

/// Takes the class bias out of scores: `bias` is the mean with negative prompts' sign turned, it is subtracted from
/// positive prompts and added to negative ones.
fn centred(values: &[f64], positive: &[bool]) -> Vec<f64> {
    let sign = |positive: bool| if positive { 1.0 } else { -1.0 };
    let bias = values.iter().zip(positive).map(|(v, &p)| v * sign(p)).sum::<f64>() / values.len() as f64;
    values.iter().zip(positive).map(|(v, &p)| v - bias * sign(p)).collect()
}

/// The clean and corrupted scores every cell of a dataset is normalised by.
#[derive(Debug, Clone, PartialEq)]
pub struct Baselines {
    /// Of the clean run, per prompt.
    pub clean: Scores,
    /// Of the corrupted run, per prompt, with the clean prompts' answers.
    pub corrupted: Scores,
    /// Per prompt: is it of the positive class?
    pub positive: Vec<bool>,
}

impl Baselines {
    /// Mean logit differences, (clean, corrupted).
    pub fn logit_differences(&self) -> (f64, f64) {
        (self.clean.logit_difference(), self.corrupted.logit_difference())
    }

    /// A metric of a patched run, as a fraction; not finite when it is not [`Baselines::defined`].
    ///
    /// Of the means none is centred by class. The paper's code centres those of the clean and the corrupted run and not
    /// that of the patched one, which is the same where both classes have as many prompts, and elsewhere would move
    /// the ends of the scale away from 0 and 1.
    pub fn evaluate(&self, metric: Metric, patched: &Scores) -> f64 {
        if metric == Metric::SignFlip {
            return self.level(metric, patched);
        }
        let (clean, corrupted) = (self.level(metric, &self.clean), self.level(metric, &self.corrupted));
        let from = match metric.mode() {
            Mode::Denoising => corrupted,
            Mode::Noising => clean,
        };
        (self.level(metric, patched) - from) / (clean - corrupted)
    }

    /// What [`Baselines::evaluate`] is the mean of, prompt by prompt.
    pub fn by_prompt(&self, metric: Metric, patched: &Scores) -> Vec<f64> {
        let patched = self.levels(metric, patched);
        if metric == Metric::SignFlip {
            return patched;
        }
        let from = match metric.mode() {
            Mode::Denoising => self.levels(metric, &self.corrupted),
            Mode::Noising => self.levels(metric, &self.clean),
        };
        let span = self.level(metric, &self.clean) - self.level(metric, &self.corrupted);
        patched.iter().zip(from).map(|(patched, from)| (patched - from) / span).collect()
    }

    /// Is there anything to normalise by? Not when the clean and the corrupted run are at the same level; and where all
    /// prompts are of one class, its bias cannot be told from the effect.
    pub fn defined(&self, metric: Metric) -> bool {
        let one_class = self.positive.windows(2).all(|pair| pair[0] == pair[1]);
        match metric {
            Metric::SignFlip => true,
            Metric::LogitFlip if one_class => false,
            _ => self.level(metric, &self.clean) != self.level(metric, &self.corrupted),
        }
    }

    /// Do the clean and the corrupted run lie further apart than `share` of the mean size of the clean prompts' values? What
    /// is less may be rounding, where both runs have the same tokens.
    pub fn apart(&self, metric: Metric, share: f64) -> bool {
        let values = match metric {
            Metric::ProbDiff => &self.clean.probability_differences,
            Metric::LogProb | Metric::LogProbNoising => &self.clean.log_probabilities,
            _ => &self.clean.logit_differences,
        };
        let size = mean_over(values, |value| value.abs());
        (self.level(metric, &self.clean) - self.level(metric, &self.corrupted)).abs() > share * size
    }

    /// What a metric normalises; of [`Metric::SignFlip`] the metric itself.
    fn level(&self, metric: Metric, scores: &Scores) -> f64 {
        match metric {
            Metric::LogitDiff | Metric::LogitDiffNoising => scores.logit_difference(),
            Metric::LogitFlip => share_positive(&centred(&scores.logit_differences, &self.positive)),
            Metric::SignFlip => self.flipped(scores),
            Metric::ProbDiff => mean(&scores.probability_differences),
            Metric::LogProb | Metric::LogProbNoising => mean(&scores.log_probabilities),
        }
    }

    /// The same of every prompt.
    fn levels(&self, metric: Metric, scores: &Scores) -> Vec<f64> {
        let count = |counts: bool| if counts { 1.0 } else { 0.0 };
        match metric {
            Metric::LogitDiff | Metric::LogitDiffNoising => scores.logit_differences.clone(),
            Metric::LogitFlip => {
                let centred = centred(&scores.logit_differences, &self.positive);
                centred.into_iter().map(|value| count(value > 0.0)).collect()
            }
            Metric::SignFlip => {
                let pairs = self.corrupted.logit_differences.iter().zip(&scores.logit_differences);
                pairs.map(|(before, after)| count((*before > 0.0) != (*after > 0.0))).collect()
            }
            Metric::ProbDiff => scores.probability_differences.clone(),
            Metric::LogProb | Metric::LogProbNoising => scores.log_probabilities.clone(),
        }
    }

    /// Share of prompts whose logit difference has another sign than in the corrupted run.
    fn flipped(&self, scores: &Scores) -> f64 {
        let pairs = self.corrupted.logit_differences.iter().zip(&scores.logit_differences);
        let flips = pairs.filter(|(before, after)| (**before > 0.0) != (**after > 0.0)).count();
        flips as f64 / scores.logit_differences.len() as f64
    }
}

/// The gradient of the mean logit difference with respect to the answer logits, times `scale`: `(rows, answers)`.
pub fn logit_difference_gradient(answers: &[Vec<(usize, usize)>], n_answers: usize, scale: f64) -> Matrix {
    let mut gradient = Matrix::zeros(answers.len(), n_answers);
    for (row, pairs) in answers.iter().enumerate() {
        let each = (scale / (answers.len() * pairs.len()) as f64) as f32;
        for &(correct, incorrect) in pairs {
            gradient.row_mut(row)[correct] += each;
            gradient.row_mut(row)[incorrect] -= each;
        }
    }
    gradient
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(values: &[f64]) -> Scores {
        let values = values.to_vec();
        Scores { logit_differences: values.clone(), probability_differences: values.clone(), log_probabilities: values }
    }

    fn baselines() -> Baselines {
        // A bias of 1 towards "positive": clean answers are right by 2 either way.
        Baselines {
            clean: scores(&[3.0, 1.0, 3.0, 1.0]),
            corrupted: scores(&[-1.0, -3.0, -1.0, -3.0]),
            positive: vec![true, false, true, false],
        }
    }

    #[test]
    fn baselines_sit_at_the_ends_of_every_metric() {
        let b = baselines();
        for metric in Metric::ALL {
            assert!(b.defined(metric));
            let (clean, corrupted) = (b.evaluate(metric, &b.clean), b.evaluate(metric, &b.corrupted));
            let expected = if metric.mode() == Mode::Denoising { (1.0, 0.0) } else { (0.0, -1.0) };
            assert_eq!((clean, corrupted), expected, "{metric}");
            assert_eq!(metric.name().parse::<Metric>().unwrap(), metric);
        }
        assert!("accuracy".parse::<Metric>().unwrap_err().to_string().contains("logit_diff"));
    }

    #[test]
    fn flips_are_counted_behind_the_class_bias() {
        let b = baselines();
        // Bias 1: centred -0.5, 0.5, -0.5, 0.5 -> half the prompts are right.
        let half = scores(&[0.5, -0.5, 0.5, -0.5]);
        assert_eq!(centred(&half.logit_differences, &b.positive), [0.0, 0.0, 0.0, 0.0]);
        let some = scores(&[4.0, -0.5, 4.0, -0.5]);
        assert_eq!(b.evaluate(Metric::LogitFlip, &some), 1.0);
        assert_eq!(b.evaluate(Metric::LogitDiff, &some), (1.75 + 2.0) / 4.0);
    }

    #[test]
    fn signs_are_counted_as_they_are() {
        let b = Baselines { corrupted: scores(&[-1.0, -3.0, 1.0, -3.0]), ..baselines() };
        // The first prompt flips to right, the third to wrong.
        let some = scores(&[2.0, -1.0, -1.0, -0.5]);
        assert_eq!(b.evaluate(Metric::SignFlip, &some), 0.5);
        assert_eq!(b.evaluate(Metric::SignFlip, &b.corrupted), 0.0);
    }

    #[test]
    fn a_metric_is_the_mean_over_its_prompts() {
        let b = Baselines { corrupted: scores(&[-1.0, -3.0, 0.5, -3.0]), ..baselines() };
        let some = scores(&[4.0, -0.5, -2.0, 1.25]);
        for metric in Metric::ALL {
            let each = b.by_prompt(metric, &some);
            assert_eq!(each.len(), 4);
            assert!((mean(&each) - b.evaluate(metric, &some)).abs() < 1e-12, "{metric}: {each:?}");
        }
        assert_eq!(b.by_prompt(Metric::SignFlip, &some), [1.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn a_metric_is_undefined_where_its_ends_meet() {
        // Right answers stay right in the corrupted run, by less.
        let b = Baselines { corrupted: scores(&[1.5, 0.5, 1.5, 0.5]), ..baselines() };
        assert_eq!(Metric::ALL.map(|metric| b.defined(metric)), [true, true, false, true, true, true, true]);
        assert!(!b.evaluate(Metric::LogitFlip, &b.clean).is_finite());
        let one_sided = Baselines { positive: vec![true; 4], ..baselines() };
        assert_eq!(Metric::ALL.map(|metric| one_sided.defined(metric)), [true, true, false, true, true, true, true]);
        let same = Baselines { corrupted: b.clean.clone(), ..baselines() };
        assert_eq!(Metric::ALL.map(|metric| same.defined(metric)), [false, false, false, true, false, false, false]);
    }

    #[test]
    fn rounding_is_no_effect() {
        let by = |change: f64| Baselines { corrupted: scores(&[3.0 + change, 1.0, 3.0, 1.0]), ..baselines() };
        for metric in [Metric::LogitDiffNoising, Metric::LogProbNoising] {
            assert!(by(1e-6).defined(metric) && !by(1e-6).apart(metric, 1e-4));
            assert!(by(-1e-2).apart(metric, 1e-4) && !by(0.0).apart(metric, 0.0));
        }
    }

    #[test]
    fn unequal_classes_leave_the_ends_of_the_scale() {
        let b = Baselines { positive: vec![true, false, true, true], ..baselines() };
        for metric in [Metric::LogitDiff, Metric::ProbDiff] {
            assert_eq!((b.evaluate(metric, &b.clean), b.evaluate(metric, &b.corrupted)), (1.0, 0.0), "{metric}");
        }
    }

    #[test]
    fn probabilities_match_a_softmax_by_hand() {
        // Softmax of (0.5, 1, 0): 0.30720, 0.50648, 0.18632.
        let logits = Logits {
            values: Matrix::new(1, 3, vec![0.5, 1.0, 0.0]),
            log_sum_exp: Some(vec![(0.5f32.exp() + 1f32.exp() + 1.0).ln()]),
        };
        let found = Scores::new(&logits, 0, &vec![vec![(0, 1)]]);
        assert_eq!(found.logit_differences, [-0.5]);
        // 1e-5: the published value has five digits.
        assert!((found.probability_differences[0] + 0.19928).abs() < 1e-5);
        let found = Scores::new(&logits, 0, &vec![vec![(0, 1), (2, 1)]]);
        let expected = (0.30720f64.ln() + 0.18632f64.ln()) / 2.0;
        assert!((found.log_probabilities[0] - expected).abs() < 1e-4, "the right answers alone count");
    }

    #[test]
    fn the_gradient_is_that_of_the_mean() {
        let gradient = logit_difference_gradient(&[vec![(0, 1), (2, 1)], vec![(1, 0)]], 3, 2.0);
        assert_eq!(gradient.data, [0.5, -1.0, 0.5, -1.0, 1.0, 0.0]);
    }
}
