//! Settings that put ablated twins of the clean prompts in the place of the corrupted ones.

use super::ablation::in_residual;
use super::fields::{list, text};
use super::undefined::undefined_metric;
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::directions::spelled;
use crate::engine::{Baselines, Engine, Metric, Pairs};
use crate::experiments::ablation::{Condition, NEGLIGIBLE, Replacement};
use crate::files::sha256;
use crate::session::{OfSetting, Session, layers, wrong};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// An ablation that the clean run is compared with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Twin {
    /// Take the clean prompts' own run without this direction in the place of the corrupted one: what carries the effect of
    /// its ablation? Named as in [`super::Ablation`].
    pub ablate: Option<String>,
    /// Layers at which it is ablated (the number of layers stands for the end); all that are there without any.
    #[serde(deserialize_with = "list")]
    pub ablate_layers: Vec<String>,
    /// What takes its place: zero, a mean over the prompts, or that of the other class.
    pub ablate_method: Replacement,
    /// Positions at which it is ablated: as in [`super::Ablation`].
    #[serde(deserialize_with = "text")]
    pub ablate_positions: String,
}

impl Default for Twin {
    fn default() -> Self {
        Self {
            ablate: None,
            ablate_layers: Vec::new(),
            ablate_method: Replacement::Zero,
            ablate_positions: "ALL".into(),
        }
    }
}

impl Twin {
    /// Checks that the settings of an ablation have one.
    ///
    /// # Errors
    /// A fault of the field.
    pub(crate) fn validate(&self) -> Result<()> {
        let (Self { ablate, ablate_layers, ablate_method, ablate_positions }, default) = (self, Self::default());
        let settings = [
            ("ablate_layers", *ablate_layers != default.ablate_layers),
            ("ablate_method", *ablate_method != default.ablate_method),
            ("ablate_positions", *ablate_positions != default.ablate_positions),
        ];
        match settings.into_iter().find(|(_, set)| ablate.is_none() && *set) {
            None => Ok(()),
            Some((setting, _)) => wrong!(setting, "expected a direction to ablate, found none"),
        }
    }

    /// The ablation, if there is one.
    ///
    /// # Errors
    /// A direction, layer or position that is not there.
    fn condition(&self, session: &Session, prompts: &PairedPrompts) -> Result<Option<Condition>> {
        let Some(name) = &self.ablate else { return Ok(None) };
        let n_layers = session.config().n_layers;
        let layers = layers("ablate_layers", &self.ablate_layers, n_layers)?;
        let layers = (!layers.is_empty()).then_some(&layers[..]);
        Ok(Some(Condition {
            ablated: in_residual(&session.by_layer("ablate", name, layers)?, n_layers),
            replacement: self.ablate_method,
            places: session.places("ablate_positions", prompts, &self.ablate_positions)?,
            kept: None,
            frozen_attention: false,
        }))
    }

    /// What is compared, for a plan: the clean prompts with their twins, or without an ablation with the corrupted ones.
    ///
    /// # Errors
    /// Those of a condition; a method that twins cannot have; an ablation that reaches no logits.
    pub(crate) fn planned<'a>(&self, session: &Session, prompts: &'a PairedPrompts) -> Result<Pairs<'a>> {
        let Some(condition) = self.condition(session, prompts)? else { return Ok(prompts.into()) };
        let pairs = condition.planned_twins(session.config(), prompts).of_setting("ablate_method")?;
        let (seed, batch) = (session.seed(), session.batch_tokens());
        condition.plan_that_fires(session.config(), prompts, seed, batch).of_setting("ablate")?;
        Ok(pairs)
    }

    /// What is compared.
    ///
    /// # Errors
    /// Those of [`Twin::planned`] and of the engine.
    pub(crate) fn pairs<'a, B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        prompts: &'a PairedPrompts,
    ) -> Result<Pairs<'a>> {
        match self.condition(session, prompts)? {
            None => Ok(prompts.into()),
            Some(condition) => Ok(condition.twins(engine, prompts, engine.memory_budget())?),
        }
    }

    /// What a value that is computed with the ablation depends on, as one hash.
    ///
    /// # Errors
    /// Those of a condition.
    pub(crate) fn fingerprint(&self, session: &Session, prompts: &PairedPrompts) -> Result<Option<String>> {
        let Some(Condition { ablated, replacement, places, .. }) = self.condition(session, prompts)? else {
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
    pub(crate) fn ending(&self) -> String {
        let Some(name) = &self.ablate else { return String::new() };
        let layers = match &self.ablate_layers[..] {
            [] => String::new(),
            layers => format!("_at_{}", layers.join("-")),
        };
        format!("_ablated_{}{layers}_{}_{}", spelled(name), self.ablate_method, self.ablate_positions)
    }

    /// The ablation in titles.
    pub(crate) fn title(&self) -> String {
        self.ablate.as_ref().map_or(String::new(), |name| format!(", {} ablated", spelled(name)))
    }

    /// Does a metric have ends to be a share between? Not where the runs do not differ in it, or the ablation changes nothing.
    pub(crate) fn defined(&self, baselines: &Baselines, metric: Metric) -> bool {
        match self.ablate {
            None => baselines.defined(metric),
            Some(_) => baselines.apart(metric, NEGLIGIBLE),
        }
    }

    /// That a metric has no such ends, and why.
    pub(crate) fn undefined(&self, metric: Metric) -> String {
        let Some(name) = &self.ablate else { return undefined_metric(metric) };
        format!("{metric} is undefined: the ablation of {name} changes it by less than {NEGLIGIBLE} of its size")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_an_ablation_need_one() {
        let ablated = Twin { ablate: Some("das_simple_train_ADJ".into()), ..Twin::default() };
        assert!(Twin::default().validate().is_ok() && ablated.validate().is_ok());
        let at_layers = Twin { ablate_layers: vec!["1".into()], ..Twin::default() };
        assert_eq!(
            at_layers.validate().unwrap_err().to_string(),
            "ablate_layers: expected a direction to ablate, found none"
        );
        let mean = Twin { ablate_method: Replacement::Mean, ..Twin::default() };
        assert!(mean.validate().is_err() && Twin { ablate: ablated.ablate, ..mean }.validate().is_ok());
    }
}
