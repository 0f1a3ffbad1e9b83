//! The experiments that golden numbers can name: the same library calls as the commands of that kind.

use super::Values;
use crate::backend::Backend;
use crate::cli::common::{ModelArgs, RunArgs, build_prompts, defaults, distinct};
use crate::cli::device::DeviceWork;
use crate::cli::maps::in_percent;
use crate::cli::places::resolve_places;
use crate::cli::{direction_patching_suite, fit_directions};
use crate::datasets::treebank::{Scaffold, Split};
use crate::datasets::{Catalogue, PairedPrompts};
use crate::directions::{Direction, DirectionName, FitRecord, Method, similarity};
use crate::engine::{Engine, Metric};
use crate::experiments::ablation::{Ablated, Condition, Effect, Outcome, Replacement, ablation};
use crate::experiments::activation_maps::{MapKind, activation_maps};
use crate::experiments::chunks::{baselines, chosen};
use crate::experiments::logit_attribution::{Attributed, Attribution, LogitMap, logit_attribution};
use crate::experiments::path_patching::{
    Method as PathMethod, Node, NodePattern, Nodes, Paths, SenderPositions, path_patching,
};
use crate::model::Model;
use crate::report::{GOLDEN_DATASETS, Golden, ResultMap};
use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The experiments with their settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "experiment", rename_all = "snake_case", deny_unknown_fields)]
enum Experiment {
    /// Mean logit differences of the unpatched runs; numbers `clean`, `corrupted`.
    Baselines {
        dataset: String,
        #[serde(default = "plain")]
        scaffold: Scaffold,
        /// The prompts that count, by number; all without them.
        prompts: Option<Vec<usize>>,
    },
    /// What parts of the model write along the answers, the final norm frozen, in logits; numbers such as `0_pre` or
    /// `0_attn_out` (components) or `10.4` (layer.head).
    LogitAttribution {
        dataset: String,
        #[serde(default = "plain")]
        scaffold: Scaffold,
        /// A map of `logit-attribution`.
        map: String,
    },
    /// Logit differences without and with nodes ablated together; numbers `clean`, `ablated`, and their `change` in percent.
    Ablation {
        dataset: String,
        #[serde(default = "plain")]
        scaffold: Scaffold,
        /// Nodes as `ablation` names them.
        nodes: Vec<String>,
        /// One of its methods.
        method: String,
        /// Positions as it names them.
        #[serde(default = "everywhere")]
        positions: String,
        keep_at: Option<String>,
        #[serde(default)]
        frozen_attention: bool,
    },
    /// Directions fitted on one dataset and patched on another, in percent; a number's name is a method (its best layer)
    /// or a method and a layer, such as `das 6`.
    DirectionalPatching {
        train_set: String,
        eval_set: String,
        #[serde(default = "plain")]
        scaffold: Scaffold,
        metric: Metric,
    },
    /// Recovered share of the logit difference with one head, or one place of the residual stream, taken from the clean
    /// run, in percent; numbers such as `10.4` (layer.head) or `0.6` (layer.position).
    ActivationPatching {
        dataset: String,
        #[serde(default = "plain")]
        scaffold: Scaffold,
        /// A map of `activation-patching-maps`.
        node: String,
    },
    /// Lost share of the logit difference with each head's path to the receivers taken from the corrupted run, in percent;
    /// numbers such as `10.4` (layer.head).
    PathPatching {
        dataset: String,
        #[serde(default = "plain")]
        scaffold: Scaffold,
        /// Nodes as `path-patching` names them.
        receivers: Vec<String>,
        #[serde(default)]
        layer_wide: bool,
        /// The one position where heads change; all without it.
        position: Option<usize>,
        /// Along the residual stream alone, past the MLPs.
        #[serde(default)]
        two_steps: bool,
    },
    /// Absolute cosines between the layers of imported directions; numbers such as `0-1`.
    DirectionCosines {
        /// `<method>_<dataset>_<POSITION>`.
        directions: String,
    },
}

