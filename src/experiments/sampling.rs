//! Tokens drawn from logits.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::cmp::Ordering;

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it: above 0, below 1 sharper than the model; 0 takes the likeliest token (greedy).
    pub temperature: f64,
    /// Only the likeliest `top_k` tokens can be drawn, of equal ones those with lower ids; 0 for all of them.
    pub top_k: usize,
    /// Most tokens of a text.
    pub max_new_tokens: usize,
    /// Seed of the random numbers.
    pub seed: u64,
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// Its log probability under the logits as they are: whole vocabulary, temperature 1.
    pub log_probability: f64,
}

/// The random numbers of one text. Texts draw from separate streams of the seed's generator, so that a text depends on no
/// other and on no batch.
pub fn stream(seed: u64, coefficient: f32, sample: u32) -> ChaCha20Rng {
    let mut random = ChaCha20Rng::seed_from_u64(seed);
    random.set_stream((u64::from(coefficient.to_bits()) << 32) | u64::from(sample));
    random
}

impl Sampling {
    /// Draws a token. `logits` has one finite value per token of the vocabulary, and at least one.
    pub fn draw(&self, logits: &[f32], random: &mut ChaCha20Rng) -> Drawn {
        let likeliest = |best: usize, token: usize| if logits[token] > logits[best] { token } else { best };
        let best = (0..logits.len()).fold(0, likeliest);
        let token = if self.temperature == 0.0 { best } else { self.random_token(logits, best, random) };
        let largest = f64::from(logits[best]);
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
        Drawn { token: token as u32, log_probability: f64::from(logits[token]) - largest - sum.ln() }
    }

    fn random_token(&self, logits: &[f32], best: usize, random: &mut ChaCha20Rng) -> usize {
        let candidates = self.candidates(logits);
        let weight = |token: &usize| (f64::from(logits[*token] - logits[best]) / self.temperature).exp();
        let total: f64 = candidates.iter().map(weight).sum();
        let mut left = random.random::<f64>() * total;
        for token in &candidates {
            left -= weight(token);
            if left < 0.0 {
                return *token;
            }
        }
        // Rounding has left something of the last one's share.
        best
    }

    /// The tokens that can be drawn, in order of their ids.
    fn candidates(&self, logits: &[f32]) -> Vec<usize> {
        let mut tokens = likeliest(logits, self.top_k);
        tokens.sort_unstable();
        tokens
    }
}

/// The `count` tokens that come first by [`likelier`], in no order; all of them for 0.
pub(super) fn likeliest(logits: &[f32], count: usize) -> Vec<usize> {
    let mut tokens: Vec<usize> = (0..logits.len()).collect();
    if (1..tokens.len()).contains(&count) {
        tokens.select_nth_unstable_by(count - 1, |a, b| likelier(logits, *a, *b));
        tokens.truncate(count);
    }
    tokens
}

/// The likelier of two tokens comes first; of equal ones that with the lower id.
pub(super) fn likelier(logits: &[f32], a: usize, b: usize) -> Ordering {
    logits[b].total_cmp(&logits[a]).then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f64, top_k: usize) -> Sampling {
        Sampling { temperature, top_k, max_new_tokens: 1, seed: 0 }
    }

    /// Logits without an order in their ids.
    fn logits() -> Vec<f32> {
        (0..20).map(|token| ((token * 7 % 20) as f32 - 10.0) / 4.0).collect()
    }

    #[test]
    fn draws_follow_the_softmax_of_the_likeliest_tokens() {
        let logits = logits();
        let mut order: Vec<usize> = (0..20).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let n = 40_000;
        for (temperature, top_k) in [(1.0, 0), (1.0, 20), (0.7, 8), (1.5, 5), (1.0, 1)] {
            let mut counts = [0usize; 20];
            let mut random = stream(5, 1.0, 0);
            for _ in 0..n {
                counts[sampling(temperature, top_k).draw(&logits, &mut random).token as usize] += 1;
            }
            let kept = &order[..if top_k == 0 { 20 } else { top_k }];
            let weights: Vec<f64> = kept.iter().map(|t| (f64::from(logits[*t]) / temperature).exp()).collect();
            let total: f64 = weights.iter().sum();
            let expected = weights.iter().map(|weight| n as f64 * weight / total);
            let chi_squared: f64 = kept.iter().zip(expected).map(|(t, e)| (counts[*t] as f64 - e).powi(2) / e).sum();
            assert_eq!(kept.iter().map(|t| counts[*t]).sum::<usize>(), n, "others are never drawn");
            // Of 19 degrees of freedom and less, the 0.9999 quantile is below 50.8.
            assert!(chi_squared < 50.8, "temperature {temperature}, top {top_k}: {chi_squared}");
        }
    }

    #[test]
    fn the_greedy_token_and_log_probabilities() {
        let mut random = stream(0, 0.0, 0);
        // Softmax of (0.5, 1, 0): 0.30720, 0.50648, 0.18632, as published to five digits.
        let drawn = sampling(0.0, 0).draw(&[0.5, 1.0, 0.0], &mut random);
        assert_eq!(drawn.token, 1);
        assert!((drawn.log_probability - 0.50648f64.ln()).abs() < 1e-4);
        assert_eq!(sampling(0.0, 3).draw(&[2.0, 7.0, 7.0], &mut random).token, 1, "the first of equal ones");
        // Neither temperature nor top_k change what the model thinks of a token.
        let drawn = sampling(0.3, 1).draw(&[0.5, 1.0, 0.0], &mut random);
        assert!((drawn.log_probability - 0.50648f64.ln()).abs() < 1e-4);
        // Logits far apart neither overflow nor divide by zero.
        let drawn = sampling(1e-9, 0).draw(&[-3e38, 3e38, 0.0], &mut random);
        assert_eq!((drawn.token, drawn.log_probability), (1, 0.0));
    }

    #[test]
    fn of_equal_tokens_the_first_are_kept() {
        let mut random = stream(1, 0.0, 0);
        let draws = (0..200).map(|_| sampling(1.0, 2).draw(&[1.0, 1.0, 1.0, 0.0], &mut random).token);
        assert_eq!(draws.collect::<std::collections::BTreeSet<_>>(), [0, 1].into());
    }

    #[test]
    fn texts_have_streams_of_their_own() {
        let first = |seed, coefficient, sample| stream(seed, coefficient, sample).random::<u64>();
        let all = [first(0, 1.0, 0), first(1, 1.0, 0), first(0, -1.0, 0), first(0, 1.0, 1)];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert_eq!(first(0, 1.0, 0), all[0]);
    }
}
