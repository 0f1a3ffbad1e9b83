//! Attribution patching: activation-patching maps to first order, all nodes from one backward pass.
//!
//! Patching a node moves the metric by about the node's change times the metric's gradient there (Nanda 2023, *Attribution
//! patching: activation patching at industrial scale*; Syed et al. 2023, arXiv 2310.10348): two forward passes and one
//! backward pass give every map. Where the metric bends, integrated gradients take the mean gradient along the straight way
//! from the patched run's input `blocks.0.hook_resid_pre` to the other one's (Sundararajan et al. 2017, arXiv 1703.01365; at
//! a model's nodes: Hanna et al. 2024, arXiv 2403.17806), here at the middles of equal steps.

use super::activation_maps::{ActivationMap, MapKind, common_length};
use super::chunks::{Kept, joined_baselines, part, stretches};
use crate::backend::Backend;
use crate::engine::metrics::logit_difference_gradient;
use crate::engine::{
    Baselines, Engine, EngineError, Flops, Intervention, Layout, Metric, Mode, Op, Output, PairedRun, Part, Patch,
    PatchPositions, Resume, Site, Source,
};
use crate::model::ModelConfig;
use crate::types::{Matrix, PairedPrompts};

/// Where the gradients are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradients {
    /// In the patched run.
    Plain,
    /// Their mean over this many steps of the way to the other run's input.
    Integrated(usize),
}

impl Gradients {
    /// Shares of the way at which a gradient is taken.
    fn shares(self) -> Vec<f32> {
        match self {
            Gradients::Plain => vec![0.0],
            Gradients::Integrated(steps) => (0..steps).map(|step| (step as f32 + 0.5) / steps as f32).collect(),
        }
    }

    /// Arithmetic on a dataset: the run that both values come from, and a forward and a backward pass per gradient.
    pub fn flops(self, config: &ModelConfig, prompts: &PairedPrompts) -> Flops {
        let answers = prompts.answers.iter().flatten().count().max(1).min(config.d_vocab);
        let whole = Layout::whole(&prompts.sequences);
        let rows = (0..prompts.clean.len()).map(|prompt| gradient_row(prompts, prompt, Mode::Denoising));
        let rows = Layout::new(rows.map(|(sequence, start)| (start, prompts.sequences[sequence].len())));
        let once = Flops::forward(config, &rows, 0, answers) + Flops::backward(config, &rows, 0, answers);
        Flops::forward(config, &whole, 0, answers) + Flops(once.0 * self.shares().len() as u64)
    }
}

/// The patched sequence of a prompt, and the first position at which it can change.
fn gradient_row(prompts: &PairedPrompts, prompt: usize, mode: Mode) -> (usize, usize) {
    let sequence = match mode {
        Mode::Denoising => prompts.corrupted[prompt],
        Mode::Noising => prompts.clean[prompt],
    };
    (sequence, prompts.first_difference(prompt).min(prompts.sequences[sequence].len().saturating_sub(1)))
}

/// The maps of `kinds` under every metric, estimated from gradients. `told` hears the share of the work that is done.
///
/// # Errors
/// Metrics other than the logit difference's, which have no gradient, prompts of unequal length for a map by position, a
/// site that the model lacks; those of the engine and of `told`.
pub fn attribution_maps<B: Backend, E: From<EngineError>>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    kinds: &[MapKind],
    metrics: &[Metric],
    gradients: Gradients,
    budget: usize,
    mut told: impl FnMut(f64) -> Result<(), E>,
) -> Result<(Baselines, Vec<ActivationMap>), E> {
    metrics.iter().try_for_each(|metric| check_metric(*metric))?;
    let config = engine.config();
    let length = if kinds.iter().any(|kind| kind.by_position()) { common_length(prompts)? } else { 0 };
    let sites = sites(kinds, config);
    // A stretch's gradients and tapes take about as much again as what its run captures.
    let kept = [&sites[..], &sites[..]].concat();
    let positions = [PatchPositions::All];
    let ranges = stretches(config, prompts, Kept { sites: &kept, positions: &positions }, 1, budget)?;
    let (mut baselines, mut sums) = (Vec::new(), vec![Sums::new(kinds, config, length); metrics.len()]);
    for (number, range) in ranges.iter().enumerate() {
        let paired = PairedRun::new(engine, part(prompts, range.clone()), &sites, &positions, false)?;
        for (sums, metric) in sums.iter_mut().zip(metrics) {
            Stretch { engine, paired: &paired, mode: metric.mode(), sites: &sites }.add(gradients, sums)?;
        }
        baselines.push(paired.baselines().clone());
        told((number + 1) as f64 / ranges.len() as f64)?;
    }
    let baselines = joined_baselines(baselines);
    let (clean, corrupted) = baselines.logit_differences();
    let scale = 1.0 / (prompts.clean.len() as f64 * (clean - corrupted));
    let mut maps = Vec::new();
    for (number, &kind) in kinds.iter().enumerate() {
        for (&metric, sums) in metrics.iter().zip(&sums) {
            let values = sums.maps[number].iter().map(|sum| sum * scale).collect();
            maps.push(ActivationMap { kind, metric, shape: kind.shape(config, length), values });
        }
    }
    Ok((baselines, maps))
}

