//! Directional activation patching: the cells of the paper's suite.
//!
//! A cell moves activations of one run along a subspace to their value in the other: `r := r + R Rᵀ (source - r)` with
//! unit columns `R` (arXiv 2310.15154, section 2).

use crate::engine::{Cell, Change, Edit, Mode, Part, PatchPositions, Site, Values};
use crate::types::Matrix;
use std::sync::Arc;

/// At which layers a cell patches the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layers {
    /// In front of this block; `n_layers`: behind the last one.
    Own(usize),
    /// In front of every block.
    All,
}

/// Swaps the residual along `columns`, `(d_model, k)`, in a model of `n_layers`.
pub fn residual_cell(columns: Matrix, layers: Layers, positions: PatchPositions, mode: Mode, n_layers: usize) -> Cell {
    let columns = Arc::new(columns);
    let patched = match layers {
        Layers::Own(layer) => layer..layer + 1,
        Layers::All => 0..n_layers,
    };
    let edit = |layer| swap(Site::resid(layer, n_layers), Part::All, positions, &columns);
    Cell { mode, edits: patched.map(edit).collect() }
}

fn swap(site: Site, part: Part, positions: PatchPositions, columns: &Arc<Matrix>) -> Edit {
    Edit { site, part, positions, change: Change::Swap(Values::OtherRun, columns.clone()) }
}

/// Swaps the results of `heads`, (layer, head), along `columns`, `(d_model, k)`, at every position.
pub fn head_results_cell(columns: Matrix, heads: &[(usize, usize)], mode: Mode) -> Cell {
    let columns = Arc::new(columns);
    let edit = |&(layer, head): &_| swap(Site::Result(layer), Part::Head(head), PatchPositions::All, &columns);
    Cell { mode, edits: heads.iter().map(edit).collect() }
}
