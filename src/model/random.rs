//! Random weights of a given shape: for tests, benchmarks and null results where no checkpoint is at hand.
//!
//! Value `i` of a tensor depends on (seed, tensor name, `i`) alone: the tensor's own ChaCha8 stream is entered at word
//! `i`, so tensors, blocks and single embedding rows can be drawn in any order and by any number of threads.

use super::ModelError;
use super::families::{Architecture, Role, TensorSpec};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::LazyLock;

/// Standard deviation of the usual initialisation of GPT-2 and GPT-NeoX.
const DEVIATION: f32 = 0.02;

/// Values that one task draws.
const CHUNK: usize = 1 << 16;

/// Cells of the quantile table: the top 12 bits of a random word choose the cell, the other 20 the place within it.
const CELLS: usize = 4096;

/// Where the outermost cells end, in standard deviations: their mean is then the mean of the normal's tail there.
const TAIL: f64 = 4.0;

/// Every tensor of a random model, drawn on demand.
#[derive(Debug)]
pub(crate) struct RandomTensors {
    seed: u64,
    n_layers: usize,
    specs: HashMap<String, TensorSpec>,
    /// The head's name and what it is drawn as.
    tied: Option<(&'static str, &'static str)>,
}

impl RandomTensors {
    /// The tensors of `architecture` for `seed`.
    pub fn new(architecture: &dyn Architecture, seed: u64) -> Self {
        let specs = architecture.tensors().into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let outer = architecture.outer();
        let tied = architecture.tied().then_some((outer.unembed, outer.embed));
        Self { seed, n_layers: architecture.config().n_layers, specs, tied }
    }

    /// All values of a tensor.
    pub fn tensor(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let spec = self.spec(name)?;
        let stream = Stream::new(self.seed, self.n_layers, spec);
        let mut values = vec![0.0; spec.shape.iter().product()];
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| stream.fill(chunk * CHUNK, values));
        Ok(values)
    }

    /// Puts rows of a two-dimensional tensor into `values`.
    pub fn read_rows(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<(), ModelError> {
        let spec = self.spec(name)?;
        let stream = Stream::new(self.seed, self.n_layers, spec);
        let width = spec.shape.last().copied().unwrap_or(1);
        let fill = |(values, row): (&mut [f32], &u32)| stream.fill(*row as usize * width, values);
        values.par_chunks_mut(width).zip(rows).for_each(fill);
        Ok(())
    }

    fn spec(&self, name: &str) -> Result<&TensorSpec, ModelError> {
        let name = self.tied.filter(|(head, _)| *head == name).map_or(name, |(_, embedding)| embedding);
        self.specs.get(name).ok_or_else(|| ModelError::MissingTensor {
            path: PathBuf::from("random"),
            tensor: name.to_owned(),
            expected: Vec::new(),
        })
    }
}

/// One tensor's values: `mean + deviation * normal`.
struct Stream {
    key: [u8; 32],
    mean: f32,
    deviation: f32,
}

impl Stream {
    fn new(seed: u64, n_layers: usize, spec: &TensorSpec) -> Self {
        let key = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(&spec.name).finalize();
        let mean = if spec.role == Role::Gain { 1.0 } else { 0.0 };
        // What writes to the residual stream is scaled by the number of its writers, as GPT-2's authors do.
        let writers = (2.0 * n_layers as f32).sqrt();
        let deviation = if spec.role == Role::OutputProjection { DEVIATION / writers } else { DEVIATION };
        Self { key: key.into(), mean, deviation }
    }

    /// Values `first ..` of the tensor.
    fn fill(&self, first: usize, values: &mut [f32]) {
        let cells = &**QUANTILES;
        let mut generator = ChaCha8Rng::from_seed(self.key);
        generator.set_word_pos(first as u128);
        let mut bytes = [0u8; 4096];
        for block in values.chunks_mut(bytes.len() / 4) {
            let used = &mut bytes[..block.len() * 4];
            generator.fill_bytes(used);
            for (value, word) in block.iter_mut().zip(used.chunks_exact(4)) {
                let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                let [start, slope] = cells[(word >> 20) as usize];
                *value = self.mean + self.deviation * (start + slope * (word & 0xF_FFFF) as f32);
            }
        }
    }
}

