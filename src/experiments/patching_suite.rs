//! Directional activation patching: the cells of the paper's suite.
//!
//! A cell moves activations of one run along a subspace to their value in the other: `r := r + R Rᵀ (source - r)` with
//! unit columns `R` (arXiv 2310.15154, section 2). Of several places `r` is what the patches in front of it have left
//! ([`Base::Running`]), or as in the paper's code what the unpatched run has there ([`Base::Unpatched`]).

use crate::engine::{Cell, Change, Edit, Mode, Part, PatchPositions, Site, Values};
use crate::types::Matrix;
use std::sync::Arc;

/// Heads whose results the paper's suite patches, as (layer, head), by model.
const PAPER_HEADS: [(&str, &[(usize, usize)]); 2] = [
    ("gpt2-small", &[(0, 4), (7, 1), (9, 2), (10, 1), (10, 4), (11, 9), (8, 5), (9, 10), (6, 4), (7, 5)]),
    (
        "pythia-2.8b",
        &[
            (17, 19),
            (22, 5),
            (14, 4),
            (20, 10),
            (12, 2),
            (10, 26),
            (12, 4),
            (12, 17),
            (14, 2),
            (13, 20),
            (9, 29),
            (11, 16),
        ],
    ),
];

/// The heads that the paper patches in this model, if it does.
pub fn paper_heads(model: &str) -> Option<&'static [(usize, usize)]> {
    PAPER_HEADS.into_iter().find(|(name, _)| *name == model).map(|(_, heads)| heads)
}

/// At which layers a cell patches the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layers {
    /// In front of this block; `n_layers`: behind the last one.
    Own(usize),
    /// In front of every block.
    All,
}

/// The activation that a patch moves along its subspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Base {
    /// What the run has there, patched as it is by then.
    Running,
    /// What the same run has there without any patch: the whole activation is replaced, and with it what patches in front
    /// of it have changed.
    Unpatched,
}

impl Base {
    /// The same patches with this activation as their base.
    pub fn of(self, cell: Cell) -> Cell {
        let edits = cell.edits.into_iter().flat_map(|edit| match self {
            Base::Running => vec![edit],
            Base::Unpatched => vec![unpatched(&edit), edit],
        });
        Cell { mode: cell.mode, edits: edits.collect() }
    }
}

/// Puts the unpatched run's activation where an edit is to change it. A head's result is that of its `z`.
fn unpatched(edit: &Edit) -> Edit {
    let site = match edit.site {
        Site::Result(layer) => Site::Z(layer),
        site => site,
    };
    Edit { site, change: Change::Replace(Values::OwnRun), ..edit.clone() }
}

/// Swaps the residual along `columns`, `(d_model, k)`, in a model of `n_layers`.
pub fn residual_cell(
    columns: impl Into<Arc<Matrix>>,
    layers: Layers,
    positions: PatchPositions,
    mode: Mode,
    n_layers: usize,
) -> Cell {
    let columns = columns.into();
    let patched = match layers {
        Layers::Own(layer) => layer..layer + 1,
        Layers::All => 0..n_layers,
    };
    let edit = |layer| swap(Site::resid(layer, n_layers), Part::All, positions, &columns);
    Cell { mode, edits: patched.map(edit).collect() }
}

fn swap(site: Site, part: Part, positions: PatchPositions, columns: &Arc<Matrix>) -> Edit {
    let change = Change::Swap(Values::OtherRun, columns.clone());
    Edit { site, part, places: positions.into(), change }
}

/// Swaps the results of `heads`, (layer, head), along `columns`, `(d_model, k)`, at every position.
pub fn head_results_cell(columns: impl Into<Arc<Matrix>>, heads: &[(usize, usize)], mode: Mode) -> Cell {
    let columns = columns.into();
    let edit = |&(layer, head): &_| swap(Site::Result(layer), Part::Head(head), PatchPositions::All, &columns);
    Cell { mode, edits: heads.iter().map(edit).collect() }
}
