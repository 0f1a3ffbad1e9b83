//! Path patching: the paths from senders to receivers, patched one by one.

use super::fields::{list, not_empty, text};
use super::maps::{self, MapSets, MapStudy, Maps, Readout, pass, position_labels};
use super::swept::{self, Computed, Found, Outline, SweptMaps};
use super::undefined::undefined_metric;
use super::{Plan, Study};
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, EngineError, Flops, Metric, PatchPositions};
use crate::experiments::path_patching::{
    End, Method, Node, NodePattern, Nodes, Paths, SenderPositions, common_mode, path_scores,
};
use crate::report::ResultMap;
use crate::report::figure::Figure;
use crate::report::pages::{PathsMap, PathsPage, write_view};
use crate::session::{Observer, OfSetting, Provenance, Session, distinct, wrong};
use crate::sweep::SweepSettings;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;

/// Patches the paths from senders to receivers.
///
/// A node is a component (z, q, k, v, pattern, attn_out, pre, post, mlp_out, resid_pre, resid_mid, resid_post), alone for
/// each of its layers and parts in turn, or with a place: v:9.2 is layer 9, head 2; mlp_out:3 all of layer 3. Values are
/// in percent; axes are (position, layer, head or neuron).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathPatching {
    /// Which datasets.
    #[serde(flatten)]
    pub sets: MapSets,
    /// Where paths begin: one component, or nodes that act together.
    #[serde(deserialize_with = "list")]
    pub senders: Vec<NodePattern>,
    /// Where they end: one component, or nodes that act together.
    #[serde(deserialize_with = "list")]
    pub receivers: Vec<NodePattern>,
    /// Where the senders change: a placeholder, END, a number, ALL, or EACH for one position at a time.
    #[serde(deserialize_with = "text")]
    pub positions: String,
    /// How a change travels from senders to receivers.
    pub method: PathMethod,
    /// Patch a receiver's whole layer, whichever head or neuron is named, as the paper's code does.
    pub layer_wide: bool,
    /// Metrics, all of one patching direction.
    #[serde(deserialize_with = "list")]
    pub metrics: Vec<Metric>,
    /// What is measured.
    #[serde(flatten)]
    pub readout: Readout,
    /// Shards and failures.
    #[serde(flatten)]
    pub sweep: SweepSettings,
}

impl Default for PathPatching {
    fn default() -> Self {
        Self {
            sets: MapSets::default(),
            senders: "z".parse().into_iter().collect(),
            receivers: Vec::new(),
            positions: "ALL".into(),
            method: PathMethod::ThreeSteps,
            layer_wide: false,
            metrics: vec![Metric::LogitDiffNoising],
            readout: Readout::default(),
            sweep: SweepSettings::default(),
        }
    }
}

choices! {
    /// How a change travels.
    pub enum PathMethod {
        /// Through the MLPs between, all heads frozen.
        ThreeSteps = "three-steps",
        /// The same with MLPs frozen too.
        ThreeStepsFrozenMlps = "three-steps-frozen-mlps",
        /// Along the residual stream alone.
        TwoSteps = "two-steps",
    }
}

/// One component, or a list of single nodes.
pub(crate) fn resolve_nodes(setting: &str, patterns: &[NodePattern]) -> Result<Nodes> {
    if let [NodePattern::Every(component)] = patterns {
        return Ok(Nodes::Every(*component));
    }
    let single = |pattern: &NodePattern| match pattern {
        NodePattern::One(node) => Ok(*node),
        NodePattern::Every(component) => {
            wrong!(setting, "{component} without a layer stands alone; in a list, expected layers: {component}:0")
        }
    };
    Ok(Nodes::Together(patterns.iter().map(single).collect::<Result<Vec<Node>>>()?))
}

impl PathPatching {
    /// The paths on a dataset.
    fn paths(&self, session: &Session, prompts: &PairedPrompts) -> Result<Paths> {
        let positions = match self.positions.as_str() {
            "EACH" => SenderPositions::Each,
            name => match session.position("positions", prompts, name)?.1 {
                PatchPositions::All => SenderPositions::All,
                PatchPositions::One(position) => SenderPositions::One(position),
                PatchPositions::Last => {
                    let last = |&sequence: &usize| vec![prompts.sequences[sequence].len().saturating_sub(1)];
                    SenderPositions::PerPrompt(prompts.clean.iter().map(last).collect())
                }
            },
        };
        let method = match self.method {
            PathMethod::ThreeSteps => Method::ThreeSteps { mlps: true },
            PathMethod::ThreeStepsFrozenMlps => Method::ThreeSteps { mlps: false },
            PathMethod::TwoSteps => Method::TwoSteps,
        };
        let senders = resolve_nodes("senders", &self.senders)?;
        let receivers = resolve_nodes("receivers", &self.receivers)?;
        Ok(Paths { senders, receivers, positions, method, layer_wide: self.layer_wide })
    }