/// The normal's quantile function as [`CELLS`] straight pieces: start and slope per 2⁻²⁰ of each. One table look-up
/// and one multiplication a value: five times as fast as Box-Muller, and as normal as random weights need.
static QUANTILES: LazyLock<Box<[[f32; 2]; CELLS]>> = LazyLock::new(|| {
    let half = CELLS / 2;
    let mut knots = vec![0.0; CELLS + 1];
    for index in 1..half {
        knots[half + index] = step(knots[half + index - 1], 1.0 / CELLS as f64);
    }
    knots[CELLS] = TAIL;
    for index in 0..half {
        knots[index] = -knots[CELLS - index];
    }
    let mut cells = Box::new([[0.0; 2]; CELLS]);
    for (cell, ends) in cells.iter_mut().zip(knots.windows(2)) {
        *cell = [ends[0] as f32, ((ends[1] - ends[0]) / f64::from(1 << 20)) as f32];
    }
    cells
});

/// The quantile at probability `p + width`, given the one `from` at `p`: the quantile function solves
/// dx/dp = √(2π) exp(x²/2), integrated here by fourth-order Runge-Kutta.
fn step(from: f64, width: f64) -> f64 {
    const PARTS: usize = 64;
    let slope = |x: f64| (std::f64::consts::TAU).sqrt() * (0.5 * x * x).exp();
    let h = width / PARTS as f64;
    (0..PARTS).fold(from, |x, _| {
        let k1 = slope(x);
        let k2 = slope(x + 0.5 * h * k1);
        let k3 = slope(x + 0.5 * h * k2);
        let k4 = slope(x + h * k3);
        x + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shapes;

    fn source(alias: &str, seed: u64) -> RandomTensors {
        RandomTensors::new(shapes::architecture(alias).unwrap().as_ref(), seed)
    }

    #[test]
    fn quantiles_are_the_normals() {
        // Known quantiles of the standard normal; linear pieces of width 2^-12 are good to 1e-5 away from the tails.
        let cells = &**QUANTILES;
        for (probability, quantile) in [(0.5, 0.0), (0.75, 0.674_489_75), (0.875, 1.150_349_4), (0.125, -1.150_349_4)] {
            assert!((cells[(probability * CELLS as f64) as usize][0] - quantile).abs() < 1e-5, "{probability}");
        }
        // 1 - 1/4096 has the quantile 3.48808.
        assert!((cells[CELLS - 1][0] - 3.488_08).abs() < 1e-3, "{}", cells[CELLS - 1][0]);
    }

    #[test]
    fn moments_are_those_of_the_initialisation() {
        let random = source("gpt2-small", 3);
        let check = |name: &str, mean: f64, deviation: f64| {
            let values = random.tensor(name).unwrap();
            let n = values.len() as f64;
            let found = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
            let spread = (values.iter().map(|v| (f64::from(*v) - found).powi(2)).sum::<f64>() / n).sqrt();
            // Five standard errors of the mean; the spread's standard error is 1 / sqrt(2n), the table's bias 1e-3.
            assert!((found - mean).abs() < 5.0 * deviation / n.sqrt(), "{name}: mean {found}");
            assert!((spread / deviation - 1.0).abs() < 5.0 / (2.0 * n).sqrt() + 1e-3, "{name}: deviation {spread}");
        };
        check("h.0.attn.c_attn.weight", 0.0, 0.02);
        check("h.3.mlp.c_proj.weight", 0.0, 0.02 / 24f64.sqrt());
        check("h.3.mlp.c_fc.bias", 0.0, 0.02);
        check("ln_f.weight", 1.0, 0.02);
    }

    #[test]
    fn rows_and_chunks_do_not_depend_on_the_order() {
        let random = source("gpt2-small", 3);
        let whole = random.tensor("wpe.weight").unwrap();
        let mut rows = vec![0.0; 4 * 768];
        random.read_rows("wpe.weight", &[1023, 0, 85, 86], &mut rows).unwrap();
        for (line, row) in [1023usize, 0, 85, 86].into_iter().enumerate() {
            assert_eq!(&rows[line * 768..(line + 1) * 768], &whole[row * 768..(row + 1) * 768]);
        }
        assert_ne!(whole[..768], source("gpt2-small", 4).tensor("wpe.weight").unwrap()[..768]);
        assert_ne!(random.tensor("h.0.ln_1.bias").unwrap(), random.tensor("h.1.ln_1.bias").unwrap());
    }
}
