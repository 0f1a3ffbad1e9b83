//! The edits of a batch as few interventions: those that do the same at the same site act together, whatever their rows.

use super::{Cell, Change, Edit, Row, Values};
use crate::backend::Backend;
use crate::engine::paired::sides;
use crate::engine::site::Entry;
use crate::engine::{Engine, EngineError, Intervention, Op, PairedRun, Part, Patch, Run, Site, Source};
use crate::types::Matrix;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Edits that one intervention can carry out together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    /// How many edits of the same row act at the site before.
    turn: usize,
    site: Site,
    part: Part,
    op: OpKind,
    from: FromKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum OpKind {
    Replace,
    Swap,
    /// With the bits of the coefficient.
    Add(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FromKind {
    Run,
    Zero,
    Rows,
}

/// What an edit does and where it takes its values from.
fn kinds(edit: &Edit) -> (OpKind, FromKind) {
    let op = match &edit.change {
        Change::Replace(_) => OpKind::Replace,
        Change::Swap(..) => OpKind::Swap,
        Change::Add(_, scale) => OpKind::Add(scale.to_bits()),
    };
    let from = match edit.values() {
        Some(Values::OtherRun | Values::OwnRun) => FromKind::Run,
        Some(Values::Zero) => FromKind::Zero,
        Some(Values::Rows(_)) | None => FromKind::Rows,
    };
    (op, from)
}

/// The places of one intervention, and the directions and rows that they refer to.
#[derive(Default)]
struct Members {
    patches: Vec<Patch>,
    bases: Vec<Arc<Matrix>>,
    given: Vec<Arc<Matrix>>,
    /// Number of rows in front of the last entry of `given`.
    given_before: usize,
}

impl Members {
    /// The number of a basis, which is put behind the others unless it is the last one already.
    fn basis(&mut self, columns: &Arc<Matrix>) -> usize {
        if !self.bases.last().is_some_and(|last| Arc::ptr_eq(last, columns)) {
            self.bases.push(columns.clone());
        }
        self.bases.len() - 1
    }

    /// The number of the first of given rows, which are put behind the others unless they are the last ones already.
    fn first_row(&mut self, rows: &Arc<Matrix>) -> usize {
        match self.given.last() {
            Some(last) if Arc::ptr_eq(last, rows) => {}
            last => {
                self.given_before += last.map_or(0, |last| last.rows);
                self.given.push(rows.clone());
            }
        }
        self.given_before
    }
}

/// The edits of a batch, grouped into interventions.
#[derive(Default)]
pub(in crate::engine) struct Groups(BTreeMap<Kind, Members>);

/// Directions (and how many to a basis) and rows of one intervention on the device.
pub(in crate::engine) struct Uploaded<B: Backend> {
    bases: Option<(B::Tensor, usize)>,
    rows: Option<B::Tensor>,
}

impl Groups {
    /// Adds the edits of a row of a plan, which enters at `entry`.
    pub(super) fn add<B: Backend>(
        &mut self,
        cell: &Cell,
        (index, row): (usize, &Row),
        paired: &PairedRun<B>,
        (entry, n_layers): (Entry, usize),
    ) -> Result<(), EngineError> {
        let (own, other) = sides(paired.prompts(), row.prompt, cell.mode);
        let len = paired.run().layout().len(own);
        let places = |edit: &Edit| {
            if edit.entry(n_layers) < entry {
                return Vec::new();
            }
            let mut places = edit.reach(row.prompt, len, n_layers);
            places.retain(|(position, _)| *position >= row.start);
            places
        };
        let token = |edit: &Edit, position| paired.run().token(if edit.freezes() { own } else { other }, position);
        self.add_edits(cell, index, n_layers, places, token)
    }

    /// Adds the edits that make row `index` the twin of a clean prompt of `len` tokens.
    pub(in crate::engine) fn add_twin(
        &mut self,
        cell: &Cell,
        (index, prompt): (usize, usize),
        (len, n_layers): (usize, usize),
    ) -> Result<(), EngineError> {
        let token = |edit: &Edit, _| Err(EngineError::NotCaptured { site: edit.site.to_string() });
        self.add_edits(cell, index, n_layers, |edit| edit.numbered_places(prompt, len), token)
    }

    /// Adds the edits of row `index` of a batch. `places` gives the positions of an edit, each with the number of its row
    /// among given ones, `token` where a position stands in the run that an edit takes its values from.
    fn add_edits(
        &mut self,
        cell: &Cell,
        index: usize,
        n_layers: usize,
        places: impl Fn(&Edit) -> Vec<(usize, usize)>,
        token: impl Fn(&Edit, usize) -> Result<usize, EngineError>,
    ) -> Result<(), EngineError> {
        for (number, edit) in cell.edits.iter().enumerate() {
            let places = places(edit);
            if places.is_empty() {
                continue;
            }
            let site = edit.site.canonical(n_layers);
            let before = cell.edits[..number].iter().filter(|edit| edit.site.canonical(n_layers) == site);
            let (op, from) = kinds(edit);
            let members = self.0.entry(Kind { turn: before.count(), site, part: edit.part, op, from }).or_default();
            let basis = if let Change::Swap(_, columns) = &edit.change { members.basis(columns) } else { 0 };
            let first = edit.rows().map_or(0, |rows| members.first_row(rows));
            for (position, given) in places {
                let source = match from {
                    FromKind::Run => token(edit, position)?,
                    FromKind::Zero => 0,
                    FromKind::Rows => first + given,
                };
                members.patches.push(Patch { row: index, position, source, basis });
            }
        }
        Ok(())
    }

    pub(in crate::engine) fn upload<B: Backend>(&self, engine: &Engine<B>) -> Result<Vec<Uploaded<B>>, EngineError> {
        let upload = |members: &Members| {
            let k = members.bases.iter().map(|columns| columns.cols).max();
            let bases = match k {
                None => None,
                Some(k) => {
                    let k = k.max(1);
                    Some((engine.backend().upload(&stacked(&members.bases, k))?, k))
                }
            };
            let rows: Vec<f32> = members.given.iter().flat_map(|rows| rows.data.iter().copied()).collect();
            let rows = if rows.is_empty() { None } else { Some(engine.backend().upload(&rows)?) };
            Ok(Uploaded { bases, rows })
        };
        self.0.values().map(upload).collect()
    }

    /// The interventions of some rows, as a batch of their own; `run` is where they take values from.
    pub(in crate::engine) fn interventions<'a, B: Backend>(
        &self,
        run: Option<&'a Run<B>>,
        uploaded: &'a [Uploaded<B>],
        rows: Range<usize>,
    ) -> Vec<Intervention<'a, B>> {
        let intervention = |((kind, members), uploaded): ((&Kind, &Members), &'a Uploaded<B>)| {
            let own = members.patches.iter().filter(|patch| rows.contains(&patch.row));
            let patches: Vec<Patch> = own.map(|patch| Patch { row: patch.row - rows.start, ..*patch }).collect();
            let source = match (kind.from, run, &uploaded.rows) {
                (FromKind::Run, Some(run), _) => Source::Run(run),
                (FromKind::Rows, _, Some(rows)) => Source::Rows(rows),
                _ => Source::Zero,
            };
            let op = match (kind.op, &uploaded.bases) {
                (OpKind::Swap, Some((bases, k))) => Op::Swap { source, bases, k: *k },
                (OpKind::Add(bits), _) => Op::Add { source, scale: f32::from_bits(bits) },
                _ => Op::Replace(source),
            };
            (!patches.is_empty()).then_some(Intervention { site: kind.site, part: kind.part, patches, op })
        };
        self.0.iter().zip(uploaded).filter_map(intervention).collect()
    }
}

/// Bases of `k` rows each, `(n_bases, k, width)`; a basis of fewer columns ends in zeros, which change nothing.
fn stacked(bases: &[Arc<Matrix>], k: usize) -> Vec<f32> {
    let mut rows = Vec::new();
    for columns in bases {
        for j in 0..k {
            let value = |i: usize| if j < columns.cols { columns.data[i * columns.cols + j] } else { 0.0 };
            rows.extend((0..columns.rows).map(value));
        }
    }
    rows
}