    /// File name, without its ending, of what `measure` says.
    fn named(&self, session: &Session, measure: impl Display, set: &str) -> String {
        let list = |patterns: &[NodePattern]| listed(patterns, "-").replace(':', "");
        let method = match self.method {
            PathMethod::ThreeSteps => "",
            PathMethod::ThreeStepsFrozenMlps => "_frozen_mlps",
            PathMethod::TwoSteps => "_two_steps",
        };
        let wide = if self.layer_wide { "_layer_wide" } else { "" };
        let (senders, receivers) = (list(&self.senders), list(&self.receivers));
        let name = format!("{senders}_to_{receivers}_{}{method}{wide}", self.positions);
        self.sets.stem(session, &self.readout.experiment("path_patching"), &name, measure, set)
    }

    fn title(&self, set: &str, model: &str) -> String {
        let (senders, receivers) = (listed(&self.senders, ", "), listed(&self.receivers, ", "));
        format!("Path patching from {senders} to {receivers} on {set}, {model}")
    }
}

/// Nodes behind each other.
fn listed(nodes: &[NodePattern], between: &str) -> String {
    nodes.iter().map(NodePattern::to_string).collect::<Vec<_>>().join(between)
}

/// Positions as ids of cells name them.
fn positions_in_ids(positions: &SenderPositions) -> String {
    match positions {
        SenderPositions::All => "All".into(),
        SenderPositions::Each => "Each".into(),
        SenderPositions::One(position) => format!("One({position})"),
        SenderPositions::PerPrompt(lists) => format!("PerPrompt({lists:?})"),
    }
}

/// A method as ids of cells name it.
fn method_in_ids(method: PathMethod) -> &'static str {
    match method {
        PathMethod::ThreeSteps => "ThreeSteps",
        PathMethod::ThreeStepsFrozenMlps => "ThreeStepsFrozenMlps",
        PathMethod::TwoSteps => "TwoSteps",
    }
}

impl Study for PathPatching {
    const NAME: &'static str = "path-patching";
    type Outcome = Maps;

    fn validate(&self) -> Result<()> {
        if self.receivers.is_empty() {
            wrong!("receivers", "expected the nodes where paths end, such as resid_post:11, found none");
        }
        not_empty(&[self.sets.counted(), ("senders", self.senders.len()), ("metrics", self.metrics.len())])?;
        common_mode(&self.metrics).of_setting("metrics")?;
        self.readout.check(&self.metrics)
    }

    fn plan(&self, session: &Session) -> Result<Plan> {
        maps::plan(self, session)
    }

    fn run(&self, session: &Session, observer: &mut dyn Observer) -> Result<Maps> {
        swept::run(self, session, observer)
    }
}

impl MapStudy for PathPatching {
    type Kind = Metric;

    fn sets(&self) -> &MapSets {
        &self.sets
    }

    fn readout(&self) -> Option<&String> {
        self.readout.along.as_ref()
    }

    fn kinds(&self, session: &Session, prompts: &PairedPrompts) -> Result<Vec<Metric>> {
        let (paths, config) = (self.paths(session, prompts)?, session.config());
        paths.senders.check(End::Sender, config).of_setting("senders")?;
        paths.receivers.check(End::Receiver, config).of_setting("receivers")?;
        paths.check(config, prompts)?;
        Ok(self.metrics.clone())
    }

    fn stem(&self, session: &Session, metric: &Metric, set: &str) -> String {
        self.named(session, metric, set)
    }

    fn depends(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        _: &Metric,
        provenance: Provenance,
    ) -> Result<Provenance> {
        provenance.with("positions", positions_in_ids(&self.paths(session, prompts)?.positions))
    }

