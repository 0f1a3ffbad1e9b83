//! The backward pass: the gradient of answer logits with respect to the residual where a pass resumed.
//!
//! Weights are frozen, so there are no weight gradients, and nothing below the resumed layer is touched. Keys and
//! values of the captured prefix are constants.

use super::mlp::MlpTape;
use super::rotary::QkInputs;
use super::{Engine, EngineError, Site};
use crate::backend::{Backend, Columns, KeyValues};
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

/// What is told of a site's gradient.
type Told<'a, T> = dyn FnMut(Site, &T) -> Result<(), EngineError> + 'a;

/// Who hears of gradients on the way back: the sites, and what is told. A tensor has one row per computed token, or per
/// row of the batch where only last positions have a gradient.
pub(super) struct Listener<'a, B: Backend> {
    pub(super) sites: &'a [Site],
    pub(super) told: &'a mut Told<'a, B::Tensor>,
}

impl<B: Backend> Listener<'_, B> {
    fn wants(&self, site: Site) -> bool {
        self.sites.contains(&site)
    }

    pub(super) fn hear(&mut self, site: Site, gradient: &B::Tensor) -> Result<(), EngineError> {
        if self.wants(site) { (self.told)(site, gradient) } else { Ok(()) }
    }
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
        self.gradients(resume, tape, answers, d_logits, &[], |_, _| Ok(()))
    }

    /// As [`Engine::backward`], and `told` hears the gradient with respect to every one of `sites` that the pass computed,
    /// last block first: `(T, width)`, or one row per row of the batch where the pass computed last positions alone. At
    /// `hook_q` and `hook_k` it is the gradient in front of norms and rotary embedding, at `hook_pattern` a row of keys per
    /// head and query, as patterns are captured.
    ///
    /// # Errors
    /// Those of [`Engine::backward`] and of `told`, [`EngineError::NoSuchSite`] for sites that have no gradient here:
    /// embeddings, heads' inputs and results, and what the model lacks.
    pub fn gradients(
        &self,
        resume: &Resume<'_, B>,
        tape: &Tape<B>,
        answers: &AnswerColumns<B>,
        d_logits: &Matrix,
        sites: &[Site],
        mut told: impl FnMut(Site, &B::Tensor) -> Result<(), EngineError>,
    ) -> Result<B::Tensor, EngineError> {
        let sites = self.sites_with_gradients(sites)?;
        let expected = (resume.rows.len(), answers.tokens.len());
        if (d_logits.rows, d_logits.cols) != expected {
            return Err(EngineError::Mismatch {
                what: "gradient of the logits".into(),
                expected: format!("{expected:?}"),
                found: format!("{:?}", (d_logits.rows, d_logits.cols)),
            });
        }
        let listener = Listener { sites: &sites, told: &mut told };
        WayBack { engine: self, resume, tape, listener }.run(answers, d_logits)
    }

    /// The sites, each under its one name.
    fn sites_with_gradients(&self, sites: &[Site]) -> Result<Vec<Site>, EngineError> {
        use Site::*;
        let canonical = |site: &Site| {
            site.check(self.config())?;
            match site {
                Embed | PosEmbed | Result(_) | QInput(_) | KInput(_) | VInput(_) | FinalNormalized => {
                    Err(EngineError::NoSuchSite {
                        site: site.to_string(),
                        reason: "the backward pass has no gradient there".into(),
                    })
                }
                site => Ok(site.canonical(self.config().n_layers)),
            }
        };
        sites.iter().map(canonical).collect()
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
}

/// A backward pass under way.
struct WayBack<'a, B: Backend> {
    engine: &'a Engine<B>,
    resume: &'a Resume<'a, B>,
    tape: &'a Tape<B>,
    listener: Listener<'a, B>,
}