/// The names of [`Experiment`]'s variants.
const KINDS: [&str; 7] = [
    "baselines",
    "logit_attribution",
    "ablation",
    "directional_patching",
    "activation_patching",
    "path_patching",
    "direction_cosines",
];

fn plain() -> Scaffold {
    Scaffold::Plain
}

fn everywhere() -> String {
    "ALL".into()
}

/// What came of an experiment.
pub(super) enum Ran {
    /// One number for every golden one.
    Values(Values),
    /// Why it could not run.
    Cannot(String),
}

/// Runs the experiments of one model.
pub(super) struct Verifier<'a> {
    models: &'a ModelArgs,
    /// Options of the runs, whose results go to the folder `scratch`.
    run: RunArgs,
    spec: &'a str,
    /// The folder of what the user has: imported directions, Treebank datasets.
    folder: PathBuf,
    /// The model's name.
    name: &'a str,
    catalogue: Catalogue,
    /// What has been fitted so far: a set, a method, a layer or the best one.
    fitted: BTreeSet<(String, Method, Option<usize>)>,
    /// Why the model cannot be loaded.
    unloadable: Option<String>,
    _scratch: tempfile::TempDir,
}

impl<'a> Verifier<'a> {
    pub fn new(models: &'a ModelArgs, run: &RunArgs, spec: &'a str, name: &'a str) -> Result<Self> {
        let scratch = tempfile::tempdir().context("a folder for the runs")?;
        let folder = run.folder(name);
        let run = RunArgs { data_dir: scratch.path().into(), json: false, ..run.clone() };
        let catalogue = run.catalogue()?.with_text("data/golden/datasets.toml (built in)", GOLDEN_DATASETS)?;
        let unloadable = models.load(spec, run.seed).err().map(|error| format!("{error:#}"));
        let fitted = BTreeSet::new();
        Ok(Self { models, run, spec, folder, name, catalogue, fitted, unloadable, _scratch: scratch })
    }

    /// Runs the experiment of a golden entry.
    ///
    /// An error is a golden file that is wrong, or an experiment that fails on the way; what is not there is
    /// [`Ran::Cannot`].
    pub fn run(&mut self, golden: &Golden) -> Result<Ran> {
        if let Some(missing) = &golden.missing {
            return Ok(Ran::Cannot(missing.clone()));
        }
        if !KINDS.contains(&golden.experiment.as_str()) {
            return Ok(Ran::Cannot(format!("there is no experiment {} to run yet", golden.experiment)));
        }
        let mut settings = golden.settings.clone();
        settings.insert("experiment".into(), golden.experiment.clone().into());
        let ran = match settings.try_into().with_context(|| golden.name.clone())? {
            Experiment::Baselines { dataset, scaffold, prompts: numbers } => {
                self.on_prompts((&dataset, scaffold), |prompts| Baselines { prompts, numbers })
            }
            Experiment::LogitAttribution { dataset, scaffold, map } => {
                let map: LogitMap = map.parse().map_err(|error| anyhow!("{}: map: {error}", golden.name))?;
                self.on_prompts((&dataset, scaffold), |prompts| LogitMaps { prompts, map })
            }
            Experiment::Ablation { dataset, scaffold, nodes, method, positions, keep_at, frozen_attention } => {
                let nodes = nodes_of("nodes", &nodes).with_context(|| golden.name.clone())?;
                let replacement = method.parse().map_err(|error| anyhow!("{}: method: {error}", golden.name))?;
                let places = (positions, keep_at);
                self.on_prompts((&dataset, scaffold), |prompts| Ablation {
                    prompts,
                    nodes,
                    replacement,
                    places,
                    frozen_attention,
                })
            }
            Experiment::DirectionalPatching { train_set, eval_set, scaffold, metric } => {
                self.directional_patching(golden, &train_set, (&eval_set, scaffold), metric)
            }
            Experiment::DirectionCosines { directions } => self.cosines(golden, &directions),
            Experiment::ActivationPatching { dataset, scaffold, node } => {
                let kind: MapKind = node.parse().map_err(|error| anyhow!("{}: node: {error}", golden.name))?;
                self.on_prompts((&dataset, scaffold), |prompts| ActivationMaps { prompts, kind })
            }
            Experiment::PathPatching { dataset, scaffold, receivers, layer_wide, position, two_steps } => {
                let paths = Paths {
                    senders: Nodes::Every("z".parse().map_err(|error| anyhow!("senders: {error}"))?),
                    receivers: Nodes::Together(nodes_of("receivers", &receivers).with_context(|| golden.name.clone())?),
                    positions: position.map_or(SenderPositions::All, SenderPositions::One),
                    method: if two_steps { PathMethod::TwoSteps } else { PathMethod::ThreeSteps { mlps: true } },
                    layer_wide,
                };
                self.on_prompts((&dataset, scaffold), |prompts| PathMaps { prompts, paths })
            }
        };
        match ran.with_context(|| golden.name.clone())? {
            Ran::Values(values) => Ok(Ran::Values(only_golden(golden, values)?)),
            cannot => Ok(cannot),
        }
    }

