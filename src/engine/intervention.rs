//! Interventions: a site, the rows and positions they touch, and what they do there.

use super::{Engine, EngineError, Layout, Run, Site};
use crate::backend::{Backend, Bases, Columns, Epilogue, Norm, PatchRows};
use crate::model::ModelConfig;
use crate::types::{Matrix, numbers};

/// Which part of a site's width an intervention touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Everything.
    All,
    /// One head of `q`, `k`, `v`, `z`, `pattern`, `result`, or of the inputs of `q`, `k` and `v`.
    ///
    /// On `k` and `v` this counts key-value heads, `0..n_kv_heads`, as in TransformerLens: with grouped queries,
    /// patching key-value head `g` changes what all of the query heads `g * (n_heads / n_kv_heads) ..` of its group
    /// read. A single query head has no key or value of its own to patch; patch its `pattern` or `z` instead.
    Head(usize),
    /// One neuron of `mlp.hook_pre` or `mlp.hook_post`.
    Neuron(usize),
}

/// One patched place of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Row of the batch.
    pub row: usize,
    /// Position in that row (for `pattern`: the query's position).
    pub position: usize,
    /// Row of the source, as [`Run::token`] gives it; ignored by zero ablation.
    pub source: usize,
    /// Which basis a swap uses for this row.
    pub basis: usize,
}

/// Where the new values come from.
pub enum Source<'a, B: Backend> {
    /// The same site of another run.
    Run(&'a Run<B>),
    /// Rows as wide as the site: means, vectors to add.
    Rows(&'a B::Tensor),
    /// Zero.
    Zero,
}

/// What happens at the patched places.
pub enum Op<'a, B: Backend> {
    /// `x := source`: activation patching, freezing, zero and mean ablation.
    Replace(Source<'a, B>),
    /// `x += R Rᵀ (source - x)` with unit rows `R`: directional patching; directional ablation when the source is
    /// zero or a mean. `bases` is `(n_bases, k, width of the part)` on the device.
    Swap {
        /// Source of the component along the subspace.
        source: Source<'a, B>,
        /// The subspaces.
        bases: &'a B::Tensor,
        /// Dimensions of each.
        k: usize,
    },
    /// `x += scale * source`: steering.
    Add {
        /// The vectors.
        source: Source<'a, B>,
        /// Their coefficient.
        scale: f32,
    },
}

impl<B: Backend> Op<'_, B> {
    fn source(&self) -> &Source<'_, B> {
        match self {
            Op::Replace(source) | Op::Swap { source, .. } | Op::Add { source, .. } => source,
        }
    }
}

/// An intervention: site, part, places, operation.
pub struct Intervention<'a, B: Backend> {
    /// Where in the forward pass.
    pub site: Site,
    /// Which columns.
    pub part: Part,
    /// Which rows and positions; none of them twice.
    pub patches: Vec<Patch>,
    /// What happens there.
    pub op: Op<'a, B>,
}

/// An intervention whose rows are on the device, ready to be applied when the pass reaches its site.
pub(super) struct Compiled<'a, B: Backend> {
    intervention: &'a Intervention<'a, B>,
    target: B::Indices,
    source: B::Indices,
    basis: B::Indices,
    /// Pattern patches only: (target, source, length) of every span.
    spans: B::Indices,
}

impl Part {
    /// The columns of this part at `site`.
    pub(crate) fn columns(self, site: Site, config: &ModelConfig) -> Result<Columns, EngineError> {
        let width = site.width(config);
        let mismatch = |what: &str, expected: String, found: usize| EngineError::Mismatch {
            what: format!("{what} at {site}"),
            expected,
            found: found.to_string(),
        };
        match self {
            Part::All => Ok(Columns::all(width)),
            Part::Head(head) if !site.has_heads() => Err(mismatch("head", "a site with heads".into(), head)),
            Part::Head(head) if head >= site.n_heads(config) => {
                let group = site.n_heads(config) < config.n_heads;
                let kind = if group { " key-value heads" } else { "" };
                Err(mismatch("head", format!("{}{kind}", numbers(site.n_heads(config))), head))
            }
            Part::Head(head) => Ok(Columns { stride: width, start: head * config.d_head, width: config.d_head }),
            Part::Neuron(neuron) if !matches!(site, Site::MlpPre(_) | Site::MlpPost(_)) => {
                Err(mismatch("neuron", "mlp.hook_pre or mlp.hook_post".into(), neuron))
            }
            Part::Neuron(neuron) if neuron >= width => Err(mismatch("neuron", numbers(width), neuron)),
            Part::Neuron(neuron) => Ok(Columns { stride: width, start: neuron, width: 1 }),
        }
    }

