//! Shapes of published models, for random weights without a download.

use super::ModelConfig;
use super::families::{Architecture, Gpt2, GptNeox};
use crate::types::{Activation, Positions};

/// Alias, n_layers, d_model, n_heads.
const GPT2: [(&str, usize, usize, usize); 4] = [
    ("gpt2-small", 12, 768, 12),
    ("gpt2-medium", 24, 1024, 16),
    ("gpt2-large", 36, 1280, 20),
    ("gpt2-xl", 48, 1600, 25),
];

/// Alias, n_layers, d_model, n_heads, d_vocab (padded to a different multiple in the larger ones).
const PYTHIA: [(&str, usize, usize, usize, usize); 10] = [
    ("pythia-14m", 6, 128, 4, 50_304),
    ("pythia-31m", 6, 256, 8, 50_304),
    ("pythia-70m", 6, 512, 8, 50_304),
    ("pythia-160m", 12, 768, 12, 50_304),
    ("pythia-410m", 24, 1024, 16, 50_304),
    ("pythia-1b", 16, 2048, 8, 50_304),
    ("pythia-1.4b", 24, 2048, 16, 50_304),
    ("pythia-2.8b", 32, 2560, 32, 50_304),
    ("pythia-6.9b", 32, 4096, 32, 50_432),
    ("pythia-12b", 36, 5120, 40, 50_688),
];

/// The architecture of the published model `alias`.
pub(crate) fn architecture(alias: &str) -> Option<Box<dyn Architecture>> {
    let gpt2 = GPT2.iter().find(|shape| shape.0 == alias);
    if let Some(&(_, n_layers, d_model, n_heads)) = gpt2 {
        return Some(Box::new(Gpt2::new(ModelConfig {
            n_layers,
            d_model,
            n_heads,
            d_head: d_model / n_heads,
            d_mlp: 4 * d_model,
            n_ctx: 1024,
            d_vocab: 50_257,
            norm_eps: 1e-5,
            positions: Positions::Learned,
            activation: Activation::GeluTanh,
            parallel_residual: false,
        })));
    }
    let &(_, n_layers, d_model, n_heads, d_vocab) = PYTHIA.iter().find(|shape| shape.0 == alias)?;
    let d_head = d_model / n_heads;
    Some(Box::new(GptNeox::new(ModelConfig {
        n_layers,
        d_model,
        n_heads,
        d_head,
        d_mlp: 4 * d_model,
        n_ctx: 2048,
        d_vocab,
        norm_eps: 1e-5,
        positions: Positions::Rotary { dims: d_head / 4, base: 10_000.0 },
        activation: Activation::Gelu,
        parallel_residual: true,
    })))
}

/// The aliases that have a shape.
pub(crate) fn aliases() -> impl Iterator<Item = &'static str> {
    GPT2.iter().map(|shape| shape.0).chain(PYTHIA.iter().map(|shape| shape.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter counts as published (GPT-2's with its tied head counted once), in millions.
    #[test]
    fn parameter_counts_are_the_published_ones() {
        let expected = [
            ("gpt2-small", 124.44),
            ("gpt2-medium", 354.82),
            ("gpt2-large", 774.03),
            ("gpt2-xl", 1557.61),
            ("pythia-14m", 14.07),
            ("pythia-31m", 30.49),
            ("pythia-70m", 70.43),
            ("pythia-160m", 162.32),
            ("pythia-410m", 405.33),
            ("pythia-1b", 1011.78),
            ("pythia-1.4b", 1414.65),
            ("pythia-2.8b", 2775.21),
            ("pythia-6.9b", 6857.30),
            ("pythia-12b", 11846.07),
        ];
        assert_eq!(aliases().collect::<Vec<_>>(), expected.map(|row| row.0));
        for (alias, millions) in expected {
            let tensors = architecture(alias).unwrap().tensors();
            let count: usize = tensors.iter().map(|spec| spec.shape.iter().product::<usize>()).sum();
            assert!((count as f64 / 1e6 - millions).abs() < 0.01, "{alias}: {count}");
        }
    }
}
