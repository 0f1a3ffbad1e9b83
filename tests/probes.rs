//! Linear probes against scikit-learn, and contrast-consistent search against PyTorch, in f64.
//!
//! Fixtures and the script that made them: `tests/fixtures/probes.safetensors`, `tests/reference/make_probe_fixtures.py`.

use actpatch::directions::{CcsSettings, fit_ccs, fit_ccs_from, fit_probe};
use actpatch::types::Matrix;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

struct Fixture(Vec<u8>);

impl Fixture {
    fn open() -> Self {
        Self(std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/probes.safetensors")).unwrap())
    }

    fn tensor(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        let values = match view.dtype() {
            Dtype::F32 => view.data().as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::F64 => view.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::U8 => view.data().iter().map(|b| f64::from(*b)).collect(),
            other => panic!("{other:?}"),
        };
        (view.shape().to_vec(), values)
    }

    fn matrix(&self, name: &str) -> Matrix {
        let (shape, values) = self.tensor(name);
        Matrix::new(shape[0], shape[1], values.into_iter().map(|value| value as f32).collect())
    }

    fn labels(&self, name: &str) -> Vec<bool> {
        self.tensor(name).1.into_iter().map(|value| value != 0.0).collect()
    }
}

#[test]
fn probes_match_scikit_learn() {
    let fixture = Fixture::open();
    for case in ["tall", "wide", "unequal"] {
        let (x, labels) = (fixture.matrix(&format!("{case}.x")), fixture.labels(&format!("{case}.labels")));
        let found = fit_probe(&x, &labels).unwrap();
        let (weight, bias) =
            (fixture.tensor(&format!("{case}.weight")).1, fixture.tensor(&format!("{case}.bias")).1[0]);
        let largest = weight.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        let worst = found.weight.iter().zip(&weight).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
        // lbfgs ends at a gradient of 1e-12 or where the loss no longer falls, about 1e-7 from the solution; our intercept's
        // penalty is a millionth.
        assert!(worst < 1e-5 * largest, "{case}: off by {worst:e} of {largest}");
        assert!((found.bias - bias).abs() < 1e-4 * bias.abs().max(1.0), "{case}: {} {bias}", found.bias);
        assert_eq!(*found.weight.last().unwrap(), 0.0, "a constant feature says nothing");
    }
}

#[test]
fn a_probe_of_equal_rows_guesses_the_larger_class() {
    let x = Matrix::new(5, 2, [0.3, -2.0].repeat(5));
    let found = fit_probe(&x, &[true, true, true, false, false]).unwrap();
    assert_eq!(found.weight, [0.0, 0.0]);
    // log(3 / 2); the penalty moves it by a millionth.
    assert!((found.bias - 1.5f64.ln()).abs() < 1e-4, "{}", found.bias);
    assert!(fit_probe(&x, &[true; 5]).unwrap_err().to_string().contains("found 5 positive of 5"));
}

#[test]
fn contrast_consistent_search_matches_pytorch() {
    let fixture = Fixture::open();
    let (positive, negative) = (fixture.matrix("ccs.positive"), fixture.matrix("ccs.negative"));
    let ((_, starts), (_, losses), (shape, ends)) =
        (fixture.tensor("ccs.starts"), fixture.tensor("ccs.losses"), fixture.tensor("ccs.ends"));
    let settings = CcsSettings { epochs: 200, ..CcsSettings::default() };
    let mut worst: f64 = 0.0;
    for ((start, loss), end) in starts.chunks(shape[1]).zip(&losses).zip(ends.chunks(shape[1])) {
        let found = fit_ccs_from(&positive, &negative, vec![start.to_vec()], &settings).unwrap();
        let parameters = found.weight.iter().chain([&found.bias]);
        worst = parameters.zip(end).map(|(f, e)| (f - e).abs()).fold(worst, f64::max);
        worst = worst.max((found.loss - loss).abs());
    }
    // f64 on both sides, 200 steps.
    assert!(worst < 1e-10, "off by {worst:e}");
    let starts = starts.chunks(shape[1]).map(<[f64]>::to_vec).collect();
    let best = fit_ccs_from(&positive, &negative, starts, &settings).unwrap();
    assert!((best.loss - losses.iter().copied().fold(f64::INFINITY, f64::min)).abs() < 1e-10);
    let (labels, says) = (fixture.labels("ccs.labels"), fixture.labels("ccs.says"));
    let right = labels.iter().zip(&says).filter(|(label, says)| label == says).count();
    assert_eq!(best.accuracy(&positive, &negative, &labels).unwrap().correct, right);
    assert_eq!(best.turned().accuracy(&positive, &negative, &labels).unwrap().correct, labels.len() - right);
}

#[test]
fn the_search_finds_truth_without_labels_and_refuses_what_it_cannot_use() {
    let fixture = Fixture::open();
    let (positive, negative, labels) =
        (fixture.matrix("ccs.positive"), fixture.matrix("ccs.negative"), fixture.labels("ccs.labels"));
    let found = fit_ccs(&positive, &negative, &CcsSettings { learning_rate: 1e-2, ..CcsSettings::default() }).unwrap();
    let share = found.accuracy(&positive, &negative, &labels).unwrap().share();
    assert!(share.max(1.0 - share) > 0.9, "{share}");
    let few = Matrix::zeros(0, positive.cols);
    assert!(fit_ccs(&few, &few, &CcsSettings::default()).unwrap_err().to_string().contains("pairs of completions"));
    assert!(
        fit_ccs(&positive, &few, &CcsSettings::default()).unwrap_err().to_string().contains("negative completions")
    );
}
