//! Attribution patching: activation-patching maps estimated from gradients, and compared with exact ones.

use super::activation_patching_maps::{ActivationPatchingMaps, USUAL_MAPS, exact_maps};
use super::fields::{list, not_empty};
use super::maps::{
    AskedSet, MadeMaps, MapSets, MapStudy, Named, exact_plan, in_order, maps_study, position_labels, provenance_of,
};
use super::undefined::undefined_metric;
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Flops, Metric};
use crate::experiments::activation_maps::MapKind;
use crate::experiments::attribution_patching::{Agreement, Gradients, attribution_maps};
use crate::report::ResultMap;
use crate::report::figure::{Axis, Class, Facet, Figure, Plot, Point};
use crate::session::{Observer, Progress, Provenance, Session, distinct, wrong};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// Estimates activation-patching maps from gradients, and compares them with exact ones.
///
/// Maps as [`super::ActivationPatchingMaps`] makes them, to first order: change of a node times the metric's gradient
/// there, two forward passes and one backward pass for all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttributionPatching {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Maps: z, q, k, v, pattern (layer, head), pre, post (layer, neuron), the same with `_by_position`, and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[serde(deserialize_with = "list")]
    pub maps: Vec<MapKind>,
    /// Metrics: logit_diff, logit_diff_noising.
    #[serde(deserialize_with = "list")]
    pub metrics: Vec<Metric>,
    /// Integrated gradients: their mean over this many steps, 1 to 1000, from one run's input to the
    /// other's.
    pub integrated: Option<u16>,
    /// Patch every node exactly too, into the files of [`super::ActivationPatchingMaps`], and compare.
    pub exact: bool,
}

impl Default for AttributionPatching {
    fn default() -> Self {
        Self {
            sets: MapSets::default(),
            maps: USUAL_MAPS.iter().filter_map(|map| map.parse().ok()).collect(),
            metrics: vec![Metric::LogitDiff],
            integrated: None,
            exact: false,
        }
    }
}

/// Steps that gradients are integrated over.
const STEPS: RangeInclusive<u16> = 1..=1000;

/// A map and its metric.
type Place = (MapKind, Metric);

/// A map, estimated or exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    map: MapKind,
    metric: Metric,
    exact: bool,
}

impl Kind {
    fn place(&self) -> Place {
        (self.map, self.metric)
    }

    fn measure(&self) -> String {
        format!("{} (%)", self.metric)
    }
}

impl AttributionPatching {
    fn gradients(&self) -> Gradients {
        self.integrated.map_or(Gradients::Plain, |steps| Gradients::Integrated(steps.into()))
    }

    /// The study whose maps are estimated, and that the exact ones belong to.
    fn exactly(&self) -> ActivationPatchingMaps {
        ActivationPatchingMaps { sets: self.sets.clone(), ..ActivationPatchingMaps::default() }
    }

    fn title(&self, map: MapKind, set: &str, model: &str) -> String {
        match self.integrated {
            None => format!("Attribution patching of {map} on {set}, {model}"),
            Some(steps) => format!("Integrated gradients ({steps} steps) of {map} on {set}, {model}"),
        }
    }

    /// The estimates of some maps, in their order.
    fn estimates<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        wanted: &[Kind],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Named>> {
        let stem = |&(map, metric): &Place| self.stem(session, &Kind { map, metric, exact: false }, &prompts.name);
        let places: Vec<Place> = wanted.iter().map(Kind::place).collect();
        in_order(&places, stem, |maps, metrics| {
            let mut progress = Progress::of_shares(observer, format!("gradients of {}", prompts.name));
            let told = |share| progress.share(share);
            attribution_maps(engine, prompts, maps, metrics, self.gradients(), engine.memory_budget(), told)
        })
    }
}

maps_study!(AttributionPatching, "attribution-patching", {
    fn validate(&self) -> Result<()> {
        not_empty(&[self.sets.counted(), ("maps", self.maps.len()), ("metrics", self.metrics.len())])?;
        if let Some(steps) = self.integrated.filter(|steps| !STEPS.contains(steps)) {
            wrong!("integrated", "expected {} to {} steps, found {steps}", STEPS.start(), STEPS.end());
        }
        match self.metrics.iter().find(|metric| !matches!(metric, Metric::LogitDiff | Metric::LogitDiffNoising)) {
            None => Ok(()),
            Some(other) => {
                wrong!("metrics", "expected logit_diff or logit_diff_noising, which have gradients, found {other}")
            }
        }
    }
});

impl MapStudy for AttributionPatching {
    type Kind = Kind;

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn kinds(&self, session: &Session, _: &PairedPrompts) -> Result<Vec<Kind>> {
        self.maps.iter().try_for_each(|map| map.component().site(0).check(session.config()))?;
        let all = [false, true].into_iter().filter(|exact| self.exact || !exact).flat_map(|exact| {
            let places = self.maps.iter().flat_map(|&map| self.metrics.iter().map(move |&metric| (map, metric)));
            places.map(move |(map, metric)| Kind { map, metric, exact })
        });
        Ok(all.collect())
    }

    fn stem(&self, session: &Session, kind: &Kind, set: &str) -> String {
        if kind.exact {
            return self.exactly().stem(session, &kind.place(), set);
        }
        let experiment = match self.integrated {
            None => "attribution_patching".to_owned(),
            Some(steps) => format!("integrated_gradients_{steps}"),
        };
        self.sets.stem(session, &experiment, &kind.map.to_string(), kind.metric, set)
    }

