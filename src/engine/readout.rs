//! The residual stream read along given vectors or through the unembedding: what the last norm makes of it, and what heads and
//! neurons write to it.

use super::{Engine, EngineError, Run, Site};
use crate::backend::{Backend, Epilogue, Norm};
use crate::model::NormWeights;
use crate::types::{Matrix, NormKind};

/// Directions on the device, to read residuals along.
pub struct ReadDirections<B: Backend> {
    columns: B::Tensor,
    bias: B::Tensor,
    n: usize,
    cosines: bool,
}

/// The final norm with its scale frozen: a linear map of the residual stream.
///
/// With `σ` the scale of one token's last residual, its normed value is `(x - mean(x)) / σ * gain + bias` (an RMS norm has
/// no mean and no bias). Along `d` that is `x · w + bias · d` with `w = centred(gain * d) / σ`, so that every part of `x`
/// has its own share (`apply_ln_to_stack` in TransformerLens, which leaves the gain out).
#[derive(Debug, Clone, PartialEq)]
pub struct FrozenNorm {
    kind: NormKind,
    eps: f64,
    weights: Option<NormWeights>,
}

impl FrozenNorm {
    /// `w` for the last residual `resid` of a token and the direction `d`, `d_model` values each.
    pub fn direction(&self, resid: &[f32], d: &[f64]) -> Vec<f64> {
        let gain = self.weights.as_ref().map(|weights| &weights.gain);
        let mut w: Vec<f64> =
            d.iter().enumerate().map(|(i, d)| d * gain.map_or(1.0, |gain| f64::from(gain[i]))).collect();
        let centre = match self.kind {
            NormKind::Layer => w.iter().sum::<f64>() / w.len() as f64,
            NormKind::Rms => 0.0,
        };
        let scale = norm_scale(resid, self.kind, self.eps);
        w.iter_mut().for_each(|w| *w = (*w - centre) / scale);
        w
    }

    /// `bias · d`: what the norm adds along `d` whatever the residual.
    pub fn constant(&self, d: &[f64]) -> f64 {
        let bias = self.weights.as_ref().and_then(|weights| weights.bias.as_ref());
        bias.map_or(0.0, |bias| bias.iter().zip(d).map(|(bias, d)| f64::from(*bias) * d).sum())
    }
}

/// What a norm divides a residual by: `sqrt(variance + eps)`, about zero in an RMS norm.
pub fn norm_scale(resid: &[f32], kind: NormKind, eps: f64) -> f64 {
    let n = resid.len() as f64;
    let mean = match kind {
        NormKind::Layer => resid.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
        NormKind::Rms => 0.0,
    };
    (resid.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n + eps).sqrt()
}

impl<B: Backend> Engine<B> {
    /// The final norm, to be frozen at the scale of any token.
    ///
    /// # Errors
    /// [`EngineError::Model`].
    pub fn frozen_norm(&self) -> Result<FrozenNorm, EngineError> {
        let config = self.config();
        Ok(FrozenNorm { kind: config.norm, eps: f64::from(config.norm_eps), weights: self.model.final_norm()? })
    }

    /// Rows of a captured site on the host, `(tokens, width)`, the tokens as [`Run::token`] numbers them.
    ///
    /// # Errors
    /// [`EngineError::NotCaptured`].
    pub fn captured_rows(&self, run: &Run<B>, site: Site, tokens: &[usize]) -> Result<Matrix, EngineError> {
        let indices: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
        let rows = self.rows_of(run, site, &self.backend.upload_indices(&indices)?)?;
        Ok(Matrix::new(tokens.len(), site.width(self.config()), self.backend.download(&rows)?))
    }

    /// The logits that the final norm and the unembedding make of the captured residual stream (the logit lens),
    /// `(tokens, d_vocab)` on the host, the tokens as [`Run::token`] numbers them. Behind the last block they are the model's.
    ///
    /// # Errors
    /// [`EngineError::NoSuchSite`] for a site that is not the residual stream, [`EngineError::NotCaptured`],
    /// [`EngineError::NotFinite`].
    pub fn lens_logits(&self, run: &Run<B>, site: Site, tokens: &[usize]) -> Result<Matrix, EngineError> {
        if !site.is_residual() {
            let reason = "expected the residual stream, which the final norm reads".into();
            return Err(EngineError::NoSuchSite { site: site.to_string(), reason });
        }
        let (backend, d_vocab) = (&self.backend, self.config().d_vocab);
        let indices: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
        let resid = self.rows_of(run, site, &backend.upload_indices(&indices)?)?;
        let mut normed = backend.tensor(backend.len(&resid))?;
        backend.layer_norm(&resid, &self.final_norm, &mut normed)?;
        let mut logits = backend.tensor(tokens.len() * d_vocab)?;
        backend.linear(&normed, self.unembedding()?, Epilogue::Store, &mut logits)?;
        let data = backend.download(&logits)?;
        if let Some(at) = data.iter().position(|value| !value.is_finite()) {
            let row = run.layout().place(tokens[at / d_vocab]).0;
            return Err(EngineError::NotFinite { what: "a logit of the lens", row, value: data[at] });
        }
        Ok(Matrix::new(tokens.len(), d_vocab, data))
    }

