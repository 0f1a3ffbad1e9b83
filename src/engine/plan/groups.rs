//! The edits of a batch as few interventions: those that do the same at the same site act together, whatever their rows.

use super::{Cell, Change, Row, Values};
use crate::backend::Backend;
use crate::engine::paired::sides;
use crate::engine::{Engine, EngineError, Intervention, Op, PairedRun, Part, Patch, Site, Source};
use crate::types::Matrix;
use std::collections::BTreeMap;
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
    Vector,
}

/// The places of one intervention, and the directions and vectors that they refer to.
#[derive(Default)]
struct Members {
    patches: Vec<Patch>,
    bases: Vec<Arc<Matrix>>,
    vectors: Vec<Arc<Vec<f32>>>,
}

/// The edits of a batch, grouped into interventions.
#[derive(Default)]
pub(super) struct Groups(BTreeMap<Kind, Members>);

/// Directions (and how many to a basis) and vectors of one intervention on the device.
pub(super) struct Uploaded<B: Backend> {
    bases: Option<(B::Tensor, usize)>,
    vectors: Option<B::Tensor>,
}

/// The place of `value` in `list`, where it is put unless it is the last entry already.
fn place_of<T: PartialEq>(list: &mut Vec<Arc<T>>, value: &Arc<T>) -> usize {
    if !list.last().is_some_and(|last| Arc::ptr_eq(last, value)) {
        list.push(value.clone());
    }
    list.len() - 1
}

impl Groups {
    pub(super) fn add<B: Backend>(
        &mut self,
        cell: &Cell,
        (index, row): (usize, &Row),
        paired: &PairedRun<B>,
        (layer, n_layers): (usize, usize),
    ) -> Result<(), EngineError> {
        let (own, other) = sides(paired.prompts(), row.prompt, cell.mode);
        let len = paired.run().layout().len(own);
        for (number, edit) in cell.edits.iter().enumerate() {
            let range = edit.reach(len, n_layers);
            let positions = range.start.max(row.start)..range.end;
            if positions.is_empty() || edit.start(n_layers) < layer {
                continue;
            }
            let site = edit.site.canonical(n_layers);
            let before = cell.edits[..number].iter().filter(|edit| edit.site.canonical(n_layers) == site);
            let (op, basis) = match &edit.change {
                Change::Replace(_) => (OpKind::Replace, None),
                Change::Swap(_, columns) => (OpKind::Swap, Some(columns)),
                Change::Add(_, scale) => (OpKind::Add(scale.to_bits()), None),
            };
            let (from, vector) = match (&edit.change, edit.values()) {
                (Change::Add(vector, _), _) | (_, Some(Values::Vector(vector))) => (FromKind::Vector, Some(vector)),
                (_, Some(Values::Zero)) => (FromKind::Zero, None),
                _ => (FromKind::Run, None),
            };
            let members = self.0.entry(Kind { turn: before.count(), site, part: edit.part, op, from }).or_default();
            let basis = basis.map_or(0, |columns| place_of(&mut members.bases, columns));
            let vector = vector.map(|vector| place_of(&mut members.vectors, vector));
            let sequence = if edit.freezes() { own } else { other };
            for position in positions {
                let source = match (from, vector) {
                    (FromKind::Run, _) => paired.run().token(sequence, position)?,
                    (_, vector) => vector.unwrap_or(0),
                };
                members.patches.push(Patch { row: index, position, source, basis });
            }
        }
        Ok(())
    }

    pub(super) fn upload<B: Backend>(&self, engine: &Engine<B>) -> Result<Vec<Uploaded<B>>, EngineError> {
        let upload = |members: &Members| {
            let k = members.bases.iter().map(|columns| columns.cols).max();
            let bases = match k {
                None => None,
                Some(k) => {
                    let k = k.max(1);
                    Some((engine.backend().upload(&stacked(&members.bases, k))?, k))
                }
            };
            let rows: Vec<f32> = members.vectors.iter().flat_map(|vector| vector.iter().copied()).collect();
            let vectors = if rows.is_empty() { None } else { Some(engine.backend().upload(&rows)?) };
            Ok(Uploaded { bases, vectors })
        };
        self.0.values().map(upload).collect()
    }

    pub(super) fn interventions<'a, B: Backend>(
        &self,
        paired: &'a PairedRun<B>,
        uploaded: &'a [Uploaded<B>],
    ) -> Vec<Intervention<'a, B>> {
        let intervention = |((kind, members), uploaded): ((&Kind, &Members), &'a Uploaded<B>)| {
            let source = match (kind.from, &uploaded.vectors) {
                (FromKind::Run, _) => Source::Run(paired.run()),
                (FromKind::Vector, Some(vectors)) => Source::Rows(vectors),
                _ => Source::Zero,
            };
            let op = match (kind.op, &uploaded.bases) {
                (OpKind::Swap, Some((bases, k))) => Op::Swap { source, bases, k: *k },
                (OpKind::Add(bits), _) => Op::Add { source, scale: f32::from_bits(bits) },
                _ => Op::Replace(source),
            };
            Intervention { site: kind.site, part: kind.part, patches: members.patches.clone(), op }
        };
        self.0.iter().zip(uploaded).map(intervention).collect()
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
