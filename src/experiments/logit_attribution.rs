//! Direct logit attribution: what each part of the model writes along the answers, the final norm frozen.
//!
//! With the scale of the final norm taken as it is, a prompt's logit difference is linear in the last residual, so that it
//! is the sum of what embeddings, attention and MLPs wrote there, and those of what heads and neurons did (Elhage et al.
//! 2021, *A mathematical framework for transformer circuits*; `ActivationCache` in TransformerLens). The logit lens reads
//! the residual stream half way (nostalgebraist 2020), here through the same frozen norm.

use super::activation_maps::common_length;
use super::chunks::{Kept, part, part_of_pairs, stretches};
use crate::backend::Backend;
use crate::choice::choices;
use crate::engine::{Engine, EngineError, FrozenNorm, PairedRun, Pairs, Site};
use crate::model::ModelConfig;
use crate::types::{Matrix, PairedPrompts};

choices! {
    /// What is attributed.
    pub enum LogitMap {
        /// The residual stream in front of and inside every block and at the end, at the last position.
        Lens = "lens",
        /// The same at every position, each with its own scale of the norm, in front of every block and at the end.
        LensByPosition = "lens_by_position",
        /// Embeddings, every block's attention and MLP, and the biases: they add up to the logit difference.
        Layers = "layers",
        /// Every head, without the bias that a block's heads share.
        Heads = "heads",
        /// The same at every position, each with its own scale of the norm.
        HeadsByPosition = "heads_by_position",
        /// Every neuron of every MLP, without the MLP's last bias.
        Neurons = "neurons",
    }
}

impl LogitMap {
    /// Does it need prompts of one length?
    pub fn by_position(self) -> bool {
        matches!(self, LogitMap::LensByPosition | LogitMap::HeadsByPosition)
    }

    /// The names of its axes, outermost first.
    pub fn axes(self) -> Vec<&'static str> {
        match self {
            LogitMap::Lens | LogitMap::Layers => vec!["component"],
            LogitMap::LensByPosition => vec!["layer", "position"],
            LogitMap::Heads => vec!["layer", "head"],
            LogitMap::HeadsByPosition => vec!["layer", "head", "position"],
            LogitMap::Neurons => vec!["layer", "neuron"],
        }
    }

    /// Their lengths on prompts of `length` tokens.
    pub fn shape(self, config: &ModelConfig, length: usize) -> Vec<usize> {
        let layers = config.n_layers;
        match self {
            LogitMap::Lens | LogitMap::Layers => vec![self.components(config).len()],
            LogitMap::LensByPosition => vec![layers + 1, length],
            LogitMap::Heads => vec![layers, config.n_heads],
            LogitMap::HeadsByPosition => vec![layers, config.n_heads, length],
            LogitMap::Neurons => vec![layers, config.d_mlp],
        }
    }

    /// TransformerLens' names of the parts that a map without heads and neurons is made of.
    pub fn components(self, config: &ModelConfig) -> Vec<String> {
        match self {
            LogitMap::Lens => lens_sites(config).into_iter().map(|(name, _)| name).collect(),
            LogitMap::Layers => {
                layer_sites(config).into_iter().map(|(name, _)| name).chain(["bias".to_owned()]).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Sites of all parts, in their order.
    fn sites(self, config: &ModelConfig) -> Vec<Site> {
        let each = |site: fn(usize) -> Site| (0..config.n_layers).map(site).collect();
        match self {
            LogitMap::Lens => lens_sites(config).into_iter().map(|(_, site)| site).collect(),
            LogitMap::LensByPosition => {
                (0..=config.n_layers).map(|layer| Site::resid(layer, config.n_layers)).collect()
            }
            LogitMap::Layers => layer_sites(config).into_iter().map(|(_, site)| site).collect(),
            LogitMap::Heads | LogitMap::HeadsByPosition => each(Site::Z),
            LogitMap::Neurons => each(Site::MlpPost),
        }
    }
}

fn lens_sites(config: &ModelConfig) -> Vec<(String, Site)> {
    let mut sites = Vec::new();
    for layer in 0..config.n_layers {
        sites.push((format!("{layer}_pre"), Site::ResidPre(layer)));
        if !config.parallel_residual {
            sites.push((format!("{layer}_mid"), Site::ResidMid(layer)));
        }
    }
    sites.push(("final_post".into(), Site::resid(config.n_layers, config.n_layers)));
    sites
}

fn layer_sites(config: &ModelConfig) -> Vec<(String, Site)> {
    let mut sites = vec![("embed".into(), Site::Embed)];
    if Site::PosEmbed.check(config).is_ok() {
        sites.push(("pos_embed".into(), Site::PosEmbed));
    }
    for layer in 0..config.n_layers {
        sites.push((format!("{layer}_attn_out"), Site::AttnOut(layer)));
        sites.push((format!("{layer}_mlp_out"), Site::MlpOut(layer)));
    }
    sites
}

choices! {
    /// Of which run.
    pub enum Attributed {
        /// The clean prompts.
        Clean = "clean",
        /// The corrupted prompts, with the clean ones' answers.
        Corrupted = "corrupted",
        /// Clean less corrupted, each with its own scale of the norm.
        Difference = "difference",
    }
}

impl Attributed {
    /// Runs and their signs.
    fn runs(self) -> &'static [(bool, f64)] {
        match self {
            Attributed::Clean => &[(true, 1.0)],
            Attributed::Corrupted => &[(false, 1.0)],
            Attributed::Difference => &[(true, 1.0), (false, -1.0)],
        }
    }
}

/// A finished map: means over the prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribution {
    /// What was attributed.
    pub map: LogitMap,
    /// Length of every axis.
    pub shape: Vec<usize>,
    /// Logits, row-major.
    pub values: Vec<f64>,
}