    /// The model and a dataset for it, or why one of them cannot be had.
    fn prepare(&self, dataset: &str, scaffold: Scaffold) -> Result<std::result::Result<(Model, PairedPrompts), Ran>> {
        if let Some(reason) = &self.unloadable {
            return Ok(Err(Ran::Cannot(reason.clone())));
        }
        let model = self.models.load(self.spec, self.run.seed)?;
        if let Some(split) = Split::of_dataset(dataset) {
            let (theirs, scratch) = (&self.folder, self.run.folder(self.name));
            let file = scaffold.dataset_file(theirs, split);
            if !file.is_file() {
                return Ok(Err(Ran::Cannot(format!(
                    "{} is missing; make it with: actpatch treebank-data-gen --models {} --splits {split} --scaffolds \
                     {scaffold}",
                    file.display(),
                    self.spec
                ))));
            }
            std::fs::create_dir_all(&scratch)?;
            std::fs::copy(&file, scaffold.dataset_file(&scratch, split)).with_context(|| file.display().to_string())?;
        }
        let prompts = build_prompts(&self.run, &self.catalogue, dataset, scaffold, &model)?;
        Ok(Ok((model, prompts)))
    }

    /// An experiment on one dataset that needs no more than the engine.
    fn on_prompts<W: DeviceWork<Output = Values>>(
        &self,
        (dataset, scaffold): (&str, Scaffold),
        work: impl FnOnce(PairedPrompts) -> W,
    ) -> Result<Ran> {
        match self.prepare(dataset, scaffold)? {
            Ok((model, prompts)) => Ok(Ran::Values(self.run.on_device(model, work(prompts))?)),
            Err(cannot) => Ok(cannot),
        }
    }

    /// What `fit-directions` and `direction-patching-suite` do with their defaults.
    fn directional_patching(
        &mut self,
        golden: &Golden,
        train_set: &str,
        (eval_set, scaffold): (&str, Scaffold),
        metric: Metric,
    ) -> Result<Ran> {
        let wanted = golden.values.keys().map(|key| place(key)).collect::<Result<Vec<_>>>()?;
        let (model, _) = match self.prepare(eval_set, scaffold)? {
            Ok(both) => both,
            Err(cannot) => return Ok(cannot),
        };
        self.fit(train_set, &wanted, model)?;
        let mut suite: direction_patching_suite::Args = defaults()?;
        (suite.models, suite.run) = (self.models.clone(), self.run.clone());
        (suite.eval_sets, suite.scaffold, suite.metrics) = (vec![eval_set.into()], scaffold, vec![metric]);
        let pattern = |(method, _): &(Method, Option<usize>)| match method {
            Method::RandomDirection => format!("{method}_*"),
            _ => format!("{method}_{train_set}_*"),
        };
        suite.directions = wanted.iter().map(pattern).collect();
        let model = self.models.load(self.spec, self.run.seed)?;
        let (cells, _) = direction_patching_suite::patch_model(&suite, &self.catalogue, model)?;
        let mut values = Values::new();
        for ((_, (direction, _, _)), percent) in cells {
            let name: DirectionName = direction.parse()?;
            let Some(percent) = percent else { continue };
            values.insert(format!("{} {}", name.method(), name.layer()), percent);
            // The best layer is chosen on the prompts that are reported, as in the paper's tables.
            let best = values.entry(name.method().to_string()).or_insert(percent);
            *best = best.max(percent);
        }
        Ok(Ran::Values(values))
    }

