//! Probes: what a linear classifier reads off activations, layer by layer.
//!
//! Logistic regressions at every layer and position, and contrast-consistent search at the end of two completions of every
//! prompt.

use super::activation_maps::common_length;
use super::component::Component;
use crate::backend::Backend;
use crate::directions::das::TrainError;
use crate::directions::{CcsSettings, DirectionError, fit_ccs, fit_probe};
use crate::engine::{Engine, EngineError, Output, Site};
use crate::types::{Matrix, PairedPrompts};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Share of the prompts that logistic regressions are tested on.
const TEST_SHARE: f64 = 0.2;

/// Probes of one component at every layer and position.
#[derive(Debug, Clone, PartialEq)]
pub struct Probes {
    /// Layers, positions.
    pub shape: [usize; 2],
    /// Shares of right answers on the prompts that the probes have not seen.
    pub test: Vec<f64>,
    /// On those that they were fitted on.
    pub train: Vec<f64>,
    /// `(layers, positions, width + 1)`: weights of the activations as they are, and the intercept behind them.
    pub weights: Vec<f32>,
}

/// Numbers of the prompts to fit on and to test on, drawn at random.
fn split(n: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let train = order.split_off((TEST_SHARE * n as f64).ceil() as usize);
    (train, order)
}

fn rows(matrix: &Matrix, numbers: &[usize]) -> Matrix {
    let data = numbers.iter().flat_map(|&row| matrix.row(row).iter().copied()).collect();
    Matrix::new(numbers.len(), matrix.cols, data)
}

fn pick(labels: &[bool], numbers: &[usize]) -> Vec<bool> {
    numbers.iter().map(|&number| labels[number]).collect()
}

/// Captured rows of `sites` at `positions` of every sequence, `[site][position]` matrices of a row per sequence. Sequences go
/// through the model in stretches that keep about `budget` bytes.
fn captured<B: Backend>(
    engine: &Engine<B>,
    sequences: &[Vec<u32>],
    sites: &[Site],
    positions: &[Vec<usize>],
    budget: usize,
) -> Result<Vec<Vec<Matrix>>, EngineError> {
    let width: usize = sites.iter().map(|site| site.width(engine.config())).sum();
    let longest = sequences.iter().map(Vec::len).max().unwrap_or(1);
    let stretch = (budget / (4 * width * longest).max(1)).clamp(1, sequences.len().max(1));
    let empty = |site: &Site| vec![Matrix::zeros(0, site.width(engine.config())); positions.len()];
    let mut found: Vec<Vec<Matrix>> = sites.iter().map(empty).collect();
    for (number, part) in sequences.chunks(stretch).enumerate() {
        let run = engine.run(part, sites, &[], Output::None)?;
        for (site, found) in sites.iter().zip(&mut found) {
            for (position, found) in positions.iter().zip(found) {
                let token = |row: usize| run.token(row, position[number * stretch + row]);
                let tokens = (0..part.len()).map(token).collect::<Result<Vec<_>, _>>()?;
                let rows = engine.captured_rows(&run, *site, &tokens)?;
                found.rows += rows.rows;
                found.data.extend(rows.data);
            }
        }
    }
    Ok(found)
}

/// Fits a logistic regression (see [`fit_probe`]) of the clean prompts' class on `component` at every layer and position,
/// on four fifths of the prompts. `told` hears the share of the work that is done.
///
/// # Errors
/// Prompts of unequal length or of one class, patterns, a site that the model lacks; those of the engine and of `told`.
pub fn probes<B: Backend, E: From<TrainError>>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    component: Component,
    seed: u64,
    budget: usize,
    mut told: impl FnMut(f64) -> Result<(), E>,
) -> Result<Probes, E> {
    let length = common_length(prompts).map_err(TrainError::from)?;
    let n_layers = engine.config().n_layers;
    let sequences: Vec<Vec<u32>> = prompts.clean.iter().map(|&sequence| prompts.sequences[sequence].clone()).collect();
    let positions: Vec<Vec<usize>> = (0..length).map(|position| vec![position; sequences.len()]).collect();
    let (train, test) = split(sequences.len(), seed);
    let (train_labels, test_labels) = (pick(&prompts.positive, &train), pick(&prompts.positive, &test));
    let mut probes = Probes { shape: [n_layers, length], test: Vec::new(), train: Vec::new(), weights: Vec::new() };
    for layer in 0..n_layers {
        let sites = [component.site(layer)];
        let found = captured(engine, &sequences, &sites, &positions, budget).map_err(TrainError::from)?;
        let fit = |activations: &Matrix| {
            let seen = rows(activations, &train);
            let classifier = fit_probe(&seen, &train_labels)?;
            let test = classifier.accuracy_on(&rows(activations, &test), &test_labels)?;
            Ok((test.share(), classifier.accuracy_on(&seen, &train_labels)?.share(), classifier))
        };
        let fits: Result<Vec<_>, DirectionError> = found[0].par_iter().map(fit).collect();
        for (test, train, classifier) in fits.map_err(TrainError::from)? {
            probes.test.push(test);
            probes.train.push(train);
            let weights = classifier.weight.iter().chain([&classifier.bias]);
            probes.weights.extend(weights.map(|value| *value as f32));
        }
        told((layer + 1) as f64 / n_layers as f64)?;
    }
    Ok(probes)
}

