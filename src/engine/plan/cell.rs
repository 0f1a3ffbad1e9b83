//! Cells and their edits: what a sweep patches, and what has to be captured for it.

use crate::engine::paired::Difference;
use crate::engine::site::Entry;
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
    /// Given rows as wide as the site: one for all places, or one per place, prompt after prompt.
    Rows(Arc<Matrix>),
}

/// What an edit does with them.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// `x := value`.
    Replace(Values),
    /// `x += R Rᵀ (value - x)` with unit columns `R`, `(width of the part, k)`; zero columns change nothing.
    Swap(Values, Arc<Matrix>),
    /// `x += scale * row`, with rows as in [`Values::Rows`].
    Add(Arc<Matrix>, f32),
}

/// The positions of an edit.
#[derive(Debug, Clone, PartialEq)]
pub enum Places {
    /// The same in every prompt.
    Of(PatchPositions),
    /// A list per prompt, without repetitions.
    PerPrompt(Arc<Vec<Vec<usize>>>),
}

impl From<PatchPositions> for Places {
    fn from(positions: PatchPositions) -> Self {
        Places::Of(positions)
    }
}

impl Places {
    /// The positions in a prompt of `len` tokens.
    pub(crate) fn of(&self, prompt: usize, len: usize) -> Vec<usize> {
        match self {
            Places::Of(positions) => positions.range(len).collect(),
            Places::PerPrompt(lists) => lists.get(prompt).cloned().unwrap_or_default(),
        }
    }

    /// How many places come before those of a prompt, in the order of given rows.
    fn before(&self, prompt: usize) -> usize {
        match self {
            Places::Of(_) => 0,
            Places::PerPrompt(lists) => lists.iter().take(prompt).map(Vec::len).sum(),
        }
    }

    pub(in crate::engine) fn check(&self, dataset: &str, prompt: usize, len: usize) -> Result<(), EngineError> {
        match self {
            Places::Of(positions) => positions.check(dataset, prompt, len),
            Places::PerPrompt(lists) => {
                let mut places = lists.get(prompt).into_iter().flatten();
                places.try_for_each(|&position| PatchPositions::One(position).check(dataset, prompt, len))
            }
        }
    }
}

