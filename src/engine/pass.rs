//! One pass under way: block after block, patching and capturing at every site.

use super::backward::{LayerTape, Tape};
use super::forward::{Output, running_sum};
use super::intervention::Compiled;
use super::mlp::MlpTape;
use super::run::Prefix;
use super::{Engine, EngineError, Intervention, Layer, Layout, Logits, Op, Part, Patch, Run, Site};
use crate::backend::{AttentionRow, Backend, Columns, Epilogue, KeyValues, Norm, PatchRows};
use crate::types::Matrix;
use std::collections::{HashMap, HashSet};

/// How many rows of a sequence's positions the attention of resumed rows can read.
pub(super) struct PrefixOf<'a, B: Backend> {
    pub(super) prefix: Option<&'a Prefix<B>>,
    /// Per row of the batch: where its prefix starts.
    pub(super) offsets: Vec<usize>,
}

/// Where a pass over the next tokens of growing texts keeps their keys and values.
struct Grown<'a, B: Backend> {
    /// Per layer: those of all tokens of the texts.
    key_values: &'a mut [B::Tensor],
    /// Row of each new token among them, and its row in the batch.
    rows: B::Indices,
    every: B::Indices,
}

/// One pass under way.
pub(super) struct Pass<'a, B: Backend> {
    pub(super) engine: &'a Engine<B>,
    layout: Layout,
    /// The last positions alone.
    last_layout: Layout,
    prefix: PrefixOf<'a, B>,
    attention: B::AttentionRows,
    /// Attention rows, positions and token numbers of the last positions alone.
    attention_last: B::AttentionRows,
    positions: B::Indices,
    positions_last: B::Indices,
    last: B::Indices,
    /// Only last positions are computed behind the last block's keys.
    last_only: bool,
    compiled: HashMap<Site, Vec<Compiled<'a, B>>>,
    wanted: HashSet<Site>,
    captured: HashMap<Site, B::Tensor>,
    /// Rows of keys and values to keep per layer, and what was kept.
    keep: Option<B::Indices>,
    kept: Vec<B::Tensor>,
    pub(super) tape: Option<Vec<LayerTape<B>>>,
    /// `hook_z` of the first block's tokens, when the pass enters behind its attention.
    pub(super) z: Option<B::Tensor>,
    /// The run that all heads' outputs are taken from, and which of its tokens this pass computes.
    pub(super) frozen: Option<(&'a Run<B>, B::Indices)>,
    grown: Option<Grown<'a, B>>,
}