    /// What one unit of every value of `site`, `hook_z` or `mlp.hook_post`, writes to the residual stream along each of
    /// `directions`, `(n, d_model)`: their products with the rows of `W_O` or `W_out`, `(n, width)`.
    ///
    /// # Errors
    /// [`EngineError::NoSuchSite`] for any other site or a layer that is not there, [`EngineError::Mismatch`] for directions
    /// of another width.
    pub fn written_along(&self, site: Site, directions: &Matrix) -> Result<Matrix, EngineError> {
        site.check(self.config())?;
        let weight = match site {
            Site::Z(layer) => &self.layers[layer].attn_out,
            Site::MlpPost(layer) => &self.layers[layer].mlp_out,
            _ => {
                let reason = "expected attn.hook_z or mlp.hook_post, which a product turns into the residual".into();
                return Err(EngineError::NoSuchSite { site: site.to_string(), reason });
            }
        };
        let (d_model, width) = (self.check_width(directions.cols)?, site.width(self.config()));
        let directions = self.backend.upload(&directions.data)?;
        let along = self.linear_backward(&directions, weight, (d_model, width))?;
        let data = self.backend.download(&along)?;
        Ok(Matrix::new(data.len() / width, width, data))
    }

    /// `d_model`, unless directions have another width.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`].
    pub fn check_width(&self, width: usize) -> Result<usize, EngineError> {
        let d_model = self.config().d_model;
        if width == d_model {
            return Ok(d_model);
        }
        let what = "width of the directions".into();
        Err(EngineError::Mismatch { what, expected: d_model.to_string(), found: width.to_string() })
    }

    /// Uploads directions, `(n, d_model)` and of unit length, to read residuals along: as projections, or as cosines.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] for directions of another width.
    pub fn read_directions(&self, directions: &Matrix, cosines: bool) -> Result<ReadDirections<B>, EngineError> {
        let d_model = self.check_width(directions.cols)?;
        // An RMS norm leaves vectors of length √d_model.
        let scale = if cosines { 1.0 / (d_model as f32).sqrt() } else { 1.0 };
        let scaled: Vec<f32> = directions.data.iter().map(|value| value * scale).collect();
        Ok(ReadDirections {
            columns: self.backend.upload(&scaled)?,
            bias: self.backend.upload(&vec![0.0; directions.rows])?,
            n: directions.rows,
            cosines,
        })
    }

    /// The products of every token's captured residual with each direction, `(tokens, n)`; for cosines divided by the
    /// residual's length (a residual of zeros has cosines of zero).
    ///
    /// # Errors
    /// [`EngineError::NotCaptured`], [`EngineError::NotFinite`].
    pub fn read_along(&self, run: &Run<B>, site: Site, directions: &ReadDirections<B>) -> Result<Matrix, EngineError> {
        let (backend, d_model) = (&self.backend, self.config().d_model);
        let resid = run.site(site)?;
        let rows = backend.len(resid) / d_model;
        let mut values = backend.tensor(rows * directions.n)?;
        let mut unit = None;
        if directions.cosines {
            let unit = unit.insert(backend.tensor(rows * d_model)?);
            let norm = Norm { kind: NormKind::Rms, width: d_model, eps: f32::MIN_POSITIVE, gain: None, bias: None };
            backend.layer_norm(resid, &norm, unit)?;
        }
        backend.answer_logits(unit.as_ref().unwrap_or(resid), &directions.columns, &directions.bias, &mut values)?;
        let data = backend.download(&values)?;
        if let Some(at) = data.iter().position(|value| !value.is_finite()) {
            let row = run.layout().place(at / directions.n.max(1)).0;
            return Err(EngineError::NotFinite { what: "a residual along a direction", row, value: data[at] });
        }
        Ok(Matrix::new(rows, directions.n, data))
    }
}
