//! Contrast-consistent search (Burns et al. 2022, arXiv 2212.03827): a probe of truth without labels.
//!
//! A statement is completed by either of two labels; a linear probe gives each completion a probability of being true.
//! The two should add up to one and not both be a half: `mean((p⁺ - (1 - p⁻))²) + mean(min(p⁺, p⁻)²)`. Each side's mean
//! is taken off first, or the probe would find the labels themselves.

use super::fit::mean;
use super::linalg::{add_scaled, dot};
use super::{Accuracy, DirectionError};
use crate::types::Matrix;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// How probes are trained: full batches, AdamW with PyTorch's betas and epsilon.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CcsSettings {
    /// Step size.
    pub learning_rate: f64,
    /// Of AdamW.
    pub weight_decay: f64,
    /// Steps of each try.
    pub epochs: usize,
    /// Random starts, of which the one with the lowest loss counts.
    pub tries: usize,
    /// Of the starts.
    pub seed: u64,
}

impl Default for CcsSettings {
    /// The paper's code.
    fn default() -> Self {
        Self { learning_rate: 1e-3, weight_decay: 0.01, epochs: 1000, tries: 10, seed: 0 }
    }
}

/// A fitted probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Ccs {
    /// `d_model` values.
    pub weight: Vec<f64>,
    /// The intercept.
    pub bias: f64,
    /// Its loss on the pairs of the fit.
    pub loss: f64,
    means: [Vec<f64>; 2],
}

/// Completions by the one and by the other label, in f64, each side's mean taken off.
struct Pairs {
    sides: [Vec<f64>; 2],
    n: usize,
    d: usize,
}

impl Pairs {
    fn new(
        positive: &Matrix,
        negative: &Matrix,
        means: Option<&[Vec<f64>; 2]>,
    ) -> Result<(Self, [Vec<f64>; 2]), DirectionError> {
        DirectionError::check_shape("negative completions", negative, positive.rows, positive.cols)?;
        DirectionError::check_finite("positive completions", positive)?;
        DirectionError::check_finite("negative completions", negative)?;
        let (n, d) = (positive.rows, positive.cols.max(1));
        let mut sides = [positive, negative].map(|side| side.data.iter().map(|x| f64::from(*x)).collect::<Vec<_>>());
        let own = [mean(&sides[0], d, |_| true), mean(&sides[1], d, |_| true)];
        let means = means.cloned().unwrap_or(own);
        for (side, mean) in sides.iter_mut().zip(&means) {
            side.chunks_mut(d).for_each(|row| add_scaled(row, -1.0, mean));
        }
        Ok((Self { sides, n, d }, means))
    }

    /// Probabilities that each pair's completions are true.
    fn probabilities<'a>(&'a self, weight: &'a [f64], bias: f64) -> impl Iterator<Item = [f64; 2]> + 'a {
        let sigmoid = move |row: &[f64]| 1.0 / (1.0 + (-(dot(row, weight) + bias)).exp());
        self.sides[0].chunks(self.d).zip(self.sides[1].chunks(self.d)).map(move |(a, b)| [sigmoid(a), sigmoid(b)])
    }

    /// The loss, and its gradient with the intercept's behind the weights'.
    fn loss(&self, weight: &[f64], bias: f64) -> (f64, Vec<f64>) {
        let (mut loss, mut gradient) = (0.0, vec![0.0; self.d + 1]);
        let share = 1.0 / self.n as f64;
        for (row, [p, q]) in self.probabilities(weight, bias).enumerate() {
            let (gap, least) = (p + q - 1.0, p.min(q));
            loss += share * (gap * gap + least * least);
            for (side, value) in [p, q].into_iter().enumerate() {
                let slope = 2.0 * gap + if value == least { 2.0 * least } else { 0.0 };
                let slope = share * slope * value * (1.0 - value);
                add_scaled(&mut gradient[..self.d], slope, &self.sides[side][row * self.d..][..self.d]);
                gradient[self.d] += slope;
            }
        }
        (loss, gradient)
    }

