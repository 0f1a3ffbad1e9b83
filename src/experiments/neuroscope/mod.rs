//! Every token of a corpus read along directions: one pass serves all directions and layers.
//!
//! The value of a token at a layer is the cosine of its residual with a unit direction, or their product (the neuroscope of
//! arXiv 2310.15154, sections 3 and A). BOS is part of what the model sees and is not counted.

mod distribution;
mod exclusion;
mod findings;
mod samples;
mod token_statistics;
mod top;

pub use distribution::Distribution;
pub use exclusion::Words;
pub use findings::{Findings, OfChannel, Settings};
pub use samples::{Bin, Samples};
pub use token_statistics::{TokenMean, TokenStatistics};
pub use top::Top;

use super::corpus::{CorpusError, Row};
use crate::backend::Backend;
use crate::choice::choices;
use crate::engine::{Engine, EngineError, Output, ReadDirections, Run, Site};
use crate::types::Matrix;

/// A direction at a layer: one value per token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// The direction's name.
    pub direction: String,
    /// Where residuals are read: in front of this block, or behind the last one.
    pub layer: usize,
}

choices! {
    /// What a value is.
    pub enum Measure {
        /// Cosine of residual and direction.
        Cosine = "cosine",
        /// Product of the residual and the unit direction.
        Projection = "projection",
    }
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
            match by_layer.last_mut() {
                Some((layer, rows)) if *layer == channel.layer => {
                    rows.data.extend_from_slice(direction);
                    rows.rows += 1;
                }
                _ => by_layer.push((channel.layer, Matrix::new(1, direction.len(), direction.clone()))),
            }
        }
        Self { list: channels.into_iter().map(|(channel, _)| channel).collect(), by_layer }
    }

    /// The channels.
    pub fn list(&self) -> &[Channel] {
        &self.list
    }

    /// Uploads the directions, those of a layer together.
    fn upload<B: Backend>(&self, engine: &Engine<B>, measure: Measure) -> Result<OnDevice<B>, EngineError> {
        let n_layers = engine.config().n_layers;
        let upload = |(layer, rows): &(usize, Matrix)| {
            Ok((Site::resid(*layer, n_layers), engine.read_directions(rows, measure == Measure::Cosine)?))
        };
        self.by_layer.iter().map(upload).collect()
    }

    /// The values of every computed token of a run that captured the channels' residuals, `(tokens, channels)`.
    fn read<B: Backend>(
        &self,
        engine: &Engine<B>,
        run: &Run<B>,
        directions: &OnDevice<B>,
    ) -> Result<Matrix, EngineError> {
        let mut values = Matrix::zeros(run.layout().n_tokens(), self.list.len());
        let mut first = 0;
        for (site, directions) in directions {
            let found = engine.read_along(run, *site, directions)?;
            for token in 0..values.rows {
                values.row_mut(token)[first..first + found.cols].copy_from_slice(found.row(token));
            }
            first += found.cols;
        }
        Ok(values)
    }
}

/// The directions of every layer that is read.
type OnDevice<B> = Vec<(Site, ReadDirections<B>)>;

/// A token of a row, and the values of the whole row.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    row: &'a Row,
    /// Place in the row.
    index: usize,
    /// `(tokens of the row, channels)`.
    values: &'a [f32],
}

impl<'a> Reading<'a> {
    /// Token `index` of a row, with the values of the whole row, `(tokens of the row, channels)`.
    pub fn new(row: &'a Row, index: usize, values: &'a [f32]) -> Self {
        Self { row, index, values }
    }

    /// The token.
    pub fn token(&self) -> u32 {
        self.row.tokens[self.index]
    }

    /// Its values, one per channel.
    pub fn values(&self) -> &'a [f32] {
        let n = self.values.len() / self.row.tokens.len();
        &self.values[self.index * n..(self.index + 1) * n]
    }

    /// Number of its document.
    pub fn document(&self) -> usize {
        self.row.document
    }

    /// Position in the document, BOS not counted.
    pub fn position(&self) -> usize {
        self.row.start + self.index - self.row.bos
    }

    /// The token with its value in a channel, and up to `width` tokens on either side, within the row and without BOS.
    pub fn found(&self, channel: usize, width: usize) -> Found {
        let first = self.index.saturating_sub(width).max(self.row.bos);
        let end = (self.index + width + 1).min(self.row.tokens.len());
        let n = self.values.len() / self.row.tokens.len();
        Found {
            document: self.document(),
            position: self.position(),
            place: self.index - first,
            tokens: self.row.tokens[first..end].to_vec(),
            values: self.values[first * n..end * n].iter().skip(channel).step_by(n).copied().collect(),
        }
    }
}

/// A token that is worth showing, among its neighbours.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Number of its document.
    pub document: usize,
    /// Position in the document, BOS not counted.
    pub position: usize,
    /// Where the token stands among `tokens`.
    pub place: usize,
    /// It and its neighbours.
    pub tokens: Vec<u32>,
    /// The values of all of them in one channel.
    pub values: Vec<f32>,
}

impl Found {
    /// The token.
    pub fn token(&self) -> u32 {
        self.tokens[self.place]
    }

    /// Its value.
    pub fn value(&self) -> f32 {
        self.values[self.place]
    }
}

/// Reads rows in batches of the engine's size and tells `told` of every token, row after row. Returns how many there were.
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
    let directions = channels.upload(engine, measure)?;
    let sites: Vec<Site> = directions.iter().map(|(site, _)| *site).collect();
    let mut rows = rows.peekable();
    let mut count = 0;
    while rows.peek().is_some() {
        let batch = next_batch(&mut rows, engine.max_tokens())?;
        let sequences: Vec<Vec<u32>> = batch.iter().map(|row| row.tokens.clone()).collect();
        let run = engine.run(&sequences, &sites, &[], Output::None)?;
        let values = channels.read(engine, &run, &directions)?;
        for (number, row) in batch.iter().enumerate() {
            let n = channels.list.len();
            let first = run.token(number, 0)?;
            let values = &values.data[first * n..(first + row.tokens.len()) * n];
            for index in row.bos..row.tokens.len() {
                told(Reading { row, index, values })?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// The next rows that together have at most `max_tokens` tokens, but at least one row.
pub(super) fn next_batch(
    rows: &mut std::iter::Peekable<impl Iterator<Item = Result<Row, CorpusError>>>,
    max_tokens: usize,
) -> Result<Vec<Row>, CorpusError> {
    let mut batch: Vec<Row> = Vec::new();
    let mut tokens = 0;
    while let Some(row) = rows.next_if(|row| match row {
        Ok(row) => batch.is_empty() || tokens + row.tokens.len() <= max_tokens,
        Err(_) => true,
    }) {
        let row = row?;
        tokens += row.tokens.len();
        batch.push(row);
    }
    Ok(batch)
}
