//! Interventions whose values are on the host: what users write down, and the engine's own made of it.

use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Intervention, Layout, Op, Part, Patch, Run, Site, Source};
use crate::model::ModelConfig;
use crate::types::numbers;
use std::borrow::Cow;
use std::ops::Range;

/// An intervention with values from the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit<'a> {
    /// Where in the forward pass.
    pub site: Site,
    /// Which columns.
    pub part: Part,
    /// (sequence, position) of every place, each once; for `pattern` the position of the query.
    pub places: Cow<'a, [(usize, usize)]>,
    /// What happens there.
    pub change: Change<'a>,
}

/// What happens at the places of an [`Edit`].
///
/// Values are rows as wide as the part: a head's `d_head`, `d_model` for one head's `result` or input, 1 for a neuron, else
/// [`Site::width`]. There is one row for all places, or one per place in their order. At `pattern` there is one row per
/// place, and in it as many values per head as the sequence has tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change<'a> {
    /// `x := values`.
    Replace(&'a [f32]),
    /// `x += values`.
    Add(&'a [f32]),
    /// `x += R Rᵀ (values - x)`.
    Swap {
        /// What the component along the subspace comes from.
        values: &'a [f32],
        /// `R`: rows of unit length, orthogonal to each other.
        basis: &'a [f32],
    },
    /// `x := 0`.
    Zero,
}

/// How far rows of a basis may be from unit length and right angles.
const ORTHONORMAL: f32 = 1e-3;

impl<'a> Change<'a> {
    fn values(self) -> &'a [f32] {
        match self {
            Change::Replace(values) | Change::Add(values) | Change::Swap { values, .. } => values,
            Change::Zero => &[],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Change::Replace(_) => "replace",
            Change::Add(_) => "add",
            Change::Swap { .. } => "swap",
            Change::Zero => "zero",
        }
    }
}

impl<'a> Edit<'a> {
    /// Refuses what cannot be done to these sequences.
    ///
    /// # Errors
    /// [`EngineError`] for a site or part that the model does not have, a place outside the sequences, values of another
    /// number or that are not finite, a basis whose rows are not of unit length and orthogonal to each other.
    pub(super) fn check(&self, config: &ModelConfig, sequences: &[Vec<u32>]) -> Result<(), EngineError> {
        let site = self.site;
        site.check(config)?;
        let width = self.part.width(site, config)?;
        if self.places.is_empty() {
            return Err(EngineError::NeverFires { site: site.to_string(), reason: "it names no place".into() });
        }
        for &(sequence, position) in self.places.iter() {
            let mismatch = |what: String, count, found: usize| EngineError::Mismatch {
                what,
                expected: numbers(count),
                found: found.to_string(),
            };
            let tokens = sequences.get(sequence).map(Vec::len);
            let tokens =
                tokens.ok_or_else(|| mismatch(format!("sequence of an edit at {site}"), sequences.len(), sequence))?;
            if position >= tokens {
                let what = format!("position of an edit at {site} in sequence {sequence}");
                return Err(mismatch(what, tokens, position));
            }
        }
        match site {
            Site::Pattern(_) => self.check_pattern(config, sequences)?,
            _ => self.check_rows(width)?,
        }
        match self.change.values().iter().find(|value| !value.is_finite()) {
            Some(value) => Err(self.mismatch("values", "finite numbers".into(), value.to_string())),
            None => Ok(()),
        }
    }

    fn check_rows(&self, width: usize) -> Result<(), EngineError> {
        let (found, places) = (self.change.values().len(), self.places.len());
        if !matches!(self.change, Change::Zero) && found != width && found != width * places {
            let expected = format!("{width}, or {width} for each of {places} places");
            return Err(self.mismatch("number of values", expected, found.to_string()));
        }
        let Change::Swap { basis, .. } = self.change else { return Ok(()) };
        if basis.is_empty() || !basis.len().is_multiple_of(width) {
            let expected = format!("rows of {width} values");
            return Err(self.mismatch("basis", expected, format!("{} values", basis.len())));
        }
        let rows: Vec<&[f32]> = basis.chunks(width).collect();
        for (number, row) in rows.iter().enumerate() {
            for (other, with) in rows[..=number].iter().enumerate() {
                let product: f32 = row.iter().zip(*with).map(|(a, b)| a * b).sum();
                let expected = if other == number { 1.0 } else { 0.0 };
                let off = (product - expected).abs();
                if off > ORTHONORMAL || off.is_nan() {
                    let expected = "rows of unit length that are orthogonal to each other".to_owned();
                    return Err(self.mismatch("basis", expected, format!("a product of {product}")));
                }
            }
        }
        Ok(())
    }

    fn check_pattern(&self, config: &ModelConfig, sequences: &[Vec<u32>]) -> Result<(), EngineError> {
        match self.change {
            Change::Zero => Ok(()),
            Change::Replace(values) => {
                let keys: usize = self.places.iter().map(|&(sequence, _)| sequences[sequence].len()).sum();
                let expected = keys * self.heads(config).len();
                if values.len() == expected {
                    return Ok(());
                }
                Err(self.mismatch("number of values", expected.to_string(), values.len().to_string()))
            }
            _ => Err(self.mismatch("operation", "replace or zero".into(), self.change.name().into())),
        }
    }

    fn mismatch(&self, what: &str, expected: String, found: String) -> EngineError {
        EngineError::Mismatch { what: format!("{what} of an edit at {}", self.site), expected, found }
    }

