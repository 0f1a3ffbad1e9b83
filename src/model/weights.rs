//! A loaded [`Model`]'s weights, processed when they are asked for.

use super::families::{self, Architecture, transposed};
use super::process::{self, Unembedding};
use super::source::WeightSource;
use super::{
    LayerWeights, LinearWeights, ModelConfig, ModelError, NormWeights, Provenance, Tokenizer, WeightProcessing,
};
use crate::types::{AnswerPair, Matrix};
use rayon::prelude::*;
use std::sync::OnceLock;

/// Vocabulary rows that one step of a pass over the whole vocabulary holds.
const VOCABULARY_BLOCK: usize = 1024;

/// Vocabulary rows that one task adds up.
const SUMMED_ROWS: usize = 64;

/// A model: its shape, its tokenizer, and its weights, which stay on disk until they are asked for.
///
/// Nothing is kept in memory but the mean of the unembedding, so the largest thing alive while a model is uploaded is
/// one layer.
#[derive(Debug)]
pub struct Model {
    /// What its results are filed under: the Hub name without organisation, `gpt2-small` for `gpt2`.
    pub name: String,
    /// Its shape.
    pub config: ModelConfig,
    /// The rewrites that [`Model::layer`] and the others do: those asked for that the model's norms allow.
    pub processing: WeightProcessing,
    /// Its tokenizer, or the one that was asked for instead.
    pub tokenizer: Tokenizer,
    /// Where its files came from.
    pub provenance: Provenance,
    pub(super) architecture: Box<dyn Architecture>,
    pub(super) source: WeightSource,
    pub(super) unembedding: OnceLock<Unembedding>,
    /// What stands behind the vocabulary.
    pub(super) readout: Option<Vec<f32>>,
}

impl Model {
    /// The same model with a direction behind its vocabulary, to be read off the final norm as answers are: the difference
    /// of the pair [`Model::readout_answers`] is its product with the last residual behind the norm.
    ///
    /// # Errors
    /// [`ModelError::Readout`] for a direction that is not `d_model` wide.
    pub fn with_readout(self, direction: Vec<f32>) -> Result<Self, ModelError> {
        match (self.config.d_model, direction.len()) {
            (expected, found) if expected != found => {
                Err(ModelError::Readout { model: self.name.clone(), expected, found })
            }
            _ => Ok(Self { readout: Some(direction), ..self }),
        }
    }

    /// The direction behind the vocabulary.
    pub fn readout(&self) -> Option<&[f32]> {
        self.readout.as_deref()
    }

    /// The pair of token ids, behind the vocabulary, whose difference is the readout.
    pub fn readout_answers(&self) -> Option<AnswerPair> {
        let first = self.config.d_vocab as u32;
        self.readout.as_ref().map(|_| (first, first + 1))
    }

    /// Block `layer`'s weights, converted to f32 and processed. They are read again at every call.
    ///
    /// # Errors
    /// The model has no such layer.
    pub fn layer(&self, layer: usize) -> Result<LayerWeights, ModelError> {
        let n_layers = self.config.n_layers;
        if layer >= n_layers {
            return Err(ModelError::LayerOutOfRange { model: self.name.clone(), layer, n_layers });
        }
        let mut weights = self.architecture.layer(&self.source, layer)?;
        process::layer(&mut weights, &self.config, self.processing);
        self.source.release();
        Ok(weights)
    }

    /// Gain and bias of the norm before the unembedding; `None` when folded.
    ///
    /// # Errors
    /// None after a successful load.
    pub fn final_norm(&self) -> Result<Option<NormWeights>, ModelError> {
        if self.processing.fold_ln { Ok(None) } else { self.stored_final_norm().map(Some) }
    }

    /// Rows of `W_E` for `tokens`, `(tokens, d_model)`.
    ///
    /// # Errors
    /// A token id that is not below `d_vocab`.
    pub fn embed(&self, tokens: &[u32]) -> Result<Matrix, ModelError> {
        self.check_tokens(tokens)?;
        let mut rows = Matrix::zeros(tokens.len(), self.config.d_model);
        self.source.read_rows(self.architecture.outer().embed, tokens, &mut rows.data)?;
        if self.processing.center_writing_weights {
            process::center_rows(&mut rows);
        }
        Ok(rows)
    }

    /// `W_pos`, `(n_ctx, d_model)`; `None` where positions are rotary.
    ///
    /// # Errors
    /// None after a successful load.
    pub fn position_embedding(&self) -> Result<Option<Matrix>, ModelError> {
        let Some(name) = self.architecture.outer().position else { return Ok(None) };
        let ModelConfig { n_ctx, d_model, .. } = self.config;
        let mut positions = Matrix::new(n_ctx, d_model, self.source.tensor(name)?.into_owned());
        if self.processing.center_writing_weights {
            process::center_rows(&mut positions);
        }
        Ok(Some(positions))
    }