    fn planned(&self, session: &Session, prompts: &PairedPrompts, metrics: &[Metric]) -> Result<(String, Flops)> {
        let (_, shape) = self.paths(session, prompts)?.axes(session.config(), prompts)?;
        let line = |metric: &Metric| format!("{}: {shape:?} values", self.stem(session, metric, &prompts.name));
        let clean = prompts.clean.iter().map(|&sequence| &prompts.sequences[sequence]);
        let passes = if self.method == PathMethod::TwoSteps { 1 } else { 2 } * shape.iter().product::<usize>();
        let most = Flops(pass(session.config(), clean).0 * passes as u64);
        let lines = metrics.iter().map(line).collect::<Vec<_>>().join("\n");
        Ok((format!("{lines}\nat most {passes} passes over {} prompts\n", prompts.clean.len()), most))
    }

    fn figure(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        metric: &Metric,
        map: &ResultMap,
    ) -> Result<Option<Figure>> {
        let title = self.title(&prompts.name, &session.model().name);
        Ok(map.figure(&title, &self.readout.measure(*metric), &position_labels(prompts)))
    }

    fn write_page(
        &self,
        session: &Session,
        prompts: &PairedPrompts,
        maps: &[(&Metric, &ResultMap)],
    ) -> Result<Option<PathBuf>> {
        // Neurons are too many to be nodes of a graph, and nodes that act together are one.
        let drawn =
            |map: &ResultMap| map.axes.iter().any(|axis| axis == "layer") && !map.axes.contains(&"neuron".into());
        let of_metric = |(metric, map): &(&Metric, &ResultMap)| PathsMap {
            measure: self.readout.measure(**metric),
            senders: listed(&self.senders, ", "),
            positions: position_labels(prompts),
            map: (*map).clone(),
        };
        let page = PathsPage {
            title: self.title(&prompts.name, &session.model().name),
            receivers: listed(&self.receivers, ", "),
            maps: maps.iter().filter(|(_, map)| drawn(map)).map(of_metric).collect(),
        };
        match page.maps.is_empty() {
            true => Ok(None),
            false => Ok(write_view(&page, &session.folder(), &self.named(session, "graph", &prompts.name))?),
        }
    }

    fn undefined(&self, metric: &Metric) -> String {
        undefined_metric(*metric)
    }
}

impl SweptMaps for PathPatching {
    const PORTION: usize = 512;

    fn sweep(&self) -> &SweepSettings {
        &self.sweep
    }

    fn outline(&self, session: &Session, prompts: &PairedPrompts, &metric: &Metric) -> Result<Outline> {
        let paths = self.paths(session, prompts)?;
        let (axes, shape) = paths.axes(session.config(), prompts)?;
        let settings = [
            ("senders", listed(&self.senders, ",")),
            ("receivers", listed(&self.receivers, ",")),
            ("positions", positions_in_ids(&paths.positions)),
            ("method", method_in_ids(self.method).to_owned()),
            ("layer_wide", self.layer_wide.to_string()),
        ];
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Outline { axes, shape, metric, settings })
    }

    fn values<B: Backend>(
        &self,
        session: &Session,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        places: &[(Metric, usize)],
    ) -> Result<Computed> {
        let (metrics, indices): (Vec<_>, Vec<_>) = places.iter().copied().unzip();
        let (metrics, indices) = (distinct(&metrics), indices.into_iter().collect::<BTreeSet<_>>());
        let indices: Vec<usize> = indices.into_iter().collect();
        let (paths, budget) = (self.paths(session, prompts)?, engine.memory_budget());
        let told = |_| Ok::<(), EngineError>(());
        let (baselines, scores, flops) = path_scores(engine, prompts, &paths, &metrics, &indices, budget, told)?;
        let value = |&(metric, index): &(Metric, usize)| {
            let place = indices.binary_search(&index).ok().filter(|_| baselines.defined(metric))?;
            scores.get(place).map(|scores| Found::new(&baselines, metric, scores))
        };
        Ok(Computed { values: places.iter().map(value).collect(), flops: Some(flops) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_metrics_of_one_patching_direction() {
        let receivers: Vec<NodePattern> = "resid_post:3".parse().into_iter().collect();
        let paths = PathPatching { receivers, ..PathPatching::default() };
        assert!(paths.validate().is_ok());
        let message = |metrics| PathPatching { metrics, ..paths.clone() }.validate().unwrap_err().to_string();
        let mixed = message(vec![Metric::LogitDiff, Metric::LogitDiffNoising]);
        assert!(mixed.starts_with("metrics: ") && mixed.contains("one patching direction"), "{mixed}");
        assert_eq!(message(Vec::new()), "metrics: expected at least one, found none");
    }
}
