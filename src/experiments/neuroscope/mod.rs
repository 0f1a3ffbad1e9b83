//! Every token of a corpus read along directions: one pass serves all directions and layers.
//!
//! The value of a token at a layer is the cosine of its residual with a unit direction, or their product (the neuroscope of
//! arXiv 2310.15154, sections 3 and A). BOS is part of what the model sees and is not counted.

mod distribution;
mod extremes;
mod labels;
mod samples;
mod token_statistics;

pub use distribution::Distribution;
pub use extremes::{Extremes, Found};
pub use labels::{Accuracy, LabelError, Labels};
pub use samples::{Bin, Samples};
pub use token_statistics::{TokenMean, TokenStatistics};

use super::corpus::{CorpusError, Row};
use crate::backend::Backend;
use crate::engine::{Engine, EngineError, Output, Run, Site};
use crate::types::Matrix;

/// A direction at a layer: one value per token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The direction's name.
    pub direction: String,
    /// Where residuals are read: in front of this block, or behind the last one.
    pub layer: usize,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Cosine of residual and direction.
    Cosine,
    /// Product of the residual and the unit direction.
    Projection,
}

/// Directions of unit length at layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Channels {
    list: Vec<Channel>,
    /// Per layer the directions read there, `(n, d_model)`, in the order of the list.
    by_layer: Vec<(usize, Matrix)>,
}

impl Channels {
    /// Channels in the order of layers, and within a layer in the given order.
    pub fn new(mut channels: Vec<(Channel, Vec<f32>)>) -> Self {
        channels.sort_by_key(|(channel, _)| channel.layer);
        let mut by_layer: Vec<(usize, Matrix)> = Vec::new();
        for (channel, direction) in &channels {
            if by_layer.last().is_none_or(|(layer, _)| *layer != channel.layer) {
                by_layer.push((channel.layer, Matrix::zeros(0, direction.len())));
            }
            if let Some((_, rows)) = by_layer.last_mut() {
                rows.data.extend_from_slice(direction);
                rows.rows += 1;
            }
        }
        Self { list: channels.into_iter().map(|(channel, _)| channel).collect(), by_layer }
    }

    /// The channels.
    pub fn list(&self) -> &[Channel] {
        &self.list
    }

    /// The values of every computed token of a run that captured the channels' residuals, `(tokens, channels)`.
    fn read<B: Backend>(
        &self,
        engine: &Engine<B>,
        run: &Run<B>,
        directions: &[(Site, crate::engine::ReadDirections<B>)],
    ) -> Result<Matrix, EngineError> {
        let mut values = Matrix::zeros(run.layout().n_tokens(), self.list.len());
        let mut first = 0;
        for ((site, directions), (_, rows)) in directions.iter().zip(&self.by_layer) {
            let found = engine.read_along(run, *site, directions)?;
            for token in 0..values.rows {
                values.row_mut(token)[first..first + rows.rows].copy_from_slice(found.row(token));
            }
            first += rows.rows;
        }
        Ok(values)
    }
}

/// A token of a row and its values, one per channel.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    row: &'a Row,
    /// Place in the row.
    index: usize,
    /// One per channel.
    pub values: &'a [f32],
}

impl<'a> Reading<'a> {
    /// The token.
    pub fn token(&self) -> u32 {
        self.row.tokens[self.index]
    }

    /// Number of its document.
    pub fn document(&self) -> usize {
        self.row.document
    }

    /// Position in the document, BOS not counted.
    pub fn position(&self) -> usize {
        self.row.start + self.index - self.row.bos
    }

    /// Up to `width` tokens on either side, within the row and without BOS.
    pub fn window(&self, width: usize) -> &'a [u32] {
        let first = self.index.saturating_sub(width).max(self.row.bos);
        let end = (self.index + width + 1).min(self.row.tokens.len());
        &self.row.tokens[first..end]
    }
}

/// Reads rows in batches and tells `told` of every token, row after row. Returns the number of tokens told of.
///
/// # Errors
/// Those of the corpus, of the engine and of `told`.
pub fn read_corpus<B: Backend, E: From<EngineError> + From<CorpusError>>(
    engine: &Engine<B>,
    rows: impl Iterator<Item = Result<Row, CorpusError>>,
    channels: &Channels,
    measure: Measure,
    mut told: impl FnMut(Reading<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    let n_layers = engine.config().n_layers;
    let upload = |(layer, rows): &(usize, Matrix)| {
        Ok((Site::resid(*layer, n_layers), engine.read_directions(rows, measure == Measure::Cosine)?))
    };
    let directions = channels.by_layer.iter().map(upload).collect::<Result<Vec<_>, EngineError>>()?;
    let sites: Vec<Site> = directions.iter().map(|(site, _)| *site).collect();
    let mut rows = rows.peekable();
    let mut count = 0;
    while rows.peek().is_some() {
        let mut batch = Vec::new();
        let mut tokens = 0;
        while let Some(row) = rows.next_if(|row| match row {
            Ok(row) => tokens == 0 || tokens + row.tokens.len() <= engine.max_tokens(),
            Err(_) => true,
        }) {
            let row = row?;
            tokens += row.tokens.len();
            batch.push(row);
        }
        let sequences: Vec<Vec<u32>> = batch.iter().map(|row| row.tokens.clone()).collect();
        let run = engine.run(&sequences, &sites, &[], Output::None)?;
        let values = channels.read(engine, &run, &directions)?;
        for (number, row) in batch.iter().enumerate() {
            for index in row.bos..row.tokens.len() {
                let values = values.row(run.token(number, index)?);
                told(Reading { row, index, values })?;
                count += 1;
            }
        }
    }
    Ok(count)
}
