//! Experiments whose numbers are values of maps, by their places: `3.1` is row 3, column 1; components have names.

use super::experiment::{Experiment, Numbers, Setup};
use super::runs::{only_single, plain};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::datasets::treebank::Scaffold;
use crate::engine::{Engine, Metric};
use crate::experiments::activation_maps::MapKind;
use crate::experiments::logit_attribution::{Attributed, Attribution, LogitMap, logit_attribution};
use crate::experiments::path_patching::NodePattern;
use crate::report::{Golden, ResultMap};
use crate::session::{DeviceWork, Observer};
use crate::studies::maps::{MapSets, Maps};
use crate::studies::{self, ActivationPatchingMaps, PathMethod, Study};
use anyhow::Result;
use serde::Deserialize;

/// What parts of the model write along the answers, the final norm frozen, in logits; numbers such as `0_pre` or
/// `0_attn_out` (components) or `10.4` (layer.head).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogitAttribution {
    dataset: String,
    #[serde(default = "plain")]
    scaffold: Scaffold,
    /// A map of logit attribution.
    map: LogitMap,
}

impl Experiment for LogitAttribution {
    const NAME: &'static str = "logit_attribution";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        let prompts = setup.prompts(&self.dataset, self.scaffold)?;
        let maps = setup.session()?.compute(observer, Attributions { prompts: &prompts, map: self.map })?;
        Ok(maps.iter().flat_map(by_place).collect())
    }
}

struct Attributions<'a> {
    prompts: &'a PairedPrompts,
    map: LogitMap,
}

impl DeviceWork for Attributions<'_> {
    type Output = Vec<ResultMap>;

    fn run<B: Backend>(self, engine: &Engine<B>, _: &mut dyn Observer) -> Result<Vec<ResultMap>> {
        let found = logit_attribution(engine, self.prompts, &[self.map], Attributed::Clean, engine.memory_budget())?;
        let named = |Attribution { map, shape, values }: Attribution| {
            let components = map.components(engine.config());
            ResultMap::new(&map.axes(), shape, "logits", values).with_components(components)
        };
        Ok(found.into_iter().map(named).collect())
    }
}

/// Recovered share of the logit difference with one head, or one place of the residual stream, taken from the clean
/// run, in percent; numbers such as `10.4` (layer.head) or `0.6` (layer.position).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ActivationPatching {
    dataset: String,
    #[serde(default = "plain")]
    scaffold: Scaffold,
    /// A map of activation patching.
    node: MapKind,
}

impl Experiment for ActivationPatching {
    const NAME: &'static str = "activation_patching";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        setup.prompts(&self.dataset, self.scaffold)?;
        let maps = ActivationPatchingMaps {
            sets: MapSets { eval_sets: vec![self.dataset], scaffold: self.scaffold },
            maps: vec![self.node],
            metrics: vec![Metric::LogitDiff],
            ..Default::default()
        };
        Ok(values(&maps.run(setup.session()?, observer)?))
    }
}

/// The same to first order: change of a node times the gradient there, in percent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AttributionPatching {
    dataset: String,
    #[serde(default = "plain")]
    scaffold: Scaffold,
    /// A map of attribution patching.
    node: MapKind,
}

impl Experiment for AttributionPatching {
    const NAME: &'static str = "attribution_patching";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        setup.prompts(&self.dataset, self.scaffold)?;
        let maps = studies::AttributionPatching {
            sets: MapSets { eval_sets: vec![self.dataset], scaffold: self.scaffold },
            maps: vec![self.node],
            metrics: vec![Metric::LogitDiff],
            ..Default::default()
        };
        Ok(values(&maps.run(setup.session()?, observer)?))
    }
}

/// Lost share of the logit difference with each head's path to the receivers taken from the corrupted run, in percent;
/// numbers such as `10.4` (layer.head).
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathPatching {
    dataset: String,
    #[serde(default = "plain")]
    scaffold: Scaffold,
    /// Nodes as the study of path patching names them.
    receivers: Vec<NodePattern>,
    #[serde(default)]
    layer_wide: bool,
    /// The one position where heads change; all without it.
    position: Option<usize>,
    /// Along the residual stream alone, past the MLPs.
    #[serde(default)]
    two_steps: bool,
}

impl Experiment for PathPatching {
    const NAME: &'static str = "path_patching";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        only_single("receivers", &self.receivers)?;
        setup.prompts(&self.dataset, self.scaffold)?;
        // The senders are the heads, which is the study's default.
        let paths = studies::PathPatching {
            sets: MapSets { eval_sets: vec![self.dataset], scaffold: self.scaffold },
            receivers: self.receivers,
            positions: self.position.map_or("ALL".into(), |position| position.to_string()),
            method: if self.two_steps { PathMethod::TwoSteps } else { PathMethod::ThreeSteps },
            layer_wide: self.layer_wide,
            metrics: vec![Metric::LogitDiffNoising],
            ..Default::default()
        };
        Ok(values(&paths.run(setup.session()?, observer)?))
    }
}

/// The values of a study's maps.
fn values(maps: &Maps) -> Numbers {
    maps.maps.iter().flat_map(|named| by_place(&named.map)).collect()
}

/// The values of a map by their places.
fn by_place(map: &ResultMap) -> Numbers {
    map.values.iter().enumerate().map(|(index, value)| (map.labels(index).join("."), *value)).collect()
}
