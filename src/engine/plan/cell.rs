//! Cells and their edits: what a sweep patches, and what has to be captured for it.

use crate::engine::{EngineError, Mode, Part, PatchPositions, Site};
use crate::model::ModelConfig;
use crate::types::Matrix;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Where an edit's new values come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// The same place in the other run of the pair: activation patching.
    OtherRun,
    /// The same place in the run that is patched: freezing.
    OwnRun,
    /// Zero.
    Zero,
    /// One vector as wide as the site, at every place: a mean.
    Vector(Arc<Vec<f32>>),
}

/// What an edit does with them.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// `x := value`.
    Replace(Values),
    /// `x += R Rᵀ (value - x)` with unit columns `R`, `(width of the part, k)`; zero columns change nothing.
    Swap(Values, Arc<Matrix>),
    /// `x += scale * vector`.
    Add(Arc<Vec<f32>>, f32),
}

/// One patch of a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// Where in the forward pass.
    pub site: Site,
    /// Which columns.
    pub part: Part,
    /// Which positions (of a pattern: of its queries).
    pub positions: PatchPositions,
    /// What happens there.
    pub change: Change,
}

/// One cell of a sweep: edits that act together, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Which run is patched.
    pub mode: Mode,
    /// The edits.
    pub edits: Vec<Edit>,
}

impl Edit {
    /// Replaces a place by its value in the other run.
    pub fn replace(site: Site, part: Part, positions: PatchPositions) -> Self {
        Self { site, part, positions, change: Change::Replace(Values::OtherRun) }
    }

    pub(super) fn values(&self) -> Option<&Values> {
        match &self.change {
            Change::Replace(values) | Change::Swap(values, _) => Some(values),
            Change::Add(..) => None,
        }
    }

    /// Does the edit take its values from the run that is patched?
    pub(super) fn freezes(&self) -> bool {
        self.values() == Some(&Values::OwnRun)
    }

    /// The layer where a row with this edit resumes.
    pub(super) fn start(&self, n_layers: usize) -> usize {
        self.site.canonical(n_layers).resumes_at(n_layers)
    }

    /// The site that has to be captured for the new values.
    fn source(&self) -> Option<Site> {
        let captured = match self.site {
            Site::Result(layer) => Site::Z(layer),
            site => site,
        };
        matches!(self.values(), Some(Values::OtherRun | Values::OwnRun)).then_some(captured)
    }

    /// Is the site in the last block behind its keys and values, where only the last position reaches the logits?
    fn last_alone(&self, n_layers: usize) -> bool {
        let site = self.site.canonical(n_layers);
        site.behind_keys() && site.layer().is_none_or(|layer| layer + 1 == n_layers)
    }

    /// The positions of a prompt of `len` tokens that the edit touches and that can reach the logits.
    pub(super) fn reach(&self, len: usize, n_layers: usize) -> Range<usize> {
        let Range { start, end } = self.positions.range(len);
        if self.last_alone(n_layers) { start.max(len.saturating_sub(1))..end } else { start..end }
    }

    pub(super) fn check(&self, config: &ModelConfig) -> Result<(), EngineError> {
        self.site.check(config)?;
        let width = self.part.width(self.site, config)?;
        let mismatch = |what: &str, expected: usize, found: usize| {
            let what = format!("{what} at {}", self.site);
            Err(EngineError::Mismatch { what, expected: expected.to_string(), found: found.to_string() })
        };
        if let Change::Swap(_, columns) = &self.change
            && columns.rows != width
        {
            return mismatch("length of the direction", width, columns.rows);
        }
        let vector = match &self.change {
            Change::Add(vector, _)
            | Change::Replace(Values::Vector(vector))
            | Change::Swap(Values::Vector(vector), _) => vector.len(),
            _ => return Ok(()),
        };
        let width = self.site.width(config);
        if vector == width { Ok(()) } else { mismatch("length of the vector", width, vector) }
    }
}

impl Cell {
    /// The layer where the cell's rows resume. An edit that freezes changes nothing in front of the others.
    pub fn start(&self, n_layers: usize) -> usize {
        let starts = self.edits.iter().filter(|edit| !edit.freezes()).map(|edit| edit.start(n_layers));
        starts.min().unwrap_or(n_layers)
    }

    /// Do all new values come from the two runs? Then nothing changes before the first position at which they differ.
    fn within_the_pair(&self) -> bool {
        self.edits.iter().all(|edit| matches!(edit.values(), Some(Values::OtherRun | Values::OwnRun)))
    }

    /// The first position that the cell changes in a prompt of `len` tokens, if it can reach the logits from there.
    pub(super) fn first_position(&self, len: usize, first_difference: usize, n_layers: usize) -> Option<usize> {
        let from = if self.within_the_pair() { first_difference } else { 0 };
        let changing = self.edits.iter().filter(|edit| !edit.freezes());
        let ranges = changing.map(|edit| edit.reach(len, n_layers)).map(|range| range.start.max(from)..range.end);
        ranges.filter(|range| !range.is_empty()).map(|range| range.start).min()
    }
}

/// What a run has to capture for a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Needs {
    /// Sites whose activations are patched in or resumed from.
    pub sites: Vec<Site>,
    /// Positions at which rows start.
    pub positions: Vec<PatchPositions>,
}

impl Needs {
    /// What cells need in a model of `n_layers`.
    pub fn of(cells: &[Cell], n_layers: usize) -> Self {
        let (mut sites, mut positions) = (BTreeSet::new(), BTreeSet::new());
        for cell in cells {
            sites.insert(Site::resid(cell.start(n_layers), n_layers));
            for edit in &cell.edits {
                sites.extend(edit.source().map(|site| site.canonical(n_layers)));
                positions.insert(if edit.last_alone(n_layers) { PatchPositions::Last } else { edit.positions });
            }
        }
        Self { sites: sites.into_iter().collect(), positions: positions.into_iter().collect() }
    }
}