    /// How many values an operation changes together: a head's result and its inputs are as wide as the residual stream.
    pub(crate) fn width(self, site: Site, config: &ModelConfig) -> Result<usize, EngineError> {
        let width = self.columns(site, config)?.width;
        Ok(if site.stored() == site { width } else { config.d_model })
    }
}

impl<B: Backend> Engine<B> {
    /// One head's output in the residual stream, `hook_result`, of every token of a run that captured the layer's `z`:
    /// `z_h W_O_h`, `(tokens, d_model)` on the host, without the bias that all heads share.
    ///
    /// # Errors
    /// [`EngineError::NotCaptured`], [`EngineError::Mismatch`] for a head that is not there.
    pub fn head_result(&self, run: &Run<B>, layer: usize, head: usize) -> Result<Matrix, EngineError> {
        let (backend, d_model) = (&self.backend, self.config().d_model);
        let part = Part::Head(head).columns(Site::Z(layer), self.config())?;
        let z = run.site(Site::Z(layer))?;
        let n = backend.len(z) / part.stride;
        let every = backend.upload_indices(&(0..n as u32).collect::<Vec<_>>())?;
        let first = backend.upload_indices(&vec![0; n])?;
        let mut alone = backend.tensor(n * part.stride)?;
        backend.zero(&mut alone)?;
        backend.patch_replace(&mut alone, part, z, part, PatchRows { target: &every, source: &every })?;
        let mut result = backend.tensor(n * d_model)?;
        backend.linear(&alone, &self.layers[layer].attn_out, Epilogue::Store, &mut result)?;
        let (columns, bias) = (Columns::all(d_model), &self.layers[layer].attn_out_bias);
        backend.patch_add(&mut result, columns, bias, columns, PatchRows { target: &every, source: &first }, -1.0)?;
        Ok(Matrix::new(n, d_model, backend.download(&result)?))
    }