/// Refuses a metric that has no gradient.
fn check_metric(metric: Metric) -> Result<(), EngineError> {
    match metric {
        Metric::LogitDiff | Metric::LogitDiffNoising => Ok(()),
        other => Err(EngineError::Mismatch {
            what: "metric of attribution patching".into(),
            expected: "logit_diff or logit_diff_noising, which is linear in the logits".into(),
            found: other.to_string(),
        }),
    }
}

/// What a run captures: every site of the maps, and the residual that gradients start from.
fn sites(kinds: &[MapKind], config: &ModelConfig) -> Vec<Site> {
    let layers = 0..config.n_layers;
    let of = |kind: &MapKind| {
        let kind = *kind;
        layers.clone().map(move |layer| kind.component().site(layer).canonical(config.n_layers))
    };
    let mut sites: Vec<Site> = kinds.iter().flat_map(of).chain([Site::ResidPre(0)]).collect();
    sites.sort_unstable();
    sites.dedup();
    sites
}

/// Sums over prompts of every map, in logits.
#[derive(Clone)]
struct Sums<'a> {
    kinds: &'a [MapKind],
    n_layers: usize,
    length: usize,
    maps: Vec<Vec<f64>>,
}

impl<'a> Sums<'a> {
    fn new(kinds: &'a [MapKind], config: &ModelConfig, length: usize) -> Self {
        let zeros = |kind: &MapKind| vec![0.0; kind.shape(config, length).iter().product()];
        Self { kinds, n_layers: config.n_layers, length, maps: kinds.iter().map(zeros).collect() }
    }

    /// The maps that `site` is part of, each with the layer that it is there.
    fn places(&self, site: Site) -> Vec<(usize, usize)> {
        let layer = |kind: &MapKind| {
            (0..self.n_layers).find(|&layer| kind.component().site(layer).canonical(self.n_layers) == site)
        };
        self.kinds.iter().enumerate().filter_map(|(map, kind)| Some((map, layer(kind)?))).collect()
    }

    /// Adds what the parts of a site contribute at one position of a prompt.
    fn add(&mut self, places: &[(usize, usize)], position: usize, parts: &[f64], weight: f64) {
        for &(map, layer) in places {
            let row = if self.kinds[map].by_position() { layer * self.length + position } else { layer };
            let sums = self.maps[map][row * parts.len()..].iter_mut();
            sums.zip(parts).for_each(|(sum, part)| *sum += weight * part);
        }
    }
}

/// A stretch of prompts, run once.
struct Stretch<'a, B: Backend> {
    engine: &'a Engine<B>,
    paired: &'a PairedRun<B>,
    mode: Mode,
    sites: &'a [Site],
}

/// Prompts whose gradients are taken in one pass.
struct Batch {
    prompts: Vec<usize>,
    /// Per prompt its patched sequence and the first computed position.
    rows: Vec<(usize, usize)>,
    layout: Layout,
}

/// How many parts a site has whose contributions are told apart.
fn n_parts(site: Site, config: &ModelConfig) -> usize {
    match site {
        Site::MlpPre(_) | Site::MlpPost(_) => config.d_mlp,
        site => site.n_heads(config).max(1),
    }
}

