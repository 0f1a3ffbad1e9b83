//! The backward pass: the gradient of answer logits with respect to the residual where a pass resumed.
//!
//! Weights are frozen, so there are no weight gradients, and nothing below the resumed layer is touched. Keys and
//! values of the captured prefix are constants.

use super::mlp::MlpTape;
use super::rotary::QkInputs;
use super::{Engine, EngineError};
use crate::backend::{Backend, KeyValues};
use crate::engine::{AnswerColumns, Resume};
use crate::types::Matrix;

/// What one block keeps for its backward pass. `T` tokens; the last block may have only one query per row.
pub(super) struct LayerTape<B: Backend> {
    /// `(T, d_model)`, behind any intervention.
    pub(super) resid_pre: B::Tensor,
    /// Queries and keys before their norms, where there are any.
    pub(super) qk_inputs: Option<QkInputs<B>>,
    /// Rotated queries.
    pub(super) q: B::Tensor,
    /// Rotated keys, and values, of the batch's own tokens.
    pub(super) kv: B::Tensor,
    /// Of every query's scores, per head.
    pub(super) log_sum_exp: B::Tensor,
    /// Of the MLP.
    pub(super) mlp: MlpTape<B>,
}

/// What a pass keeps for [`Engine::backward`].
pub struct Tape<B: Backend> {
    pub(super) start: usize,
    pub(super) layers: Vec<LayerTape<B>>,
    pub(super) final_resid: Option<B::Tensor>,
    pub(super) n_tokens: usize,
    pub(super) last_only: bool,
    pub(super) attention: B::AttentionRows,
    pub(super) attention_last: B::AttentionRows,
    pub(super) positions: B::Indices,
    pub(super) positions_last: B::Indices,
    pub(super) last: B::Indices,
}

impl<B: Backend> Engine<B> {
    /// The gradient `(T, d_model)` of a metric with respect to the residual at the resumed layer, behind the
    /// interventions there, for every computed token.
    ///
    /// `d_logits` is the metric's gradient `(rows, answers)` with respect to the answer logits of the same pass.
    ///
    /// # Errors
    /// A shape that does not fit, or a pass that kept no tape.
    pub fn backward(
        &self,
        resume: &Resume<'_, B>,
        tape: &Tape<B>,
        answers: &AnswerColumns<B>,
        d_logits: &Matrix,
    ) -> Result<B::Tensor, EngineError> {
        let (backend, config) = (&self.backend, self.config());
        let expected = (resume.rows.len(), answers.tokens.len());
        if (d_logits.rows, d_logits.cols) != expected {
            return Err(EngineError::Mismatch {
                what: "gradient of the logits".into(),
                expected: format!("{expected:?}"),
                found: format!("{:?}", (d_logits.rows, d_logits.cols)),
            });
        }
        let Some(final_resid) = &tape.final_resid else {
            return Err(EngineError::NotCaptured { site: "the tape of this pass".into() });
        };
        let dy = backend.upload(&d_logits.data)?;
        let mut d_normed = backend.tensor(d_logits.rows * config.d_model)?;
        backend.answer_logits_backward(&dy, &answers.columns, answers.tokens.len(), &mut d_normed)?;
        let rows_are_last = backend.len(final_resid) == backend.len(&d_normed);
        let mut d_last = backend.tensor(backend.len(&d_normed))?;
        backend.zero(&mut d_last)?;
        if rows_are_last {
            backend.layer_norm_backward(&d_normed, final_resid, &self.final_norm, &mut d_last)?;
        } else {
            let mut x = backend.tensor(backend.len(&d_normed))?;
            backend.gather_rows(final_resid, config.d_model, &tape.last, &mut x)?;
            backend.layer_norm_backward(&d_normed, &x, &self.final_norm, &mut d_last)?;
        }
        let mut d_resid = if rows_are_last { d_last } else { self.spread(tape, &d_last)? };
        for (index, layer_tape) in tape.layers.iter().enumerate().rev() {
            d_resid = self.block_backward(resume, tape, tape.start + index, layer_tape, d_resid)?;
        }
        if backend.len(&d_resid) != tape.n_tokens * config.d_model {
            d_resid = self.spread(tape, &d_resid)?;
        }
        Ok(d_resid)
    }

