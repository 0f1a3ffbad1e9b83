//! `path-patching`.

use super::common::{bar, distinct, print, print_json, resolve_position};
use super::device::DeviceWork;
use super::maps::{MapArgs, Named, as_json, check_defined, percent, position_labels, summary, write};
use crate::backend::Backend;
use crate::datasets::PairedPrompts;
use crate::engine::{Engine, Metric, PatchPositions};
use crate::experiments::chunks::MEMORY_BUDGET;
use crate::experiments::path_patching::{
    Method, Node, NodePattern, Nodes, PathFlops, PathMap, Paths, SenderPositions, path_patching,
};
use crate::model::Model;
use crate::report::{Manifest, ResultMap};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Serialize, Serializer};
use std::io::Write;
use std::path::Path;

/// Arguments of `path-patching`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch path-patching --models gpt2-small --senders z --receivers resid_post:11
  actpatch path-patching --models gpt2-small --senders z --receivers v:7.1,v:10.1,v:10.4,v:11.9 --positions EACH
  actpatch path-patching --models gpt2-small --senders z --receivers v:9.2 --method two-steps

A node is a component (z, q, k, v, pattern, attn_out, pre, post, mlp_out, resid_pre, resid_mid, resid_post), alone for each
of its layers and parts in turn, or with a place: v:9.2 is layer 9, head 2; mlp_out:3 all of layer 3.
Files in DATA_DIR/<model>/: path_patching_<metric>_<dataset>_<scaffold>_<paths>.npy and .csv, in percent, and .svg, .png and
.html; axes are (position, layer, head or neuron).")]
pub struct Args {
    #[command(flatten)]
    pub shared: MapArgs,
    /// Where paths begin: one component, or nodes that act together.
    #[arg(long, value_delimiter = ',', default_value = "z")]
    #[serde(serialize_with = "nodes")]
    pub senders: Vec<NodePattern>,
    /// Where they end: one component, or nodes that act together.
    #[arg(long, value_delimiter = ',', required = true)]
    #[serde(serialize_with = "nodes")]
    pub receivers: Vec<NodePattern>,
    /// Where the senders change: a placeholder, END, a number, ALL, or EACH for one position at a time.
    #[arg(long, default_value = "ALL")]
    pub positions: String,
    /// How a change travels from senders to receivers.
    #[arg(long, value_enum, default_value = "three-steps")]
    pub method: MethodArg,
    /// Patch a receiver's whole layer, whichever head or neuron is named, as the paper's code does.
    #[arg(long)]
    pub layer_wide: bool,
    /// Metrics, all of one patching direction: logit_diff_noising, or logit_diff, logit_flip, sign_flip, prob_diff.
    #[arg(long, value_delimiter = ',', default_value = "logit_diff_noising")]
    pub metrics: Vec<Metric>,
}

/// How a change travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodArg {
    /// Through the MLPs between, all heads frozen.
    ThreeSteps,
    /// The same with MLPs frozen too.
    ThreeStepsFrozenMlps,
    /// Along the residual stream alone.
    TwoSteps,
}

fn nodes<S: Serializer>(nodes: &[NodePattern], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_seq(nodes.iter().map(NodePattern::to_string))
}

/// One component, or a list of single nodes.
fn resolve_nodes(flag: &str, patterns: &[NodePattern]) -> Result<Nodes> {
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

    fn stem(&self, metric: Metric, set: &str) -> String {
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
        self.shared.stem("path_patching", &name, metric, set)
    }
}

/// The maps of one model.
struct Maps<'a> {
    args: &'a Args,
    work: Vec<(PairedPrompts, Vec<Metric>)>,
    folder: &'a Path,
    manifest: &'a mut Manifest,
}