    /// The heads that a pattern's edit touches.
    fn heads(&self, config: &ModelConfig) -> Range<usize> {
        match self.part {
            Part::Head(head) => head..head + 1,
            _ => 0..config.n_heads,
        }
    }

    /// The numbers of its places in some sequences of all.
    fn within(&self, range: &Range<usize>) -> Vec<usize> {
        let inside = |number: &usize| range.contains(&self.places[*number].0);
        (0..self.places.len()).filter(inside).collect()
    }

    /// The rows of some of its places as wide as the site, and which of them each place has.
    fn rows(&self, config: &ModelConfig, chosen: &[usize]) -> Result<(Cow<'a, [f32]>, Vec<usize>), EngineError> {
        let (values, width) = (self.change.values(), self.part.width(self.site, config)?);
        let shared = values.len() == width;
        let sources = if shared { vec![0; chosen.len()] } else { (0..chosen.len()).collect() };
        let columns = self.part.columns(self.site, config)?;
        let stride = self.site.width(config);
        if width == stride && (shared || chosen.len() == self.places.len()) {
            return Ok((Cow::Borrowed(values), sources));
        }
        let rows = if shared { &[0][..] } else { chosen };
        let start = if width == stride { 0 } else { columns.start };
        let mut wide = vec![0.0; rows.len() * stride];
        for (row, &number) in wide.chunks_mut(stride).zip(rows) {
            row[start..start + width].copy_from_slice(&values[number * width..][..width]);
        }
        Ok((Cow::Owned(wide), sources))
    }
}

/// What edits are made of on the device: rows, or a run that holds patterns.
pub(super) struct Uploaded<B: Backend> {
    patches: Vec<Patch>,
    values: UploadedValues<B>,
    basis: Option<B::Tensor>,
}

enum UploadedValues<B: Backend> {
    Rows(B::Tensor),
    Pattern(Box<Run<B>>),
    Zero,
}

impl<B: Backend> Uploaded<B> {
    /// Uploads what `edit` does to the sequences of a batch, `range` of all; none if it leaves them alone.
    pub fn new(
        engine: &Engine<B>,
        edit: &Edit<'_>,
        sequences: &[Vec<u32>],
        range: &Range<usize>,
    ) -> Result<Option<Self>, EngineError> {
        let config = engine.config();
        let chosen = edit.within(range);
        if chosen.is_empty() {
            return Ok(None);
        }
        let patch = |number: usize, source: usize| {
            let (sequence, position) = edit.places[number];
            Patch { row: sequence - range.start, position, source, basis: 0 }
        };
        let zero = matches!(edit.change, Change::Zero);
        let (patches, values) = match edit.site {
            _ if zero => (chosen.iter().map(|&number| patch(number, 0)).collect(), UploadedValues::Zero),
            Site::Pattern(_) => {
                let (run, sources) = pattern(engine, edit, sequences, range)?;
                let patches = chosen.iter().zip(sources).map(|(&number, source)| patch(number, source)).collect();
                (patches, UploadedValues::Pattern(Box::new(run)))
            }
            _ => {
                let (rows, sources) = edit.rows(config, &chosen)?;
                let patches = chosen.iter().zip(sources).map(|(&number, source)| patch(number, source)).collect();
                (patches, UploadedValues::Rows(engine.backend().upload(&rows)?))
            }
        };
        let basis = match edit.change {
            Change::Swap { basis, .. } => Some(engine.backend().upload(basis)?),
            _ => None,
        };
        Ok(Some(Self { patches, values, basis }))
    }

    /// The engine's intervention.
    pub fn intervention<'u>(
        &'u self,
        edit: &Edit<'_>,
        config: &ModelConfig,
    ) -> Result<Intervention<'u, B>, EngineError> {
        let source = match &self.values {
            UploadedValues::Rows(rows) => Source::Rows(rows),
            UploadedValues::Pattern(run) => Source::Run(run),
            UploadedValues::Zero => Source::Zero,
        };
        let op = match (&edit.change, &self.basis) {
            (Change::Swap { basis, .. }, Some(bases)) => {
                Op::Swap { source, bases, k: basis.len() / edit.part.width(edit.site, config)? }
            }
            (Change::Add(_), _) => Op::Add { source, scale: 1.0 },
            _ => Op::Replace(source),
        };
        Ok(Intervention { site: edit.site, part: edit.part, patches: self.patches.clone(), op })
    }
}

/// A run that holds the patterns of an edit for some sequences of all, and the token of it that each place reads.
fn pattern<B: Backend>(
    engine: &Engine<B>,
    edit: &Edit<'_>,
    sequences: &[Vec<u32>],
    range: &Range<usize>,
) -> Result<(Run<B>, Vec<usize>), EngineError> {
    let (config, heads) = (engine.config(), edit.heads(engine.config()));
    let layout = Layout::whole(&sequences[range.clone()]);
    let mut values = vec![0.0; layout.pattern_len(config.n_heads)];
    let mut sources = Vec::new();
    let mut given = edit.change.values();
    for &(sequence, position) in edit.places.iter() {
        let (own, rest) = given.split_at(heads.len() * sequences[sequence].len());
        given = rest;
        if !range.contains(&sequence) {
            continue;
        }
        let row = sequence - range.start;
        for (head, own) in heads.clone().zip(own.chunks(sequences[sequence].len())) {
            let (start, keys) = layout.pattern_span(row, head, position, config.n_heads);
            values[start..start + keys].copy_from_slice(own);
        }
        sources.extend(layout.token(row, position));
    }
    let values = engine.backend().upload(&values)?;
    Ok((Run::given(layout, edit.site, values, config.n_layers), sources))
}
