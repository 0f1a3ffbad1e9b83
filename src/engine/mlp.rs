//! The MLP, plain or gated, forward and backward.

use super::backward::Listener;
use super::pass::Pass;
use super::{Engine, EngineError, Layer, Site};
use crate::backend::{Backend, Epilogue};

/// What the MLP's backward pass needs.
pub(super) struct MlpTape<B: Backend> {
    /// Input of the norm before the MLP, `(T, d_model)`.
    pub(super) input: B::Tensor,
    /// What the activation acted on, `mlp.hook_pre`, `(T, d_mlp)`.
    pub(super) pre: B::Tensor,
    /// What the gate multiplied, `(T, d_mlp)`, in a gated MLP.
    pub(super) value: Option<B::Tensor>,
}

/// `mlp.hook_post`, and what a tape keeps besides the norm's input.
struct Hidden<B: Backend> {
    post: B::Tensor,
    pre: Option<B::Tensor>,
    value: Option<B::Tensor>,
}

impl<B: Backend> Pass<'_, B> {
    /// Adds the MLP of the normed residual to `resid`. `input`, the norm's input, is given when a tape is kept.
    pub(super) fn add_mlp(
        &mut self,
        layer: usize,
        weights: &Layer<B>,
        normed: &B::Tensor,
        input: Option<B::Tensor>,
        resid: &mut B::Tensor,
    ) -> Result<Option<MlpTape<B>>, EngineError> {
        let (engine, config) = (self.engine, self.engine.config());
        let Hidden { mut post, pre, value } = match &weights.mlp_gate {
            Some(gate) => self.gated(layer, weights, gate, normed)?,
            None => self.plain(layer, weights, normed)?,
        };
        self.at(Site::MlpPost(layer), &mut post)?;
        if self.touches(Site::MlpOut(layer)) {
            let back = (config.d_mlp, config.d_model);
            let mut mlp_out = self.linear(&post, &weights.mlp_out, back, Epilogue::Store)?;
            self.at(Site::MlpOut(layer), &mut mlp_out)?;
            engine.backend.add(&mlp_out, resid)?;
        } else {
            engine.backend.linear(&post, &weights.mlp_out, Epilogue::Accumulate, resid)?;
        }
        Ok(input.zip(pre).map(|(input, pre)| MlpTape { input, pre, value }))
    }

    /// `f(x W_in)`; the activation is part of the product unless somebody wants the value before it.
    fn plain(&mut self, layer: usize, weights: &Layer<B>, normed: &B::Tensor) -> Result<Hidden<B>, EngineError> {
        let (engine, config) = (self.engine, self.engine.config());
        let (backend, shape) = (&engine.backend, (config.d_model, config.d_mlp));
        let len = backend.len(normed) / config.d_model * config.d_mlp;
        if self.touches(Site::MlpPre(layer)) {
            let mut pre = self.linear(normed, &weights.mlp_in, shape, Epilogue::Store)?;
            self.at(Site::MlpPre(layer), &mut pre)?;
            let mut post = backend.tensor(len)?;
            backend.activate(engine.activation(), &pre, &mut post)?;
            return Ok(Hidden { post, pre: Some(pre), value: None });
        }
        let mut pre = self.tape.is_some().then(|| backend.tensor(len)).transpose()?;
        let epilogue = Epilogue::Activate(engine.activation(), pre.as_mut());
        let post = self.linear(normed, &weights.mlp_in, shape, epilogue)?;
        Ok(Hidden { post, pre, value: None })
    }

    /// `f(x W_gate) * (x W_in)`, where `mlp.hook_pre` is `x W_gate`.
    fn gated(
        &mut self,
        layer: usize,
        weights: &Layer<B>,
        gate: &B::Weight,
        normed: &B::Tensor,
    ) -> Result<Hidden<B>, EngineError> {
        let (engine, config) = (self.engine, self.engine.config());
        let shape = (config.d_model, config.d_mlp);
        let mut pre = self.linear(normed, gate, shape, Epilogue::Store)?;
        self.at(Site::MlpPre(layer), &mut pre)?;
        let mut post = self.linear(normed, &weights.mlp_in, shape, Epilogue::Store)?;
        let value = self.tape.is_some().then(|| self.copy(&post)).transpose()?;
        engine.backend.gate(engine.activation(), &pre, &mut post)?;
        Ok(Hidden { post, pre: Some(pre), value })
    }
}

impl<B: Backend> Engine<B> {
    /// Adds the MLP's share to the gradient of its norm's input.
    pub(super) fn mlp_backward(
        &self,
        layer: usize,
        kept: &MlpTape<B>,
        d_resid: &mut B::Tensor,
        listener: &mut Listener<'_, B>,
    ) -> Result<(), EngineError> {
        let (backend, config, weights) = (&self.backend, self.config(), &self.layers[layer]);
        let hidden = (config.d_mlp, config.d_model);
        let mut d_post = self.linear_backward(d_resid, &weights.mlp_out, (config.d_model, config.d_mlp))?;
        listener.hear(Site::MlpPost(layer), &d_post)?;
        let d_normed = match (&weights.mlp_gate, &kept.value) {
            (Some(gate), Some(value)) => {
                let mut d_gate = backend.tensor(backend.len(&d_post))?;
                backend.gate_backward(self.activation(), &kept.pre, value, &mut d_post, &mut d_gate)?;
                listener.hear(Site::MlpPre(layer), &d_gate)?;
                let mut d_normed = self.linear_backward(&d_post, &weights.mlp_in, hidden)?;
                backend.add(&self.linear_backward(&d_gate, gate, hidden)?, &mut d_normed)?;
                d_normed
            }
            _ => {
                backend.activate_backward(self.activation(), &kept.pre, &mut d_post)?;
                listener.hear(Site::MlpPre(layer), &d_post)?;
                self.linear_backward(&d_post, &weights.mlp_in, hidden)?
            }
        };
        backend.layer_norm_backward(&d_normed, &kept.input, &weights.ln2, d_resid)?;
        Ok(())
    }
}
