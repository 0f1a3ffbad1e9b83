//! Activation-patching maps: every head, neuron, or layer and position patched on its own.

use super::fields::{list, not_empty};
use super::maps::{self, MapSets, MapStudy, Maps, Named, Readout, exact_plan, in_order, position_labels};
use super::swept::{self, Computed, Found, Outline, SweptMaps};
use super::twins::Twin;
use super::{Plan, Study};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Baselines, Engine, EngineError, Flops, Metric, Mode, Scores};
use crate::experiments::activation_maps::{MapKind, MapPlace, activation_maps, common_length, map_scores};
use crate::report::ResultMap;
use crate::report::figure::Figure;
use crate::session::{Observer, Progress, Provenance, Session, wrong};
use crate::sweep::SweepSettings;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The maps that the paper's code makes.
pub(crate) const USUAL_MAPS: [&str; 8] = ["z", "q", "k", "v", "pattern", "resid_pre", "attn_out", "mlp_out"];

/// Patches every head, or every layer and position, on its own: model x map x dataset x metric.
///
/// Values are in percent; 0 is the corrupted run and 100 the clean one (noising: 0 the clean run and -100 the corrupted
/// one). With an ablation, activations of the clean prompts' own run without the direction are patched into their clean
/// run (noising): 0 is the clean run, -100 all that the ablation changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ActivationPatchingMaps {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Maps: z, q, k, v, pattern (layer, head), pre, post (layer, neuron), the same with `_by_position`, and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[serde(deserialize_with = "list")]
    pub maps: Vec<MapKind>,
    /// Metrics, with an ablation those that noise; without any logit_diff, with an ablation logit_diff_noising.
    #[serde(deserialize_with = "list")]
    pub metrics: Vec<Metric>,
    /// What is measured.
    #[serde(flatten)]
    pub readout: Readout,
    /// An ablation to compare with.
    #[serde(flatten)]
    pub twin: Twin,
    /// Shards and failures.
    #[serde(flatten)]
    pub sweep: SweepSettings,
}

impl Default for ActivationPatchingMaps {
    fn default() -> Self {
        Self {
            sets: MapSets::default(),
            maps: USUAL_MAPS.iter().filter_map(|map| map.parse().ok()).collect(),
            metrics: Vec::new(),
            readout: Readout::default(),
            twin: Twin::default(),
            sweep: SweepSettings::default(),
        }
    }
}

/// The name of the experiment in files.
const EXPERIMENT: &str = "activation_patching";

impl Study for ActivationPatchingMaps {
    const NAME: &'static str = "activation-patching-maps";
    type Outcome = Maps;

    fn validate(&self) -> Result<()> {
        not_empty(&[self.sets.counted(), ("maps", self.maps.len())])?;
        self.twin.validate()?;
        let metrics = self.resolved().metrics;
        self.readout.check(&metrics)?;
        if let (Some(along), Some(ablate)) = (&self.readout.along, &self.twin.ablate) {
            wrong!("along", "{along}, and ablate {ablate}: expected one of them");
        }
        let denoising = metrics.iter().find(|metric| metric.mode() == Mode::Denoising);
        if let (Some(metric), Some(_)) = (denoising, &self.twin.ablate) {
            wrong!("metrics", "with an ablation, expected logit_diff_noising or log_prob_noising, found {metric}");
        }
        Ok(())
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        maps::plan(self, session)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Maps> {
        swept::run(self, session, observer)
    }
}

impl MapStudy for ActivationPatchingMaps {
    type Kind = (MapKind, Metric);

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn resolved(&self) -> Self {
        let mut resolved = self.clone();
        if resolved.metrics.is_empty() {
            resolved.metrics.push(match self.twin.ablate {
                None => Metric::LogitDiff,
                Some(_) => Metric::LogitDiffNoising,
            });
        }
        resolved
    }

    fn readout(&self) -> Option<&String> {
        self.readout.along.as_ref()
    }