impl<B: Backend> Stretch<'_, B> {
    fn add(&self, gradients: Gradients, sums: &mut Sums<'_>) -> Result<(), EngineError> {
        let shares = gradients.shares();
        for batch in self.batches() {
            let tokens = batch.tokens(batch.layout.n_tokens());
            let (own, other) = self.values(Site::ResidPre(0), &batch, &tokens)?;
            let towards: Vec<f32> = other.data.iter().zip(&own.data).map(|(other, own)| other - own).collect();
            let towards = self.engine.backend().upload(&towards)?;
            for &share in &shares {
                self.add_gradient(&batch, &towards, (share, 1.0 / shares.len() as f64), sums)?;
            }
        }
        Ok(())
    }

    /// Consecutive prompts of at most the engine's tokens.
    fn batches(&self) -> Vec<Batch> {
        let prompts = self.paired.prompts();
        let mut batches: Vec<(Vec<usize>, usize)> = Vec::new();
        for prompt in 0..prompts.clean.len() {
            let (sequence, start) = gradient_row(prompts, prompt, self.mode);
            let tokens = prompts.sequences[sequence].len() - start;
            match batches.last_mut() {
                Some((list, sum)) if *sum + tokens <= self.engine.max_tokens() => {
                    list.push(prompt);
                    *sum += tokens;
                }
                _ => batches.push((vec![prompt], tokens)),
            }
        }
        let batch = |(list, _): (Vec<usize>, usize)| {
            let rows: Vec<_> = list.iter().map(|&prompt| gradient_row(prompts, prompt, self.mode)).collect();
            let layout = Layout::new(rows.iter().map(|&(sequence, start)| (start, prompts.sequences[sequence].len())));
            Batch { prompts: list, rows, layout }
        };
        batches.into_iter().map(batch).collect()
    }

    /// Adds change times gradient at every site, the gradient taken at a share of the way `towards` the other input.
    fn add_gradient(
        &self,
        batch: &Batch,
        towards: &B::Tensor,
        (share, weight): (f32, f64),
        sums: &mut Sums<'_>,
    ) -> Result<(), EngineError> {
        let (engine, columns) = (self.engine, self.paired.columns());
        let patches = batch.tokens(batch.layout.n_tokens()).into_iter().enumerate();
        let patches = patches.map(|(source, (row, position))| Patch { row, position, source, basis: 0 }).collect();
        let op = Op::Add { source: Source::Rows(towards), scale: share };
        let step = [Intervention { site: Site::ResidPre(0), part: Part::All, patches, op }];
        let interventions = if share == 0.0 { &[] } else { &step[..] };
        let resume = Resume { run: self.paired.run(), layer: 0, rows: &batch.rows };
        let (_, tape) = engine.resume_with_tape(&resume, interventions, Output::Answers(columns))?;
        let answers: Vec<_> = batch.prompts.iter().map(|&prompt| self.paired.answers()[prompt].clone()).collect();
        let d_logits = logit_difference_gradient(&answers, columns.tokens().len(), answers.len() as f64);
        let told = |site: Site, gradient: &B::Tensor| {
            let places = sums.places(site);
            let gradient = engine.backend().download(gradient)?;
            match site {
                _ if places.is_empty() => Ok(()),
                Site::Pattern(_) => self.add_pattern(site, batch, &gradient, &places, weight, sums),
                site => self.add_site(site, batch, &gradient, &places, weight, sums),
            }
        };
        engine.gradients(&resume, &tape, columns, &d_logits, self.sites, told)?;
        Ok(())
    }

    /// A site's values in the patched and in the other run, one row per (row of the batch, position).
    fn values(&self, site: Site, batch: &Batch, tokens: &[(usize, usize)]) -> Result<(Matrix, Matrix), EngineError> {
        let run = self.paired.run();
        let (mut own, mut other) = (Vec::with_capacity(tokens.len()), Vec::with_capacity(tokens.len()));
        for &(row, position) in tokens {
            let (patched, source) = self.paired.sides(batch.prompts[row], self.mode);
            own.push(run.token(patched, position)?);
            other.push(run.token(source, position)?);
        }
        Ok((self.engine.captured_rows(run, site, &own)?, self.engine.captured_rows(run, site, &other)?))
    }

    fn add_site(
        &self,
        site: Site,
        batch: &Batch,
        gradient: &[f32],
        places: &[(usize, usize)],
        weight: f64,
        sums: &mut Sums<'_>,
    ) -> Result<(), EngineError> {
        let config = self.engine.config();
        let width = site.width(config);
        let each = width / n_parts(site, config);
        let tokens = batch.tokens(gradient.len() / width);
        let (own, other) = self.values(site, batch, &tokens)?;
        for (token, &(_, position)) in tokens.iter().enumerate() {
            let change =
                other.row(token).iter().zip(own.row(token)).map(|(other, own)| f64::from(*other) - f64::from(*own));
            let products: Vec<f64> =
                change.zip(&gradient[token * width..]).map(|(change, slope)| change * f64::from(*slope)).collect();
            let parts: Vec<f64> = products.chunks(each).map(|part| part.iter().sum()).collect();
            sums.add(places, position, &parts, weight);
        }
        Ok(())
    }

    fn add_pattern(
        &self,
        site: Site,
        batch: &Batch,
        gradient: &[f32],
        places: &[(usize, usize)],
        weight: f64,
        sums: &mut Sums<'_>,
    ) -> Result<(), EngineError> {
        let (run, n_heads) = (self.paired.run(), self.engine.config().n_heads);
        let patterns = self.engine.backend().download(run.site(site)?)?;
        let last_only = gradient.len() != batch.layout.pattern_len(n_heads);
        let mut before = 0;
        for (row, &prompt) in batch.prompts.iter().enumerate() {
            let len = batch.layout.len(row);
            let queries = if last_only { len - 1..len } else { batch.layout.start(row)..len };
            let (own, other) = self.paired.sides(prompt, self.mode);
            let start = |sequence: usize| run.layout().pattern_span(sequence, 0, 0, n_heads).0;
            let (own, other) = (&patterns[start(own)..], &patterns[start(other)..]);
            for (number, query) in queries.clone().enumerate() {
                let part = |head: usize| -> f64 {
                    let here = (head * len + query) * len;
                    let slopes = &gradient[before + (head * queries.len() + number) * len..][..len];
                    let change =
                        other[here..].iter().zip(&own[here..]).map(|(other, own)| f64::from(*other) - f64::from(*own));
                    change.zip(slopes).map(|(change, slope)| change * f64::from(*slope)).sum()
                };
                let parts: Vec<f64> = (0..n_heads).map(part).collect();
                sums.add(places, query, &parts, weight);
            }
            before += n_heads * queries.len() * len;
        }
        Ok(())
    }
}