impl DeviceWork for Maps<'_> {
    type Output = Vec<Named>;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Vec<Named>> {
        self.manifest.computed_on(engine);
        let mut all = Vec::new();
        for (prompts, metrics) in self.work {
            self.manifest.saw(&prompts)?;
            let set = prompts.name.clone();
            let (found, flops) = patch(self.args, engine, &prompts, &metrics).with_context(|| set.clone())?;
            note_flops(&set, flops)?;
            let named = |map: PathMap| Named {
                stem: self.args.stem(map.metric, &set),
                title: self.args.title(&set, &engine.model().name),
                metric: map.metric,
                positions: position_labels(&prompts),
                map: ResultMap { axes: map.axes, shape: map.shape, percent: percent(&map.values) },
            };
            let found: Vec<Named> = found.into_iter().map(named).collect();
            write(&found, self.folder, self.manifest)?;
            all.extend(found);
        }
        Ok(all)
    }
}

/// Says on stderr what the structure of path patching has saved.
fn note_flops(set: &str, flops: PathFlops) -> Result<()> {
    let ratio = flops.naive.0 as f64 / flops.done.0.max(1) as f64;
    let (done, naive) = (flops.done, flops.naive);
    writeln!(
        std::io::stderr(),
        "{set}: {done} done; whole passes for every node would be {naive}, {ratio:.0} times that"
    )
    .context("stderr")
}

fn patch<B: Backend>(
    args: &Args,
    engine: &Engine<B>,
    prompts: &PairedPrompts,
    metrics: &[Metric],
) -> Result<(Vec<PathMap>, PathFlops)> {
    let progress = bar(1000, format!("patching {}", prompts.name));
    let paths = args.paths(prompts)?;
    let (baselines, maps, flops) =
        path_patching(engine, prompts, &paths, metrics, MEMORY_BUDGET, |share| -> Result<()> {
            progress.set_position((1000.0 * share) as u64);
            Ok(())
        })?;
    progress.finish_and_clear();
    check_defined(&baselines, metrics, &prompts.name)?;
    Ok((maps, flops))
}

/// Makes the maps that the arguments name, for every model.
pub fn run(args: Args) -> Result<()> {
    let catalogue = args.shared.compat.catalogue(&args.shared.run)?;
    let mut all = Vec::new();
    for spec in &distinct(&args.shared.models.models) {
        let model = args.shared.models.load(spec, args.shared.run.seed)?;
        let (name, folder) = (model.name.clone(), args.shared.run.folder(&model.name));
        let mut work = Vec::new();
        for prompts in args.shared.prompts(&catalogue, &model)? {
            args.paths(&prompts)?.check(&model.config, &prompts)?;
            let stem = |metric: &Metric| args.stem(*metric, &prompts.name);
            let metrics = args.shared.wanted(&distinct(&args.metrics), &folder, stem);
            if !metrics.is_empty() {
                work.push((prompts, metrics));
            }
        }
        if args.shared.run.dry_run {
            print(&plan(&args, &model, &work)?)?;
            continue;
        }
        let (mut maps, mut record) = (Vec::new(), None);
        if !work.is_empty() {
            let mut manifest = args.shared.run.manifest("path-patching", &args, &folder, Some(&model))?;
            let maps_of = Maps { args: &args, work, folder: &folder, manifest: &mut manifest };
            maps = args.shared.run.in_pool(|| args.shared.run.on_device(model, maps_of))?;
            record = Some(manifest.finish()?);
        }
        if !args.shared.run.json {
            print(&summary(&name, &maps))?;
        }
        all.push(as_json(&name, &maps, &record));
    }
    if args.shared.run.json {
        print_json(&all)?;
    }
    Ok(())
}

/// The text of a dry run.
fn plan(args: &Args, model: &Model, work: &[(PairedPrompts, Vec<Metric>)]) -> Result<String> {
    let mut text = format!("{}\n", model.name);
    for (prompts, metrics) in work {
        let paths = args.paths(prompts)?;
        let shape = paths.shape(&model.config, prompts)?;
        for metric in metrics {
            text += &format!("{}: {shape:?} values\n", args.stem(*metric, &prompts.name));
        }
    }
    Ok(text)
}