/// Mean attribution of the logit difference at the last position, for every map.
///
/// # Errors
/// Those of the engine, prompts of unequal length for maps by position.
pub fn logit_attribution<'p, B: Backend>(
    engine: &Engine<B>,
    pairs: impl Into<Pairs<'p>>,
    maps: &[LogitMap],
    of: Attributed,
    budget: usize,
) -> Result<Vec<Attribution>, EngineError> {
    attribution(engine, &pairs.into(), maps, (of, None), budget)
}

/// The same of what is written along a direction, `d_model` values, which is turned round in negative prompts: where a
/// direction of sentiment has its values from.
///
/// # Errors
/// As [`logit_attribution`], and a direction of another width.
pub fn direction_attribution<'p, B: Backend>(
    engine: &Engine<B>,
    pairs: impl Into<Pairs<'p>>,
    maps: &[LogitMap],
    of: Attributed,
    direction: &[f32],
    budget: usize,
) -> Result<Vec<Attribution>, EngineError> {
    engine.check_width(direction.len())?;
    attribution(engine, &pairs.into(), maps, (of, Some(direction)), budget)
}

fn attribution<B: Backend>(
    engine: &Engine<B>,
    pairs: &Pairs<'_>,
    maps: &[LogitMap],
    (of, along): (Attributed, Option<&[f32]>),
    budget: usize,
) -> Result<Vec<Attribution>, EngineError> {
    let (config, prompts) = (engine.config(), &pairs.prompts);
    let length = if maps.iter().any(|map| map.by_position()) { common_length(prompts)? } else { 0 };
    let mut sites: Vec<Site> = maps.iter().flat_map(|map| map.sites(config)).collect();
    sites.push(Site::resid(config.n_layers, config.n_layers));
    sites.sort_unstable();
    sites.dedup();
    let mut found: Vec<Attribution> = maps
        .iter()
        .map(|&map| {
            let shape = map.shape(config, length);
            Attribution { map, values: vec![0.0; shape.iter().product()], shape }
        })
        .collect();
    let norm = engine.frozen_norm()?;
    for range in stretches(config, pairs, Kept { sites: &sites, positions: &[] }, 1, budget)? {
        let paired = PairedRun::new(engine, part_of_pairs(pairs, range), &sites, &[], false)?;
        for &(clean, sign) in of.runs() {
            let reader = Reader::new(engine, &paired, &norm, (clean, along))?;
            for attribution in &mut found {
                reader.add(attribution, sign / prompts.clean.len() as f64)?;
            }
        }
    }
    Ok(found)
}