impl Batch {
    /// (row, position) of `n` rows of a tensor: of every computed token, or of each row's last one.
    fn tokens(&self, n: usize) -> Vec<(usize, usize)> {
        let first =
            |row: usize| if n == self.layout.n_tokens() { self.layout.start(row) } else { self.layout.len(row) - 1 };
        (0..self.layout.n_rows()).flat_map(|row| (first(row)..self.layout.len(row)).map(move |p| (row, p))).collect()
    }
}

/// How an estimated map compares with the exact one.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Agreement {
    /// Pearson's; none where one of the maps is constant.
    pub correlation: Option<f64>,
    /// Of a value from its exact one.
    pub largest_difference: f64,
}

impl Agreement {
    /// Compares values of the same nodes.
    pub fn of(estimate: &[f64], exact: &[f64]) -> Self {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let (mean_x, mean_y) = (mean(estimate), mean(exact));
        let (mut xx, mut yy, mut xy, mut largest) = (0.0, 0.0, 0.0, 0.0f64);
        for (x, y) in estimate.iter().zip(exact) {
            let (dx, dy) = (x - mean_x, y - mean_y);
            (xx, yy, xy) = (xx + dx * dx, yy + dy * dy, xy + dx * dy);
            largest = largest.max((x - y).abs());
        }
        let spread = (xx * yy).sqrt();
        Self { correlation: (spread > 0.0).then(|| xy / spread), largest_difference: largest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_by_hand() {
        let found = Agreement::of(&[1.0, 2.0, 3.0], &[2.0, 4.5, 6.0]);
        // Deviations -1, 0, 1 and -13/6, 1/3, 11/6: 4 / sqrt(2 * 49/6).
        let expected = 4.0 / (2.0f64 * 49.0 / 6.0).sqrt();
        assert!((found.correlation.unwrap() - expected).abs() < 1e-12 && found.largest_difference == 3.0, "{found:?}");
        assert_eq!(Agreement::of(&[1.0, 1.0], &[0.0, 2.0]).correlation, None);
    }

    #[test]
    fn steps_lie_in_the_middles_of_the_way() {
        assert_eq!(Gradients::Plain.shares(), [0.0]);
        assert_eq!(Gradients::Integrated(2).shares(), [0.25, 0.75]);
    }
}