    fn kinds(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<Self::Kind>> {
        self.twin.planned(session, prompts)?;
        let every = self.resolved().metrics;
        let metrics = |&kind: &MapKind| every.iter().map(move |&metric| (kind, metric));
        Ok(self.maps.iter().flat_map(metrics).collect())
    }

    fn stem(&self, session: &Session, &(kind, metric): &Self::Kind, set: &str) -> String {
        let experiment = self.readout.experiment(&format!("{EXPERIMENT}{}", self.twin.ending()));
        self.sets.stem(session, &experiment, &kind.to_string(), metric, set)
    }

    fn depends(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        _: &Self::Kind,
        provenance: Provenance,
    ) -> Result<Provenance> {
        provenance.with("ablation", self.twin.fingerprint(session, prompts)?)
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<(String, Flops)> {
        let pairs = self.twin.planned(session, prompts)?;
        let (table, flops) = exact_plan(session, &pairs, kinds, "arithmetic")?;
        Ok((table.to_string(), flops))
    }

    fn figure(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        &(kind, metric): &Self::Kind,
        map: &ResultMap,
    ) -> Result<Option<Figure>> {
        let (set, twin, model) = (&prompts.name, self.twin.title(), &session.model().name);
        let title = format!("Activation patching of {kind} on {set}{twin}, {model}");
        Ok(map.figure(&title, &self.readout.measure(metric), &position_labels(prompts)))
    }

    fn has_corrupted(&self) -> bool {
        self.twin.ablate.is_none()
    }

    fn undefined(&self, &(_, metric): &Self::Kind) -> String {
        self.twin.undefined(metric)
    }
}

impl SweptMaps for ActivationPatchingMaps {
    const PORTION: usize = 128;

    fn sweep(&self) -> &SweepSettings {
        &self.sweep
    }

    fn outline(&self, session: &Session, prompts: &PairedPrompts, &(kind, metric): &Self::Kind) -> Result<Outline> {
        let length = if kind.by_position() { common_length(prompts)? } else { 0 };
        let ablation = self.twin.fingerprint(session, prompts)?;
        let settings = [("map".to_owned(), kind.to_string())].into_iter();
        let settings = settings.chain(ablation.map(|ablation| ("ablation".to_owned(), ablation))).collect();
        Ok(Outline { axes: kind.axes(), shape: kind.shape(session.config(), length), metric, settings })
    }

    fn values<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        places: &[(Self::Kind, usize)],
    ) -> Result<Computed> {
        let place = |&((kind, metric), index): &(Self::Kind, usize)| MapPlace { kind, metric, index };
        let places: Vec<MapPlace> = places.iter().map(place).collect();
        let pairs = self.twin.pairs(session, engine, prompts)?;
        let mut values: Vec<Option<Found>> = places.iter().map(|_| None).collect();
        let found = |number: usize, baselines: &Baselines, scores: &Scores| {
            values[number] = Some(Found::new(baselines, places[number].metric, scores));
        };
        let told = |_| Ok::<(), EngineError>(());
        let baselines = map_scores(engine, &pairs, &places, engine.memory_budget(), found, told)?;
        let defined = |place: &MapPlace| self.twin.defined(&baselines, place.metric);
        let values = places.iter().zip(values).map(|(place, found)| found.filter(|_| defined(place)));
        Ok(Computed { values: values.collect(), flops: None })
    }
}

/// The wanted maps of one dataset, in the order of the wanted list, without a ledger: for studies that compare with them.
pub(crate) fn exact_maps<B: Backend>(
    study: &ActivationPatchingMaps,
    session: &Session,
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    wanted: &[(MapKind, Metric)],
    observer: &mut dyn Observer,
) -> Result<Vec<Named>> {
    let stem = |kind: &(MapKind, Metric)| study.stem(session, kind, &prompts.name);
    in_order(wanted, stem, |kinds, metrics| {
        let mut progress = Progress::of_shares(observer, format!("patching {}", prompts.name));
        let told = |share| progress.share(share);
        activation_maps(engine, prompts, kinds, metrics, engine.memory_budget(), told)
    })
}
