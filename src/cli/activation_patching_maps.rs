//! `activation-patching-maps`.

use super::common::{bar, distinct};
use super::maps::{MapArgs, MapCommand, Named, check_defined, in_percent, names};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Metric, Plan};
use crate::experiments::activation_maps::{ActivationMap, MapKind, activation_maps, map_cells};
use crate::experiments::chunks::MEMORY_BUDGET;
use crate::model::Model;
use crate::report::Table;
use anyhow::Result;
use serde::Serialize;

/// Arguments of `activation-patching-maps`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch activation-patching-maps --models gpt2-small --eval-sets simple
  actpatch activation-patching-maps --maps z,z_by_position --metrics logit_diff,logit_diff_noising

Files in DATA_DIR/<model>/: activation_patching_<metric>_<dataset>_<scaffold>_<map>.npy and .csv, in percent, and .svg,
.png and .html.")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Maps: z, q, k, v, pattern (layer, head), pre, post (layer, neuron), the same with _by_position, and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[arg(long, value_delimiter = ',', default_value = "z,q,k,v,pattern,resid_pre,attn_out,mlp_out")]
    #[serde(serialize_with = "names")]
    pub maps: Vec<MapKind>,
    /// Metrics: logit_diff, logit_diff_noising, logit_flip, sign_flip, prob_diff.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff")]
    pub metrics: Vec<Metric>,
}

impl MapCommand for Args {
    const NAME: &'static str = "activation-patching-maps";
    type Kind = (MapKind, Metric);

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn kinds(&self, _: &Model, _: &PairedPrompts) -> Result<Vec<Self::Kind>> {
        let metrics = |&kind: &MapKind| self.metrics.iter().map(move |&metric| (kind, metric));
        Ok(self.maps.iter().flat_map(metrics).collect())
    }

    fn stem(&self, &(kind, metric): &Self::Kind, set: &str) -> String {
        stem(&self.shared, (kind, metric), set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<String> {
        let mut table = Table::new(["prompt", "map", "metric", "values", "arithmetic"]);
        for &(kind, metric) in kinds {
            let (cells, _) = map_cells(&model.config, prompts, &[kind], &[metric])?;
            let batch = self.shared.run.batch_tokens as usize;
            let flops = Plan::new(&model.config, prompts, &cells, batch)?.flops();
            let count = cells.len().to_string();
            table.push([prompts.name.clone(), kind.to_string(), metric.to_string(), count, flops.to_string()]);
        }
        Ok(table.to_string())
    }

    fn make<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        wanted: &[Self::Kind],
    ) -> Result<Vec<Named>> {
        exact_maps(&self.shared, engine, prompts, wanted)
    }
}

/// The wanted maps of one dataset, in the order of the wanted list.
pub fn exact_maps<B: Backend>(
    shared: &MapArgs,
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    wanted: &[(MapKind, Metric)],
) -> Result<Vec<Named>> {
    let (kinds, metrics): (Vec<_>, Vec<_>) = wanted.iter().copied().unzip();
    let (kinds, metrics) = (distinct(&kinds), distinct(&metrics));
    let progress = bar(1000, format!("patching {}", prompts.name));
    let (baselines, mut maps) =
        activation_maps(engine, prompts, &kinds, &metrics, MEMORY_BUDGET, |share| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        })?;
    progress.finish_and_clear();
    check_defined(&baselines, &metrics, &prompts.name)?;
    let place = |map: &ActivationMap| wanted.iter().position(|kind| *kind == (map.kind, map.metric));
    maps.retain(|map| place(map).is_some());
    maps.sort_by_key(place);
    let (set, model) = (&prompts.name, &engine.model().name);
    let named = |map: ActivationMap| {
        let title = format!("Activation patching of {} on {set}, {model}", map.kind);
        let percent = in_percent(map.kind.axes(), map.shape, &map.values);
        Named::new(stem(shared, (map.kind, map.metric), set), percent, &title, &format!("{} (%)", map.metric), prompts)
    };
    Ok(maps.into_iter().map(named).collect())
}

fn stem(shared: &MapArgs, (kind, metric): (MapKind, Metric), set: &str) -> String {
    shared.stem("activation_patching", &kind.to_string(), metric, set)
}
