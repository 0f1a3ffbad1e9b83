//! `ablation-maps`.

use super::choice::choice;
use super::common::{RunArgs, bar, distinct};
use super::maps::{MadeMaps, MapArgs, MapCommand, Named};
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops};
use crate::experiments::ablation::{Condition, Effect, Replacement, ablation, map_conditions};
use crate::experiments::activation_maps::{MapKind, common_length};
use crate::model::{Model, ModelConfig};
use crate::report::{ResultMap, Table};
use anyhow::{Context, Result};
use serde::Serialize;

/// Arguments of `ablation-maps`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch ablation-maps --models gpt2-small --maps z,attn_out,mlp_out --methods zero,mean
  actpatch ablation-maps --maps z_by_position --methods resample --measures logit_diff,accuracy

Every value is one ablation of the clean run. logit_diff: change of the mean logit difference in percent of what it was.
accuracy: change of the share of prompts with a positive logit difference, in points of percent.
Files in DATA_DIR/<model>/: ablation_<method>_<measure>_<dataset>_<scaffold>_<map>.npy and .csv, and .svg, .png and .html.")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Maps, as in activation-patching-maps: z, q, k, v, pattern, pre, post (also with _by_position), resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out.
    #[arg(long, value_delimiter = ',', default_value = "z")]
    pub maps: Vec<MapKind>,
    /// What takes an activation's place: zero, mean (over the prompts, at each position), mean_over_places,
    /// mean_of_other_class, resample (another clean prompt), corrupted (the prompt's own corrupted one).
    #[arg(long, value_delimiter = ',', default_value = "mean")]
    pub methods: Vec<Replacement>,
    /// What is compared with the clean run.
    #[arg(long, value_delimiter = ',', value_parser = choice::<Measure>(), default_value = "logit_diff")]
    pub measures: Vec<Measure>,
}

choices! {
    /// What an ablation changes.
    pub enum Measure {
        /// The mean logit difference.
        LogitDiff = "logit_diff",
        /// The share of prompts with a positive logit difference.
        Accuracy = "accuracy",
    }
}

impl Measure {
    fn label(self) -> &'static str {
        match self {
            Measure::LogitDiff => "change of the logit difference (%)",
            Measure::Accuracy => "change of the accuracy (points)",
        }
    }

    /// The change, in percent; none where there is nothing to compare with.
    fn of(self, effect: &Effect) -> Option<f64> {
        match self {
            Measure::LogitDiff => effect.change(),
            Measure::Accuracy => Some(100.0 * (effect.accuracy.1 - effect.accuracy.0)),
        }
    }
}

/// A map, what takes an activation's place in it, and what is measured.
type Kind = (MapKind, Replacement, Measure);

/// The ablations of one map by one method.
type Ablations = ((MapKind, Replacement), Vec<Condition>);

impl Args {
    /// The ablations of every map and method, each with its conditions.
    fn sweeps(model: &ModelConfig, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<Vec<Ablations>> {
        let pairs: Vec<(MapKind, Replacement)> = kinds.iter().map(|&(map, method, _)| (map, method)).collect();
        let conditions = |(map, method)| Ok(((map, method), map_conditions(map, method, model, prompts)?));
        distinct(&pairs).into_iter().map(conditions).collect()
    }
}

impl MapCommand for Args {
    const NAME: &'static str = "ablation-maps";
    type Kind = Kind;

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn kinds(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<Kind>> {
        let mut kinds = Vec::new();
        for &map in &self.maps {
            for &method in &self.methods {
                kinds.extend(self.measures.iter().map(|&measure| (map, method, measure)));
            }
        }
        Self::sweeps(&model.config, prompts, &kinds)?;
        Ok(kinds)
    }

    fn stem(&self, &(map, method, measure): &Kind, set: &str) -> String {
        self.shared.stem("ablation", &map.to_string(), format!("{method}_{}", measure.name()), set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<String> {
        let RunArgs { seed, batch_tokens, .. } = self.shared.run;
        let mut table = Table::new(["prompt", "map", "method", "ablations", "arithmetic"]);
        for ((map, method), conditions) in Self::sweeps(&model.config, prompts, kinds)? {
            let flops = |condition: &Condition| -> Result<Flops> {
                Ok(condition.plan(&model.config, prompts, seed, batch_tokens as usize)?.flops)
            };
            let flops: Flops = conditions.iter().map(flops).sum::<Result<_>>()?;
            let count = conditions.len().to_string();
            table.push([prompts.name.clone(), map.to_string(), method.to_string(), count, flops.to_string()]);
        }
        Ok(table.to_string())
    }
}

impl MadeMaps for Args {
    fn make<B: Backend>(&self, engine: &Engine<B>, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<Vec<Named>> {
        let sweeps = Self::sweeps(engine.config(), prompts, kinds)?;
        let all: Vec<Condition> = sweeps.iter().flat_map(|(_, conditions)| conditions.iter().cloned()).collect();
        let progress = bar(1000, format!("ablating {}", prompts.name));
        let told = |share: f64| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        };
        let outcome = ablation(engine, prompts, &all, self.shared.run.seed, engine.memory_budget(), told)?;
        progress.finish_and_clear();
        let length = common_length(prompts).unwrap_or(0);
        let (mut first, mut maps) = (0, Vec::new());
        for ((map, method), conditions) in sweeps {
            let scores = &outcome.ablated[first..first + conditions.len()];
            first += conditions.len();
            for &kind in kinds.iter().filter(|kind| (kind.0, kind.1) == (map, method)) {
                let change = |scores| Effect::new(&outcome.clean, scores, |_| true).and_then(|e| kind.2.of(&e));
                let values: Option<Vec<f64>> = scores.iter().map(change).collect();
                let undefined = || format!("{}: the clean logit difference is zero: no percent of it", prompts.name);
                let (axes, shape) = (map.axes(), map.shape(engine.config(), length));
                let values = values.with_context(undefined)?;
                let result = ResultMap { axes, shape, components: Vec::new(), unit: "percent", values };
                let title = format!("Ablation ({method}) of {map} on {}, {}", prompts.name, engine.model().name);
                let stem = self.stem(&kind, &prompts.name);
                maps.push(Named::new(stem, result, &title, kind.2.label(), prompts));
            }
        }
        Ok(maps)
    }
}
