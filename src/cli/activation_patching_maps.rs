//! `activation-patching-maps`.

use super::common::{bar, distinct};
use super::map_sweep::{Computed, Outline, SweptMaps};
use super::maps::{MapArgs, MapCommand, Named, ReadoutArgs, check_defined, exact_plan, in_percent, names};
use super::sweeping::SweepArgs;
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, EngineError, Metric};
use crate::experiments::activation_maps::{
    ActivationMap, MapKind, MapPlace, activation_maps, common_length, map_values,
};
use crate::model::Model;
use crate::report::ResultMap;
use anyhow::Result;
use serde::Serialize;

/// Arguments of `activation-patching-maps`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch activation-patching-maps --models gpt2-small --eval-sets simple
  actpatch activation-patching-maps --maps z,z_by_position --metrics logit_diff,logit_diff_noising
  actpatch activation-patching-maps --models pythia-1.4b --dataset-file reviews.toml --eval-sets true_labels \\
      --along ccs_classification_4_ANSWER_layer24 --maps z,resid_pre

Files in DATA_DIR/<model>/: activation_patching_<metric>_<dataset>_<scaffold>_<map>.npy and .csv, in percent, and .svg,
.png and .html; along a direction activation_patching_along_<direction>_<metric>_….")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Maps: z, q, k, v, pattern (layer, head), pre, post (layer, neuron), the same with _by_position, and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[arg(long, value_delimiter = ',', default_value = "z,q,k,v,pattern,resid_pre,attn_out,mlp_out")]
    #[serde(serialize_with = "names")]
    pub maps: Vec<MapKind>,
    /// Metrics: logit_diff, logit_diff_noising, logit_flip, sign_flip, prob_diff, log_prob, log_prob_noising.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff")]
    pub metrics: Vec<Metric>,
    #[command(flatten)]
    #[serde(flatten)]
    pub readout: ReadoutArgs,
    #[command(flatten)]
    pub sweep: SweepArgs,
}

impl MapCommand for Args {
    const NAME: &'static str = "activation-patching-maps";
    type Kind = (MapKind, Metric);

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn readout(&self) -> Option<&String> {
        self.readout.along.as_ref()
    }

    fn kinds(&self, _: &Model, _: &PairedPrompts) -> Result<Vec<Self::Kind>> {
        self.readout.check(&self.metrics)?;
        let metrics = |&kind: &MapKind| self.metrics.iter().map(move |&metric| (kind, metric));
        Ok(self.maps.iter().flat_map(metrics).collect())
    }

    fn stem(&self, &(kind, metric): &Self::Kind, set: &str) -> String {
        stem((&self.shared, &self.readout), (kind, metric), set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<String> {
        Ok(exact_plan(&self.shared, model, prompts, kinds, "arithmetic")?.to_string())
    }
}

impl SweptMaps for Args {
    const PORTION: usize = 128;

    fn sweep(&self) -> &SweepArgs {
        &self.sweep
    }

    fn outline(&self, model: &Model, prompts: &PairedPrompts, &(kind, metric): &Self::Kind) -> Result<Outline> {
        let length = if kind.by_position() { common_length(prompts)? } else { 0 };
        let settings = [("map".to_owned(), kind.to_string())].into();
        Ok(Outline { axes: kind.axes(), shape: kind.shape(&model.config, length), metric, settings })
    }

    fn values<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        places: &[(Self::Kind, usize)],
    ) -> Result<Computed> {
        let place = |&((kind, metric), index): &(Self::Kind, usize)| MapPlace { kind, metric, index };
        let places: Vec<MapPlace> = places.iter().map(place).collect();
        let (baselines, values) =
            map_values(engine, prompts, &places, engine.memory_budget(), |_| Ok::<(), EngineError>(()))?;
        check_defined(&baselines, places.iter().map(|place| place.metric), &prompts.name)?;
        Ok(Computed { values, flops: None })
    }

    fn named(&self, model: &str, prompts: &PairedPrompts, &(kind, metric): &Self::Kind, map: ResultMap) -> Named {
        named((&self.shared, &self.readout), model, prompts, (kind, metric), map)
    }
}

/// The wanted maps of one dataset, in the order of the wanted list, without a ledger.
pub fn exact_maps<B: Backend>(
    shared: &MapArgs,
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    wanted: &[(MapKind, Metric)],
) -> Result<Vec<Named>> {
    let progress = bar(1000, format!("patching {}", prompts.name));
    let mut all = Vec::new();
    let (kinds, metrics): (Vec<_>, Vec<_>) = wanted.iter().copied().unzip();
    let (kinds, metrics) = (distinct(&kinds), distinct(&metrics));
    let (baselines, mut maps) =
        activation_maps(engine, prompts, &kinds, &metrics, engine.memory_budget(), |share| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        })?;
    progress.finish_and_clear();
    check_defined(&baselines, metrics, &prompts.name)?;
    for kind in wanted {
        let Some(place) = maps.iter().position(|map| (map.kind, map.metric) == *kind) else { continue };
        let ActivationMap { shape, values, .. } = maps.swap_remove(place);
        let percent = in_percent(kind.0.axes(), shape, &values);
        all.push(named((shared, &ReadoutArgs::default()), &engine.model().name, prompts, *kind, percent));
    }
    Ok(all)
}

fn named(
    (shared, readout): (&MapArgs, &ReadoutArgs),
    model: &str,
    prompts: &PairedPrompts,
    (kind, metric): (MapKind, Metric),
    map: ResultMap,
) -> Named {
    let title = format!("Activation patching of {kind} on {}, {model}", prompts.name);
    let stem = stem((shared, readout), (kind, metric), &prompts.name);
    Named::new(stem, map, &title, &readout.measure(metric), prompts)
}

fn stem((shared, readout): (&MapArgs, &ReadoutArgs), (kind, metric): (MapKind, Metric), set: &str) -> String {
    shared.stem(&readout.experiment("activation_patching"), &kind.to_string(), metric, set)
}
