//! Fits and DAS against scikit-learn and PyTorch (tests/reference/make_direction_fixtures.py).

use actpatch::backend::{Backend, CpuBackend, Dtype as Format};
use actpatch::directions::das::{AdamSettings, Das, Rotation};
use actpatch::directions::{self, Fit, Method};
use actpatch::types::Matrix;
use safetensors::{Dtype, SafeTensors};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/directions");
const CASES: [&str; 5] = ["tall", "wide", "unequal", "overlap", "large_norm"];

struct Fixture(Vec<u8>);

impl Fixture {
    fn open(name: &str) -> Self {
        Self(std::fs::read(format!("{FOLDER}/{name}.safetensors")).unwrap())
    }

    /// Values in f64 and shape.
    fn values(&self, name: &str) -> (Vec<f64>, Vec<usize>) {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let bytes = tensor.data();
        let values = match tensor.dtype() {
            Dtype::U8 => bytes.iter().map(|byte| f64::from(*byte)).collect(),
            Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            other => panic!("{name}: {other:?}"),
        };
        (values, tensor.shape().to_vec())
    }

    fn matrix(&self, name: &str) -> Matrix {
        let (values, shape) = self.values(name);
        Matrix::new(shape[0], shape[1], values.into_iter().map(|value| value as f32).collect())
    }

