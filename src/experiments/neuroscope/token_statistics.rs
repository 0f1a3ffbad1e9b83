//! Mean and spread of the values of every token of the vocabulary.

use super::Reading;

/// Sums over the occurrences of every token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenStatistics {
    channels: usize,
    counts: Vec<u64>,
    /// `(d_vocab, channels)`: sum and sum of squares.
    sums: Vec<(f64, f64)>,
}

/// What the occurrences of one token have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenMean {
    /// The token.
    pub token: u32,
    /// How often it occurred.
    pub count: u64,
    /// Mean of its values.
    pub mean: f64,
    /// Their standard deviation (divided by the count).
    pub std: f64,
}

impl TokenStatistics {
    /// None yet.
    pub fn new(d_vocab: usize, channels: usize) -> Self {
        Self { channels, counts: vec![0; d_vocab], sums: vec![(0.0, 0.0); d_vocab * channels] }
    }

    /// Looks at a token.
    pub fn add(&mut self, reading: &Reading<'_>) {
        let token = reading.token() as usize;
        self.counts[token] += 1;
        let sums = &mut self.sums[token * self.channels..(token + 1) * self.channels];
        for (sum, value) in sums.iter_mut().zip(reading.values()) {
            sum.0 += f64::from(*value);
            sum.1 += f64::from(*value).powi(2);
        }
    }

    /// The tokens of a channel that occurred at least `min_count` times (and once), in the order of their ids.
    pub fn of_channel(&self, channel: usize, min_count: u64) -> Vec<TokenMean> {
        let often = self.counts.iter().enumerate().filter(|(_, count)| **count >= min_count.max(1));
        let mean = |(token, &count): (usize, &u64)| {
            let (sum, squares) = self.sums[token * self.channels + channel];
            let mean = sum / count as f64;
            let variance = (squares / count as f64 - mean * mean).max(0.0);
            TokenMean { token: token as u32, count, mean, std: variance.sqrt() }
        };
        often.map(mean).collect()
    }
}
