//! `path-patching`.

use super::choice::choice;
use super::common::{distinct, resolve_position};
use super::map_sweep::{Computed, Outline, SweptMaps};
use super::maps::{MapArgs, MapCommand, Named, ReadoutArgs, check_defined};
use super::sweeping::SweepArgs;
use crate::backend::Backend;
use crate::choice::choices;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, EngineError, Metric, PatchPositions};
use crate::experiments::path_patching::{Method, Node, NodePattern, Nodes, Paths, SenderPositions, path_values};
use crate::model::Model;
use crate::report::ResultMap;
use anyhow::{Result, bail};
use serde::Serialize;
use std::collections::BTreeSet;

/// Arguments of `path-patching`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch path-patching --models gpt2-small --senders z --receivers resid_post:11
  actpatch path-patching --models gpt2-small --senders z --receivers v:7.1,v:10.1,v:10.4,v:11.9 --positions EACH
  actpatch path-patching --models gpt2-small --senders z --receivers v:9.2 --method two-steps
  actpatch path-patching --models gpt2-small --receivers resid_post:11 --along das_simple_train_ADJ_layer12

A node is a component (z, q, k, v, pattern, attn_out, pre, post, mlp_out, resid_pre, resid_mid, resid_post), alone for each
of its layers and parts in turn, or with a place: v:9.2 is layer 9, head 2; mlp_out:3 all of layer 3.
Files in DATA_DIR/<model>/: path_patching_<metric>_<dataset>_<scaffold>_<paths>.npy and .csv, in percent, and .svg, .png and
.html; axes are (position, layer, head or neuron); along a direction path_patching_along_<direction>_<metric>_….")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Where paths begin: one component, or nodes that act together.
    #[arg(long, value_delimiter = ',', default_value = "z")]
    pub senders: Vec<NodePattern>,
    /// Where they end: one component, or nodes that act together.
    #[arg(long, value_delimiter = ',', required = true)]
    pub receivers: Vec<NodePattern>,
    /// Where the senders change: a placeholder, END, a number, ALL, or EACH for one position at a time.
    #[arg(long, default_value = "ALL")]
    pub positions: String,
    /// How a change travels from senders to receivers.
    #[arg(long, value_parser = choice::<MethodArg>(), default_value = "three-steps")]
    pub method: MethodArg,
    /// Patch a receiver's whole layer, whichever head or neuron is named, as the paper's code does.
    #[arg(long)]
    pub layer_wide: bool,
    /// Metrics, all of one patching direction: logit_diff_noising, log_prob_noising; or logit_diff, logit_flip, sign_flip,
    /// prob_diff, log_prob.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff_noising")]
    pub metrics: Vec<Metric>,
    #[command(flatten)]
    #[serde(flatten)]
    pub readout: ReadoutArgs,
    #[command(flatten)]
    pub sweep: SweepArgs,
}

choices! {
    /// How a change travels.
    pub enum MethodArg {
        /// Through the MLPs between, all heads frozen.
        ThreeSteps = "three-steps",
        /// The same with MLPs frozen too.
        ThreeStepsFrozenMlps = "three-steps-frozen-mlps",
        /// Along the residual stream alone.
        TwoSteps = "two-steps",
    }
}

/// One component, or a list of single nodes.
pub(super) fn resolve_nodes(flag: &str, patterns: &[NodePattern]) -> Result<Nodes> {
    if let [NodePattern::Every(component)] = patterns {
        return Ok(Nodes::Every(*component));
    }
    let single = |pattern: &NodePattern| match pattern {
        NodePattern::One(node) => Ok(*node),
        NodePattern::Every(component) => {
            bail!("{flag}: {component} without a layer stands alone; in a list, name layers: {component}:0")
        }
    };
    Ok(Nodes::Together(patterns.iter().map(single).collect::<Result<Vec<Node>>>()?))
}

impl Args {
    /// The paths on a dataset.
    fn paths(&self, prompts: &PairedPrompts) -> Result<Paths> {
        let positions = match (self.positions.as_str(), self.positions.parse()) {
            ("EACH", _) => SenderPositions::Each,
            (_, Ok(position)) => SenderPositions::One(position),
            (name, Err(_)) => match resolve_position(prompts, name)?.1 {
                PatchPositions::All => SenderPositions::All,
                PatchPositions::One(position) => SenderPositions::One(position),
                PatchPositions::Last => {
                    let last = |&sequence: &usize| vec![prompts.sequences[sequence].len().saturating_sub(1)];
                    SenderPositions::PerPrompt(prompts.clean.iter().map(last).collect())
                }
            },
        };
        let method = match self.method {
            MethodArg::ThreeSteps => Method::ThreeSteps { mlps: true },
            MethodArg::ThreeStepsFrozenMlps => Method::ThreeSteps { mlps: false },
            MethodArg::TwoSteps => Method::TwoSteps,
        };
        let senders = resolve_nodes("--senders", &self.senders)?;
        let receivers = resolve_nodes("--receivers", &self.receivers)?;
        Ok(Paths { senders, receivers, positions, method, layer_wide: self.layer_wide })
    }

