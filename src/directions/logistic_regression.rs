//! Logistic regression.

use super::fit::{Classifier, Data, Fit};
use super::linalg::{add_scaled, cholesky, cholesky_solve, dot};
use super::{DirectionError, Method};
use crate::strided::{Strided, multiply_add};
use crate::types::Matrix;
use rayon::prelude::*;

/// Weight of the data against the penalty.
const C: f64 = 1.0;

/// Newton steps at most; a dozen are usual.
const STEPS: usize = 200;

/// The gradient's length, relative to that at zero, at which the solution is exact for every purpose.
const TOLERANCE: f64 = 1e-10;

/// Coefficients of the logistic regression with an L2 penalty and `C = 1`, not normalised.
///
/// The problem is liblinear's, `min ½‖w‖² + C Σ log(1 + exp(-yᵢ wᵀxᵢ))`, every `xᵢ` with a last feature of 1 whose
/// coefficient, the intercept, is penalised like the others. It is solved to convergence by Newton's method.
///
/// # Errors
/// [`DirectionError::Shape`] unless `embeddings` is `(labels.len(), d_model)`; [`DirectionError::NotFinite`],
/// [`DirectionError::OneClass`], and [`DirectionError::Degenerate`] for equal rows or when Newton's method stalls.
pub fn fit_logistic_regression(embeddings: &Matrix, labels: &[bool]) -> Result<Fit, DirectionError> {
    let data = Data::new(embeddings, labels)?;
    let classifier = Problem::new(&data, 1.0).classifier()?;
    data.fit(Method::LogisticRegression, &classifier.weight.clone(), classifier, None)
}

/// The feature of the intercept of [`fit_probe`]: its penalty is a millionth of a coefficient's, none to any digit that
/// matters, and the problem stays well enough conditioned.
const FREE_INTERCEPT: f64 = 1e3;

/// A linear probe: the logistic regression with `C = 1` of features scaled to mean zero and deviation one, its intercept
/// not penalised (scikit-learn's `StandardScaler` and `LogisticRegression`), as a classifier of the features themselves.
/// A feature that does not vary has no weight.
///
/// # Errors
/// Those of [`fit_logistic_regression`].
pub fn fit_probe(embeddings: &Matrix, labels: &[bool]) -> Result<Classifier, DirectionError> {
    let mut data = Data::new(embeddings, labels)?;
    let mean = data.mean(|_| true);
    let mut deviation = vec![0.0; data.d];
    for row in data.x.chunks(data.d) {
        let squares = row.iter().zip(&mean).map(|(x, mean)| (x - mean).powi(2));
        deviation.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square / data.n as f64);
    }
    // Rounding alone is no variation.
    let scale: Vec<f64> = deviation
        .iter()
        .zip(&mean)
        .map(|(variance, mean)| if *variance > 1e-24 * mean * mean { variance.sqrt().recip() } else { 0.0 })
        .collect();
    for row in data.x.chunks_mut(data.d) {
        row.iter_mut().zip(mean.iter().zip(&scale)).for_each(|(x, (mean, scale))| *x = (*x - mean) * scale);
    }
    let Classifier { mut weight, bias } = Problem::new(&data, FREE_INTERCEPT).classifier()?;
    weight.iter_mut().zip(&scale).for_each(|(weight, scale)| *weight *= scale);
    Ok(Classifier { bias: bias - dot(&weight, &mean), weight })
}

struct Problem<'a> {
    /// `X` with a column for the intercept, `(n, m)`, each of whose values is `intercept`.
    design: Vec<f64>,
    intercept: f64,
    n: usize,
    m: usize,
    labels: &'a [bool],
    /// `X Xᵀ`, `(n, n)`, when it is the smaller one.
    gram: Option<Vec<f64>>,
}

impl<'a> Problem<'a> {
    fn new(data: &Data<'a>, intercept: f64) -> Self {
        let (n, m) = (data.n, data.d + 1);
        let design: Vec<f64> = data.x.chunks(data.d).flat_map(|row| row.iter().copied().chain([intercept])).collect();
        let view = Strided::new(&design, n, m);
        let gram = (n < m).then(|| product(view, view.transposed()));
        Self { design, intercept, n, m, labels: data.labels, gram }
    }

    /// The solution as weights and intercept.
    fn classifier(&self) -> Result<Classifier, DirectionError> {
        let mut weight = self.solve().ok_or(DirectionError::Degenerate {
            method: Method::LogisticRegression,
            reason: "Newton's method does not converge: scale them down",
        })?;
        let bias = self.intercept * weight.pop().unwrap_or(0.0);
        Ok(Classifier { weight, bias })
    }

    fn margins(&self, weight: &[f64]) -> Vec<f64> {
        self.design.chunks(self.m).map(|row| dot(row, weight)).collect()
    }

    /// `½‖w‖² + C Σ log(1 + exp(-yᵢ zᵢ))`, without overflow.
    fn loss(&self, weight: &[f64], margins: &[f64]) -> f64 {
        let data = margins.iter().zip(self.labels).map(|(margin, label)| {
            let signed = if *label { -margin } else { *margin };
            signed.max(0.0) + (-signed.abs()).exp().ln_1p()
        });
        0.5 * dot(weight, weight) + C * data.sum::<f64>()
    }

