//! How much arithmetic a pass is, counted from shapes.

use super::Layout;
use crate::model::ModelConfig;

/// Floating-point operations, a multiply-add counting as two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flops(pub u64);

impl Flops {
    /// A forward pass of `layout` from block `start` to `answers` logits at every row's last position, where the last
    /// block computes queries, attention output and MLP for last positions only.
    pub fn forward(config: &ModelConfig, layout: &Layout, start: usize, answers: usize) -> Self {
        let (d, a, kv) = (config.d_model as u64, config.d_attn() as u64, config.d_kv() as u64);
        // Matrices of the MLP between d_model and d_mlp, together.
        let m = if config.gated_mlp { 3 } else { 2 } * config.d_mlp as u64;
        let seen = |keys: usize| keys.min(config.attention_window.unwrap_or(keys)) as u64;
        let (tokens, rows) = (layout.n_tokens() as u64, layout.n_rows() as u64);
        let scores: u64 =
            (0..layout.n_rows()).map(|r| (layout.start(r)..layout.len(r)).map(|p| seen(p + 1)).sum::<u64>()).sum();
        let last_scores: u64 = (0..layout.n_rows()).map(|r| seen(layout.len(r))).sum();
        let keys = 2 * tokens * d * 2 * kv;
        let rest = |tokens: u64, scores: u64| 2 * tokens * (2 * d * a + d * m) + 4 * scores * a;
        let whole = keys + rest(tokens, scores);
        let last = keys + rest(rows, last_scores);
        let blocks = config.n_layers.saturating_sub(start) as u64;
        let body = if blocks == 0 { 0 } else { (blocks - 1) * whole + last };
        Flops(body + 2 * rows * answers as u64 * d)
    }

    /// The matching backward pass to the residual at `start`: the same products once more, without weight gradients,
    /// and the attention's scores and their four products.
    pub fn backward(config: &ModelConfig, layout: &Layout, start: usize, answers: usize) -> Self {
        Flops(Self::forward(config, layout, start, answers).0)
    }
}

impl std::ops::Add for Flops {
    type Output = Flops;
    fn add(self, other: Flops) -> Flops {
        Flops(self.0 + other.0)
    }
}

impl std::iter::Sum for Flops {
    fn sum<I: Iterator<Item = Flops>>(iter: I) -> Flops {
        iter.fold(Flops::default(), |a, b| a + b)
    }
}

impl std::fmt::Display for Flops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.0 as f64;
        match self.0 {
            0..1_000_000_000 => write!(f, "{:.1} MFLOP", value / 1e6),
            1_000_000_000..1_000_000_000_000 => write!(f, "{:.1} GFLOP", value / 1e9),
            _ => write!(f, "{:.1} TFLOP", value / 1e12),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Activation, NormKind, Positions};

    #[test]
    fn products_and_scores_are_counted_by_hand() {
        let plain = ModelConfig {
            n_layers: 2,
            d_model: 10,
            n_heads: 4,
            n_kv_heads: 4,
            d_head: 3,
            d_mlp: 20,
            n_ctx: 8,
            d_vocab: 50,
            norm: NormKind::Layer,
            norm_eps: 1e-5,
            positions: Positions::Learned,
            attention_window: None,
            qk_norm: false,
            activation: Activation::Gelu,
            gated_mlp: false,
            parallel_residual: false,
        };
        let llama = ModelConfig { n_kv_heads: 2, gated_mlp: true, attention_window: Some(2), ..plain.clone() };
        // One row of 4 positions, 3 answers: block 0 whole, block 1 with one query.
        let layout = Layout::new([(0, 4)]);
        let keys = |kv: u64| 2 * 4 * 10 * 2 * kv;
        let rest = |tokens: u64, mlp: u64, scores: u64| 2 * tokens * (2 * 10 * 12 + mlp * 10 * 20) + 4 * scores * 12;
        let logits = 2 * 3 * 10;
        let expected = 2 * keys(12) + rest(4, 2, 1 + 2 + 3 + 4) + rest(1, 2, 4) + logits;
        assert_eq!(Flops::forward(&plain, &layout, 0, 3), Flops(expected));
        let expected = 2 * keys(6) + rest(4, 3, 1 + 2 + 2 + 2) + rest(1, 3, 2) + logits;
        assert_eq!(Flops::forward(&llama, &layout, 0, 3), Flops(expected));
    }
}
