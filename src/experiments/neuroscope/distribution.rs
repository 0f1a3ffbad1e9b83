//! Mean, standard deviation, ends and quantiles of one channel, in one pass.

/// Cells of the histogram that quantiles of cosines are read from.
const CELLS: usize = 20_000;

/// The values of one channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    count: u64,
    /// Mean, and sum of squared distances from it (Welford 1962).
    mean: f64,
    squares: f64,
    range: (f32, f32),
    /// Counts of equal cells from -1 to 1; none when values are no cosines.
    cells: Option<Vec<u64>>,
}

impl Distribution {
    /// No values yet; `cosines` have quantiles.
    pub fn new(cosines: bool) -> Self {
        let range = (f32::INFINITY, f32::NEG_INFINITY);
        Self { count: 0, mean: 0.0, squares: 0.0, range, cells: cosines.then(|| vec![0; CELLS]) }
    }

    /// Adds a value.
    pub fn add(&mut self, value: f32) {
        self.count += 1;
        let before = f64::from(value) - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (f64::from(value) - self.mean);
        self.range = (self.range.0.min(value), self.range.1.max(value));
        if let Some(cells) = &mut self.cells {
            cells[cell(value)] += 1;
        }
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Their standard deviation (divided by the count).
    pub fn std(&self) -> f64 {
        (self.squares / self.count as f64).sqrt()
    }

    /// The smallest and the largest.
    pub fn range(&self) -> (f32, f32) {
        self.range
    }

    /// The value that a share `q` of all lies below, to 1e-4; none of values that are no cosines.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let wanted = q * self.count as f64;
        let mut below = 0.0;
        for (number, count) in self.cells.as_ref()?.iter().enumerate() {
            let count = *count as f64;
            if count > 0.0 && below + count >= wanted {
                let inside = ((wanted - below) / count).clamp(0.0, 1.0);
                let value = (number as f64 + inside) * 2.0 / CELLS as f64 - 1.0;
                return Some(value.clamp(self.range.0.into(), self.range.1.into()));
            }
            below += count;
        }
        None
    }
}

/// Which of the cells from -1 to 1 a cosine lies in; rounding may take it just outside.
fn cell(value: f32) -> usize {
    let place = (f64::from(value) + 1.0) / 2.0 * CELLS as f64;
    (place.max(0.0) as usize).min(CELLS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_has_known_moments_and_quantiles() {
        let mut ramp = Distribution::new(true);
        (0..=1024).for_each(|step| ramp.add(step as f32 / 2048.0 - 0.25));
        assert_eq!((ramp.count(), ramp.range()), (1025, (-0.25, 0.25)));
        assert!(ramp.mean().abs() < 1e-12);
        assert!((ramp.std() - (1025.0f64.powi(2) - 1.0).sqrt() / 12.0f64.sqrt() / 2048.0).abs() < 1e-12);
        for q in [0.0, 0.001, 0.5, 0.999, 1.0] {
            // Half a step of the ramp and a cell.
            let off = ramp.quantile(q).unwrap() - (0.5 * q - 0.25);
            assert!(off.abs() < 6e-4, "{q}: {off}");
        }
        assert_eq!(Distribution::new(false).quantile(0.5), None);
        assert_eq!([-1.5, -1.0, 0.0, 1.0].map(cell), [0, 0, CELLS / 2, CELLS - 1]);
    }
}