impl<B: Backend> WayBack<'_, B> {
    fn run(mut self, answers: &AnswerColumns<B>, d_logits: &Matrix) -> Result<B::Tensor, EngineError> {
        let (engine, tape) = (self.engine, self.tape);
        let (backend, config) = (&engine.backend, engine.config());
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
            backend.layer_norm_backward(&d_normed, final_resid, &engine.final_norm, &mut d_last)?;
        } else {
            let mut x = backend.tensor(backend.len(&d_normed))?;
            backend.gather_rows(final_resid, config.d_model, &tape.last, &mut x)?;
            backend.layer_norm_backward(&d_normed, &x, &engine.final_norm, &mut d_last)?;
        }
        let mut d_resid = if rows_are_last { d_last } else { self.spread(&d_last)? };
        self.listener.hear(Site::resid(config.n_layers, config.n_layers), &d_resid)?;
        for (index, kept) in tape.layers.iter().enumerate().rev() {
            d_resid = self.block(tape.start + index, kept, d_resid)?;
            self.listener.hear(Site::ResidPre(tape.start + index), &d_resid)?;
        }
        if backend.len(&d_resid) != tape.n_tokens * config.d_model {
            d_resid = self.spread(&d_resid)?;
        }
        Ok(d_resid)
    }

    /// Puts the last positions' rows among all tokens, zero elsewhere.
    fn spread(&self, rows: &B::Tensor) -> Result<B::Tensor, EngineError> {
        let (backend, d_model) = (&self.engine.backend, self.engine.config().d_model);
        let mut all = backend.tensor(self.tape.n_tokens * d_model)?;
        backend.zero(&mut all)?;
        backend.scatter_add_rows(rows, d_model, &self.tape.last, &mut all)?;
        Ok(all)
    }

    /// Gradient to a block's input from the gradient to its output.
    fn block(&mut self, index: usize, kept: &LayerTape<B>, mut d_resid: B::Tensor) -> Result<B::Tensor, EngineError> {
        let (engine, tape) = (self.engine, self.tape);
        let (backend, config) = (&engine.backend, engine.config());
        let (weights, d_model) = (&engine.layers[index], config.d_model);
        let (d_attn, kv_stride) = (config.d_attn(), engine.heads(index).kv_stride());
        let only_last = tape.last_only && index + 1 == config.n_layers;

        // With a parallel residual both branches read the block's input, so attention sees the gradient before the
        // MLP's share is added.
        let d_z;
        self.listener.hear(Site::MlpOut(index), &d_resid)?;
        if config.parallel_residual {
            self.listener.hear(Site::AttnOut(index), &d_resid)?;
            d_z = engine.linear_backward(&d_resid, &weights.attn_out, (d_model, d_attn))?;
            engine.mlp_backward(index, &kept.mlp, &mut d_resid, &mut self.listener)?;
        } else {
            engine.mlp_backward(index, &kept.mlp, &mut d_resid, &mut self.listener)?;
            self.listener.hear(Site::ResidMid(index), &d_resid)?;
            self.listener.hear(Site::AttnOut(index), &d_resid)?;
            d_z = engine.linear_backward(&d_resid, &weights.attn_out, (d_model, d_attn))?;
        }
        self.listener.hear(Site::Z(index), &d_z)?;
        if self.listener.wants(Site::Pattern(index)) {
            let d_pattern = self.pattern_gradient(index, kept, &d_z, only_last)?;
            self.listener.hear(Site::Pattern(index), &d_pattern)?;
        }
        let (d_q, d_kv) = self.attention(index, kept, &d_z, only_last)?;
        let d_normed = engine.linear_backward(&d_kv, &weights.key_value, (kv_stride, d_model))?;
        let d_asked = engine.linear_backward(&d_q, &weights.query, (d_attn, d_model))?;
        if only_last {
            // Queries exist at last positions only: their share enters there, and so does the residual's own.
            let mut d_all = self.spread(&d_resid)?;
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

    /// Gradients to the queries and to the batch's own keys and values, before their norms and the rotary embedding.
    fn attention(
        &mut self,
        index: usize,
        kept: &LayerTape<B>,
        d_z: &B::Tensor,
        only_last: bool,
    ) -> Result<(B::Tensor, B::Tensor), EngineError> {
        let (engine, tape) = (self.engine, self.tape);
        let (backend, heads) = (&engine.backend, engine.heads(index));
        let (rows, asked) = match only_last {
            true => (&tape.attention_last, &tape.positions_last),
            false => (&tape.attention, &tape.positions),
        };
        let prefix = self.resume.run.prefix.as_ref().map(|prefix| &prefix.key_values[index]);
        let kv = KeyValues { own: &kept.kv, prefix };
        let mut d_q = backend.tensor(backend.len(&kept.q))?;
        let mut d_kv = backend.tensor(backend.len(&kept.kv))?;
        backend.attention_backward(&kept.q, kv, rows, heads, &kept.log_sum_exp, d_z, &mut d_q, &mut d_kv)?;
        engine.rotate(index, &mut d_q, &mut d_kv, (asked, &tape.positions), true)?;
        if let Some(inputs) = &kept.qk_inputs {
            engine.qk_norm_backward(&engine.layers[index], inputs, &mut d_q, &mut d_kv)?;
        }
        self.listener.hear(Site::Q(index), &d_q)?;
        for (site, start) in [(Site::K(index), 0), (Site::V(index), engine.config().d_kv())] {
            if self.listener.wants(site) {
                let columns = Columns { stride: heads.kv_stride(), start, width: engine.config().d_kv() };
                self.listener.hear(site, &engine.columns_of(&d_kv, columns)?)?;
            }
        }
        Ok((d_q, d_kv))
    }
    /// Gradient to the attention probabilities, `d_z · v` for every head, query and visible key, zero at keys that a query
    /// does not see. Made on the host: only attribution asks for it.
    fn pattern_gradient(
        &self,
        index: usize,
        kept: &LayerTape<B>,
        d_z: &B::Tensor,
        only_last: bool,
    ) -> Result<B::Tensor, EngineError> {
        let engine = self.engine;
        let (backend, heads, d_kv) = (&engine.backend, engine.heads(index), engine.config().d_kv());
        let (stride, width) = (heads.kv_stride(), heads.width);
        let (d_z, own) = (backend.download(d_z)?, backend.download(&kept.kv)?);
        let run = self.resume.run;
        let prefix = match &run.prefix {
            Some(prefix) => Some((backend.download(&prefix.key_values[index])?, &prefix.offsets)),
            None => None,
        };
        let (mut pattern, mut asked, mut first) = (Vec::new(), 0, 0);
        for &(sequence, start) in self.resume.rows {
            let len = run.layout.len(sequence);
            let queries = if only_last { len - 1..len } else { start..len };
            let value = |position: usize| match &prefix {
                Some((rows, offsets)) if position < start => &rows[(offsets[sequence] + position) * stride + d_kv..],
                _ => &own[(first + position - start) * stride + d_kv..],
            };
            for head in 0..heads.count {
                let group = head / (heads.count / heads.kv_count) * width;
                for (number, query) in queries.clone().enumerate() {
                    let d_z = &d_z[((asked + number) * heads.count + head) * width..][..width];
                    let along = |key: usize| value(key)[group..][..width].iter().zip(d_z).map(|(v, d)| v * d).sum();
                    pattern.extend((0..len).map(|key| if key <= query { along(key) } else { 0.0f32 }));
                }
            }
            asked += queries.len();
            first += len - start;
        }
        Ok(backend.upload(&pattern)?)
    }
}