    fn depends(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        kind: &Kind,
        provenance: Provenance,
    ) -> Result<Provenance> {
        match kind.exact {
            true => provenance_of(&self.exactly(), session, prompts, &kind.place()),
            false => Ok(provenance),
        }
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, kinds: &[Kind]) -> Result<(String, Flops)> {
        let places = distinct(&kinds.iter().map(Kind::place).collect::<Vec<_>>());
        let (table, _) = exact_plan(session, prompts, &places, "exactly")?;
        let exact: Vec<_> = kinds.iter().filter(|kind| kind.exact).map(Kind::place).collect();
        let (_, exactly) = exact_plan(session, prompts, &exact, "exactly")?;
        let metrics = distinct(&kinds.iter().map(|kind| kind.metric).collect::<Vec<_>>()).len();
        let all = self.gradients().flops(session.config(), prompts);
        let total = Flops(all.0 * metrics as u64) + exactly;
        Ok((format!("{table}all maps of a metric from gradients: {all} ({metrics} metrics)\n"), total))
    }

    fn figure(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        kind: &Kind,
        map: &ResultMap,
    ) -> Result<Option<Figure>> {
        if kind.exact {
            return self.exactly().figure(session, prompts, &kind.place(), map);
        }
        let title = self.title(kind.map, &prompts.name, &session.model().name);
        Ok(map.figure(&title, &kind.measure(), &position_labels(prompts)))
    }

    fn undefined(&self, kind: &Kind) -> String {
        undefined_metric(kind.metric)
    }

    fn lacks(&self, kind: &Kind, kept: &Named, figure_lost: bool) -> Option<&'static str> {
        match kept.agreement {
            None if self.exact && !kind.exact && kept.map.has_values() => {
                Some("it was not compared with exact patching")
            }
            Some(_) if figure_lost => Some("its figure, which compares it with exact patching, is lost"),
            _ => None,
        }
    }
}

impl MadeMaps for AttributionPatching {
    fn make<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        set: &AskedSet<Kind>,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Named>> {
        let prompts = &set.prompts;
        let (exact, estimated): (Vec<Kind>, Vec<Kind>) = set.wanted().into_iter().partition(|kind| kind.exact);
        let mut estimates = self.estimates(session, engine, prompts, &estimated, observer)?;
        let places: Vec<Place> = exact.iter().map(Kind::place).collect();
        let mut made = exact_maps(&self.exactly(), session, engine, prompts, &places, observer)?;
        for (kind, estimate) in estimated.iter().zip(&mut estimates) {
            let twin = Kind { exact: true, ..*kind };
            let place = exact.iter().position(|kind| *kind == twin);
            let twin = place.and_then(|place| made.get(place)).or(set.kept(&twin));
            if let Some(twin) = twin.filter(|twin| twin.map.has_values()) {
                estimate.agreement = Some(Agreement::of(&estimate.map.values, &twin.map.values));
                let figure = self.figure(session, prompts, kind, &estimate.map)?;
                estimate.figure = figure.map(|figure| compared(figure, &estimate.map, &twin.map, &kind.measure()));
            }
        }
        estimates.append(&mut made);
        Ok(estimates)
    }
}

/// The figure of an estimate with a facet that compares it with the exact map.
fn compared(mut figure: Figure, estimate: &ResultMap, exact: &ResultMap, measure: &str) -> Figure {
    // The scatter plot names the largest heads too.
    if let Some(Plot::HeatMap(_)) = figure.facets.first().map(|facet| &facet.plot) {
        figure.facets.retain(|facet| matches!(facet.plot, Plot::HeatMap(_)));
    }
    figure.facets.push(beside(estimate, exact, measure));
    figure
}

/// Points of a scatter plot have a name from this share of the largest value on.
const NAMED: f64 = 0.1;

/// Every node's estimate over its exact value.
fn beside(estimate: &ResultMap, exact: &ResultMap, measure: &str) -> Facet {
    let order = exact.by_size();
    let largest = order.first().map_or(0.0, |&index| exact.values[index].abs());
    let point = |&index: &usize| Point {
        x: exact.values[index],
        y: estimate.values[index],
        label: match exact.values[index].abs() > NAMED * largest {
            true => estimate.labels(index).join("."),
            false => String::new(),
        },
    };
    Facet {
        title: format!("beside exact patching ({})", estimate.axes.join(".")),
        x: Axis::new(format!("exact {measure}")),
        y: Axis::new(format!("estimated {measure}")),
        plot: Plot::Scatter(vec![Class { name: measure.to_owned(), points: order.iter().map(point).collect() }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::studies::Study;

    #[test]
    fn what_has_no_gradients_is_refused() {
        let message = |study: AttributionPatching| study.validate().unwrap_err().to_string();
        let flip = AttributionPatching { metrics: vec![Metric::LogitFlip], ..Default::default() };
        assert!(message(flip).starts_with("metrics: expected logit_diff or logit_diff_noising"));
        let never = AttributionPatching { integrated: Some(0), ..Default::default() };
        assert_eq!(message(never), "integrated: expected 1 to 1000 steps, found 0");
        assert!(AttributionPatching { integrated: Some(1000), ..Default::default() }.validate().is_ok());
    }
}
