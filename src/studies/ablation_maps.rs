//! Ablation maps: every head, neuron or place ablated on its own.

use super::fields::{list, not_empty};
use super::maps::{
    AskedSet, MadeMaps, MapSets, MapStudy, Named, keeps_prompts, maps_study, position_labels, prompt_maps,
};
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops, Scores};
use crate::experiments::ablation::{Condition, Effect, Replacement, ablation, map_conditions};
use crate::experiments::activation_maps::{MapKind, common_length};
use crate::model::ModelConfig;
use crate::report::figure::Figure;
use crate::report::{ResultMap, Table};
use crate::session::{Observer, Progress, Provenance, Session, distinct};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Ablates every head, neuron or place on its own: model x map x replacement x dataset.
///
/// Every value is one ablation of the clean run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AblationMaps {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Maps, as in [`super::ActivationPatchingMaps`].
    #[serde(deserialize_with = "list")]
    pub maps: Vec<MapKind>,
    /// What takes an activation's place.
    #[serde(deserialize_with = "list")]
    pub methods: Vec<Replacement>,
    /// What is compared with the clean run.
    #[serde(deserialize_with = "list")]
    pub measures: Vec<Measure>,
}

impl Default for AblationMaps {
    fn default() -> Self {
        Self {
            sets: MapSets::default(),
            maps: "z".parse().into_iter().collect(),
            methods: vec![Replacement::Mean],
            measures: vec![Measure::LogitDiff],
        }
    }
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

    /// The change, in percent of what the logit difference was, or in points of percent of the accuracy; none where
    /// there is nothing to compare with.
    fn of(self, effect: &Effect) -> Option<f64> {
        match self {
            Measure::LogitDiff => effect.change(),
            Measure::Accuracy => Some(100.0 * (effect.accuracy.1 - effect.accuracy.0)),
        }
    }
}

impl Measure {
    /// What the change is the mean of, prompt by prompt, as fractions; none where there is none.
    fn by_prompt(self, clean: &Scores, ablated: &Scores, effect: &Effect) -> Vec<f32> {
        let is_right = |difference: f64| f64::from(u8::from(difference > 0.0));
        let before = effect.logit_difference.0;
        let change = |(&clean, &ablated): (&f64, &f64)| match self {
            Measure::LogitDiff => (ablated - clean) / before,
            Measure::Accuracy => is_right(ablated) - is_right(clean),
        };
        let pairs = clean.logit_differences.iter().zip(&ablated.logit_differences);
        if self.of(effect).is_some() { pairs.map(change).map(|value| value as f32).collect() } else { Vec::new() }
    }
}

/// A map, what takes an activation's place in it, and what is measured.
type Kind = (MapKind, Replacement, Measure);

/// The ablations of one map by one method.
type Ablations = ((MapKind, Replacement), Vec<Condition>);