    /// Newton's method with Armijo's rule. `None` when it does not converge.
    fn solve(&self) -> Option<Vec<f64>> {
        let mut weight = vec![0.0; self.m];
        let mut margins = vec![0.0; self.n];
        let mut first_norm = None;
        for _ in 0..STEPS {
            let shares: Vec<f64> = margins.iter().map(|margin: &f64| 1.0 / (1.0 + (-margin).exp())).collect();
            let mut gradient = weight.clone();
            for ((row, share), label) in self.design.chunks(self.m).zip(&shares).zip(self.labels) {
                add_scaled(&mut gradient, C * (share - f64::from(u8::from(*label))), row);
            }
            let norm = dot(&gradient, &gradient).sqrt();
            if norm <= TOLERANCE * *first_norm.get_or_insert(norm) {
                return Some(weight);
            }
            let curvatures: Vec<f64> = shares.iter().map(|share| C * share * (1.0 - share)).collect();
            let direction = self.newton_direction(&gradient, &curvatures)?;
            let slope = dot(&gradient, &direction);
            let before = self.loss(&weight, &margins);
            // At the optimum the loss no longer resolves the step: the whole step is right then.
            let resolution = 1e-14 * before.abs();
            let step = (0..50).map(|halvings| 0.5f64.powi(halvings)).find(|step| {
                let mut trial = weight.clone();
                add_scaled(&mut trial, *step, &direction);
                self.loss(&trial, &self.margins(&trial)) <= before + 1e-4 * step * slope + resolution
            })?;
            add_scaled(&mut weight, step, &direction);
            margins = self.margins(&weight);
        }
        None
    }

    /// `-(I + UᵀU)⁻¹ g` with `U = S^½ X` and `S` the curvatures; through `(I + UUᵀ)⁻¹` (Woodbury) when that is smaller.
    fn newton_direction(&self, gradient: &[f64], curvatures: &[f64]) -> Option<Vec<f64>> {
        let roots: Vec<f64> = curvatures.iter().map(|curvature| curvature.sqrt()).collect();
        let (n, m) = (self.n, self.m);
        if let Some(gram) = &self.gram {
            let mut inner: Vec<f64> = (0..n * n).map(|at| roots[at / n] * gram[at] * roots[at % n]).collect();
            (0..n).for_each(|i| inner[i * n + i] += 1.0);
            let mut small: Vec<f64> =
                self.margins(gradient).iter().zip(&roots).map(|(value, root)| value * root).collect();
            cholesky(&mut inner, n).then(|| cholesky_solve(&inner, n, &mut small))?;
            let mut direction: Vec<f64> = gradient.iter().map(|value| -value).collect();
            for ((row, root), value) in self.design.chunks(m).zip(&roots).zip(&small) {
                add_scaled(&mut direction, root * value, row);
            }
            return Some(direction);
        }
        let u: Vec<f64> =
            self.design.chunks(m).zip(&roots).flat_map(|(row, root)| row.iter().map(move |x| x * root)).collect();
        let u = Strided::new(&u, n, m);
        let mut hessian = product(u.transposed(), u);
        (0..m).for_each(|i| hessian[i * m + i] += 1.0);
        let mut direction: Vec<f64> = gradient.iter().map(|value| -value).collect();
        cholesky(&mut hessian, m).then(|| cholesky_solve(&hessian, m, &mut direction))?;
        Some(direction)
    }
}

/// `left · right`, by bands of rows, one task each.
fn product(left: Strided<f64>, right: Strided<f64>) -> Vec<f64> {
    const BAND: usize = 128;
    let mut out = vec![0.0; left.rows * right.cols];
    out.par_chunks_mut(BAND * right.cols).enumerate().for_each(|(band, out)| {
        let rows = left.transposed().columns(band * BAND, out.len() / right.cols).transposed();
        multiply_add(out, right.cols, 1.0, rows, right);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_feature_satisfies_the_optimality_conditions() {
        let x = Matrix::new(4, 1, vec![-2.0, -1.0, 1.5, 0.5]);
        let labels = [false, true, true, false];
        let fit = fit_logistic_regression(&x, &labels).unwrap();
        let (w, b) = (fit.classifier.weight[0], fit.classifier.bias);
        let (mut gradient_w, mut gradient_b) = (w, b);
        for (value, label) in x.data.iter().zip(labels) {
            let error = 1.0 / (1.0 + (-(w * f64::from(*value) + b)).exp()) - f64::from(u8::from(label));
            gradient_w += error * f64::from(*value);
            gradient_b += error;
        }
        // The solver's own tolerance, 1e-10 of a gradient of about 2.
        assert!(gradient_w.abs() < 1e-9 && gradient_b.abs() < 1e-9, "{gradient_w} {gradient_b}");
    }

    #[test]
    fn separable_data_of_any_scale_converge() {
        for scale in [1e-3, 1.0, 1e4] {
            let x =
                Matrix::new(4, 2, [1.0, 0.3, -1.0, 0.2, 0.9, 0.1, -1.1, 0.2].map(|value: f32| value * scale).to_vec());
            let fit = fit_logistic_regression(&x, &[true, false, true, false]).unwrap();
            assert_eq!(fit.train_accuracy.correct, 4, "scale {scale}");
        }
    }
}
