//! Random tokens of every stretch of a channel's values, to be labelled by people.
//!
//! The paper's bins divide the range between the smallest and the largest value into equal parts. One pass does not know
//! the range before its end, so bins have a fixed width here.

use super::{Found, Reading};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeMap;

/// The tokens of one bin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bin {
    /// How many there were.
    pub count: u64,
    /// A uniform sample of them.
    pub samples: Vec<Found>,
}

/// Samples of the values of one channel.
#[derive(Debug, Clone)]
pub struct Samples {
    channel: usize,
    bin_width: f64,
    each: usize,
    window: usize,
    /// By the number of the bin, which begins at that many widths.
    bins: BTreeMap<i64, Bin>,
}

impl Samples {
    /// None yet; `each` tokens per bin, with `window` tokens on either side.
    pub fn new(channel: usize, bin_width: f64, each: usize, window: usize) -> Self {
        Self { channel, bin_width, each, window, bins: BTreeMap::new() }
    }

    /// Looks at a token: every one of a bin has the same chance to be kept (Vitter 1985, algorithm R).
    pub fn add(&mut self, reading: &Reading<'_>, random: &mut ChaCha20Rng) {
        let number = (f64::from(reading.values()[self.channel]) / self.bin_width).floor() as i64;
        let bin = self.bins.entry(number).or_default();
        bin.count += 1;
        let place = match bin.samples.len() < self.each {
            true => bin.samples.len(),
            false => random.random_range(0..bin.count) as usize,
        };
        if place < self.each {
            let found = reading.found(self.channel, self.window);
            match bin.samples.get_mut(place) {
                Some(old) => *old = found,
                None => bin.samples.push(found),
            }
        }
    }

    /// The bins that hold tokens, each with its lower and its upper end, in order.
    pub fn bins(&self) -> impl Iterator<Item = ([f64; 2], &Bin)> {
        let ends = |number: i64| [number, number + 1].map(|number| number as f64 * self.bin_width);
        self.bins.iter().map(move |(number, bin)| (ends(*number), bin))
    }
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
        let mut samples = Samples::new(0, 0.05, 7, 2);
        let values: Vec<f32> = (0..2000).map(|index| (index as f32 / 1000.0 - 1.0).powi(3) / 2.0).collect();
        (0..2000).for_each(|index| samples.add(&Reading { row: &row, index, values: &values }, &mut random));
        let bins: Vec<_> = samples.bins().collect();
        assert_eq!((bins.len(), bins.iter().map(|(_, bin)| bin.count).sum::<u64>()), (20, 2000));
        for (ends, bin) in bins {
            let mut tokens: Vec<u32> = bin.samples.iter().map(|found| found.token()).collect();
            tokens.sort_unstable();
            tokens.dedup();
            assert_eq!(tokens.len(), (bin.count as usize).min(7), "{bin:?}");
            let inside = |found: &Found| (ends[0]..ends[1]).contains(&f64::from(found.value()));
            assert!(bin.samples.iter().all(inside), "{ends:?} {bin:?}");
        }
    }

    #[test]
    fn every_token_of_a_bin_has_the_same_chance() {
        let row = Row { document: 0, start: 0, tokens: (0..40).collect(), bos: 0 };
        let mut hits = [0usize; 40];
        for seed in 0..2000 {
            let mut random = ChaCha20Rng::seed_from_u64(seed);
            let mut samples = Samples::new(0, 1.0, 4, 0);
            (0..40).for_each(|index| samples.add(&Reading { row: &row, index, values: &[0.5; 40] }, &mut random));
            let (_, bin) = samples.bins().next().unwrap();
            bin.samples.iter().for_each(|found| hits[found.token() as usize] += 1);
        }
        // 200 hits expected of every token, standard deviation 13.4: five of them.
        assert!(hits.iter().all(|hits| hits.abs_diff(200) < 67), "{hits:?}");
    }
}
