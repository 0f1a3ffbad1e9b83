//! What a pass leaves behind: captured activations, keys and values of shared prefixes, logits.

use super::{EngineError, Layout, Site};
use crate::backend::Backend;
use crate::types::Matrix;
use std::collections::HashMap;

/// Keys (rotated) and values of every sequence's first positions, per layer.
pub(super) struct Prefix<B: Backend> {
    /// Positions kept per sequence.
    pub(super) lens: Vec<usize>,
    /// Where each sequence's rows start.
    pub(super) offsets: Vec<usize>,
    /// Per layer `(n, 2 * n_kv_heads * d_head)`.
    pub(super) key_values: Vec<B::Tensor>,
}

/// Logits of a pass, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// `(rows, answers)`, or `(rows or tokens, d_vocab)` for full logits.
    pub values: Matrix,
    /// `log Σ exp` over the whole vocabulary per row, when asked for.
    pub log_sum_exp: Option<Vec<f32>>,
}

/// A finished pass.
pub struct Run<B: Backend> {
    pub(super) layout: Layout,
    pub(super) sites: HashMap<Site, B::Tensor>,
    pub(super) prefix: Option<Prefix<B>>,
    pub(super) logits: Option<Logits>,
    pub(super) n_layers: usize,
}

impl<B: Backend> Run<B> {
    /// A run of which no more is known than one site's values, laid out as captured ones are: a source for patches.
    pub(crate) fn given(layout: Layout, site: Site, values: B::Tensor, n_layers: usize) -> Self {
        let sites = HashMap::from([(site.canonical(n_layers), values)]);
        Self { layout, sites, prefix: None, logits: None, n_layers }
    }

    /// Which tokens the pass computed.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The logits, if the pass was asked for any.
    pub fn logits(&self) -> Option<&Logits> {
        self.logits.as_ref()
    }

    /// The same, taken out of the run.
    pub(crate) fn take_logits(&mut self) -> Option<Logits> {
        self.logits.take()
    }

    /// A captured activation on the device: one row per computed token (per row of the batch for
    /// `ln_final.hook_normalized` when only last positions were needed).
    pub fn site(&self, site: Site) -> Result<&B::Tensor, EngineError> {
        self.sites
            .get(&site.canonical(self.n_layers))
            .ok_or_else(|| EngineError::NotCaptured { site: site.to_string() })
    }

    /// The row of a captured activation that holds `position` of sequence `row`.
    pub fn token(&self, row: usize, position: usize) -> Result<usize, EngineError> {
        self.layout.token(row, position).ok_or_else(|| EngineError::Mismatch {
            what: format!("position of sequence {row}"),
            expected: match self.layout.is_empty() || row >= self.layout.n_rows() {
                true => format!("one of {} sequences", self.layout.n_rows()),
                false => format!("{} to {}", self.layout.start(row), self.layout.len(row).saturating_sub(1)),
            },
            found: position.to_string(),
        })
    }
}