    /// Trains a probe from a start, weights and intercept; with its last loss.
    fn train(&self, mut parameters: Vec<f64>, settings: &CcsSettings) -> (f64, Vec<f64>) {
        let (beta1, beta2, epsilon) = (0.9f64, 0.999f64, 1e-8);
        let (mut first, mut second) = (vec![0.0; self.d + 1], vec![0.0; self.d + 1]);
        for step in 1..=settings.epochs as i32 {
            let (_, gradient) = self.loss(&parameters[..self.d], parameters[self.d]);
            let corrections = (1.0 - beta1.powi(step), (1.0 - beta2.powi(step)).sqrt());
            let moments = first.iter_mut().zip(&mut second).zip(&gradient);
            for (parameter, ((first, second), gradient)) in parameters.iter_mut().zip(moments) {
                *parameter *= 1.0 - settings.learning_rate * settings.weight_decay;
                *first = beta1 * *first + (1.0 - beta1) * gradient;
                *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
                *parameter -=
                    settings.learning_rate / corrections.0 * *first / (second.sqrt() / corrections.1 + epsilon);
            }
        }
        (self.loss(&parameters[..self.d], parameters[self.d]).0, parameters)
    }
}

/// Fits a probe on completions `(pairs, d_model)` by the positive and by the negative label, without knowing which is
/// right.
///
/// # Errors
/// [`DirectionError::Shape`] for no pairs, or sides of different shapes, [`DirectionError::NotFinite`].
pub fn fit_ccs(positive: &Matrix, negative: &Matrix, settings: &CcsSettings) -> Result<Ccs, DirectionError> {
    let width = 1.0 / (positive.cols.max(1) as f64).sqrt();
    let start = |number: u64| {
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed.wrapping_add(number));
        (0..positive.cols + 1).map(|_| random.random_range(-width..=width)).collect()
    };
    fit_ccs_from(positive, negative, (0..settings.tries as u64).map(start).collect(), settings)
}

/// As [`fit_ccs`] from given starts, `d_model` weights and an intercept each.
///
/// # Errors
/// Those of [`fit_ccs`].
pub fn fit_ccs_from(
    positive: &Matrix,
    negative: &Matrix,
    starts: Vec<Vec<f64>>,
    settings: &CcsSettings,
) -> Result<Ccs, DirectionError> {
    let (pairs, means) = Pairs::new(positive, negative, None)?;
    let fits = starts.into_par_iter().map(|start| pairs.train(start, settings)).collect::<Vec<_>>();
    let best = fits.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).filter(|_| pairs.n > 0);
    let Some((loss, mut weight)) = best else {
        let (expected, found) = ("at least one, and one start".into(), pairs.n.to_string());
        return Err(DirectionError::Shape { what: "pairs of completions", expected, found });
    };
    let bias = weight.pop().unwrap_or(0.0);
    Ok(Ccs { weight, bias, loss, means })
}

impl Ccs {
    /// How often the probe is right about which completion is true: the mean of `p⁺` and `1 - p⁻` is above a half where
    /// the positive label is right.
    ///
    /// # Errors
    /// [`DirectionError::Shape`], [`DirectionError::NotFinite`].
    pub fn accuracy(&self, positive: &Matrix, negative: &Matrix, labels: &[bool]) -> Result<Accuracy, DirectionError> {
        DirectionError::check_shape("positive completions", positive, labels.len(), self.weight.len())?;
        let (pairs, _) = Pairs::new(positive, negative, Some(&self.means))?;
        let says = pairs.probabilities(&self.weight, self.bias).map(|[p, q]| 0.5 * (p + 1.0 - q) > 0.5);
        Ok(Accuracy { correct: says.zip(labels).filter(|(says, label)| says == *label).count(), total: labels.len() })
    }

    /// Its weights scaled to unit length: from what it takes for false to what it takes for true.
    pub fn direction(&self) -> Vec<f32> {
        let length = dot(&self.weight, &self.weight).sqrt();
        self.weight.iter().map(|value| (value / length) as f32).collect()
    }

    /// The same probe with true and false exchanged: without labels nobody can say which is which.
    pub fn turned(self) -> Self {
        Self { weight: self.weight.iter().map(|w| -w).collect(), bias: -self.bias, ..self }
    }
}