/// One patch of a cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// Where in the forward pass.
    pub site: Site,
    /// Which columns.
    pub part: Part,
    /// Which positions (of a pattern: of its queries).
    pub places: Places,
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
        Self { site, part, places: positions.into(), change: Change::Replace(Values::OtherRun) }
    }

    pub(in crate::engine) fn values(&self) -> Option<&Values> {
        match &self.change {
            Change::Replace(values) | Change::Swap(values, _) => Some(values),
            Change::Add(..) => None,
        }
    }

    /// Does the edit take its values from the run that is patched?
    pub(super) fn freezes(&self) -> bool {
        self.values() == Some(&Values::OwnRun)
    }

    /// The rows that come with the edit.
    pub(super) fn rows(&self) -> Option<&Arc<Matrix>> {
        match &self.change {
            Change::Add(rows, _) | Change::Replace(Values::Rows(rows)) | Change::Swap(Values::Rows(rows), _) => {
                Some(rows)
            }
            _ => None,
        }
    }

    /// Where a row with this edit enters the stack.
    pub(super) fn entry(&self, n_layers: usize) -> Entry {
        self.site.canonical(n_layers).entry(n_layers)
    }

    /// The site that has to be captured for the new values.
    fn source(&self) -> Option<Site> {
        matches!(self.values(), Some(Values::OtherRun | Values::OwnRun)).then_some(self.site.stored())
    }

    /// Is the site in the last block behind its keys and values, where only the last position reaches the logits?
    fn last_alone(&self, n_layers: usize) -> bool {
        let site = self.site.canonical(n_layers);
        site.behind_keys() && site.layer().is_none_or(|layer| layer + 1 == n_layers)
    }

    /// The positions of a prompt of `len` tokens that the edit touches, each with the number of its row among given ones.
    pub(super) fn numbered_places(&self, prompt: usize, len: usize) -> Vec<(usize, usize)> {
        let before = self.places.before(prompt);
        let shared = self.rows().is_none_or(|rows| rows.rows == 1);
        let number = |(index, position)| (position, if shared { 0 } else { before + index });
        self.places.of(prompt, len).into_iter().enumerate().map(number).collect()
    }

    /// Those of them that can reach the logits.
    pub(super) fn reach(&self, prompt: usize, len: usize, n_layers: usize) -> Vec<(usize, usize)> {
        let first = if self.last_alone(n_layers) { len.saturating_sub(1) } else { 0 };
        let mut places = self.numbered_places(prompt, len);
        places.retain(|(position, _)| *position >= first);
        places
    }

    pub(in crate::engine) fn check(&self, config: &ModelConfig) -> Result<(), EngineError> {
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
        let Some(rows) = self.rows() else { return Ok(()) };
        let width = self.site.width(config);
        if rows.cols != width {
            return mismatch("length of the vector", width, rows.cols);
        }
        match &self.places {
            Places::PerPrompt(lists) if rows.rows != 1 => {
                let places = lists.iter().map(Vec::len).sum();
                if rows.rows == places { Ok(()) } else { mismatch("number of rows", places, rows.rows) }
            }
            _ if rows.rows == 1 => Ok(()),
            _ => mismatch("number of rows, for positions that are not listed,", 1, rows.rows),
        }
    }

    /// The edit on a range of its dataset's prompts.
    fn part(&self, range: &Range<usize>) -> Self {
        let Places::PerPrompt(lists) = &self.places else { return self.clone() };
        let kept = self.places.before(range.start)..self.places.before(range.end);
        // Rows that are too few stay as they are: planning refuses them.
        let cut = |rows: &Arc<Matrix>| match rows.data.get(kept.start * rows.cols..kept.end * rows.cols) {
            Some(data) if rows.rows != 1 => Arc::new(Matrix::new(kept.len(), rows.cols, data.to_vec())),
            _ => rows.clone(),
        };
        let values = |values: &Values| match values {
            Values::Rows(rows) => Values::Rows(cut(rows)),
            other => other.clone(),
        };
        let change = match &self.change {
            Change::Replace(from) => Change::Replace(values(from)),
            Change::Swap(from, columns) => Change::Swap(values(from), columns.clone()),
            Change::Add(rows, scale) => Change::Add(cut(rows), *scale),
        };
        let places = Places::PerPrompt(Arc::new(lists.get(range.clone()).unwrap_or_default().to_vec()));
        Self { site: self.site, part: self.part, places, change }
    }
}

impl Cell {
    /// Where the cell's rows enter the stack. An edit that freezes changes nothing in front of the others.
    pub(in crate::engine) fn entry(&self, n_layers: usize) -> Entry {
        let entries = self.edits.iter().filter(|edit| !edit.freezes()).map(|edit| edit.entry(n_layers));
        entries.min().unwrap_or(Entry { layer: n_layers, behind_attention: false })
    }

    /// The cell on a range of its dataset's prompts: lists of places and rows are cut.
    pub fn part(&self, range: &Range<usize>) -> Self {
        Self { mode: self.mode, edits: self.edits.iter().map(|edit| edit.part(range)).collect() }
    }

    /// Do all new values come from the two runs? Then nothing changes where they do not differ yet.
    fn within_the_pair(&self) -> bool {
        self.edits.iter().all(|edit| matches!(edit.values(), Some(Values::OtherRun | Values::OwnRun)))
    }

    /// The first position that the cell changes in a prompt of `len` tokens, if it can reach the logits from there.
    pub(super) fn first_position(
        &self,
        prompt: usize,
        len: usize,
        difference: Difference,
        n_layers: usize,
    ) -> Option<usize> {
        let within = self.within_the_pair();
        let from = if within { difference.position } else { 0 };
        let early = |edit: &Edit| within && edit.entry(n_layers) < difference.entry;
        let changing = self.edits.iter().filter(|edit| !edit.freezes() && !early(edit));
        let places = changing.flat_map(|edit| edit.reach(prompt, len, n_layers));
        places.map(|(position, _)| position).filter(|position| *position >= from).min()
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
            let entry = cell.entry(n_layers);
            sites.insert(Site::resid(entry.layer, n_layers));
            if entry.behind_attention {
                sites.insert(Site::Z(entry.layer));
            }
            for edit in &cell.edits {
                sites.extend(edit.source().map(|site| site.canonical(n_layers)));
                positions.insert(match edit.places {
                    Places::Of(positions) if !edit.last_alone(n_layers) => positions,
                    _ => PatchPositions::Last,
                });
            }
        }
        Self { sites: sites.into_iter().collect(), positions: positions.into_iter().collect() }
    }
}