    /// Columns of `W_U` for `tokens`, as the rows of a `(tokens, d_model)` matrix, and their `b_U`; or of the readout's pair
    /// the direction and zeros.
    ///
    /// # Errors
    /// A token id that is not below `d_vocab`.
    pub fn unembed_columns(&self, tokens: &[u32]) -> Result<(Matrix, Vec<f32>), ModelError> {
        let mut rows = Matrix::zeros(tokens.len(), self.config.d_model);
        let mut bias = vec![0.0; tokens.len()];
        if let (Some(direction), Some((along, nothing))) = (&self.readout, self.readout_answers())
            && tokens.iter().all(|token| [along, nothing].contains(token))
        {
            let own = (0..tokens.len()).filter(|&row| tokens[row] == along);
            own.for_each(|row| rows.row_mut(row).copy_from_slice(direction));
            return Ok((rows, bias));
        }
        self.check_tokens(tokens)?;
        self.read_unembedding(tokens, &mut rows.data, &mut bias)?;
        Ok((rows, bias))
    }

    /// The whole unembedding, `(d_model, d_vocab)`: only a softmax over the vocabulary needs it.
    ///
    /// # Errors
    /// None after a successful load.
    pub fn unembedding(&self) -> Result<LinearWeights, ModelError> {
        let ModelConfig { d_model, d_vocab, .. } = self.config;
        let tokens: Vec<u32> = (0..d_vocab as u32).collect();
        let mut bias = vec![0.0; d_vocab];
        let weight = transposed(d_model, &tokens, |tokens, rows| {
            let Some(first) = tokens.first() else { return Ok(()) };
            let bias = &mut bias[*first as usize..][..tokens.len()];
            self.read_unembedding(tokens, rows, bias)
        })?;
        Ok(LinearWeights { weight, bias })
    }

    /// Processed columns of `W_U` and `b_U` for `tokens`.
    fn read_unembedding(&self, tokens: &[u32], rows: &mut [f32], bias: &mut [f32]) -> Result<(), ModelError> {
        let unembedding = self.unembedding_rule()?;
        self.source.read_rows(self.architecture.outer().unembed, tokens, rows)?;
        let apply = |(row, bias): (&mut [f32], &mut f32)| *bias = unembedding.apply(row);
        rows.par_chunks_mut(self.config.d_model).zip(bias).for_each(apply);
        Ok(())
    }

    fn stored_final_norm(&self) -> Result<NormWeights, ModelError> {
        let outer = self.architecture.outer();
        families::norm(&self.source, outer.final_gain, outer.final_bias)
    }

    fn unembedding_rule(&self) -> Result<&Unembedding, ModelError> {
        if let Some(rule) = self.unembedding.get() {
            return Ok(rule);
        }
        let norm = if self.processing.fold_ln { Some(self.stored_final_norm()?) } else { None };
        let mean = if self.processing.center_unembed { Some(self.mean_unembedding()?) } else { None };
        Ok(self.unembedding.get_or_init(|| Unembedding::new(norm, self.config.norm, mean)))
    }

    /// Mean of the stored unembedding over the vocabulary, in one pass that holds a block at a time.
    fn mean_unembedding(&self) -> Result<Vec<f32>, ModelError> {
        let ModelConfig { d_model, d_vocab, .. } = self.config;
        let name = self.architecture.outer().unembed;
        let mut sums = vec![0.0f64; d_model];
        let mut rows = vec![0.0; VOCABULARY_BLOCK.min(d_vocab) * d_model];
        for first in (0..d_vocab).step_by(VOCABULARY_BLOCK) {
            let tokens: Vec<u32> = (first..(first + VOCABULARY_BLOCK).min(d_vocab)).map(|token| token as u32).collect();
            let rows = &mut rows[..tokens.len() * d_model];
            self.source.read_rows(name, &tokens, rows)?;
            // A fixed split, added up in order: the mean does not depend on the number of threads.
            let parts: Vec<Vec<f64>> =
                rows.par_chunks(SUMMED_ROWS * d_model).map(|rows| column_sums(rows, d_model)).collect();
            parts.iter().for_each(|part| sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value));
        }
        self.source.release();
        Ok(sums.into_iter().map(|sum| (sum / d_vocab as f64) as f32).collect())
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), ModelError> {
        let d_vocab = self.config.d_vocab;
        match tokens.iter().find(|token| **token as usize >= d_vocab) {
            Some(token) => Err(ModelError::TokenOutOfRange { model: self.name.clone(), token: *token, d_vocab }),
            None => Ok(()),
        }
    }
}

fn column_sums(rows: &[f32], width: usize) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums
}
