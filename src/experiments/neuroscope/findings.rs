//! What one pass over a corpus gathers.

use super::{Channel, Channels, Distribution, Measure, Reading, Samples, TokenStatistics, Top};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use std::collections::HashSet;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Cosines alone have quantiles and samples.
    pub measure: Measure,
    /// How many largest and smallest values.
    pub top: usize,
    /// Tokens kept on either side of one.
    pub window: usize,
    /// Width of the bins that samples are drawn from.
    pub bin_width: f64,
    /// Samples of each bin.
    pub samples: usize,
    /// Seed of the samples.
    pub seed: u64,
}

/// The values of one channel.
#[derive(Debug, Clone)]
pub struct OfChannel {
    /// Which.
    pub channel: Channel,
    /// All of them.
    pub values: Distribution,
    /// The largest.
    pub largest: Top,
    /// The smallest.
    pub smallest: Top,
    /// Some of every bin; none when values are no cosines.
    pub samples: Option<Samples>,
}

/// Everything.
#[derive(Debug)]
pub struct Findings {
    /// Channel by channel.
    pub channels: Vec<OfChannel>,
    /// Token by token of the vocabulary.
    pub tokens: TokenStatistics,
    /// Tokens that count in the distributions alone.
    excluded: HashSet<u32>,
    random: ChaCha20Rng,
}

impl Findings {
    /// Nothing yet; `excluded` tokens will be in no list, sample or statistics of tokens.
    pub fn new(channels: &Channels, d_vocab: usize, settings: &Settings, excluded: HashSet<u32>) -> Self {
        let Settings { measure, top, window, bin_width, samples, seed } = *settings;
        let cosines = measure == Measure::Cosine;
        let of = |(number, channel): (usize, &Channel)| OfChannel {
            channel: channel.clone(),
            values: Distribution::new(cosines),
            largest: Top::new(number, top, window, true),
            smallest: Top::new(number, top, window, false),
            samples: cosines.then(|| Samples::new(number, bin_width, samples, window)),
        };
        Self {
            channels: channels.list().iter().enumerate().map(of).collect(),
            tokens: TokenStatistics::new(d_vocab, channels.list().len()),
            excluded,
            random: ChaCha20Rng::seed_from_u64(seed),
        }
    }

    /// Looks at a token.
    pub fn add(&mut self, reading: &Reading<'_>) {
        let excluded = self.excluded.contains(&reading.token());
        for (of, value) in self.channels.iter_mut().zip(reading.values()) {
            of.values.add(*value);
            if excluded {
                continue;
            }
            of.largest.add(reading);
            of.smallest.add(reading);
            if let Some(samples) = &mut of.samples {
                samples.add(reading, &mut self.random);
            }
        }
        if !excluded {
            self.tokens.add(reading);
        }
    }
}