    fn labelled(&self, case: &str) -> (Matrix, Vec<bool>) {
        let labels = self.values(&format!("{case}.labels")).0;
        (self.matrix(&format!("{case}.x")), labels.into_iter().map(|label| label == 1.0).collect())
    }
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn widened(matrix: &Matrix) -> Vec<f64> {
    matrix.data.iter().map(|value| f64::from(*value)).collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn fitted(fixture: &Fixture, case: &str, method: Method) -> Fit {
    let (x, labels) = fixture.labelled(case);
    directions::fit(method, &x, &labels).unwrap().unwrap()
}

#[test]
fn fits_point_where_scikit_learn_points() {
    let fixture = Fixture::open("classical");
    for case in CASES {
        for method in [Method::Kmeans, Method::MeanDiff, Method::Pca, Method::Svd, Method::LogisticRegression] {
            let ours = widened(&fitted(&fixture, case, method).direction);
            let reference = fixture.values(&format!("{case}.{method}")).0;
            let cosine = cosine(&ours, &reference);
            // Sign included. liblinear at its usual 1e-4 stops short of the optimum by up to 2 degrees (the next test
            // holds ours to the optimum itself); the others agree to f32's rounding.
            let limit = if method == Method::LogisticRegression { 0.999 } else { 1.0 - 1e-10 };
            assert!(cosine >= limit, "{case} {method}: cosine {cosine}");
        }
    }
}

#[test]
fn logistic_regression_is_the_converged_one() {
    let fixture = Fixture::open("classical");
    let facts: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{FOLDER}/classical.json")).unwrap()).unwrap();
    for case in CASES {
        let fit = fitted(&fixture, case, Method::LogisticRegression);
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let reference = fixture.values(&format!("{case}.logistic_regression_exact")).0;
        let error: Vec<f64> = widened(&fit.direction).iter().zip(&reference).map(|(a, b)| a - b).collect();
        let relative = norm(&error) / norm(&reference);
        // liblinear at tolerance 1e-11: only f32's rounding is left.
        assert!(relative < 1e-6, "{case}: relative error {relative}");
        let intercept = facts[case]["logistic_intercept"].as_f64().unwrap();
        assert!((fit.classifier.bias - intercept).abs() < 1e-6 * (1.0 + intercept.abs()), "{case}");
        assert_eq!(Some(fit.train_accuracy.correct as u64), facts[case]["logistic_correct"].as_u64(), "{case}");
        let kmeans = fitted(&fixture, case, Method::Kmeans).train_accuracy;
        assert_eq!(Some(kmeans.correct as u64), facts[case]["kmeans_correct"].as_u64(), "{case}");
    }
}

/// What `direction_fitting_stats.csv` lists: scikit-learn's clusters of the rows, or of one component of them.
#[test]
fn statistics_are_those_of_the_papers_code() {
    let fixture = Fixture::open("classical");
    let facts: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{FOLDER}/classical.json")).unwrap()).unwrap();
    for case in CASES {
        for method in [Method::MeanDiff, Method::Pca, Method::Svd] {
            let fit = fitted(&fixture, case, method);
            let (_, labels) = fixture.labelled(case);
            let others = fit.accuracy(&fixture.matrix(&format!("{case}.other")), &labels).unwrap();
            let found = [fit.train_accuracy.correct, others.correct];
            assert_eq!(serde_json::json!(found), facts[case]["right"][method.to_string()], "{case} {method}");
        }
    }
}

#[test]
fn projections_are_the_principal_plane() {
    let fixture = Fixture::open("classical");
    for case in CASES {
        for method in [Method::Pca, Method::Svd] {
            let fit = fitted(&fixture, case, method);
            let projection = fit.projection.as_ref().unwrap();
            let second = fixture.values(&format!("{case}.{method}_second")).0;
            let agreement = cosine(&projection.components[1], &second).abs();
            assert!(agreement > 1.0 - 1e-10, "{case} {method}: second component {agreement}");
            let (x, labels) = fixture.labelled(case);
            let plane = projection.project(&x).unwrap();
            assert_eq!((plane.rows, plane.cols), (x.rows, 2));
            if method == Method::Pca {
                let means = [0, 1].map(|col| plane.data.iter().skip(col).step_by(2).sum::<f32>() / x.rows as f32);
                // Centred: sums of at most 90 values of at most 100, in f32.
                assert!(means.iter().all(|mean| mean.abs() < 1e-3), "{case}: {means:?}");
            }
            assert_eq!(fit.accuracy(&x, &labels).unwrap(), fit.train_accuracy);
            assert!(2 * fit.train_accuracy.correct >= fit.train_accuracy.total);
        }
    }
}

/// The toy loss of the fixtures and its gradient with respect to the columns, in f64.
struct ToyLoss {
    a: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
    d: usize,
    k: usize,
}

impl ToyLoss {
    const ROWS: usize = 8;
    const SCALE: f64 = 30.0;

    fn new(fixture: &Fixture, d: usize, k: usize) -> Self {
        let tensor = |name: &str| fixture.values(&format!("d{d}k{k}.{name}")).0;
        Self { a: tensor("a"), b: tensor("b"), c: tensor("c"), d, k }
    }

    fn evaluate(&self, columns: &Matrix) -> (f64, Matrix) {
        let (d, k) = (self.d, self.k);
        let r = widened(columns);
        let size = (Self::ROWS * d) as f64;
        let mut gradient: Vec<f64> = self.c.iter().map(|c| Self::SCALE * c / (d * k) as f64).collect();
        let mut loss: f64 = r.iter().zip(&self.c).map(|(r, c)| Self::SCALE * r * c / (d * k) as f64).sum();
        for (a, b) in self.a.chunks(d).zip(self.b.chunks(d)) {
            let inside: Vec<f64> = (0..k).map(|col| (0..d).map(|i| a[i] * r[i * k + col]).sum()).collect();
            let error: Vec<f64> =
                (0..d).map(|i| (0..k).map(|col| inside[col] * r[i * k + col]).sum::<f64>() - b[i]).collect();
            loss += Self::SCALE * error.iter().map(|error| error * error).sum::<f64>() / size;
            for col in 0..k {
                let back: f64 = (0..d).map(|i| error[i] * r[i * k + col]).sum();
                for i in 0..d {
                    gradient[i * k + col] += 2.0 * Self::SCALE / size * (error[i] * inside[col] + a[i] * back);
                }
            }
        }
        (loss, Matrix::new(d, k, gradient.into_iter().map(|value| value as f32).collect()))
    }
}

fn cpu() -> CpuBackend {
    CpuBackend::new(Format::F32).unwrap()
}

/// One step against a `(d, k)` gradient of the columns.
fn das_step(das: &mut Das<CpuBackend>, gradient: &Matrix) -> Result<f64, directions::DirectionError> {
    let rows: Vec<f32> =
        (0..gradient.cols).flat_map(|col| (0..gradient.rows).map(move |row| gradient.row(row)[col])).collect();
    das.step(&cpu(), &cpu().upload(&rows).unwrap())
}

#[test]
fn das_trains_as_pytorch_trains() {
    let fixture = Fixture::open("das");
    for d in [20, 65] {
        for k in [1, 2, 3] {
            let name = |part: &str| format!("d{d}k{k}.{part}");
            let rotation = Rotation::from_lower(k, &fixture.matrix(&name("start"))).unwrap();
            let action = rotation.action(&cpu()).unwrap();
            let columns = fixture.values(&name("columns")).0;
            // The reference is f64: what is left is our f32 rounding, along a dozen products.
            let difference = largest_difference(&widened(action.columns()), &columns);
            assert!(difference < 1e-6, "d {d} k {k}: columns differ by {difference}");
            let gradient = rotation.gradient(&cpu(), &action, &fixture.matrix(&name("c"))).unwrap();
            let reference = fixture.values(&name("gradient")).0;
            let size = reference.iter().fold(0.0f64, |most, value| most.max(value.abs()));
            let difference = largest_difference(&widened(&gradient), &reference);
            assert!(difference < 2e-6 * size, "d {d} k {k}: gradients of {size} differ by {difference}");

            let toy = ToyLoss::new(&fixture, d, k);
            let mut das = Das::new(&cpu(), &rotation, AdamSettings::default()).unwrap();
            let (losses, norms) = (fixture.values(&name("losses")).0, fixture.values(&name("norms")).0);
            for (step, (expected, norm)) in losses.iter().zip(&norms).enumerate() {
                let (loss, gradient) = toy.evaluate(das.columns());
                let found = das_step(&mut das, &gradient).unwrap();
                // The bound asked of a re-implementation: 1e-5 over all 20 steps.
                assert!((loss - expected).abs() < 1e-5 * expected.abs(), "d {d} k {k} step {step}: {loss} {expected}");
                assert!((found - norm).abs() < 1e-4 * norm, "d {d} k {k} step {step}: norm {found}, not {norm}");
            }
            let difference = largest_difference(&widened(das.columns()), &fixture.values(&name("final")).0);
            assert!(difference < 1e-5, "d {d} k {k}: final columns differ by {difference}");
        }
    }
}

#[test]
fn adjoint_is_the_derivative() {
    for (d, k, size) in [(9, 1, 0.4), (24, 2, 1.5), (33, 3, 4.0)] {
        let wave = |i: usize| ((i as f32 * 12.9898).sin() * 43758.547).fract();
        let start = Matrix::new(d, d, (0..d * d).map(|i| size * wave(i)).collect());
        let weights = Matrix::new(d, k, (0..d * k).map(|i| wave(i + 7)).collect());
        let rotation = Rotation::from_lower(k, &start).unwrap();
        let gradient = rotation.gradient(&cpu(), &rotation.action(&cpu()).unwrap(), &weights).unwrap();
        let loss = |lower: &Matrix| -> f64 {
            let columns = Rotation::from_lower(k, lower).unwrap().columns(&cpu()).unwrap();
            columns.data.iter().zip(&weights.data).map(|(r, w)| f64::from(*r) * f64::from(*w)).sum()
        };
        // Along a random direction: central differences of a loss in f32 err by 1e-6 / step + step², relative to its
        // size of about one, so 2e-3 at a step of 1e-2 in norm.
        let tangent = Matrix::new(d, d, (0..d * d).map(|i| wave(i + 1000) / d as f32).collect());
        let along: f64 = (0..d)
            .flat_map(|i| (0..i).map(move |j| i * d + j))
            .map(|at| f64::from(gradient.data[at]) * f64::from(tangent.data[at]))
            .sum();
        let step = 1e-2;
        let moved = |sign: f32| {
            let data = start.data.iter().zip(&tangent.data).map(|(value, t)| value + sign * step * t).collect();
            loss(&Matrix::new(d, d, data))
        };
        let numeric = (moved(1.0) - moved(-1.0)) / (2.0 * f64::from(step));
        assert!((numeric - along).abs() < 2e-3 * (1.0 + along.abs()), "d {d} k {k}: {numeric} is not {along}");
    }
}

#[test]
fn columns_stay_orthonormal_however_far_training_goes() {
    for (d, k, size) in [(2, 2, 40.0), (20, 3, 0.0), (20, 1, 5.0), (65, 3, 10.0), (130, 2, 0.2), (200, 3, 4.0)] {
        let mut state = 1u32;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        };
        let lower = Matrix::new(d, d, (0..d * d).map(|_| size * uniform() as f32).collect());
        let action = Rotation::from_lower(k, &lower).unwrap().action(&cpu()).unwrap();
        // f32 rounding, once per product; the norm of the last case is about 65.
        assert!(action.orthonormality_error() < 1e-5, "d {d} size {size}: {}", action.orthonormality_error());
    }
}

#[test]
fn threads_do_not_change_a_bit_of_training() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut das = Das::new(&cpu(), &Rotation::random(400, 2, 5).unwrap(), AdamSettings::default()).unwrap();
            for _ in 0..3 {
                let gradient = das.columns().clone();
                let shifted = gradient.data.iter().enumerate().map(|(i, value)| value + (i % 7) as f32).collect();
                das_step(&mut das, &Matrix::new(400, 2, shifted)).unwrap();
            }
            das.columns().clone()
        })
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn zero_gradient_moves_nothing_and_bad_input_is_named() {
    let mut das = Das::new(&cpu(), &Rotation::random(16, 1, 0).unwrap(), AdamSettings::default()).unwrap();
    let before = das.columns().clone();
    assert_eq!(das_step(&mut das, &Matrix::zeros(16, 1)).unwrap(), 0.0);
    assert_eq!(das.columns(), &before);
    let mut bad = Matrix::zeros(16, 1);
    bad.data[3] = f32::NAN;
    let message = das_step(&mut das, &bad).unwrap_err().to_string();
    assert!(message.contains("NaN at row 3"), "{message}");
    assert!(das_step(&mut das, &Matrix::zeros(15, 1)).unwrap_err().to_string().contains("expected (1, 16)"));
    assert_eq!(das.columns(), &before);
    assert!(Rotation::random(4, 5, 0).unwrap_err().to_string().contains("d_model = 4, found k = 5"));
    let huge = Matrix::new(3, 3, vec![1e30; 9]);
    assert!(
        Rotation::from_lower(1, &huge).unwrap().action(&cpu()).unwrap_err().to_string().contains("spectral radius")
    );
    let x = Matrix::new(2, 2, vec![1.0, 2.0, 3.0, 4.0]);
    let message = directions::fit_pca(&x, &[true, true]).unwrap_err().to_string();
    assert!(message.contains("2 positive of 2"), "{message}");
    assert!(directions::fit_pca(&x, &[true]).is_err());
}
