//! Passes in which every head keeps its output.
//!
//! With `hook_z` of all heads frozen, no position sees another: what is left of a block is its MLP, token by token, and the
//! attention's output is a number that is known. Path patching's second step is such a pass (Goldowsky-Dill et al. 2023,
//! arXiv 2304.05969).

use super::pass::{Pass, PrefixOf};
use super::{Engine, EngineError, Intervention, Layout, Output, Part, Run, Site};
use crate::backend::{Backend, Epilogue, PatchRows};
use crate::types::Matrix;

impl<B: Backend> Engine<B> {
    /// Runs `tokens`, (sequence, position) of `run`, from the residual in front of block `layer`, all heads' outputs being
    /// those of `run`, and captures `capture`: one row per token. Row `i` of a patch is token `i`.
    ///
    /// `run` must have captured that residual, and of every block up to the last captured site `hook_attn_out`, or `hook_z`
    /// where an intervention changes it.
    ///
    /// # Errors
    /// Those of a pass.
    pub fn run_frozen(
        &self,
        run: &Run<B>,
        tokens: &[(usize, usize)],
        layer: usize,
        interventions: &[Intervention<'_, B>],
        capture: &[Site],
    ) -> Result<Run<B>, EngineError> {
        let layout = Layout::new(tokens.iter().map(|&(_, position)| (position, position + 1)));
        let prefix = PrefixOf { prefix: None, offsets: Vec::new() };
        let mut pass = Pass::new(self, layout, prefix, interventions, (layer, capture), &Output::None)?;
        self.check_entry(interventions, layer)?;
        let rows = tokens.iter().map(|&(sequence, position)| Ok(run.token(sequence, position)? as u32));
        let rows = self.backend.upload_indices(&rows.collect::<Result<Vec<_>, EngineError>>()?)?;
        let resid = self.rows_of(run, Site::resid(layer, self.config().n_layers), &rows)?;
        pass.frozen = Some((run, rows));
        Ok(pass.finish(resid, layer, &[], Output::None)?.0)
    }

    /// What the residual stream gains when `part` of `site` (`hook_z`, `mlp.hook_post`, or one that is `d_model` wide) takes
    /// its value at another token: one row per pair (token, other token) of `run`, `(n, d_model)` on the host.
    ///
    /// # Errors
    /// [`EngineError::NotCaptured`], [`EngineError::Mismatch`] for a part that is not there.
    pub fn residual_change(
        &self,
        run: &Run<B>,
        (site, part): (Site, Part),
        pairs: &[(usize, usize)],
    ) -> Result<Matrix, EngineError> {
        let (backend, config) = (&self.backend, self.config());
        let (width, n) = (site.width(config), pairs.len());
        let columns = part.columns(site, config)?;
        let list = |pick: fn(&(usize, usize)) -> usize| -> Vec<u32> { pairs.iter().map(|p| pick(p) as u32).collect() };
        let (own, other) = (backend.upload_indices(&list(|p| p.0))?, backend.upload_indices(&list(|p| p.1))?);
        let every = backend.upload_indices(&(0..n as u32).collect::<Vec<_>>())?;
        // One more row, of zeros: what a product makes of it is the bias, which is no part of the change.
        let mut change = backend.tensor((n + 1) * width)?;
        backend.zero(&mut change)?;
        let source = run.site(site)?;
        for (rows, scale) in [(&other, 1.0), (&own, -1.0)] {
            let rows = PatchRows { target: &every, source: rows };
            backend.patch_add(&mut change, columns, source, columns, rows, scale)?;
        }
        let weight = match site {
            Site::Z(layer) => &self.layers[layer].attn_out,
            Site::MlpPost(layer) => &self.layers[layer].mlp_out,
            _ => {
                let mut data = backend.download(&change)?;
                data.truncate(n * width);
                return Ok(Matrix::new(n, width, data));
            }
        };
        let mut written = backend.tensor((n + 1) * config.d_model)?;
        backend.linear(&change, weight, Epilogue::Store, &mut written)?;
        let mut data = backend.download(&written)?;
        let bias = data.split_off(n * config.d_model);
        for row in data.chunks_exact_mut(config.d_model) {
            row.iter_mut().zip(&bias).for_each(|(value, bias)| *value -= bias);
        }
        Ok(Matrix::new(n, config.d_model, data))
    }
}

impl<B: Backend> Pass<'_, B> {
    /// One block with frozen heads.
    pub(super) fn frozen_block(&mut self, layer: usize, mut resid: B::Tensor) -> Result<B::Tensor, EngineError> {
        let engine = self.engine;
        let weights = &engine.layers[layer];
        self.at(Site::ResidPre(layer), &mut resid)?;
        self.frozen_projections(layer, &resid)?;
        if self.done_before(layer) {
            return Ok(resid);
        }
        let mut attn_out = self.frozen_attention(layer)?;
        self.at(Site::AttnOut(layer), &mut attn_out)?;
        let parallel = engine.config().parallel_residual;
        if !parallel {
            engine.backend.add(&attn_out, &mut resid)?;
            self.at(Site::ResidMid(layer), &mut resid)?;
        }
        let normed = self.norm(&resid, &weights.ln2)?;
        if parallel {
            engine.backend.add(&attn_out, &mut resid)?;
        }
        self.add_mlp(layer, weights, &normed, None, &mut resid)?;
        Ok(resid)
    }

    /// Queries, keys and values, which nobody attends with: computed where they are captured.
    fn frozen_projections(&mut self, layer: usize, resid: &B::Tensor) -> Result<(), EngineError> {
        let engine = self.engine;
        let (config, weights) = (engine.config(), &engine.layers[layer]);
        let (d_model, d_kv) = (config.d_model, config.d_kv());
        let keys_or_values = self.touches(Site::K(layer)) || self.touches(Site::V(layer));
        if !keys_or_values && !self.touches(Site::Q(layer)) {
            return Ok(());
        }
        let normed = self.norm(resid, &weights.ln1)?;
        if keys_or_values {
            let mut kv = self.linear(&normed, &weights.key_value, (d_model, 2 * d_kv), Epilogue::Store)?;
            self.at_columns(Site::K(layer), &mut kv, 2 * d_kv, 0)?;
            self.at_columns(Site::V(layer), &mut kv, 2 * d_kv, d_kv)?;
        }
        if self.touches(Site::Q(layer)) {
            let mut q = self.linear(&normed, &weights.query, (d_model, config.d_attn()), Epilogue::Store)?;
            self.at(Site::Q(layer), &mut q)?;
        }
        Ok(())
    }

    fn frozen_attention(&mut self, layer: usize) -> Result<B::Tensor, EngineError> {
        let engine = self.engine;
        let missing = || EngineError::NotCaptured { site: Site::AttnOut(layer).to_string() };
        let (run, tokens) = self.frozen.as_ref().ok_or_else(missing)?;
        if !self.touches(Site::Z(layer)) {
            return engine.rows_of(run, Site::AttnOut(layer), tokens);
        }
        let mut z = engine.rows_of(run, Site::Z(layer), tokens)?;
        self.at(Site::Z(layer), &mut z)?;
        let shape = (engine.config().d_attn(), engine.config().d_model);
        self.linear(&z, &engine.layers[layer].attn_out, shape, Epilogue::Store)
    }
}