    /// Fits what earlier entries have not: each method at all layers, or at the one layer wanted.
    fn fit(&mut self, train_set: &str, wanted: &[(Method, Option<usize>)], model: Model) -> Result<()> {
        let known = |(method, layer)| self.fitted.contains(&(train_set.to_owned(), method, layer));
        let new: Vec<(Method, Option<usize>)> = wanted.iter().copied().filter(|&place| !known(place)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut fit: fit_directions::Args = defaults()?;
        (fit.models, fit.run, fit.train_sets) = (self.models.clone(), self.run.clone(), vec![train_set.into()]);
        fit.methods = distinct(&new.iter().map(|(method, _)| *method).collect::<Vec<_>>());
        if let Some(layers) = new.iter().map(|(_, layer)| *layer).collect::<Option<Vec<usize>>>() {
            fit.layers = layers.iter().map(ToString::to_string).collect();
        }
        fit_directions::fit_model(&fit, &self.catalogue, self.spec, model)?;
        self.fitted.extend(new.into_iter().map(|(method, layer)| (train_set.to_owned(), method, layer)));
        Ok(())
    }

    fn cosines(&self, golden: &Golden, directions: &str) -> Result<Ran> {
        let mut values = Values::new();
        for key in golden.values.keys() {
            let layers =
                key.split_once('-').ok_or_else(|| anyhow!("values.{key}: expected two layers, such as 0-1"))?;
            let mut read = Vec::new();
            for layer in [layers.0, layers.1] {
                let name: DirectionName = format!("{directions}_layer{layer}").parse()?;
                if !is_imported(&self.folder, &name)? {
                    return Ok(Ran::Cannot(format!(
                        "{name} has not been imported into {}; import it with: actpatch directions import FOLDER --model {}",
                        self.folder.display(),
                        self.spec
                    )));
                }
                read.push(Direction::read_any_width(&self.folder, &name)?);
            }
            if let [first, second] = &read[..] {
                values.insert(key.clone(), similarity(&first.columns, &second.columns).abs());
            }
        }
        Ok(Ran::Values(values))
    }
}

fn is_imported(folder: &Path, name: &DirectionName) -> Result<bool> {
    let (array, record) = Direction::paths(folder, name);
    Ok(array.is_file() && record.is_file() && FitRecord::read(folder, name)?.imported.is_some())
}

/// A method, and a layer unless the best one is meant.
fn place(key: &str) -> Result<(Method, Option<usize>)> {
    let (method, layer) = key.split_once(' ').map_or((key, None), |(method, layer)| (method, Some(layer)));
    let layer = layer.map(|layer| layer.parse().with_context(|| format!("values: expected a layer in {key:?}")));
    Ok((method.parse()?, layer.transpose()?))
}

/// The computed numbers that have a golden one; all of those must be among them.
fn only_golden(golden: &Golden, mut values: Values) -> Result<Values> {
    let take = |key: &String| {
        let value = values.remove(key);
        let value =
            value.ok_or_else(|| anyhow!("{}: values.{key}: the experiment gives no such number", golden.name))?;
        Ok((key.clone(), value))
    };
    golden.values.keys().map(take).collect()
}

fn nodes_of(field: &str, names: &[String]) -> Result<Vec<Node>> {
    let node = |name: &String| match name.parse() {
        Ok(NodePattern::One(node)) => Ok(node),
        Ok(NodePattern::Every(_)) => Err(anyhow!("{field}: expected a layer, such as {name}:0, found {name:?}")),
        Err(error) => Err(anyhow!("{field}: {error}")),
    };
    names.iter().map(node).collect()
}

struct Baselines {
    prompts: PairedPrompts,
    /// Those that count.
    numbers: Option<Vec<usize>>,
}

impl DeviceWork for Baselines {
    type Output = Values;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Values> {
        let prompts = match self.numbers {
            None => self.prompts,
            Some(numbers) => {
                let total = self.prompts.clean.len();
                match numbers.iter().find(|&&number| number >= total) {
                    Some(beyond) => bail!("prompts: there is no prompt {beyond} of {total}"),
                    None if numbers.is_empty() => bail!("prompts: expected at least one"),
                    None => chosen(&self.prompts, &numbers),
                }
            }
        };
        let (clean, corrupted) = baselines(engine, &prompts, engine.memory_budget())?.logit_differences();
        Ok(Values::from([("clean".into(), clean), ("corrupted".into(), corrupted)]))
    }
}

struct LogitMaps {
    prompts: PairedPrompts,
    map: LogitMap,
}

impl DeviceWork for LogitMaps {
    type Output = Values;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Values> {
        let found = logit_attribution(engine, &self.prompts, &[self.map], Attributed::Clean, engine.memory_budget())?;
        let named = |Attribution { map, shape, values }: Attribution| {
            let components = map.components(engine.config());
            by_place(&ResultMap { axes: map.axes(), shape, components, unit: "logits", values })
        };
        Ok(found.into_iter().flat_map(named).collect())
    }
}

struct Ablation {
    prompts: PairedPrompts,
    nodes: Vec<Node>,
    replacement: Replacement,
    /// Where, and where not.
    places: (String, Option<String>),
    frozen_attention: bool,
}

impl DeviceWork for Ablation {
    type Output = Values;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Values> {
        let (prompts, budget) = (&self.prompts, engine.memory_budget());
        let resolved = |field, text: &str| resolve_places(field, prompts, &engine.model().tokenizer, text);
        let whole = |node: &Node| Ablated::whole(node.site(), node.part);
        let condition = Condition {
            ablated: self.nodes.iter().map(whole).collect(),
            replacement: self.replacement,
            places: resolved("positions", &self.places.0)?,
            kept: self.places.1.map(|kept| resolved("keep_at", &kept)).transpose()?,
            frozen_attention: self.frozen_attention,
        };
        condition.plan_that_fires(engine.config(), prompts, 0, engine.max_tokens())?;
        let told = |_| -> Result<()> { Ok(()) };
        let Outcome { clean, ablated } = ablation(engine, prompts, &[condition], 0, budget, told)?;
        let mut values = Values::new();
        if let Some(effect) = ablated.first().and_then(|ablated| Effect::new(&clean, ablated, |_| true)) {
            let (clean, ablated) = effect.logit_difference;
            values.extend([("clean".into(), clean), ("ablated".into(), ablated)]);
            values.extend(effect.change().map(|change| ("change".into(), change)));
        }
        Ok(values)
    }
}

struct ActivationMaps {
    prompts: PairedPrompts,
    kind: MapKind,
}

impl DeviceWork for ActivationMaps {
    type Output = Values;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Values> {
        let told = |_| -> Result<()> { Ok(()) };
        let (kinds, metrics) = ([self.kind], [Metric::LogitDiff]);
        let (_, maps) = activation_maps(engine, &self.prompts, &kinds, &metrics, engine.memory_budget(), told)?;
        Ok(maps.into_iter().flat_map(|map| by_place(&in_percent(map.kind.axes(), map.shape, &map.values))).collect())
    }
}

struct PathMaps {
    prompts: PairedPrompts,
    paths: Paths,
}

impl DeviceWork for PathMaps {
    type Output = Values;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Values> {
        let told = |_| -> Result<()> { Ok(()) };
        let metrics = [Metric::LogitDiffNoising];
        let (_, maps, _) = path_patching(engine, &self.prompts, &self.paths, &metrics, engine.memory_budget(), told)?;
        Ok(maps.into_iter().flat_map(|map| by_place(&in_percent(map.axes, map.shape, &map.values))).collect())
    }
}

/// The values of a map by their places: `3.1` for row 3, column 1; components by their names.
fn by_place(map: &ResultMap) -> Values {
    map.values.iter().enumerate().map(|(index, value)| (map.labels(index).join("."), *value)).collect()
}