/// What every head writes along the answers in every clean prompt, `(prompts, n_layers, n_heads)`, in logits.
///
/// # Errors
/// Those of the engine.
pub fn head_contributions<B: Backend>(
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    budget: usize,
) -> Result<Vec<f64>, EngineError> {
    let config = engine.config();
    let heads = LogitMap::Heads.sites(config);
    let sites = [&heads[..], &[Site::resid(config.n_layers, config.n_layers)]].concat();
    let norm = engine.frozen_norm()?;
    let mut all = Vec::new();
    for range in stretches(config, prompts, Kept { sites: &sites, positions: &[] }, 1, budget)? {
        let paired = PairedRun::new(engine, part(prompts, range), &sites, &[], false)?;
        all.extend(Reader::new(engine, &paired, &norm, (true, None))?.parts(&heads, config.d_head, None)?);
    }
    Ok(all)
}

/// One run of a stretch of prompts, and the directions that it is read along.
struct Reader<'a, B: Backend> {
    engine: &'a Engine<B>,
    paired: &'a PairedRun<B>,
    norm: &'a FrozenNorm,
    /// Sequence of every prompt.
    sequences: &'a [usize],
    /// Per prompt, the mean over its pairs of `W_U[correct] - W_U[incorrect]`, or a direction of residuals.
    along: Vec<Vec<f64>>,
    /// Per prompt, what the biases add.
    constants: Vec<f64>,
}

impl<'a, B: Backend> Reader<'a, B> {
    fn new(
        engine: &'a Engine<B>,
        paired: &'a PairedRun<B>,
        norm: &'a FrozenNorm,
        (clean, along): (bool, Option<&[f32]>),
    ) -> Result<Self, EngineError> {
        let (along, constants): (Vec<Vec<f64>>, Vec<f64>) = match along {
            None => answers(engine, paired)?.into_iter().unzip(),
            Some(direction) => {
                let turned = |positive: &bool| {
                    let sign = if *positive { 1.0 } else { -1.0 };
                    (direction.iter().map(|value| sign * f64::from(*value)).collect(), 0.0)
                };
                paired.prompts().positive.iter().map(turned).unzip()
            }
        };
        let constants = constants.into_iter().zip(&along).map(|(own, along)| own + norm.constant(along)).collect();
        let prompts = paired.prompts();
        let sequences = if clean { &prompts.clean } else { &prompts.corrupted };
        Ok(Self { engine, paired, norm, sequences, along, constants })
    }

    /// Every prompt's token at `position`, its last one without.
    fn tokens(&self, position: Option<usize>) -> Result<Vec<usize>, EngineError> {
        let run = self.paired.run();
        let token = |&sequence: &usize| run.token(sequence, position.unwrap_or(run.layout().len(sequence) - 1));
        self.sequences.iter().map(token).collect()
    }

    /// The directions through the norm that is frozen at every prompt's token.
    fn directions(&self, tokens: &[usize]) -> Result<Vec<Vec<f64>>, EngineError> {
        let n_layers = self.engine.config().n_layers;
        let last = self.engine.captured_rows(self.paired.run(), Site::resid(n_layers, n_layers), tokens)?;
        let direction = |(prompt, along): (usize, &Vec<f64>)| self.norm.direction(last.row(prompt), along);
        Ok(self.along.iter().enumerate().map(direction).collect())
    }

    /// Adds the sum over the prompts, times `weight`.
    fn add(&self, attribution: &mut Attribution, weight: f64) -> Result<(), EngineError> {
        let sites = attribution.map.sites(self.engine.config());
        let values = &mut attribution.values;
        match attribution.map {
            LogitMap::Lens | LogitMap::Layers => {
                let sums = self.read(&sites, None)?;
                values.iter_mut().zip(sums).for_each(|(value, sum)| *value += weight * sum);
                if let (LogitMap::Layers, Some(bias)) = (attribution.map, values.last_mut()) {
                    *bias += weight * self.constants.iter().sum::<f64>();
                }
            }
            LogitMap::LensByPosition => {
                let length = attribution.shape[1];
                for position in 0..length {
                    for (layer, sum) in self.read(&sites, Some(position))?.into_iter().enumerate() {
                        values[layer * length + position] += weight * sum;
                    }
                }
            }
            LogitMap::HeadsByPosition => {
                let length = attribution.shape[2];
                for position in 0..length {
                    let mut here = vec![0.0; values.len() / length];
                    self.add_parts(&sites, self.engine.config().d_head, &mut here, (weight, Some(position)))?;
                    values.iter_mut().skip(position).step_by(length).zip(here).for_each(|(value, part)| *value += part);
                }
            }
            LogitMap::Heads => self.add_parts(&sites, self.engine.config().d_head, values, (weight, None))?,
            LogitMap::Neurons => self.add_parts(&sites, 1, values, (weight, None))?,
        }
        Ok(())
    }