    /// Checks an intervention and uploads its rows. `layout` says which tokens are computed at its site.
    pub(super) fn compile<'a>(
        &self,
        intervention: &'a Intervention<'a, B>,
        layout: &Layout,
    ) -> Result<Compiled<'a, B>, EngineError> {
        let site = intervention.site;
        site.check(self.config())?;
        intervention.part.columns(site, self.config())?;
        self.check_source(intervention)?;
        let never = |reason| EngineError::NeverFires { site: site.to_string(), reason };
        if intervention.patches.is_empty() {
            return Err(never("it names no row and position".into()));
        }
        let mut target = Vec::with_capacity(intervention.patches.len());
        for patch in &intervention.patches {
            let Some(token) = layout.token(patch.row, patch.position) else {
                return Err(never(format!("position {} of row {} is not computed", patch.position, patch.row)));
            };
            target.push(token as u32);
        }
        let mut sorted = target.clone();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(EngineError::Mismatch {
                what: format!("places patched at {site}"),
                expected: "each row and position once".into(),
                found: "one of them twice".into(),
            });
        }
        let zero_source = matches!(intervention.op.source(), Source::Zero);
        let list = |f: fn(&Patch) -> usize| intervention.patches.iter().map(|p| f(p) as u32).collect::<Vec<_>>();
        let source = if zero_source { vec![0; target.len()] } else { list(|p| p.source) };
        let spans = match site {
            Site::Pattern(_) => self.pattern_spans(intervention, layout)?,
            _ => Vec::new(),
        };
        Ok(Compiled {
            intervention,
            target: self.backend.upload_indices(&target)?,
            source: self.backend.upload_indices(&source)?,
            basis: self.backend.upload_indices(&list(|p| p.basis))?,
            spans: self.backend.upload_indices(&spans)?,
        })
    }

    /// Does the source hold the rows that the patches name?
    fn check_source(&self, intervention: &Intervention<'_, B>) -> Result<(), EngineError> {
        let site = intervention.site;
        if let Op::Swap { bases, k, .. } = &intervention.op {
            let each = k * intervention.part.width(site, self.config())?;
            let there = self.backend.len(bases) / each.max(1);
            if let Some(patch) = intervention.patches.iter().find(|patch| each == 0 || patch.basis >= there) {
                return Err(EngineError::Mismatch {
                    what: format!("basis of a patch at {site}"),
                    expected: numbers(there),
                    found: patch.basis.to_string(),
                });
            }
        }
        let rows = match (intervention.op.source(), site) {
            (Source::Zero, _) => return Ok(()),
            (Source::Run(run), Site::Pattern(_)) => run.layout.n_tokens(),
            (Source::Run(run), _) => self.backend.len(run.site(site.stored())?) / site.stored().width(self.config()),
            (Source::Rows(tensor), _) => self.backend.len(tensor) / site.width(self.config()),
        };
        self.check_rows(intervention, rows)
    }

    /// Does the source have these rows, and do the bases have those that the patches name?
    fn check_rows(&self, intervention: &Intervention<'_, B>, rows: usize) -> Result<(), EngineError> {
        let site = intervention.site;
        match intervention.patches.iter().find(|patch| patch.source >= rows) {
            None => Ok(()),
            Some(patch) => Err(EngineError::Mismatch {
                what: format!("source row of a patch at {site}"),
                expected: numbers(rows),
                found: patch.source.to_string(),
            }),
        }
    }

    /// (target, source, length) spans of a pattern patch: whole rows of keys per head and query.
    fn pattern_spans(&self, intervention: &Intervention<'_, B>, layout: &Layout) -> Result<Vec<u32>, EngineError> {
        let n_heads = self.config().n_heads;
        let unsupported = |found: &str| EngineError::Mismatch {
            what: format!("operation at {}", intervention.site),
            expected: "replace, from a run or with zero".into(),
            found: found.into(),
        };
        let heads = match intervention.part {
            Part::Head(head) => head..head + 1,
            _ => 0..n_heads,
        };
        let source_layout = match &intervention.op {
            Op::Replace(Source::Run(run)) => Some(&run.layout),
            Op::Replace(Source::Zero) => None,
            Op::Replace(Source::Rows(_)) => return Err(unsupported("replace with rows")),
            Op::Swap { .. } => return Err(unsupported("swap")),
            Op::Add { .. } => return Err(unsupported("add")),
        };
        let mut spans = Vec::new();
        for patch in &intervention.patches {
            for head in heads.clone() {
                let (to, len) = layout.pattern_span(patch.row, head, patch.position, n_heads);
                let from = match source_layout {
                    None => 0,
                    Some(source) => {
                        let (row, position) = source.place(patch.source);
                        let (from, found) = source.pattern_span(row, head, position, n_heads);
                        if found != len {
                            return Err(EngineError::Mismatch {
                                what: format!("keys of the source pattern for row {}", patch.row),
                                expected: len.to_string(),
                                found: found.to_string(),
                            });
                        }
                        from
                    }
                };
                spans.extend([to as u32, from as u32, len as u32]);
            }
        }
        Ok(spans)
    }

    /// Applies one compiled intervention to `x`, whose rows are `stride` values with the site starting at `offset`.
    pub(super) fn apply(
        &self,
        compiled: &Compiled<'_, B>,
        x: &mut B::Tensor,
        stride: usize,
        offset: usize,
    ) -> Result<(), EngineError> {
        let site = compiled.intervention.site;
        let part = compiled.intervention.part.columns(site, self.config())?;
        let columns = Columns { stride, start: offset + part.start, width: part.width };
        let target = &compiled.target;
        self.with_source(compiled, site, |source| self.edit(compiled, (x, target), columns, source, part))
    }

    /// Applies an intervention to what heads read: its rows of the residual are patched apart from the rest, and what
    /// `weight` makes of them replaces those heads' columns of `out`, whose rows are `stride` values with the site's
    /// projections starting at `offset`.
    pub(super) fn apply_to_input(
        &self,
        compiled: &Compiled<'_, B>,
        resid: &B::Tensor,
        (norm, weight): (&Norm<B::Tensor>, &B::Weight),
        out: &mut B::Tensor,
        (stride, offset): (usize, usize),
    ) -> Result<(), EngineError> {
        let (backend, d_model, site) = (&self.backend, self.config().d_model, compiled.intervention.site);
        let n = compiled.intervention.patches.len();
        let every = backend.upload_indices(&(0..n as u32).collect::<Vec<_>>())?;
        let mut rows = backend.tensor(n * d_model)?;
        backend.gather_rows(resid, d_model, &compiled.target, &mut rows)?;
        let all = Columns::all(d_model);
        self.with_source(compiled, site, |source| self.edit(compiled, (&mut rows, &every), all, source, all))?;
        let mut normed = backend.tensor(n * d_model)?;
        backend.layer_norm(&rows, norm, &mut normed)?;
        let mut projected = backend.tensor(n * stride)?;
        backend.linear(&normed, weight, Epilogue::Store, &mut projected)?;
        let heads = match compiled.intervention.part {
            Part::Head(head) => head..head + 1,
            _ => 0..site.n_heads(self.config()),
        };
        let d_head = self.config().d_head;
        let columns = Columns { stride, start: offset + heads.start * d_head, width: heads.len() * d_head };
        let back = PatchRows { target: &compiled.target, source: &every };
        backend.patch_replace(out, columns, &projected, columns, back)?;
        Ok(())
    }

    /// Resolves the source to a tensor as wide as `site` and calls `f` with it.
    fn with_source(
        &self,
        compiled: &Compiled<'_, B>,
        site: Site,
        f: impl FnOnce(&B::Tensor) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        match compiled.intervention.op.source() {
            Source::Run(run) => f(run.site(site.stored())?),
            Source::Rows(tensor) => f(tensor),
            Source::Zero => {
                let mut zeros = self.backend.tensor(site.width(self.config()))?;
                self.backend.zero(&mut zeros)?;
                f(&zeros)
            }
        }
    }

    fn edit(
        &self,
        compiled: &Compiled<'_, B>,
        (x, target): (&mut B::Tensor, &B::Indices),
        columns: Columns,
        source: &B::Tensor,
        source_columns: Columns,
    ) -> Result<(), EngineError> {
        let rows = PatchRows { target, source: &compiled.source };
        match &compiled.intervention.op {
            Op::Replace(_) => self.backend.patch_replace(x, columns, source, source_columns, rows)?,
            Op::Swap { bases, k, .. } => {
                let bases = Bases { directions: *bases, k: *k, basis: &compiled.basis };
                self.backend.patch_swap(x, columns, source, source_columns, rows, bases)?;
            }
            Op::Add { scale, .. } => self.backend.patch_add(x, columns, source, source_columns, rows, *scale)?,
        }
        Ok(())
    }

    /// Applies a compiled intervention to attention probabilities.
    pub(super) fn apply_to_pattern(
        &self,
        compiled: &Compiled<'_, B>,
        pattern: &mut B::Tensor,
    ) -> Result<(), EngineError> {
        let longest = self.config().n_ctx;
        match compiled.intervention.op.source() {
            Source::Run(run) => {
                self.backend.copy_spans(run.site(compiled.intervention.site)?, &compiled.spans, pattern)?;
            }
            _ => {
                let mut zeros = self.backend.tensor(longest)?;
                self.backend.zero(&mut zeros)?;
                self.backend.copy_spans(&zeros, &compiled.spans, pattern)?;
            }
        }
        Ok(())
    }

    /// Applies an intervention at `hook_result` to the sum of head results, `attn_out`.
    ///
    /// With `Δz` the change of the chosen heads' `z`, the heads' results change by `Δz W_O`: the new rows are
    /// `attn_out + Δz W_O` (plus given rows), taken whole or only along the subspace.
    pub(super) fn apply_to_result(
        &self,
        compiled: &Compiled<'_, B>,
        layer: usize,
        z: &B::Tensor,
        attn_out: &mut B::Tensor,
    ) -> Result<(), EngineError> {
        let (backend, config) = (&self.backend, self.config());
        let d_model = Columns::all(config.d_model);
        if matches!(compiled.intervention.op, Op::Add { .. }) {
            return self.with_source(compiled, compiled.intervention.site, |source| {
                self.edit(compiled, (attn_out, &compiled.target), d_model, source, d_model)
            });
        }
        let n = compiled.intervention.patches.len();
        let every: Vec<u32> = (0..n as u32).collect();
        let every = backend.upload_indices(&every)?;
        let part = compiled.intervention.part.columns(Site::Z(layer), config)?;
        let mut change = backend.tensor(n * part.stride)?;
        backend.zero(&mut change)?;
        let here = PatchRows { target: &every, source: &compiled.target };
        backend.patch_add(&mut change, part, z, part, here, -1.0)?;
        let there = PatchRows { target: &every, source: &compiled.source };
        let mut rows = backend.tensor(n * config.d_model)?;
        backend.gather_rows(attn_out, config.d_model, &compiled.target, &mut rows)?;
        match compiled.intervention.op.source() {
            Source::Run(run) => backend.patch_add(&mut change, part, run.site(Site::Z(layer))?, part, there, 1.0)?,
            Source::Rows(tensor) => backend.patch_add(&mut rows, d_model, tensor, d_model, there, 1.0)?,
            Source::Zero => {}
        }
        backend.linear(&change, &self.layers[layer].attn_out, Epilogue::Accumulate, &mut rows)?;
        let first = backend.upload_indices(&vec![0; n])?;
        let bias = PatchRows { target: &every, source: &first };
        backend.patch_add(&mut rows, d_model, &self.layers[layer].attn_out_bias, d_model, bias, -1.0)?;
        let back = PatchRows { target: &compiled.target, source: &every };
        match &compiled.intervention.op {
            Op::Swap { bases, k, .. } => {
                let bases = Bases { directions: *bases, k: *k, basis: &compiled.basis };
                backend.patch_swap(attn_out, d_model, &rows, d_model, back, bases)?;
            }
            _ => backend.patch_replace(attn_out, d_model, &rows, d_model, back)?,
        }
        Ok(())
    }
}
