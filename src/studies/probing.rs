//! Probing: linear probes at every layer and position.

use super::fields::{list, not_empty};
use super::maps::{AskedSet, MadeMaps, MapSets, MapStudy, Named, maps_study, pass, position_labels};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops};
use crate::experiments::activation_maps::common_length;
use crate::experiments::component::Component;
use crate::experiments::probing::probes;
use crate::model::ModelConfig;
use crate::report::ResultMap;
use crate::report::figure::{Figure, Plot, Scale};
use crate::session::{Observer, Progress, Provenance, Session, distinct, need_classes, wrong};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Fits linear probes at every layer and position.
///
/// Logistic regressions of the prompts' class (features scaled, C = 1, intercept free), fitted on four fifths of the
/// prompts, chosen by the session's seed, and tested on the rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probing {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Activations: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v, pre, post.
    #[serde(deserialize_with = "list")]
    pub components: Vec<Component>,
}

impl Default for Probing {
    fn default() -> Self {
        Self { sets: MapSets::default(), components: vec![Component::ResidPost] }
    }
}

/// A pass over the clean prompts for every layer.
pub(super) fn passes(config: &ModelConfig, prompts: &PairedPrompts, layers: usize) -> Flops {
    let clean = prompts.clean.iter().map(|&sequence| &prompts.sequences[sequence]);
    Flops(pass(config, clean).0 * layers as u64)
}

/// The prompts that accuracies are of: those that the fit has not seen, or its own.
fn which(test: bool) -> &'static str {
    if test { "test" } else { "train" }
}

maps_study!(Probing, "probing", {
    fn validate(&self) -> Result<()> {
        not_empty(&[self.sets.counted(), ("components", self.components.len())])?;
        match self.components.iter().find(|component| **component == Component::Pattern) {
            None => Ok(()),
            Some(pattern) => wrong!("components", "expected activations that are vectors, found {pattern}"),
        }
    }
});

impl MapStudy for Probing {
    /// Of the unseen prompts, or of those of the fit.
    type Kind = (Component, bool);

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn kinds(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<Self::Kind>> {
        need_classes("eval_sets", prompts, "probing")?;
        common_length(prompts)?;
        self.components.iter().try_for_each(|component| component.site(0).check(session.config()))?;
        Ok(self.components.iter().flat_map(|&component| [(component, true), (component, false)]).collect())
    }

    fn stem(&self, session: &Session, &(component, test): &Self::Kind, set: &str) -> String {
        self.sets.stem(session, "probing", component.name(), which(test), set)
    }

    fn depends(
        &self,
        session: &Session,
        _: &PairedPrompts,
        _: &Self::Kind,
        provenance: Provenance,
    ) -> Result<Provenance> {
        provenance.with("seed", session.seed())
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<(String, Flops)> {
        let shape = [session.config().n_layers, common_length(prompts)?];
        let line = |kind: &Self::Kind| format!("{}: {shape:?} values", self.stem(session, kind, &prompts.name));
        let lines = kinds.iter().map(line).collect::<Vec<_>>().join("\n");
        let flops = passes(session.config(), prompts, session.config().n_layers);
        let components = distinct(&kinds.iter().map(|(component, _)| *component).collect::<Vec<_>>()).len();
        let text = format!("{lines}\n{flops} per component, and as many fits as values\n");
        Ok((text, Flops(flops.0 * components as u64)))
    }

    fn figure(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        &(component, test): &Self::Kind,
        map: &ResultMap,
    ) -> Result<Option<Figure>> {
        let (set, model) = (&prompts.name, &session.model().name);
        let title = format!("Probes of {component} on {set} ({}), {model}", which(test));
        let mut figure = map.figure(&title, "accuracy (%)", &position_labels(prompts));
        for facet in figure.iter_mut().flat_map(|figure| &mut figure.facets) {
            if let Plot::HeatMap(map) = &mut facet.plot {
                map.scale = Scale::Reds { low: 50.0, high: 100.0 };
            }
        }
        Ok(figure)
    }
}

impl MadeMaps for Probing {
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &AskedSet<Self::Kind>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Named>> {
        let (prompts, kinds) = (&set.prompts, set.wanted());
        let mut all = Vec::new();
        for component in distinct(&kinds.iter().map(|kind| kind.0).collect::<Vec<_>>()) {
            let mut progress = Progress::of_shares(observer, format!("probing {component} on {}", prompts.name));
            let told = |share| progress.share(share);
            let found = probes(engine, prompts, component, session.seed(), engine.memory_budget(), told)?;
            let width = component.site(0).width(session.config());
            for kind in kinds.iter().filter(|kind| kind.0 == component) {
                let values = if kind.1 { &found.test } else { &found.train };
                let map = ResultMap::percent(&["layer", "position"], found.shape.to_vec(), values);
                let weights = kind.1.then(|| ([&found.shape[..], &[width + 1]].concat(), found.weights.clone()));
                all.push(Named { weights, ..Named::new(self.stem(session, kind, &prompts.name), map) });
            }
        }
        Ok(all)
    }
}