/// Every intervention at a head's input starts from the residual as it is, and one at its result from what its `z` makes: a
/// second one at the same place would not see the first. Refuses those, but for what is added to results.
fn check_heads<B: Backend>(interventions: &[Intervention<'_, B>]) -> Result<(), EngineError> {
    let mut seen: HashMap<(Site, usize, usize), Vec<Part>> = HashMap::new();
    let never_stored = |site: Site| site.stored() != site;
    for intervention in interventions.iter().filter(|intervention| never_stored(intervention.site)) {
        let (site, part) = (intervention.site, intervention.part);
        let added = matches!(site, Site::Result(_)) && matches!(intervention.op, Op::Add { .. });
        for patch in &intervention.patches {
            let parts = seen.entry((site, patch.row, patch.position)).or_default();
            if !added && parts.iter().any(|other| *other == part || [*other, part].contains(&Part::All)) {
                return Err(EngineError::Mismatch {
                    what: format!("patches of a head's {site} at position {} of row {}", patch.position, patch.row),
                    expected: "one".into(),
                    found: "two".into(),
                });
            }
            parts.push(part);
        }
    }
    Ok(())
}

impl<'a, B: Backend> Pass<'a, B> {
    pub(super) fn new(
        engine: &'a Engine<B>,
        layout: Layout,
        prefix: PrefixOf<'a, B>,
        interventions: &'a [Intervention<'a, B>],
        (start, capture): (usize, &[Site]),
        output: &Output<'_, B>,
    ) -> Result<Self, EngineError> {
        let config = engine.config();
        let backend = &engine.backend;
        let mut wanted = HashSet::new();
        for site in capture {
            site.check(config)?;
            if site.stored() != *site {
                let reason = format!("it is never stored: capture {}, which it is computed from", site.stored());
                return Err(EngineError::NoSuchSite { site: site.to_string(), reason });
            }
            wanted.insert(site.canonical(config.n_layers));
        }
        let behind = |site: Site| {
            let site = site.canonical(config.n_layers);
            site.behind_keys() && site.layer().is_none_or(|l| l + 1 == config.n_layers)
        };
        let last = Layout::new((0..layout.n_rows()).map(|row| (layout.len(row) - 1, layout.len(row))));
        let at_last = |patch: &Patch| last.token(patch.row, patch.position).is_some();
        let last_only = !matches!(output, Output::All)
            && start < config.n_layers
            && !wanted.iter().copied().any(behind)
            && interventions.iter().all(|i| !behind(i.site) || i.patches.iter().all(at_last));
        check_heads(interventions)?;
        let mut compiled: HashMap<Site, Vec<_>> = HashMap::new();
        for intervention in interventions {
            let computed = if last_only && behind(intervention.site) { &last } else { &layout };
            let one = engine.compile(intervention, computed)?;
            compiled.entry(intervention.site.canonical(config.n_layers)).or_default().push(one);
        }
        let rows = |last| layout.attention_rows(&prefix.offsets, config.n_heads, last);
        Ok(Self {
            attention: backend.upload_attention_rows(&rows(false))?,
            attention_last: backend.upload_attention_rows(&rows(true))?,
            positions: backend.upload_indices(&engine.position_rows(&layout))?,
            positions_last: backend.upload_indices(&engine.position_rows(&last))?,
            last: backend.upload_indices(&layout.last_tokens())?,
            engine,
            layout,
            last_layout: last,
            prefix,
            last_only,
            compiled,
            wanted,
            captured: HashMap::new(),
            keep: None,
            kept: Vec::new(),
            tape: None,
            z: None,
            frozen: None,
            grown: None,
        })
    }

    /// Makes this a pass over the next tokens of growing texts, one per row: their keys and values join `key_values` at
    /// `rows`, and the attention reads there.
    pub(super) fn grow(
        &mut self,
        key_values: &'a mut [B::Tensor],
        attention: &[AttentionRow],
        rows: &[u32],
    ) -> Result<(), EngineError> {
        let backend = &self.engine.backend;
        self.attention = backend.upload_attention_rows(attention)?;
        // Every token is the last of its row.
        self.last_only = false;
        let every: Vec<u32> = (0..rows.len() as u32).collect();
        let (rows, every) = (backend.upload_indices(rows)?, backend.upload_indices(&every)?);
        self.grown = Some(Grown { key_values, rows, every });
        Ok(())
    }

    /// Asks for the keys and values of every row's first `lens` positions.
    pub(super) fn keep_prefix(&mut self, lens: &[usize]) -> Result<(), EngineError> {
        if lens.is_empty() {
            return Ok(());
        }
        let mut tokens = Vec::new();
        for (row, &len) in lens.iter().enumerate() {
            tokens.extend((0..len).filter_map(|position| self.layout.token(row, position)).map(|t| t as u32));
        }
        self.keep = Some(self.engine.backend.upload_indices(&tokens)?);
        Ok(())
    }

    /// Embeds the tokens: `hook_embed` plus `hook_pos_embed`.
    pub(super) fn embed(&mut self, sequences: &[Vec<u32>]) -> Result<B::Tensor, EngineError> {
        let (backend, d_model) = (&self.engine.backend, self.engine.config().d_model);
        let tokens: Vec<u32> = sequences.concat();
        // Every distinct token's row travels once and is spread on the device.
        let mut distinct = tokens.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |token: &u32| distinct.partition_point(|known| known < token) as u32;
        let rows = backend.upload_indices(&tokens.iter().map(place).collect::<Vec<_>>())?;
        let staged = backend.upload(&self.engine.model.embed(&distinct)?.data)?;
        let mut resid = backend.tensor(tokens.len() * d_model)?;
        backend.gather_rows(&staged, d_model, &rows, &mut resid)?;
        self.at(Site::Embed, &mut resid)?;
        if let Some(table) = &self.engine.position_embedding {
            let mut positions = backend.tensor(tokens.len() * d_model)?;
            backend.gather_rows(table, d_model, &self.positions, &mut positions)?;
            self.at(Site::PosEmbed, &mut positions)?;
            backend.add(&positions, &mut resid)?;
        }
        Ok(resid)
    }

    /// Runs the blocks from `start` on and turns the last residual into the output.
    pub(super) fn finish(
        mut self,
        mut resid: B::Tensor,
        start: usize,
        keep: &[usize],
        output: Output<'_, B>,
    ) -> Result<(Run<B>, Tape<B>), EngineError> {
        let n_layers = self.engine.config().n_layers;
        for layer in start..n_layers {
            if matches!(output, Output::None) && self.done_before(layer) {
                break;
            }
            resid = if self.frozen.is_some() { self.frozen_block(layer, resid)? } else { self.block(layer, resid)? };
        }
        self.at(Site::ResidPost(n_layers - 1), &mut resid)?;
        let final_resid = self.tape.is_some().then(|| self.copy(&resid)).transpose()?;
        let logits = self.logits(resid, &output)?;
        let prefix = (!keep.is_empty()).then(|| Prefix {
            lens: keep.to_vec(),
            offsets: running_sum(keep),
            key_values: std::mem::take(&mut self.kept),
        });
        let tape = Tape {
            start,
            layers: self.tape.take().unwrap_or_default(),
            final_resid,
            n_tokens: self.layout.n_tokens(),
            last_only: self.last_only,
            attention: self.attention,
            attention_last: self.attention_last,
            positions: self.positions,
            positions_last: self.positions_last,
            last: self.last,
        };
        Ok((Run { layout: self.layout, sites: self.captured, prefix, logits, n_layers }, tape))
    }

    /// Is nothing left to do from block `layer` on, when no output is wanted?
    pub(super) fn done_before(&self, layer: usize) -> bool {
        let later = |site: &Site| !self.captured.contains_key(site) && site.layer().is_none_or(|l| l >= layer);
        self.keep.is_none() && self.grown.is_none() && self.tape.is_none() && !self.wanted.iter().any(later)
    }

    pub(super) fn copy(&self, x: &B::Tensor) -> Result<B::Tensor, EngineError> {
        let mut copy = self.engine.backend.tensor(self.engine.backend.len(x))?;
        self.engine.backend.copy_into(x, &mut copy, 0)?;
        Ok(copy)
    }

    /// Applies the interventions at `site` to `x`, then captures it.
    pub(super) fn at(&mut self, site: Site, x: &mut B::Tensor) -> Result<(), EngineError> {
        let width = site.width(self.engine.config());
        self.at_columns(site, x, width, 0)
    }

    /// As [`Pass::at`] for a site that is a range of columns of a wider matrix.
    pub(super) fn at_columns(
        &mut self,
        site: Site,
        x: &mut B::Tensor,
        stride: usize,
        offset: usize,
    ) -> Result<(), EngineError> {
        for compiled in self.compiled.get(&site).into_iter().flatten() {
            self.engine.apply(compiled, x, stride, offset)?;
        }
        if !self.wanted.contains(&site) {
            return Ok(());
        }
        let width = site.width(self.engine.config());
        let copy = if stride == width {
            self.copy(x)?
        } else {
            self.engine.columns_of(x, Columns { stride, start: offset, width })?
        };
        self.captured.insert(site, copy);
        Ok(())
    }

    /// Applies the interventions at a head's input.
    fn at_input(
        &self,
        site: Site,
        resid: &B::Tensor,
        projection: (&Norm<B::Tensor>, &B::Weight),
        out: &mut B::Tensor,
        place: (usize, usize),
    ) -> Result<(), EngineError> {
        for compiled in self.compiled.get(&site).into_iter().flatten() {
            self.engine.apply_to_input(compiled, resid, projection, out, place)?;
        }
        Ok(())
    }

    pub(super) fn touches(&self, site: Site) -> bool {
        self.wanted.contains(&site) || self.compiled.contains_key(&site)
    }

    pub(super) fn norm(&self, x: &B::Tensor, norm: &Norm<B::Tensor>) -> Result<B::Tensor, EngineError> {
        let mut y = self.engine.backend.tensor(self.engine.backend.len(x))?;
        self.engine.backend.layer_norm(x, norm, &mut y)?;
        Ok(y)
    }

    pub(super) fn linear(
        &self,
        x: &B::Tensor,
        weight: &B::Weight,
        (inputs, outputs): (usize, usize),
        epilogue: Epilogue<'_, B::Tensor>,
    ) -> Result<B::Tensor, EngineError> {
        let rows = self.engine.backend.len(x) / inputs;
        let mut y = self.engine.backend.tensor(rows * outputs)?;
        self.engine.backend.linear(x, weight, epilogue, &mut y)?;
        Ok(y)
    }

    /// The last positions' rows of `x`.
    fn last_rows(&self, x: &B::Tensor, width: usize) -> Result<B::Tensor, EngineError> {
        let backend = &self.engine.backend;
        let mut rows = backend.tensor(self.layout.n_rows() * width)?;
        backend.gather_rows(x, width, &self.last, &mut rows)?;
        Ok(rows)
    }

    /// One block. The residual it returns has one row per token, or per row of the batch behind the last block when
    /// only last positions are computed there.
    fn block(&mut self, layer: usize, mut resid: B::Tensor) -> Result<B::Tensor, EngineError> {
        let engine = self.engine;
        let config = engine.config();
        let (weights, d_model) = (&engine.layers[layer], config.d_model);
        let (d_attn, d_kv) = (config.d_attn(), config.d_kv());
        let only_last = self.last_only && layer + 1 == config.n_layers;
        if let Some(z) = self.z.take() {
            return self.block_behind_attention(layer, resid, z, only_last);
        }
        self.at(Site::ResidPre(layer), &mut resid)?;
        let resid_pre = self.tape.is_some().then(|| self.copy(&resid)).transpose()?;

        let mut normed = self.norm(&resid, &weights.ln1)?;
        let mut kv = self.linear(&normed, &weights.key_value, (d_model, 2 * d_kv), Epilogue::Store)?;
        let key_value = (&weights.ln1, &weights.key_value);
        self.at_input(Site::KInput(layer), &resid, key_value, &mut kv, (2 * d_kv, 0))?;
        self.at_input(Site::VInput(layer), &resid, key_value, &mut kv, (2 * d_kv, d_kv))?;
        self.at_columns(Site::K(layer), &mut kv, 2 * d_kv, 0)?;
        self.at_columns(Site::V(layer), &mut kv, 2 * d_kv, d_kv)?;
        if only_last {
            normed = self.last_rows(&normed, d_model)?;
            resid = self.last_rows(&resid, d_model)?;
        }
        let mut q = self.linear(&normed, &weights.query, (d_model, d_attn), Epilogue::Store)?;
        self.at_input(Site::QInput(layer), &resid, (&weights.ln1, &weights.query), &mut q, (d_attn, 0))?;
        self.at(Site::Q(layer), &mut q)?;
        let qk_inputs = self.norm_queries_and_keys(weights, &mut q, &mut kv)?;
        let asked = if only_last { &self.positions_last } else { &self.positions };
        engine.rotate(layer, &mut q, &mut kv, (asked, &self.positions), false)?;
        if let Some(rows) = &self.keep {
            let mut kept = engine.backend.tensor(engine.backend.indices_len(rows) * 2 * d_kv)?;
            engine.backend.gather_rows(&kv, 2 * d_kv, rows, &mut kept)?;
            self.kept.push(kept);
        }
        if let Some(Grown { key_values, rows, every }) = &mut self.grown {
            let all = Columns::all(2 * d_kv);
            let joining = PatchRows { target: rows, source: every };
            engine.backend.patch_replace(&mut key_values[layer], all, &kv, all, joining)?;
        }
        let mut log_sum_exp = match self.tape {
            Some(_) => Some(engine.backend.tensor(engine.backend.len(&q) / config.d_head)?),
            None => None,
        };
        let z = self.attend(layer, &q, &kv, only_last, log_sum_exp.as_mut())?;
        let (resid, mlp) = self.residual_updates(layer, weights, resid, z)?;
        if let (Some(tape), Some(resid_pre), Some(log_sum_exp), Some(mlp)) =
            (self.tape.as_mut(), resid_pre, log_sum_exp, mlp)
        {
            tape.push(LayerTape { resid_pre, qk_inputs, q, kv, log_sum_exp, mlp });
        }
        Ok(resid)
    }

    /// The rest of a block whose attention is known.
    fn block_behind_attention(
        &mut self,
        layer: usize,
        mut resid: B::Tensor,
        mut z: B::Tensor,
        only_last: bool,
    ) -> Result<B::Tensor, EngineError> {
        if only_last {
            let (d_model, d_attn) = (self.engine.config().d_model, self.engine.config().d_attn());
            resid = self.last_rows(&resid, d_model)?;
            z = self.last_rows(&z, d_attn)?;
        }
        self.at(Site::Z(layer), &mut z)?;
        Ok(self.residual_updates(layer, &self.engine.layers[layer], resid, z)?.0)
    }

    /// Attention up to `hook_z`; the probabilities exist only when somebody wants them.
    fn attend(
        &mut self,
        layer: usize,
        q: &B::Tensor,
        kv: &B::Tensor,
        only_last: bool,
        log_sum_exp: Option<&mut B::Tensor>,
    ) -> Result<B::Tensor, EngineError> {
        let engine = self.engine;
        let (backend, heads) = (&engine.backend, engine.heads(layer));
        let rows = if only_last { &self.attention_last } else { &self.attention };
        let own = self.grown.as_ref().map_or(kv, |grown| &grown.key_values[layer]);
        let key_values = || KeyValues { own, prefix: self.prefix.prefix.map(|prefix| &prefix.key_values[layer]) };
        let mut z = backend.tensor(backend.len(q))?;
        let site = Site::Pattern(layer);
        if self.touches(site) {
            let computed = if only_last { &self.last_layout } else { &self.layout };
            let mut pattern = backend.tensor(computed.pattern_len(heads.count))?;
            backend.attention_pattern(q, key_values(), rows, heads, &mut pattern)?;
            for compiled in self.compiled.get(&site).into_iter().flatten() {
                engine.apply_to_pattern(compiled, &mut pattern)?;
            }
            backend.apply_pattern(&pattern, key_values(), rows, heads, &mut z)?;
            if self.wanted.contains(&site) {
                self.captured.insert(site, pattern);
            }
        } else {
            backend.attention(q, key_values(), rows, heads, &mut z, log_sum_exp)?;
        }
        self.at(Site::Z(layer), &mut z)?;
        Ok(z)
    }

    /// Adds attention and MLP to the residual, in place. Returns it with the MLP's tape when one is kept.
    fn residual_updates(
        &mut self,
        layer: usize,
        weights: &Layer<B>,
        mut resid: B::Tensor,
        z: B::Tensor,
    ) -> Result<(B::Tensor, Option<MlpTape<B>>), EngineError> {
        let parallel = self.engine.config().parallel_residual;
        if !parallel {
            self.add_attention(layer, weights, &z, &mut resid)?;
            self.at(Site::ResidMid(layer), &mut resid)?;
        }
        let normed = self.norm(&resid, &weights.ln2)?;
        let input = self.tape.is_some().then(|| self.copy(&resid)).transpose()?;
        if parallel {
            self.add_attention(layer, weights, &z, &mut resid)?;
        }
        let tape = self.add_mlp(layer, weights, &normed, input, &mut resid)?;
        Ok((resid, tape))
    }

    fn add_attention(
        &mut self,
        layer: usize,
        weights: &Layer<B>,
        z: &B::Tensor,
        resid: &mut B::Tensor,
    ) -> Result<(), EngineError> {
        let (engine, config) = (self.engine, self.engine.config());
        if !self.touches(Site::AttnOut(layer)) && !self.compiled.contains_key(&Site::Result(layer)) {
            engine.backend.linear(z, &weights.attn_out, Epilogue::Accumulate, resid)?;
            return Ok(());
        }
        let shape = (config.d_attn(), config.d_model);
        let mut attn_out = self.linear(z, &weights.attn_out, shape, Epilogue::Store)?;
        for compiled in self.compiled.get(&Site::Result(layer)).into_iter().flatten() {
            engine.apply_to_result(compiled, layer, z, &mut attn_out)?;
        }
        self.at(Site::AttnOut(layer), &mut attn_out)?;
        engine.backend.add(&attn_out, resid)?;
        Ok(())
    }

    /// The final norm; `ln_final.hook_normalized` lies between its scaling and its gain and bias.
    fn final_norm(&mut self, resid: &B::Tensor) -> Result<B::Tensor, EngineError> {
        let (backend, norm) = (&self.engine.backend, &self.engine.final_norm);
        if !self.touches(Site::FinalNormalized) {
            return self.norm(resid, norm);
        }
        let plain = Norm { kind: norm.kind, width: norm.width, eps: norm.eps, gain: None, bias: None };
        let mut normed = self.norm(resid, &plain)?;
        self.at(Site::FinalNormalized, &mut normed)?;
        backend.gain_and_bias(&mut normed, norm)?;
        Ok(normed)
    }

    /// Final norm and the logits that were asked for.
    fn logits(&mut self, resid: B::Tensor, output: &Output<'_, B>) -> Result<Option<Logits>, EngineError> {
        let engine = self.engine;
        let (backend, config) = (&engine.backend, engine.config());
        let rows_are_last = backend.len(&resid) == self.layout.n_rows() * config.d_model;
        let whole = matches!(output, Output::All) || self.touches(Site::FinalNormalized);
        if matches!(output, Output::None) && !self.touches(Site::FinalNormalized) {
            return Ok(None);
        }
        let resid = if whole || rows_are_last { resid } else { self.last_rows(&resid, config.d_model)? };
        let mut normed = self.final_norm(&resid)?;
        if whole && !rows_are_last && !matches!(output, Output::All) {
            normed = self.last_rows(&normed, config.d_model)?;
        }
        let vocabulary = (config.d_model, config.d_vocab);
        let rows = backend.len(&normed) / config.d_model;
        let (values, log_sum_exp) = match output {
            Output::None => return Ok(None),
            Output::Answers(columns) | Output::AnswersAndLogSumExp(columns) => {
                let mut values = backend.tensor(rows * columns.tokens.len())?;
                backend.answer_logits(&normed, &columns.columns, &columns.bias, &mut values)?;
                let log_sum_exp = match output {
                    Output::AnswersAndLogSumExp(_) => {
                        let all = self.linear(&normed, engine.unembedding()?, vocabulary, Epilogue::Store)?;
                        let mut sums = backend.tensor(rows)?;
                        backend.log_sum_exp(&all, config.d_vocab, &mut sums)?;
                        Some(backend.download(&sums)?)
                    }
                    _ => None,
                };
                (values, log_sum_exp)
            }
            Output::Last | Output::All => {
                (self.linear(&normed, engine.unembedding()?, vocabulary, Epilogue::Store)?, None)
            }
        };
        let data = backend.download(&values)?;
        let cols = data.len() / rows.max(1);
        if let Some(at) = data.iter().position(|v| !v.is_finite()) {
            return Err(EngineError::NotFinite { what: "a logit", row: at / cols, value: data[at] });
        }
        Ok(Some(Logits { values: Matrix::new(rows, cols, data), log_sum_exp }))
    }
}
