//! Logit attribution: what layers, heads and neurons write along the answers, or along a direction.

use super::fields::{list, not_empty};
use super::maps::{AskedSet, MadeMaps, MapSets, MapStudy, Named, maps_study, pass, position_labels};
use super::twins::Twin;
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::directions::spelled;
use crate::engine::{Engine, Flops};
use crate::experiments::activation_maps::common_length;
use crate::experiments::logit_attribution::{
    Attributed, Attribution, LogitMap, direction_attribution, logit_attribution,
};
use crate::files::sha256;
use crate::model::ModelConfig;
use crate::report::figure::{Axis, Facet, Figure, Plot, Series};
use crate::report::{ResultMap, Table};
use crate::session::{Observer, Provenance, Session, need_classes, wrong};
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// Attributes the answers to what layers, heads and neurons write: logit lens and direct logit attribution.
///
/// The final norm is frozen at its scale in the run, so that parts add up: `layers` to the logit difference, heads
/// (without the bias they share) to their block's attention. Means over the prompts, at the last position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogitAttribution {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Maps: lens (the residual stream in front of every block, inside and at the end), lens_by_position, layers
    /// (embeddings, attention, MLPs, biases), heads, heads_by_position, neurons.
    #[serde(deserialize_with = "list")]
    pub maps: Vec<LogitMap>,
    /// Whose: the clean prompts' (as without it), the corrupted ones' (with the clean ones' answers), or clean less
    /// corrupted; with an ablation clean less ablated (as without it).
    pub of: Option<Attributed>,
    /// A stored direction to read along instead of the answers; what is written along it has its sign changed in
    /// negative prompts.
    pub along: Option<String>,
    /// An ablation to compare with.
    #[serde(flatten)]
    pub twin: Twin,
}

impl Default for LogitAttribution {
    fn default() -> Self {
        Self {
            sets: MapSets::default(),
            maps: vec![LogitMap::Lens, LogitMap::Layers, LogitMap::Heads, LogitMap::Neurons],
            of: None,
            along: None,
            twin: Twin::default(),
        }
    }
}

impl LogitAttribution {
    /// Whose logits are attributed.
    fn of(&self) -> Attributed {
        self.of.unwrap_or(if self.twin.ablate.is_some() { Attributed::Difference } else { Attributed::Clean })
    }

    /// The direction, of unit length, if there is one.
    fn direction(&self, session: &Session) -> Result<Option<Vec<f32>>> {
        self.along.as_ref().map(|name| session.unit_direction("along", name)).transpose()
    }

    /// What the values are.
    fn measure(&self) -> String {
        self.along.as_ref().map_or("logit difference (logits)".into(), |name| format!("along {}", spelled(name)))
    }

    fn title(&self, map: LogitMap, set: &str, model: &str) -> String {
        let what = self.along.as_ref().map_or(heading(map).into(), |name| format!("{map} along {}", spelled(name)));
        format!("{what} on {set} ({}{}), {model}", self.of(), self.twin.title())
    }
}

maps_study!(LogitAttribution, "logit-attribution", {
    fn validate(&self) -> Result<()> {
        not_empty(&[self.sets.counted(), ("maps", self.maps.len())])?;
        self.twin.validate()?;
        let of = self.of();
        if self.twin.ablate.is_some() && of != Attributed::Difference {
            wrong!("of", "with an ablation, expected difference (clean less ablated), found {of}");
        }
        Ok(())
    }
});

impl MapStudy for LogitAttribution {
    type Kind = LogitMap;

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn resolved(&self) -> Self {
        Self { of: Some(self.of()), ..self.clone() }
    }

