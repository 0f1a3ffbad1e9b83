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
        let (d, a, m) = (config.d_model as u64, (config.n_heads * config.d_head) as u64, config.d_mlp as u64);
        let (tokens, rows) = (layout.n_tokens() as u64, layout.n_rows() as u64);
        let scores: u64 =
            (0..layout.n_rows()).map(|r| (layout.start(r)..layout.len(r)).map(|p| p as u64 + 1).sum::<u64>()).sum();
        let last_scores: u64 = (0..layout.n_rows()).map(|r| layout.len(r) as u64).sum();
        let keys = 2 * tokens * d * 2 * a;
        let rest = |tokens: u64, scores: u64| 2 * tokens * (2 * d * a + 2 * d * m) + 4 * scores * a;
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
