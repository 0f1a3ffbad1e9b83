//! Texts that a model writes while a direction is added to its residual stream.

mod coefficients;
mod outcome;
mod written;

pub use coefficients::Coefficients;
pub use outcome::{SteeredDirection, Texts};

use super::{hash_of_direction, with_bos};
use crate::directions::DirectionName;
use crate::engine::{Flops, Layout, Site};
use crate::experiments::sampling::Sampling;
use crate::experiments::steering as experiment;
use crate::report::{Manifest, SteeredText, Table};
use crate::session::{Fault, Mend, Observer, Provenance, Session, distinct, layers, wrong};
use crate::studies::fields::{list, not_empty, not_endless, texts};
use crate::studies::{Notes, Plan, Study, bytes};
use crate::types::Matrix;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use written::Job;

/// Writes texts while a direction is added: direction x prompt x coefficient x sample.
///
/// A coefficient times the direction, of unit length, is added at every position of the prompt and of every token that
/// is written. Texts depend on their own settings and the seed alone: a grid can grow, and be computed in any order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Steering {
    /// Directions: das_simple_train_ADJ_layer1 at its own layer unless layers or sites say where, das_simple_train_ADJ
    /// is every layer's own.
    #[serde(deserialize_with = "list")]
    pub directions: Vec<String>,
    /// Layers in front of which the directions are added together (the number of layers stands for the end).
    #[serde(deserialize_with = "list")]
    pub layers: Vec<String>,
    /// Hook names of the sites at which the directions are added together, such as blocks.0.hook_mlp_out.
    #[serde(deserialize_with = "list")]
    pub sites: Vec<Site>,
    /// What directions are multiplied by: numbers, and ranges with both ends, -20..0 in steps of 1, -20..0:5 in steps
    /// of 5.
    #[serde(deserialize_with = "list")]
    pub coefficients: Vec<Coefficients>,
    /// Texts to continue.
    #[serde(deserialize_with = "texts")]
    pub prompt: Vec<String>,
    /// Texts of every prompt and coefficient; without it 20, or the one that there is at temperature 0.
    pub samples: Option<u32>,
    /// Most tokens of a text; one that ends a text ends it earlier. At least 1.
    pub max_new_tokens: u32,
    /// What logits are divided by before a token is drawn: 0 or more; 0 for the likeliest token.
    pub temperature: f64,
    /// Draw from this many of the likeliest tokens; 0 for all.
    pub top_k: usize,
}

/// The coefficients of texts without any of their own.
pub const COEFFICIENTS: &str = "-20..0";

/// The prompt of the paper's code.
pub(super) const PROMPT: &str = "I really enjoyed the movie, in fact I loved it. I thought the movie was just very";

impl Default for Steering {
    fn default() -> Self {
        Self {
            directions: Vec::new(),
            layers: Vec::new(),
            sites: Vec::new(),
            coefficients: COEFFICIENTS.parse().into_iter().collect(),
            prompt: vec![PROMPT.into()],
            samples: None,
            max_new_tokens: 30,
            temperature: 1.0,
            top_k: 10,
        }
    }
}

/// Norms sum the squares of what is steered in 32 bits, which end at 3.4e38.
const LARGEST_COEFFICIENT: f32 = 1e15;

/// Texts of every prompt and coefficient.
const SAMPLES: u32 = 20;

/// Does a direction's name have its layer?
fn is_single(name: &str) -> bool {
    name.parse::<DirectionName>().is_ok()
}

/// The prompts as the model sees them.
struct Prompts {
    texts: Vec<String>,
    /// Token ids of every text.
    sequences: Vec<Vec<u32>>,
}

