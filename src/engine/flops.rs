//! How much arithmetic a pass is, counted from shapes.

use super::Layout;
use crate::model::ModelConfig;

/// Floating-point operations, a multiply-add counting as two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flops(pub u64);

/// Pairs of query and visible key.
#[derive(Clone, Copy)]
struct Scores {
    /// Of all positions.
    all: u64,
    /// Of the last ones alone.
    last: u64,
}

impl Scores {
    fn new(layout: &Layout, window: Option<usize>) -> Self {
        let seen = |keys: usize| keys.min(window.unwrap_or(keys)) as u64;
        let rows = 0..layout.n_rows();
        Self {
            all: rows.clone().map(|r| (layout.start(r)..layout.len(r)).map(|p| seen(p + 1)).sum::<u64>()).sum(),
            last: rows.map(|r| seen(layout.len(r))).sum(),
        }
    }
}

/// Shapes of a batch that its arithmetic follows from.
struct Counts<'a> {
    config: &'a ModelConfig,
    tokens: u64,
    rows: u64,
    /// In blocks without a window and in those with one.
    full: Scores,
    windowed: Scores,
}

impl<'a> Counts<'a> {
    fn new(config: &'a ModelConfig, layout: &Layout) -> Self {
        let full = Scores::new(layout, None);
        Self {
            config,
            tokens: layout.n_tokens() as u64,
            rows: layout.n_rows() as u64,
            full,
            windowed: config.attention_window.map_or(full, |window| Scores::new(layout, Some(window))),
        }
    }

    fn scores(&self, layer: usize) -> Scores {
        if self.config.window(layer).is_some() { self.windowed } else { self.full }
    }

    /// Keys and values of a block.
    fn keys(&self) -> u64 {
        2 * self.tokens * (self.config.d_model * 2 * self.config.d_kv()) as u64
    }

    /// Queries, attention, its output and the MLP.
    fn rest(&self, tokens: u64, scores: u64) -> u64 {
        let (d, a) = (self.config.d_model as u64, self.config.d_attn() as u64);
        2 * tokens * d * a + 4 * scores * a + self.behind_attention(tokens)
    }

    /// Attention output and MLP.
    fn behind_attention(&self, tokens: u64) -> u64 {
        2 * tokens * self.config.d_model as u64 * (self.config.d_attn() + mlp_width(self.config)) as u64
    }

    /// Block `layer`, computed at every token.
    fn block(&self, layer: usize) -> u64 {
        self.keys() + self.rest(self.tokens, self.scores(layer).all)
    }
}

/// Width of the matrices between d_model and d_mlp, together.
fn mlp_width(config: &ModelConfig) -> usize {
    if config.gated_mlp { 3 * config.d_mlp } else { 2 * config.d_mlp }
}

impl Flops {
    /// A forward pass of `layout` from block `start` to `answers` logits at every row's last position, where the last
    /// block computes queries, attention output and MLP for last positions only.
    pub fn forward(config: &ModelConfig, layout: &Layout, start: usize, answers: usize) -> Self {
        let counts = Counts::new(config, layout);
        let last = config.n_layers - 1;
        let body = if start > last {
            0
        } else {
            let before: u64 = (start..last).map(|layer| counts.block(layer)).sum();
            before + counts.keys() + counts.rest(counts.rows, counts.scores(last).last)
        };
        Flops(body + 2 * counts.rows * (answers * config.d_model) as u64)
    }

    /// Whole prompts with the logits of every token, as a library computes them that takes no shortcut.
    pub fn whole(config: &ModelConfig, layout: &Layout) -> Self {
        let counts = Counts::new(config, layout);
        let logits = 2 * counts.tokens * (config.d_model * config.d_vocab) as u64;
        Flops((0..config.n_layers).map(|layer| counts.block(layer)).sum::<u64>() + logits)
    }

    /// A pass with frozen heads on `tokens` tokens: the MLPs of `mlps` blocks, attention outputs of `outputs`, and
    /// queries, keys and values of `projections`.
    pub fn frozen(config: &ModelConfig, tokens: usize, mlps: usize, outputs: usize, projections: usize) -> Self {
        let each =
            mlps * mlp_width(config) + outputs * config.d_attn() + projections * (config.d_attn() + 2 * config.d_kv());
        Flops(2 * (tokens * config.d_model * each) as u64)
    }

    /// A forward pass of rows that enter block `entry.0`, in front of it or, if `entry.1`, behind its attention.
    pub(super) fn resumed(config: &ModelConfig, layout: &Layout, entry: (usize, bool), answers: usize) -> Self {
        let whole = Self::forward(config, layout, entry.0, answers);
        if !entry.1 {
            return whole;
        }
        // What is left of the block, in the last one for last positions only.
        let (counts, last) = (Counts::new(config, layout), entry.0 + 1 == config.n_layers);
        let left = counts.behind_attention(if last { counts.rows } else { counts.tokens });
        Flops(Self::forward(config, layout, entry.0 + 1, answers).0 + left)
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
            full_attention: Vec::new(),
            scores_by_width: true,
            scores_by_depth: false,
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
        // The same with a window in block 1 alone.
        let mixed = ModelConfig { full_attention: vec![0], ..llama };
        let expected = 2 * keys(6) + rest(4, 3, 1 + 2 + 3 + 4) + rest(1, 3, 2) + logits;
        assert_eq!(Flops::forward(&mixed, &layout, 0, 3), Flops(expected));
    }
}
