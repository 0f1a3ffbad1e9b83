//! Random tokens of every stretch of a channel's values, to be labelled by people.
//!
//! The paper's bins are equal parts of the range from the smallest to the largest value, which one pass does not know before
//! its end. So tokens are kept in fine cells of fixed width, and bins are made of whole cells when the pass is over: their
//! ends lie up to 20 cells of 0.005 outside the range.

use super::distribution::cell;
use super::{Found, Reading};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;

const CELLS: usize = 400;
const WIDTH: f64 = 2.0 / CELLS as f64;

/// Tokens of one cell: how many there were, and a uniform sample of them.
#[derive(Debug, Clone, Default)]
struct Cell {
    count: u64,
    kept: Vec<Found>,
}

/// Samples of the cosines of one channel.
#[derive(Debug, Clone)]
pub struct Samples {
    channel: usize,
    each: usize,
    window: usize,
    cells: Vec<Cell>,
}

/// One bin.
#[derive(Debug, Clone, PartialEq)]
pub struct Bin {
    /// Its lower and its upper end.
    pub range: (f64, f64),
    /// How many tokens lie in it.
    pub count: u64,
    /// Up to as many of them as were asked for, each another token.
    pub samples: Vec<Found>,
}

impl Samples {
    /// None yet; `each` tokens per bin, with `window` tokens on either side.
    pub fn new(channel: usize, each: usize, window: usize) -> Self {
        Self { channel, each, window, cells: vec![Cell::default(); CELLS] }
    }

    /// Looks at a token: every one of a cell has the same chance to be kept (Vitter 1985, algorithm R).
    pub fn add(&mut self, reading: &Reading<'_>, random: &mut ChaCha20Rng) {
        let cell = &mut self.cells[cell(reading.values[self.channel], CELLS)];
        cell.count += 1;
        let place = match cell.kept.len() < self.each {
            true => cell.kept.len(),
            false => random.random_range(0..cell.count) as usize,
        };
        if place < self.each {
            let found = Found::new(reading, self.channel, self.window);
            match cell.kept.get_mut(place) {
                Some(old) => *old = found,
                None => cell.kept.push(found),
            }
        }
    }

    /// `n` bins of equal width that hold all tokens; none without tokens.
    pub fn bins(&self, n: usize, random: &mut ChaCha20Rng) -> Vec<Bin> {
        let used = |cell: &Cell| cell.count > 0;
        let (Some(first), Some(last)) = (self.cells.iter().position(used), self.cells.iter().rposition(used)) else {
            return Vec::new();
        };
        let each = (last + 1 - first).div_ceil(n);
        let bin = |number: usize| {
            let start = (first + number * each).min(CELLS);
            let cells = &self.cells[start..(start + each).min(CELLS)];
            let lower = (first + number * each) as f64 * WIDTH - 1.0;
            Bin {
                range: (lower, lower + each as f64 * WIDTH),
                count: cells.iter().map(|cell| cell.count).sum(),
                samples: draw(cells, self.each, random),
            }
        };
        (0..n).map(bin).collect()
    }
}

/// Up to `n` tokens of several cells, without replacement, every token with the same chance.
fn draw(cells: &[Cell], n: usize, random: &mut ChaCha20Rng) -> Vec<Found> {
    let mut left: Vec<(u64, Vec<Found>)> = cells.iter().map(|cell| (cell.count, cell.kept.clone())).collect();
    let mut drawn = Vec::new();
    while drawn.len() < n {
        let total: u64 = left.iter().map(|(count, _)| count).sum();
        if total == 0 {
            break;
        }
        let mut ticket = random.random_range(0..total);
        for (count, kept) in &mut left {
            if ticket < *count {
                *count -= 1;
                drawn.push(kept.swap_remove(random.random_range(0..kept.len())));
                break;
            }
            ticket -= *count;
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiments::corpus::Row;
    use rand::SeedableRng;

    #[test]
    fn bins_hold_everything_and_samples_lie_inside() {
        let mut random = ChaCha20Rng::seed_from_u64(1);
        let row = Row { document: 0, start: 0, tokens: (0..2000).collect(), bos: 0 };
        let mut samples = Samples::new(0, 7, 2);
        for index in 0..2000 {
            let value = (index as f32 / 1000.0 - 1.0).powi(3) / 2.0;
            samples.add(&Reading { row: &row, index, values: &[value] }, &mut random);
        }
        let bins = samples.bins(20, &mut random);
        assert_eq!((bins.len(), bins.iter().map(|bin| bin.count).sum::<u64>()), (20, 2000));
        for bin in &bins {
            let mut tokens: Vec<u32> = bin.samples.iter().map(|found| found.token).collect();
            tokens.sort_unstable();
            tokens.dedup();
            assert_eq!(tokens.len(), (bin.count as usize).min(7), "{bin:?}");
            let inside = |found: &Found| (bin.range.0..bin.range.1).contains(&f64::from(found.value));
            assert!(bin.samples.iter().all(inside), "{bin:?}");
        }
        assert!(Samples::new(0, 7, 2).bins(20, &mut random).is_empty());
    }

    #[test]
    fn every_token_of_a_bin_has_the_same_chance() {
        let row = Row { document: 0, start: 0, tokens: (0..40).collect(), bos: 0 };
        let mut hits = [0usize; 40];
        for seed in 0..2000 {
            let mut random = ChaCha20Rng::seed_from_u64(seed);
            let mut samples = Samples::new(0, 4, 0);
            // Thirty tokens in one cell, ten in another, one bin.
            for index in 0..40 {
                let value = if index < 30 { 0.001 } else { 0.006 };
                samples.add(&Reading { row: &row, index, values: &[value] }, &mut random);
            }
            let bins = samples.bins(1, &mut random);
            bins[0].samples.iter().for_each(|found| hits[found.token as usize] += 1);
        }
        // 200 hits expected of every token, standard deviation 13.4: five of them.
        assert!(hits.iter().all(|hits| hits.abs_diff(200) < 67), "{hits:?}");
    }
}