/// The ablations of every map and method, each with its conditions.
fn sweeps(model: &ModelConfig, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<Vec<Ablations>> {
    let pairs: Vec<(MapKind, Replacement)> = kinds.iter().map(|&(map, method, _)| (map, method)).collect();
    let conditions = |(map, method)| Ok(((map, method), map_conditions(map, method, model, prompts)?));
    distinct(&pairs).into_iter().map(conditions).collect()
}

maps_study!(AblationMaps, "ablation-maps", {
    fn validate(&self) -> Result<()> {
        let (maps, methods) = (("maps", self.maps.len()), ("methods", self.methods.len()));
        Ok(not_empty(&[self.sets.counted(), maps, methods, ("measures", self.measures.len())])?)
    }
});

impl MapStudy for AblationMaps {
    type Kind = Kind;

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn kinds(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<Kind>> {
        let mut kinds = Vec::new();
        for &map in &self.maps {
            for &method in &self.methods {
                kinds.extend(self.measures.iter().map(|&measure| (map, method, measure)));
            }
        }
        sweeps(session.config(), prompts, &kinds)?;
        Ok(kinds)
    }

    fn stem(&self, session: &Session, &(map, method, measure): &Kind, set: &str) -> String {
        self.sets.stem(session, "ablation", &map.to_string(), format!("{method}_{measure}"), set)
    }

    fn depends(
        &self,
        session: &Session,
        _: &PairedPrompts,
        &(_, method, _): &Kind,
        provenance: Provenance,
    ) -> Result<Provenance> {
        match method {
            Replacement::Resample => provenance.with("seed", session.seed()),
            _ => Ok(provenance),
        }
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<(String, Flops)> {
        let mut table = Table::new(["prompt", "map", "method", "ablations", "arithmetic"]);
        let mut total = Flops::default();
        for ((map, method), conditions) in sweeps(session.config(), prompts, kinds)? {
            let flops = |condition: &Condition| -> Result<Flops> {
                Ok(condition.plan(session.config(), prompts, session.seed(), session.batch_tokens())?.flops)
            };
            let flops: Flops = conditions.iter().map(flops).sum::<Result<_>>()?;
            let count = conditions.len().to_string();
            table.push([prompts.name.clone(), map.to_string(), method.to_string(), count, flops.to_string()]);
            total = total + flops;
        }
        Ok((table.to_string(), total))
    }

    fn figure(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        &(map, method, measure): &Kind,
        values: &ResultMap,
    ) -> Result<Option<Figure>> {
        let title = format!("Ablation ({method}) of {map} on {}, {}", prompts.name, session.model().name);
        Ok(values.figure(&title, measure.label(), &position_labels(prompts)))
    }

    fn has_corrupted(&self) -> bool {
        false
    }

    fn undefined(&self, &(_, _, measure): &Kind) -> String {
        format!("{measure} is undefined: it is zero in the clean run, of which there is no percentage")
    }
}

impl MadeMaps for AblationMaps {
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &AskedSet<Kind>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Named>> {
        let (prompts, kinds) = (&set.prompts, set.wanted());
        let sweeps = sweeps(session.config(), prompts, &kinds)?;
        let all: Vec<Condition> = sweeps.iter().flat_map(|(_, conditions)| conditions.iter().cloned()).collect();
        let mut progress = Progress::of_shares(observer, format!("ablating {}", prompts.name));
        let told = |share| progress.share(share);
        let outcome = ablation(engine, prompts, &all, session.seed(), engine.memory_budget(), told)?;
        let length = common_length(prompts).unwrap_or(0);
        let (mut first, mut maps) = (0, Vec::new());
        for ((map, method), conditions) in sweeps {
            let scores = &outcome.ablated[first..first + conditions.len()];
            first += conditions.len();
            for &kind in kinds.iter().filter(|kind| (kind.0, kind.1) == (map, method)) {
                let effects: Vec<Option<Effect>> =
                    scores.iter().map(|scores| Effect::new(&outcome.clean, scores, |_| true)).collect();
                let change = |effect: &Option<Effect>| effect.and_then(|effect| kind.2.of(&effect));
                let values: Vec<f64> = effects.iter().map(|effect| change(effect).unwrap_or(f64::NAN)).collect();
                let each = |(scores, effect): (&Scores, &Option<Effect>)| {
                    effect.map(|effect| kind.2.by_prompt(&outcome.clean, scores, &effect)).unwrap_or_default()
                };
                let mut by_prompt = None;
                if keeps_prompts(prompts, values.len()) {
                    let parts: Vec<Vec<f32>> = scores.iter().zip(&effects).map(each).collect();
                    let parts: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
                    by_prompt = prompt_maps(prompts.clean.len(), &parts);
                }
                let shape = map.shape(session.config(), length);
                let values = ResultMap::new(&map.axes(), shape, "percent", values);
                let stem = self.stem(session, &kind, &prompts.name);
                maps.push(Named { prompts: by_prompt, ..Named::new(stem, values) });
            }
        }
        Ok(maps)
    }
}