impl Steering {
    fn sampling(&self, session: &Session) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            max_new_tokens: self.max_new_tokens as usize,
            seed: session.seed(),
        }
    }

    fn samples(&self) -> u32 {
        self.samples.unwrap_or(if self.temperature == 0.0 { 1 } else { SAMPLES })
    }

    /// Stored directions by layer, of unit length: the one of this name, or all whose name is this one and a layer.
    fn stored(&self, session: &Session, name: &str) -> Result<BTreeMap<usize, Vec<f32>>> {
        let own = name.parse::<DirectionName>().ok().map(|single| [single.layer()]);
        let columns = session.by_layer("directions", name, own.as_ref().map(|own| &own[..]))?;
        let direction = |(layer, columns): (usize, Arc<Matrix>)| match columns.cols {
            1 => Ok((layer, columns.data.clone())),
            found => wrong!("directions", "{name}: expected a direction, found a subspace of {found} dimensions"),
        };
        columns.into_iter().map(direction).collect()
    }

    /// Where a direction is added, and what.
    fn steered(&self, session: &Session, name: &str) -> Result<Vec<(Site, Vec<f32>)>> {
        let (single, n_layers) = (is_single(name), session.config().n_layers);
        if !single && !self.sites.is_empty() {
            wrong!("sites", "expected a direction with its layer, such as {name}_layer1, found {name}");
        }
        let stored = self.stored(session, name)?;
        let at_layer = |layer: usize| {
            let direction = if single { stored.values().next() } else { stored.get(&layer) };
            let missing = || {
                let fit = Mend::Study("fit-directions", vec![("layers", layer.to_string())]);
                Fault::of("layers", format!("{name} has no layer {layer}")).mended_by(fit)
            };
            Ok((Site::resid(layer, n_layers), direction.ok_or_else(missing)?.clone()))
        };
        let steered = match (self.layers.is_empty(), stored.values().next()) {
            (true, Some(direction)) if !self.sites.is_empty() => {
                self.sites.iter().map(|site| (*site, direction.clone())).collect()
            }
            (true, _) => stored.iter().map(|(layer, own)| (Site::resid(*layer, n_layers), own.clone())).collect(),
            (false, _) => {
                layers("layers", &self.layers, n_layers)?.into_iter().map(at_layer).collect::<Result<Vec<_>>>()?
            }
        };
        let sampling = self.sampling(session);
        let checked = experiment::Steering { prompts: &[], steered: &steered, ends: &[], sampling };
        checked.check(session.config()).with_context(|| name.to_owned())?;
        Ok(steered)
    }

    /// The prompts as the model sees them.
    fn prompts(&self, session: &Session) -> Result<Prompts> {
        let (texts, model) = (distinct(&self.prompt), session.model());
        let (n_ctx, most) = (model.config.n_ctx, self.max_new_tokens as usize);
        let encode = |text: &String| -> Result<Vec<u32>> {
            let tokens = with_bos("prompt", model, text)?;
            match tokens.len() {
                length if length + most > n_ctx => {
                    let found = format!("{text:?} has {length} tokens and {most} more may be written");
                    let fault = Fault::of("prompt", format!("{found}; {} takes at most {n_ctx}", model.name));
                    Err(fault.mended_by(Mend::Another("max_new_tokens")).into())
                }
                _ => Ok(tokens),
            }
        };
        let sequences = texts.iter().map(encode).collect::<Result<Vec<_>>>()?;
        Ok(Prompts { texts, sequences })
    }

    /// What the texts of a prompt and a direction are made of.
    fn made_of(&self, session: &Session, steered: &[(Site, Vec<f32>)], prompt: &[u32]) -> Result<Provenance> {
        let mut provenance = session
            .provenance(Self::NAME)?
            .with("prompt", prompt)?
            .with("ends", session.model().tokenizer.ends())?
            .with("temperature", self.temperature)?
            .with("top_k", self.top_k)?
            .with("max_new_tokens", self.max_new_tokens)?
            .with("seed", session.seed())?;
        for (site, direction) in steered {
            provenance = provenance.with(format!("direction at {site}"), hash_of_direction(direction))?;
        }
        Ok(provenance)
    }

    /// All texts of a direction and a prompt, still to be written.
    fn grid(
        &self,
        direction: &str,
        sites: &[String],
        prompt: &str,
        (seed, provenance): (u64, &str),
    ) -> Vec<SteeredText> {
        let coefficients: Vec<f32> = self.coefficients.iter().flat_map(Coefficients::values).collect();
        let text = |coefficient: f32, sample: u32| SteeredText {
            direction: direction.into(),
            sites: sites.to_vec(),
            prompt: prompt.into(),
            temperature: self.temperature,
            top_k: self.top_k,
            max_new_tokens: self.max_new_tokens as usize,
            seed,
            coefficient,
            sample,
            text: String::new(),
            tokens: Vec::new(),
            log_probabilities: Vec::new(),
            log_probability: 0.0,
            ended: false,
            provenance: provenance.into(),
        };
        let of_coefficient = |coefficient| (0..self.samples()).map(move |sample| (coefficient, sample));
        let all = distinct(&coefficients).into_iter().flat_map(of_coefficient);
        all.map(|(coefficient, sample)| text(coefficient, sample)).collect()
    }

    /// The directions with their texts, those that are there among them.
    fn jobs(&self, session: &Session, prompts: &Prompts, observer: &mut dyn Observer) -> Result<Vec<Job>> {
        let directions = session.named("directions", &self.directions)?;
        directions.iter().map(|direction| Job::new(self, session, direction, prompts, observer)).collect()
    }
}

impl Study for Steering {
    const NAME: &'static str = "steering";
    type Outcome = Texts;

