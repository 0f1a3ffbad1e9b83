//! The three-step method: a pass with frozen heads, then one in which the receivers alone are patched.

use super::{Case, Work};
use crate::backend::Backend;
use crate::engine::{
    Cell, Change, Edit, EngineError, Flops, Intervention, Op, Part, Patch, PatchPositions, Places, Plan, Scores, Site,
    Source, Values,
};
use crate::types::Matrix;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// Cases whose second step is one pass.
struct Chunk {
    /// The block where it begins.
    layer: usize,
    cases: Vec<usize>,
    tokens: usize,
}

/// What arrived at the receivers of a chunk: per site one row for every token.
type Arrived = BTreeMap<Site, Matrix>;

impl<B: Backend> Work<'_, B> {
    /// The scores of every case, and the arithmetic it took.
    pub(super) fn three_steps<E: From<EngineError>>(
        &self,
        cases: &[Case],
        mlps: bool,
        mut told: impl FnMut(f64) -> Result<(), E>,
    ) -> Result<(Vec<Scores>, Flops), E> {
        let mut scores = vec![self.unpatched().clone(); cases.len()];
        let mut flops = Flops::default();
        let chunks = self.chunks(cases);
        for (number, chunk) in chunks.iter().enumerate() {
            let (ranges, arrived, done) = self.second_step(cases, chunk, mlps)?;
            let cell = |(&case, range): (&usize, &Range<usize>)| self.third_step(&cases[case], &arrived, range);
            let cells: Vec<Cell> = chunk.cases.iter().zip(&ranges).map(cell).collect();
            let plan = Plan::new(self.engine.config(), self.paired.prompts(), &cells, self.engine.max_tokens())?;
            let found = plan.run(self.engine, self.paired, self.metrics, |_| Ok::<(), EngineError>(()))?;
            chunk.cases.iter().zip(found).for_each(|(&case, found)| scores[case] = found);
            flops = flops + done + plan.flops();
            told((number + 1) as f64 / chunks.len() as f64)?;
        }
        Ok((scores, flops))
    }

    /// Cases that start at the same layer, as many as one batch takes. Cases that change nothing are left out.
    fn chunks(&self, cases: &[Case]) -> Vec<Chunk> {
        let mut by_layer: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, case) in
            cases.iter().enumerate().filter(|(_, case)| case.tokens() > 0 && !case.receivers.is_empty())
        {
            by_layer.entry(case.first_layer()).or_default().push(index);
        }
        let mut chunks: Vec<Chunk> = Vec::new();
        for (layer, members) in by_layer {
            for case in members {
                let needed = cases[case].tokens();
                match chunks.last_mut() {
                    Some(last) if last.layer == layer && last.tokens + needed <= self.engine.max_tokens() => {
                        last.cases.push(case);
                        last.tokens += needed;
                    }
                    _ => chunks.push(Chunk { layer, cases: vec![case], tokens: needed }),
                }
            }
        }
        chunks
    }

    /// Runs the chunk's tokens with frozen heads; per case its range of tokens, and what arrived at the receivers.
    fn second_step(
        &self,
        cases: &[Case],
        chunk: &Chunk,
        mlps: bool,
    ) -> Result<(Vec<Range<usize>>, Arrived, Flops), EngineError> {
        let (config, run) = (self.engine.config(), self.paired.run());
        let (mut tokens, mut ranges) = (Vec::new(), Vec::new());
        let mut sent: BTreeMap<(Site, Part), Vec<Patch>> = BTreeMap::new();
        for case in chunk.cases.iter().map(|&case| &cases[case]) {
            let first = tokens.len();
            for (own, other, position) in self.places(case) {
                let source = run.token(other, position)?;
                for node in &case.senders {
                    let patch = Patch { row: tokens.len(), position, source, basis: 0 };
                    sent.entry((node.site(), node.part)).or_default().push(patch);
                }
                tokens.push((own, position));
            }
            ranges.push(first..tokens.len());
        }
        let receivers = || chunk.cases.iter().flat_map(move |&case| &cases[case].receivers);
        let sites: BTreeSet<Site> = receivers().map(|node| node.site().canonical(config.n_layers)).collect();
        let sites: Vec<Site> = sites.into_iter().collect();
        let end = receivers().map(|node| node.layer + 1).max().unwrap_or(0);
        let mut interventions: Vec<Intervention<'_, B>> = Vec::new();
        if !mlps {
            interventions =
                (chunk.layer..end).map(|layer| self.frozen_mlp(layer, &tokens)).collect::<Result<_, _>>()?;
        }
        for ((site, part), patches) in sent {
            interventions.push(Intervention { site, part, patches, op: Op::Replace(Source::Run(run)) });
        }
        let frozen = self.engine.run_frozen(run, &tokens, chunk.layer, &interventions, &sites)?;
        let download = |&site: &Site| {
            let data = self.engine.backend().download(frozen.site(site)?)?;
            Ok((site, Matrix::new(tokens.len(), site.width(config), data)))
        };
        let arrived = sites.iter().map(download).collect::<Result<Arrived, EngineError>>()?;
        let outputs = interventions.iter().filter(|i| matches!(i.site, Site::Z(_))).count();
        let projections = sites.iter().filter(|site| matches!(site, Site::Q(_) | Site::K(_) | Site::V(_))).count();
        let blocks = end.saturating_sub(chunk.layer);
        Ok((ranges, arrived, Flops::frozen(config, tokens.len(), blocks, outputs, projections)))
    }

    /// Keeps the MLP of a block as it is in the patched run.
    fn frozen_mlp(&self, layer: usize, tokens: &[(usize, usize)]) -> Result<Intervention<'_, B>, EngineError> {
        let run = self.paired.run();
        let patch = |(row, &(own, position)): (usize, &(usize, usize))| {
            Ok(Patch { row, position, source: run.token(own, position)?, basis: 0 })
        };
        let patches = tokens.iter().enumerate().map(patch).collect::<Result<_, EngineError>>()?;
        Ok(Intervention { site: Site::MlpPost(layer), part: Part::All, patches, op: Op::Replace(Source::Run(run)) })
    }

    /// The cell in which a case's receivers take what arrived at them, and are as they were elsewhere.
    fn third_step(&self, case: &Case, arrived: &Arrived, range: &Range<usize>) -> Cell {
        let config = self.engine.config();
        let mut edits = Vec::new();
        for node in &case.receivers {
            let site = node.site().canonical(config.n_layers);
            let Some(rows) = arrived.get(&site) else { continue };
            let part = if self.layer_wide { Part::All } else { node.part };
            // A receiver in front of this one would change it at further positions.
            if case.receivers.iter().any(|other| node.comes_after(*other, config)) {
                let change = Change::Replace(Values::OwnRun);
                edits.push(Edit { site, part, places: Places::Of(PatchPositions::All), change });
            }
            let data = rows.data[range.start * rows.cols..range.end * rows.cols].to_vec();
            let rows = Arc::new(Matrix::new(range.len(), rows.cols, data));
            let places = Places::PerPrompt(case.positions.clone());
            edits.push(Edit { site, part, places, change: Change::Replace(Values::Rows(rows)) });
        }
        Cell { mode: self.mode, edits }
    }
}