    fn title(&self, set: &str, model: &str) -> String {
        let list = |nodes: &[NodePattern]| nodes.iter().map(NodePattern::to_string).collect::<Vec<_>>().join(", ");
        format!("Path patching from {} to {} on {set}, {model}", list(&self.senders), list(&self.receivers))
    }
}

impl MapCommand for Args {
    const NAME: &'static str = "path-patching";
    type Kind = Metric;

    fn shared(&self) -> &MapArgs {
        &self.shared
    }

    fn readout(&self) -> Option<&String> {
        self.readout.along.as_ref()
    }

    fn kinds(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<Metric>> {
        self.readout.check(&self.metrics)?;
        self.paths(prompts)?.check(&model.config, prompts)?;
        Ok(self.metrics.clone())
    }

    fn stem(&self, metric: &Metric, set: &str) -> String {
        let list = |patterns: &[NodePattern]| {
            patterns.iter().map(|pattern| pattern.to_string().replace(':', "")).collect::<Vec<_>>().join("-")
        };
        let method = match self.method {
            MethodArg::ThreeSteps => "",
            MethodArg::ThreeStepsFrozenMlps => "_frozen_mlps",
            MethodArg::TwoSteps => "_two_steps",
        };
        let wide = if self.layer_wide { "_layer_wide" } else { "" };
        let (senders, receivers) = (list(&self.senders), list(&self.receivers));
        let name = format!("{senders}_to_{receivers}_{}{method}{wide}", self.positions);
        self.shared.stem(&self.readout.experiment("path_patching"), &name, metric, set)
    }

    fn plan(&self, model: &Model, prompts: &PairedPrompts, metrics: &[Metric]) -> Result<String> {
        let (_, shape) = self.paths(prompts)?.axes(&model.config, prompts)?;
        let line = |metric: &Metric| format!("{}: {shape:?} values", self.stem(metric, &prompts.name));
        Ok(metrics.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

impl SweptMaps for Args {
    const PORTION: usize = 512;

    fn sweep(&self) -> &SweepArgs {
        &self.sweep
    }

    fn outline(&self, model: &Model, prompts: &PairedPrompts, &metric: &Metric) -> Result<Outline> {
        let (axes, shape) = self.paths(prompts)?.axes(&model.config, prompts)?;
        let list = |nodes: &[NodePattern]| nodes.iter().map(NodePattern::to_string).collect::<Vec<_>>().join(",");
        let settings = [
            ("senders", list(&self.senders)),
            ("receivers", list(&self.receivers)),
            ("positions", format!("{:?}", self.paths(prompts)?.positions)),
            ("method", format!("{:?}", self.method)),
            ("layer_wide", self.layer_wide.to_string()),
        ];
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok(Outline { axes, shape, metric, settings })
    }

    fn values<B: Backend>(
        &self,
        engine: &Engine<B>,
        prompts: &PairedPrompts,
        places: &[(Metric, usize)],
    ) -> Result<Computed> {
        let (metrics, indices): (Vec<_>, Vec<_>) = places.iter().copied().unzip();
        let (metrics, indices) = (distinct(&metrics), indices.into_iter().collect::<BTreeSet<_>>());
        let indices: Vec<usize> = indices.into_iter().collect();
        let (paths, budget) = (self.paths(prompts)?, engine.memory_budget());
        let told = |_| Ok::<(), EngineError>(());
        let (baselines, found, flops) = path_values(engine, prompts, &paths, &metrics, &indices, budget, told)?;
        check_defined(&baselines, metrics.iter().copied(), &prompts.name)?;
        let value = |(metric, index): &(Metric, usize)| {
            let of_metric = metrics.iter().position(|m| m == metric).and_then(|number| found.get(number));
            let place = indices.binary_search(index).ok();
            of_metric.zip(place).and_then(|(values, place)| values.get(place)).copied().unwrap_or(f64::NAN)
        };
        Ok(Computed { values: places.iter().map(value).collect(), flops: Some(flops) })
    }

    fn named(&self, model: &str, prompts: &PairedPrompts, metric: &Metric, map: ResultMap) -> Named {
        let title = self.title(&prompts.name, model);
        Named::new(self.stem(metric, &prompts.name), map, &title, &self.readout.measure(*metric), prompts)
    }
}
