//! Options that put ablated twins of the clean prompts in the place of the corrupted ones.

use super::ablation::in_residual;
use super::common::{RunArgs, layers_for};
use super::maps::{MapArgs, check_defined};
use super::places::resolve_places;
use super::stored_directions::{ByLayer, by_layer};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Baselines, Engine, Metric, Pairs};
use crate::experiments::ablation::{Condition, NEGLIGIBLE, Replacement};
use crate::files::sha256;
use crate::model::Model;
use anyhow::{Context, Result, bail};
use serde::Serialize;

/// Arguments of an ablation that the clean run is compared with.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct TwinArgs {
    /// Take the clean prompts' own run without this direction in the place of the corrupted one: what carries the effect of
    /// its ablation? Named as in ablation: das_simple_train_ADJ is every layer's own in front of its block,
    /// das_simple_train_ADJ_layer2 the same one everywhere.
    #[arg(long, value_name = "DIRECTION")]
    pub ablate: Option<String>,
    /// Layers at which it is ablated (the number of layers stands for the end); all that are there without it.
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', requires = "ablate")]
    pub ablate_layers: Vec<String>,
    /// What takes its place: zero, mean (over the prompts, at each position), mean_over_places (one mean),
    /// mean_of_other_class.
    #[arg(long, value_name = "METHOD", default_value = "zero", requires = "ablate")]
    pub ablate_method: Replacement,
    /// Positions at which it is ablated: as in ablation.
    #[arg(long, value_name = "POSITIONS", default_value = "ALL", requires = "ablate")]
    pub ablate_positions: String,
}

impl TwinArgs {
    /// The ablation, if there is one.
    ///
    /// # Errors
    /// A direction, layer or position that is not there.
    pub fn condition(&self, shared: &MapArgs, model: &Model, prompts: &PairedPrompts) -> Result<Option<Condition>> {
        let Some(name) = &self.ablate else { return Ok(None) };
        let n_layers = model.config.n_layers;
        let layers = layers_for("--ablate-layers", &self.ablate_layers, n_layers)?;
        let layers = (!layers.is_empty()).then_some(&layers[..]);
        let columns: ByLayer = by_layer("--ablate", (&shared.run, &shared.compat), model, (name, layers))?;
        Ok(Some(Condition {
            ablated: in_residual(&columns, n_layers),
            replacement: self.ablate_method,
            places: resolve_places("--ablate-positions", prompts, &model.tokenizer, &self.ablate_positions)?,
            kept: None,
            frozen_attention: false,
        }))
    }

    /// What is compared, for a plan: the clean prompts with their twins, or without an ablation with the corrupted ones.
    ///
    /// # Errors
    /// Those of [`TwinArgs::condition`]; a method that twins cannot have; an ablation that reaches no logits.
    pub fn planned<'a>(&self, shared: &MapArgs, model: &Model, prompts: &'a PairedPrompts) -> Result<Pairs<'a>> {
        let Some(condition) = self.condition(shared, model, prompts)? else { return Ok(prompts.into()) };
        let pairs = condition.planned_twins(&model.config, prompts).context("--ablate-method")?;
        let RunArgs { seed, batch_tokens, .. } = shared.run;
        condition.plan_that_fires(&model.config, prompts, seed, batch_tokens as usize).context("--ablate")?;
        Ok(pairs)
    }

    /// What is compared.
    ///
    /// # Errors
    /// Those of [`TwinArgs::planned`] and of the engine.
    pub fn pairs<'a, B: Backend>(
        &self,
        shared: &MapArgs,
        engine: &Engine<B>,
        prompts: &'a PairedPrompts,
    ) -> Result<Pairs<'a>> {
        match self.condition(shared, engine.model(), prompts)? {
            None => Ok(prompts.into()),
            Some(condition) => Ok(condition.twins(engine, prompts, engine.memory_budget())?),
        }
    }

    /// What a value that is computed with the ablation depends on, as one hash.
    ///
    /// # Errors
    /// Those of [`TwinArgs::condition`].
    pub fn fingerprint(&self, shared: &MapArgs, model: &Model, prompts: &PairedPrompts) -> Result<Option<String>> {
        let Some(Condition { ablated, replacement, places, .. }) = self.condition(shared, model, prompts)? else {
            return Ok(None);
        };
        let ablated = ablated.iter().map(|ablated| {
            let columns = ablated.subspace.as_ref().map(|columns| (columns.cols, &columns.data));
            (ablated.site.to_string(), columns)
        });
        let length = |prompt: usize| prompts.sequences[prompts.clean[prompt]].len();
        let places = (0..prompts.clean.len()).map(|prompt| places.of(prompt, length(prompt)));
        let all = (ablated.collect::<Vec<_>>(), replacement, places.collect::<Vec<_>>());
        Ok(Some(sha256(&serde_json::to_vec(&all)?)))
    }

    /// The ablation in the names of files: nothing without one.
    pub fn ending(&self) -> String {
        let Some(name) = &self.ablate else { return String::new() };
        let layers = match &self.ablate_layers[..] {
            [] => String::new(),
            layers => format!("_at_{}", layers.join("-")),
        };
        format!("_ablated_{name}{layers}_{}_{}", self.ablate_method, self.ablate_positions)
    }

    /// The ablation in titles.
    pub fn title(&self) -> String {
        self.ablate.as_ref().map_or(String::new(), |name| format!(", {name} ablated"))
    }

    /// Refuses metrics that have no ends to be a share between: runs that do not differ in them, or an ablation that changes
    /// nothing.
    ///
    /// # Errors
    /// The dataset, the metric and the ablation.
    pub fn check_defined(&self, baselines: &Baselines, metrics: &[Metric], set: &str) -> Result<()> {
        let Some(name) = &self.ablate else { return check_defined(baselines, metrics.iter().copied(), set) };
        match metrics.iter().find(|metric| !baselines.apart(**metric, NEGLIGIBLE)) {
            Some(metric) => {
                bail!("{set}: {metric} is undefined: --ablate {name} changes it by less than {NEGLIGIBLE} of its size")
            }
            None => Ok(()),
        }
    }
}