    /// Puts the last positions' rows among all tokens, zero elsewhere.
    fn spread(&self, tape: &Tape<B>, rows: &B::Tensor) -> Result<B::Tensor, EngineError> {
        let mut all = self.backend.tensor(tape.n_tokens * self.config().d_model)?;
        self.backend.zero(&mut all)?;
        self.backend.scatter_add_rows(rows, self.config().d_model, &tape.last, &mut all)?;
        Ok(all)
    }

    /// Gradient to a block's input from the gradient to its output.
    fn block_backward(
        &self,
        resume: &Resume<'_, B>,
        tape: &Tape<B>,
        index: usize,
        kept: &LayerTape<B>,
        mut d_resid: B::Tensor,
    ) -> Result<B::Tensor, EngineError> {
        let (backend, config) = (&self.backend, self.config());
        let (weights, d_model) = (&self.layers[index], config.d_model);
        let (d_attn, kv_stride) = (config.d_attn(), self.heads().kv_stride());
        let only_last = tape.last_only && index + 1 == config.n_layers;

        // With a parallel residual both branches read the block's input, so attention sees the gradient before the
        // MLP's share is added.
        let d_z;
        if config.parallel_residual {
            d_z = self.linear_backward(&d_resid, &weights.attn_out, (d_model, d_attn))?;
            self.mlp_backward(weights, &kept.mlp, &mut d_resid)?;
        } else {
            self.mlp_backward(weights, &kept.mlp, &mut d_resid)?;
            d_z = self.linear_backward(&d_resid, &weights.attn_out, (d_model, d_attn))?;
        }
        let (d_q, d_kv) = self.attention_backward(resume, tape, index, kept, &d_z, only_last)?;
        let d_normed = self.linear_backward(&d_kv, &weights.key_value, (kv_stride, d_model))?;
        let d_asked = self.linear_backward(&d_q, &weights.query, (d_attn, d_model))?;
        if only_last {
            // Queries exist at last positions only: their share enters there, and so does the residual's own.
            let mut d_all = self.spread(tape, &d_resid)?;
            let mut d_sum = d_normed;
            backend.scatter_add_rows(&d_asked, d_model, &tape.last, &mut d_sum)?;
            backend.layer_norm_backward(&d_sum, &kept.resid_pre, &weights.ln1, &mut d_all)?;
            return Ok(d_all);
        }
        let mut d_sum = d_normed;
        backend.add(&d_asked, &mut d_sum)?;
        backend.layer_norm_backward(&d_sum, &kept.resid_pre, &weights.ln1, &mut d_resid)?;
        Ok(d_resid)
    }

    pub(super) fn linear_backward(
        &self,
        dy: &B::Tensor,
        weight: &B::Weight,
        (outputs, inputs): (usize, usize),
    ) -> Result<B::Tensor, EngineError> {
        let rows = self.backend.len(dy) / outputs;
        let mut dx = self.backend.tensor(rows * inputs)?;
        self.backend.linear_backward(dy, weight, &mut dx)?;
        Ok(dx)
    }

    /// Gradients to the queries and to the batch's own keys and values, before their norms and the rotary embedding.
    fn attention_backward(
        &self,
        resume: &Resume<'_, B>,
        tape: &Tape<B>,
        index: usize,
        kept: &LayerTape<B>,
        d_z: &B::Tensor,
        only_last: bool,
    ) -> Result<(B::Tensor, B::Tensor), EngineError> {
        let (backend, heads) = (&self.backend, self.heads());
        let (rows, asked) = match only_last {
            true => (&tape.attention_last, &tape.positions_last),
            false => (&tape.attention, &tape.positions),
        };
        let prefix = resume.run.prefix.as_ref().map(|prefix| &prefix.key_values[index]);
        let kv = KeyValues { own: &kept.kv, prefix };
        let mut d_q = backend.tensor(backend.len(&kept.q))?;
        let mut d_kv = backend.tensor(backend.len(&kept.kv))?;
        backend.attention_backward(&kept.q, kv, rows, heads, &kept.log_sum_exp, d_z, &mut d_q, &mut d_kv)?;
        self.rotate(&mut d_q, &mut d_kv, (asked, &tape.positions), true)?;
        if let Some(inputs) = &kept.qk_inputs {
            self.qk_norm_backward(&self.layers[index], inputs, &mut d_q, &mut d_kv)?;
        }
        Ok((d_q, d_kv))
    }
}