    /// Per site, which is `d_model` wide, the sum over the prompts of what it holds along the answers.
    fn read(&self, sites: &[Site], position: Option<usize>) -> Result<Vec<f64>, EngineError> {
        let tokens = self.tokens(position)?;
        let directions = self.directions(&tokens)?;
        let along = |site: &Site| {
            let rows = self.engine.captured_rows(self.paired.run(), *site, &tokens)?;
            let dot = |(prompt, direction): (usize, &Vec<f64>)| {
                rows.row(prompt).iter().zip(direction).map(|(x, d)| f64::from(*x) * d).sum::<f64>()
            };
            Ok(directions.iter().enumerate().map(dot).sum())
        };
        sites.iter().map(along).collect()
    }

    /// Adds the sum over the prompts of [`Reader::parts`] at a position, times `weight`.
    fn add_parts(
        &self,
        sites: &[Site],
        width: usize,
        values: &mut [f64],
        (weight, position): (f64, Option<usize>),
    ) -> Result<(), EngineError> {
        let parts = self.parts(sites, width, position)?;
        for prompt in parts.chunks(values.len().max(1)) {
            values.iter_mut().zip(prompt).for_each(|(value, part)| *value += weight * part);
        }
        Ok(())
    }

    /// What parts of `width` values each write along the directions: per prompt, one site after the other.
    fn parts(&self, sites: &[Site], width: usize, position: Option<usize>) -> Result<Vec<f64>, EngineError> {
        let tokens = self.tokens(position)?;
        let directions = self.directions(&tokens)?;
        let flat: Vec<f32> = directions.iter().flatten().map(|value| *value as f32).collect();
        let directions = Matrix::new(directions.len(), self.engine.config().d_model, flat);
        let mut prompts: Vec<Vec<f64>> = vec![Vec::new(); tokens.len()];
        for &site in sites {
            let along = self.engine.written_along(site, &directions)?;
            let rows = self.engine.captured_rows(self.paired.run(), site, &tokens)?;
            for (number, parts) in prompts.iter_mut().enumerate() {
                let pairs = rows.row(number).chunks(width).zip(along.row(number).chunks(width));
                parts.extend(pairs.map(|(x, unit)| {
                    x.iter().zip(unit).map(|(x, unit)| f64::from(*x) * f64::from(*unit)).sum::<f64>()
                }));
            }
        }
        Ok(prompts.concat())
    }
}

/// Per prompt, the mean over its pairs of `W_U[correct] - W_U[incorrect]`, and of the biases' difference.
fn answers<B: Backend>(engine: &Engine<B>, paired: &PairedRun<B>) -> Result<Vec<(Vec<f64>, f64)>, EngineError> {
    let (columns, bias) = engine.model().unembed_columns(paired.columns().tokens())?;
    let mean = |pairs: &Vec<(usize, usize)>| {
        let mut direction = vec![0.0; columns.cols];
        let mut constant = 0.0;
        let share = 1.0 / pairs.len() as f64;
        for &(correct, incorrect) in pairs {
            let (up, down) = (columns.row(correct), columns.row(incorrect));
            direction.iter_mut().zip(up.iter().zip(down)).for_each(|(d, (up, down))| {
                *d += share * (f64::from(*up) - f64::from(*down));
            });
            constant += share * (f64::from(bias[correct]) - f64::from(bias[incorrect]));
        }
        (direction, constant)
    };
    Ok(paired.answers().iter().map(mean).collect())
}