    fn kinds(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<LogitMap>> {
        if self.along.is_some() {
            need_classes("along", prompts, "measuring along a direction")?;
        }
        if self.maps.iter().any(|map| map.by_position()) {
            common_length(prompts)?;
        }
        self.twin.planned(session, prompts)?;
        Ok(self.maps.clone())
    }

    fn stem(&self, session: &Session, map: &LogitMap, set: &str) -> String {
        let experiment = match &self.along {
            None => "logit_attribution".to_owned(),
            Some(name) => format!("direction_attribution_{}", spelled(name)),
        };
        self.sets.stem(session, &format!("{experiment}{}", self.twin.ending()), map.name(), self.of(), set)
    }

    fn depends(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        _: &LogitMap,
        provenance: Provenance,
    ) -> Result<Provenance> {
        let along = self.direction(session)?.map(|direction| sha256(bytemuck::cast_slice(&direction)));
        provenance.with("along", along)?.with("ablation", self.twin.fingerprint(session, prompts)?)
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, maps: &[LogitMap]) -> Result<(String, Flops)> {
        let mut table = Table::new(["prompt", "map", "values"]);
        for map in maps {
            let shape = map.shape(session.config(), prompts.sequences.first().map_or(0, Vec::len));
            table.push([prompts.name.clone(), map.to_string(), shape.iter().product::<usize>().to_string()]);
        }
        let pairs = self.twin.planned(session, prompts)?;
        let sequences = &pairs.prompts.sequences;
        let pass = pass(session.config(), sequences);
        Ok((format!("{table}one pass over {} prompts\n", sequences.len()), pass))
    }

    fn figure(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        map: &LogitMap,
        values: &ResultMap,
    ) -> Result<Option<Figure>> {
        let (title, measure) = (self.title(*map, &prompts.name, &session.model().name), self.measure());
        Ok(match map {
            LogitMap::Lens => Some(lens_figure(title, &measure, values, session.config())),
            _ => values.figure(&title, &measure, &position_labels(prompts)),
        })
    }
}

impl MadeMaps for LogitAttribution {
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &AskedSet<LogitMap>,
        _: &mut dyn Observer,
    ) -> Result<Vec<Named>> {
        let (maps, budget) = (set.wanted(), engine.memory_budget());
        let pairs = self.twin.pairs(session, engine, &set.prompts)?;
        let (found, unit) = match self.direction(session)? {
            None => (logit_attribution(engine, &pairs, &maps, self.of(), budget)?, "logits"),
            Some(along) => (direction_attribution(engine, &pairs, &maps, self.of(), &along, budget)?, "projection"),
        };
        let named = |Attribution { map, shape, values }: Attribution| {
            let values = ResultMap::new(&map.axes(), shape, unit, values);
            let values = values.with_components(map.components(session.config()));
            Named::new(self.stem(session, &map, &set.prompts.name), values)
        };
        Ok(found.into_iter().map(named).collect())
    }
}

fn heading(map: LogitMap) -> &'static str {
    match map {
        LogitMap::Lens => "Logit lens",
        LogitMap::LensByPosition => "Logit lens by position",
        LogitMap::Layers => "Direct logit attribution of layers",
        LogitMap::Heads => "Direct logit attribution of heads",
        LogitMap::HeadsByPosition => "Direct logit attribution of heads by position",
        LogitMap::Neurons => "Direct logit attribution of neurons",
    }
}

/// The lens along the layers; a block's middle lies half way to the next.
fn lens_figure(title: String, measure: &str, map: &ResultMap, config: &ModelConfig) -> Figure {
    let step = if config.parallel_residual { 1.0 } else { 0.5 };
    let points = map.values.iter().enumerate().map(|(number, value)| (step * number as f64, *value)).collect();
    let series = Series { name: "residual stream".into(), points, baseline: false };
    let x = Axis::whole("layer");
    Figure::new(title, vec![Facet { title: String::new(), x, y: Axis::new(measure), plot: Plot::Lines(vec![series]) }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::studies::Study;

    #[test]
    fn an_ablation_is_compared_with_the_clean_run() {
        let twin = Twin { ablate: Some("das_simple_train_ADJ".into()), ..Twin::default() };
        let (plain, ablated) = (LogitAttribution::default(), LogitAttribution { twin, ..Default::default() });
        assert_eq!((plain.of(), ablated.of()), (Attributed::Clean, Attributed::Difference));
        assert!(ablated.validate().is_ok());
        let clean = LogitAttribution { of: Some(Attributed::Clean), ..ablated };
        let message = clean.validate().unwrap_err().to_string();
        assert_eq!(message, "of: with an ablation, expected difference (clean less ablated), found clean");
    }
}