    fn validate(&self) -> Result<()> {
        if self.directions.is_empty() {
            wrong!("directions", "expected names of directions, found none");
        }
        if !self.layers.is_empty() && !self.sites.is_empty() {
            wrong!("sites", "expected sites or layers, found both");
        }
        not_empty(&[("coefficients", self.coefficients.len())])?;
        not_endless("samples", self.samples.unwrap_or_default())?;
        let usable = |value: &f32| value.abs() <= LARGEST_COEFFICIENT;
        if let Some(other) = self.coefficients.iter().flat_map(Coefficients::values).find(|value| !usable(value)) {
            wrong!("coefficients", "expected -{LARGEST_COEFFICIENT:e} to {LARGEST_COEFFICIENT:e}, found {other:e}");
        }
        if self.prompt.is_empty() {
            wrong!("prompt", "expected a text, found none");
        }
        if self.max_new_tokens == 0 {
            wrong!("max_new_tokens", "expected at least 1, found 0");
        }
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            wrong!("temperature", "expected a number of at least 0, found {}", self.temperature);
        }
        match self.samples {
            Some(0) => wrong!("samples", "expected at least 1, found 0"),
            Some(samples) if self.temperature == 0.0 && samples > 1 => {
                wrong!("samples", "expected 1 at temperature 0, which has no chance in it, found {samples}")
            }
            _ => Ok(()),
        }
    }

    /// Every text of its full length, the prompt once for all of a coefficient.
    fn plan(&self, session: &Session) -> Result<Plan> {
        self.validate()?;
        let (mut notes, config) = (Notes::default(), session.config());
        let prompts = self.prompts(session)?;
        let mut table = Table::new(["direction", "sites", "texts", "tokens at most", "arithmetic", "without a cache"]);
        let most = self.max_new_tokens as usize;
        let (mut longest, mut total) = (0, Flops::default());
        for job in self.jobs(session, &prompts, &mut notes)? {
            let (missing, (done, naive)) = (job.missing().count(), self.arithmetic(session, &job, &prompts));
            (longest, total) = (longest.max(missing * most), total + done);
            let cost = [missing.to_string(), (missing * most).to_string(), done.to_string(), naive.to_string()];
            table.push([job.direction.clone(), job.sites().join(" ")].into_iter().chain(cost));
        }
        if longest == 0 {
            return Ok(Plan::nothing(session).with(notes));
        }
        let kept = longest.min(session.batch_tokens()) * 2 * config.n_layers * config.d_kv();
        let memory = session.planned_memory(kept + config.d_vocab * config.d_model);
        let parts = format!("about {} of memory, {} of it keys and values", bytes(memory), bytes(4 * kept));
        let text = format!("{}\n{table}{parts}\n", session.model().name);
        Ok(Plan::of(text).costing(total, Some(memory)).with(notes))
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Texts> {
        self.validate()?;
        let prompts = self.prompts(session)?;
        let mut jobs = self.jobs(session, &prompts, observer)?;
        let mut manifest = None;
        if jobs.iter().any(|job| job.missing().next().is_some()) {
            let mut started = session.manifest(Self::NAME, self)?;
            let sampling = self.sampling(session);
            let work = written::Work { session, sampling, prompts: &prompts, jobs: &mut jobs, manifest: &mut started };
            session.compute(observer, work)?;
            manifest = Some(started);
        }
        let pages = jobs.iter().map(|job| job.write_page(session)).collect::<Result<Vec<_>>>()?;
        if let Some(started) = &mut manifest {
            pages.iter().flatten().for_each(|page| started.wrote(page, []));
        }
        let manifest = manifest.map(Manifest::finish).transpose()?;
        let directions = jobs.into_iter().map(Job::outcome).collect();
        Ok(Texts { model: session.model().name.clone(), directions, manifest })
    }
}

impl Steering {
    /// The arithmetic of a job's missing texts, and what it would be if every token read the whole text again.
    fn arithmetic(&self, session: &Session, job: &Job, prompts: &Prompts) -> (Flops, Flops) {
        let (config, most) = (session.config(), self.max_new_tokens as usize);
        let (mut done, mut naive) = (Flops::default(), Flops::default());
        let mut last = None;
        for text in job.missing() {
            let wanted = prompts.wanted(text);
            let prompt = prompts.sequences[wanted.prompt].len();
            let key = (wanted.prompt, wanted.coefficient.to_bits());
            if last.replace(key) != Some(key) {
                done = done + Flops::forward(config, &Layout::new([(0, prompt)]), 0, config.d_vocab);
            }
            for length in prompt..prompt + most {
                naive = naive + Flops::whole(config, &Layout::new([(0, length)]));
                if length > prompt {
                    done = done + Flops::forward(config, &Layout::new([(length - 1, length)]), 0, config.d_vocab);
                }
            }
        }
        (done, naive)
    }
}

impl Prompts {
    /// A text as it is asked for of the model.
    fn wanted(&self, text: &SteeredText) -> experiment::Wanted {
        let prompt = self.texts.iter().position(|prompt| *prompt == text.prompt).unwrap_or(0);
        experiment::Wanted { prompt, coefficient: text.coefficient, sample: text.sample }
    }
}