/// Contrast-consistent search beside a logistic regression, in front of every block and behind the last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CcsLayers {
    /// Per layer: accuracy of the search on the second half of the prompts.
    pub test: Vec<f64>,
    /// On the first half, which it was fitted on without labels.
    pub train: Vec<f64>,
    /// Of the logistic regression ([`fit_probe`]) of the differences of completions, on the second half.
    pub supervised_test: Vec<f64>,
    /// On the first half, which it was fitted on.
    pub supervised_train: Vec<f64>,
    /// The loss of the search.
    pub losses: Vec<f64>,
    /// `(layers, d_model + 1)`: the search's weights and the intercept behind them.
    pub weights: Vec<f32>,
    /// Per layer the weights' direction, `d_model` values of unit length, from false to true; none where each side's
    /// completions are all the same, so that nothing could be searched.
    pub directions: Vec<Option<Vec<f32>>>,
}

/// Completions by the positive and by the negative answer.
type Sides = (Matrix, Matrix);

impl CcsLayers {
    /// Fits and tests one layer.
    fn add(
        &mut self,
        train: &Sides,
        train_labels: &[bool],
        test: &Sides,
        test_labels: &[bool],
        settings: &CcsSettings,
    ) -> Result<(), DirectionError> {
        let mut probe = fit_ccs(&train.0, &train.1, settings)?;
        if probe.accuracy(&train.0, &train.1, train_labels)?.share() < 0.5 {
            probe = probe.turned();
        }
        self.train.push(probe.accuracy(&train.0, &train.1, train_labels)?.share());
        self.test.push(probe.accuracy(&test.0, &test.1, test_labels)?.share());
        let supervised = fit_probe(&difference(train), train_labels)?;
        self.supervised_train.push(supervised.accuracy_on(&difference(train), train_labels)?.share());
        self.supervised_test.push(supervised.accuracy_on(&difference(test), test_labels)?.share());
        self.losses.push(probe.loss);
        self.directions.push((varies(&train.0) || varies(&train.1)).then(|| probe.direction()));
        self.weights.extend(probe.weight.iter().chain([&probe.bias]).map(|value| *value as f32));
        Ok(())
    }
}

/// Completes every clean prompt with its first pair of answers, and searches the residual stream at the completion's last
/// token for a direction of truth. The first half of the prompts is fitted, the second tested. `told` hears the share of
/// the work that is done.
///
/// Which side of the probe is true is told by the labels of the first half, since no loss can.
///
/// # Errors
/// Fewer than four prompts, halves of one class; those of the engine and of `told`.
pub fn ccs_layers<B: Backend, E: From<TrainError>>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    settings: &CcsSettings,
    budget: usize,
    mut told: impl FnMut(f64) -> Result<(), E>,
) -> Result<CcsLayers, E> {
    let (n_layers, n) = (engine.config().n_layers, prompts.clean.len());
    let completions = completed(prompts).map_err(TrainError::from)?;
    let last = vec![completions.iter().map(|sequence| sequence.len() - 1).collect()];
    let half: Vec<usize> = (0..n / 2).collect();
    let rest: Vec<usize> = (n / 2..n).collect();
    let (train_labels, test_labels) = (pick(&prompts.positive, &half), pick(&prompts.positive, &rest));
    let mut found = CcsLayers::default();
    for layer in 0..=n_layers {
        let sites = [Site::resid(layer, n_layers)];
        let states = captured(engine, &completions, &sites, &last, budget).map_err(TrainError::from)?;
        let sides = |numbers: &[usize]| {
            let behind: Vec<usize> = numbers.iter().map(|number| n + number).collect();
            (rows(&states[0][0], numbers), rows(&states[0][0], &behind))
        };
        let (train, test) = (sides(&half), sides(&rest));
        found.add(&train, &train_labels, &test, &test_labels, settings).map_err(TrainError::from)?;
        told((layer + 1) as f64 / (n_layers + 1) as f64)?;
    }
    Ok(found)
}

/// Every prompt with the positive answer behind it, then every prompt with the negative one.
fn completed(prompts: &PairedPrompts) -> Result<Vec<Vec<u32>>, EngineError> {
    let n = prompts.clean.len();
    if n < 4 {
        return Err(EngineError::Mismatch {
            what: format!("{}: prompts for contrast-consistent search", prompts.name),
            expected: "at least 4".into(),
            found: n.to_string(),
        });
    }
    let mut completions = Vec::with_capacity(2 * n);
    for with_positive in [true, false] {
        for prompt in 0..n {
            let Some(&(correct, incorrect)) = prompts.answers[prompt].first() else { continue };
            let answer = if prompts.positive[prompt] == with_positive { correct } else { incorrect };
            completions.push([&prompts.sequences[prompts.clean[prompt]][..], &[answer]].concat());
        }
    }
    Ok(completions)
}

/// Are there two different rows?
fn varies(side: &Matrix) -> bool {
    (1..side.rows).any(|row| side.row(row) != side.row(0))
}

fn difference((positive, negative): &Sides) -> Matrix {
    let data = positive.data.iter().zip(&negative.data).map(|(a, b)| a - b).collect();
    Matrix::new(positive.rows, positive.cols, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_the_prompts_is_tested_and_all_are_used_once() {
        let (train, test) = split(26, 3);
        assert_eq!((train.len(), test.len()), (20, 6));
        let mut all = [train, test].concat();
        all.sort_unstable();
        assert_eq!(all, (0..26).collect::<Vec<_>>());
        assert_ne!(split(26, 3), split(26, 4));
    }
}
