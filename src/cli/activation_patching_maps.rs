//! `activation-patching-maps`.

use super::common::{bar, distinct};
use super::map_sweep::{Computed, Outline, SweptMaps};
use super::maps::{MapArgs, MapCommand, Named, ReadoutArgs, check_defined, exact_plan, in_percent};
use super::sweeping::SweepArgs;
use super::twins::TwinArgs;
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, EngineError, Metric, Mode};
use crate::experiments::activation_maps::{
    ActivationMap, MapKind, MapPlace, activation_maps, common_length, map_values,
};
use crate::model::Model;
use crate::report::ResultMap;
use anyhow::{Result, bail};
use clap::builder::ArgPredicate;
use serde::Serialize;

/// Arguments of `activation-patching-maps`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch activation-patching-maps --models gpt2-small --eval-sets simple
  actpatch activation-patching-maps --maps z,z_by_position --metrics logit_diff,logit_diff_noising
  actpatch activation-patching-maps --models pythia-1.4b --dataset-file reviews.toml --eval-sets true_labels \\
      --along ccs_classification_4_ANSWER_layer24 --maps z,resid_pre
  actpatch activation-patching-maps --ablate kmeans_simple_train_ADJ_layer1 --ablate-layers 1 --ablate-positions ADJ

With --ablate, activations of the clean prompts' own run without the direction are patched into their clean run (noising):
0 % is the clean run, -100 % all that the ablation changes.
Files in DATA_DIR/<model>/: activation_patching_<metric>_<dataset>_<scaffold>_<map>.npy and .csv, in percent, and .svg,
.png and .html; along a direction activation_patching_along_<direction>_<metric>_…, with --ablate
activation_patching_ablated_<direction>_<method>_<positions>_<metric>_…")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Maps: z, q, k, v, pattern (layer, head), pre, post (layer, neuron), the same with _by_position, and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[arg(long, value_delimiter = ',', default_value = "z,q,k,v,pattern,resid_pre,attn_out,mlp_out")]
    pub maps: Vec<MapKind>,
    /// Metrics: logit_diff, logit_diff_noising, logit_flip, sign_flip, prob_diff, log_prob, log_prob_noising; with --ablate
    /// logit_diff_noising (which is its default) and log_prob_noising.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff")]
    #[arg(default_value_if("ablate", ArgPredicate::IsPresent, "logit_diff_noising"))]
    pub metrics: Vec<Metric>,
    #[command(flatten)]
    #[serde(flatten)]
    pub readout: ReadoutArgs,
    #[command(flatten)]
    pub twin: TwinArgs,
    #[command(flatten)]
    pub sweep: SweepArgs,
}

/// The name of the experiment in files.
const EXPERIMENT: &str = "activation_patching";

impl MapCommand for Args {
    const NAME: &'static str = "activation-patching-maps";
    type Kind = (MapKind, Metric);

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn readout(&self) -> Option<&String> {
        self.readout.along.as_ref()
    }

    fn kinds(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<Self::Kind>> {
        self.readout.check(&self.metrics)?;
        if let (Some(along), Some(ablate)) = (&self.readout.along, &self.twin.ablate) {
            bail!("--along {along} and --ablate {ablate}: expected one of them");
        }
        let denoising = self.metrics.iter().find(|metric| metric.mode() == Mode::Denoising);
        if let (Some(metric), Some(_)) = (denoising, &self.twin.ablate) {
            bail!("--metrics: with --ablate, expected logit_diff_noising or log_prob_noising, found {metric}");
        }
        self.twin.planned(&self.shared, model, prompts)?;
        let metrics = |&kind: &MapKind| self.metrics.iter().map(move |&metric| (kind, metric));
        Ok(self.maps.iter().flat_map(metrics).collect())
    }

    fn stem(&self, &(kind, metric): &Self::Kind, set: &str) -> String {
        let experiment = format!("{EXPERIMENT}{}", self.twin.ending());
        self.shared.stem(&self.readout.experiment(&experiment), &kind.to_string(), metric, set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<String> {
        let pairs = self.twin.planned(&self.shared, model, prompts)?;
        Ok(exact_plan(&self.shared, model, &pairs, kinds, "arithmetic")?.to_string())
    }
}

impl SweptMaps for Args {
    const PORTION: usize = 128;

    fn sweep(&self) -> &SweepArgs {
        &self.sweep
    }

    fn outline(&self, model: &Model, prompts: &PairedPrompts, &(kind, metric): &Self::Kind) -> Result<Outline> {
        let length = if kind.by_position() { common_length(prompts)? } else { 0 };
        let ablation = self.twin.fingerprint(&self.shared, model, prompts)?;
        let settings = [("map".to_owned(), kind.to_string())].into_iter();
        let settings = settings.chain(ablation.map(|ablation| ("ablation".to_owned(), ablation))).collect();
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
        let pairs = self.twin.pairs(&self.shared, engine, prompts)?;
        let (baselines, values) =
            map_values(engine, &pairs, &places, engine.memory_budget(), |_| Ok::<(), EngineError>(()))?;
        let metrics: Vec<Metric> = places.iter().map(|place| place.metric).collect();
        self.twin.check_defined(&baselines, &metrics, &prompts.name)?;
        Ok(Computed { values, flops: None })
    }

    fn named(&self, model: &str, prompts: &PairedPrompts, &(kind, metric): &Self::Kind, map: ResultMap) -> Named {
        let title = format!("Activation patching of {kind} on {}{}, {model}", prompts.name, self.twin.title());
        let stem = self.stem(&(kind, metric), &prompts.name);
        Named::new(stem, map, &title, &self.readout.measure(metric), prompts)
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
        let (map, metric) = kind;
        let title = format!("Activation patching of {map} on {}, {}", prompts.name, engine.model().name);
        let stem = shared.stem(EXPERIMENT, &map.to_string(), metric, &prompts.name);
        all.push(Named::new(stem, percent, &title, &format!("{metric} (%)"), prompts));
    }
    Ok(all)
}
