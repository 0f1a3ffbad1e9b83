//! What the commands that make maps share: datasets, result files, summaries, and the way from arguments to all of them.

use super::choice::choice;
use super::common::{CompatArgs, ModelArgs, RunArgs, build_prompts, distinct, note_skipped, print, print_json};
use super::device::DeviceWork;
use super::stored_directions::unit_direction;
use super::sweeping::forget;
use crate::backend::Backend;
use crate::datasets::treebank::Scaffold;
use crate::datasets::{Catalogue, PairedPrompts};
use crate::directions::{Direction, FitRecord};
use crate::engine::{Baselines, Engine, Metric, Pairs, Plan};
use crate::experiments::activation_maps::{MapKind, map_cells};
use crate::experiments::attribution_patching::Agreement;
use crate::model::Model;
use crate::report::figure::Figure;
use crate::report::{Manifest, ResultMap, RunRecord, Table, write_array};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use std::fmt::Display;
use std::path::Path;

/// Arguments of every command that makes maps.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct MapArgs {
    #[command(flatten)]
    pub models: ModelArgs,
    /// Datasets to patch.
    #[arg(long, value_delimiter = ',', default_value = "simple")]
    pub eval_sets: Vec<String>,
    /// Text around the Treebank's sentences; all other datasets are plain.
    #[arg(long, value_parser = choice::<Scaffold>(), default_value = "plain")]
    pub scaffold: Scaffold,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// What patched runs are measured by.
#[derive(Debug, Clone, Default, clap::Args, Serialize)]
pub struct ReadoutArgs {
    /// A stored direction to measure along instead of the answers: a prompt's logit difference is then the product of the
    /// direction and the last residual behind the final norm, turned round in negative prompts.
    #[arg(long, value_name = "DIRECTION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub along: Option<String>,
}

impl ReadoutArgs {
    /// Metrics that a direction has, too.
    ///
    /// # Errors
    /// One of probabilities, which only answers have.
    pub fn check(&self, metrics: &[Metric]) -> Result<()> {
        match metrics.iter().find(|metric| self.along.is_some() && metric.needs_probabilities()) {
            Some(metric) => bail!("--along: {metric} is about the answers' probabilities: a direction has none"),
            None => Ok(()),
        }
    }

    /// The name of an experiment in files.
    pub fn experiment(&self, name: &str) -> String {
        self.along.as_ref().map_or(name.to_owned(), |along| format!("{name}_along_{along}"))
    }

    /// What a metric measures, with its unit.
    pub fn measure(&self, metric: Metric) -> String {
        let along = self.along.as_ref().map_or(String::new(), |along| format!(" along {along}"));
        format!("{metric}{along} (%)")
    }
}

/// A command whose results are maps of datasets.
pub trait MapCommand: Serialize + Sync {
    /// Its name on the command line.
    const NAME: &'static str;
    /// What a map is told from the others by.
    type Kind: Clone + PartialEq + Send + Sync;

    /// The arguments that all of them have.
    fn shared(&self) -> &MapArgs;

    /// Are maps that exist already made again?
    fn renews(&self) -> bool {
        self.shared().run.overwrite
    }

    /// The stored direction that patched runs are measured along, if it is not the answers.
    fn readout(&self) -> Option<&String> {
        None
    }

    /// Every map that the arguments ask for.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and dataset.
    fn kinds(&self, model: &Model, prompts: &PairedPrompts) -> Result<Vec<Self::Kind>>;

    /// Name of a map's files without their ending.
    fn stem(&self, kind: &Self::Kind, set: &str) -> String;

    /// What a dry run says of a dataset.
    ///
    /// # Errors
    /// Whatever cannot be made of this model and dataset.
    fn plan(&self, model: &Model, prompts: &PairedPrompts, kinds: &[Self::Kind]) -> Result<String>;
}

/// A command whose maps of a dataset are made together.
pub trait MadeMaps: MapCommand {
    /// Makes them.
    ///
    /// # Errors
    /// Those of the engine.
    fn make<B: Backend>(&self, engine: &Engine<B>, prompts: &PairedPrompts, kinds: &[Self::Kind])
    -> Result<Vec<Named>>;
}

/// A map and the name of its files.
pub struct Named {
    /// File name without its ending.
    pub stem: String,
    /// The values.
    pub map: ResultMap,
    /// Their picture.
    pub figure: Option<Figure>,
    /// How they compare with exact patching, where they are an estimate of it.
    pub agreement: Option<Agreement>,
    /// Weights of the probes that the map tells of, with their shape: `<stem>_weights.npy`.
    pub weights: Option<(Vec<usize>, Vec<f32>)>,
    /// Directions that were found with it, to be stored as others are.
    pub directions: Vec<(Direction, FitRecord)>,
}

impl Named {
    /// A map with the figure that suits its axes; `measure` names the values and their unit.
    pub fn new(stem: String, map: ResultMap, title: &str, measure: &str, prompts: &PairedPrompts) -> Self {
        Self { figure: map.figure(title, measure, &position_labels(prompts)), ..Self::bare(stem, map) }
    }

    /// A map alone.
    pub fn bare(stem: String, map: ResultMap) -> Self {
        Self { stem, map, figure: None, agreement: None, weights: None, directions: Vec::new() }
    }
}

/// Labels of a dataset's positions: their numbers, and the placeholders that end there.
pub fn position_labels(prompts: &PairedPrompts) -> Vec<String> {
    let length = prompts.sequences.iter().map(Vec::len).max().unwrap_or(0);
    let label = |position: usize| {
        let named = prompts.positions.iter().filter(|(_, place)| **place == position);
        let names = named.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ");
        format!("{position} {names}").trim_end().to_owned()
    };
    (0..length).map(label).collect()
}

impl MapArgs {
    /// Every dataset of a model, with the catalogue read again.
    pub fn sets(&self, model: &Model) -> Result<Vec<PairedPrompts>> {
        self.prompts(&self.compat.catalogue(&self.run)?, model)
    }

    /// Every dataset of a model; where it has a readout, that is all prompts' answer.
    pub fn prompts(&self, catalogue: &Catalogue, model: &Model) -> Result<Vec<PairedPrompts>> {
        let build = |set: &String| -> Result<PairedPrompts> {
            let prompts = build_prompts(&self.run, catalogue, set, self.scaffold, model)?;
            Ok(match model.readout_answers() {
                Some(pair) => prompts.with_answers(pair),
                None => prompts,
            })
        };
        distinct(&self.eval_sets).iter().map(build).collect()
    }

    /// File name, without its ending, of a map `name` on a dataset; `measure` says what its values are.
    pub fn stem(&self, experiment: &str, name: &str, measure: impl Display, set: &str) -> String {
        format!("{experiment}_{measure}_{set}_{}_{name}{}", self.scaffold, self.compat.ending())
    }
}

/// Which of a command's maps are still wanted.
fn wanted<C: MapCommand>(command: &C, all: Vec<C::Kind>, folder: &Path, set: &str) -> Vec<C::Kind> {
    if command.renews() {
        return all;
    }
    let there = |kind: &C::Kind| ResultMap::paths(folder, &command.stem(kind, set)).iter().all(|path| path.is_file());
    let (kept, wanted): (Vec<_>, Vec<_>) = all.into_iter().partition(there);
    note_skipped(kept.len(), "maps", folder);
    wanted
}

/// A metric that is defined on the dataset, or an error that names both.
pub fn check_defined(baselines: &Baselines, metrics: impl IntoIterator<Item = Metric>, set: &str) -> Result<()> {
    match metrics.into_iter().find(|metric| !baselines.defined(*metric)) {
        None => Ok(()),
        Some(metric) => bail!("{set}: {metric} is undefined: clean and corrupted runs do not differ in it"),
    }
}

/// The values of activation-patching maps, and their arithmetic when every one is patched, under the head `exactly`.
pub fn exact_plan<'p>(
    shared: &MapArgs,
    model: &Model,
    pairs: impl Into<Pairs<'p>>,
    kinds: &[(MapKind, Metric)],
    exactly: &'static str,
) -> Result<Table> {
    let pairs = pairs.into();
    let prompts = &pairs.prompts;
    let mut table = Table::new(["prompt", "map", "metric", "values", exactly]);
    for &(kind, metric) in kinds {
        let (cells, _) = map_cells(&model.config, prompts, &[kind], &[metric])?;
        let flops = Plan::new(&model.config, &pairs, &cells, shared.run.batch_tokens as usize)?.flops();
        let count = cells.len().to_string();
        table.push([prompts.name.clone(), kind.to_string(), metric.to_string(), count, flops.to_string()]);
    }
    Ok(table)
}

/// A map of fractions, in percent.
pub fn in_percent(axes: Vec<&'static str>, shape: Vec<usize>, fractions: &[f64]) -> ResultMap {
    let values = fractions.iter().map(|value| 100.0 * value).collect();
    ResultMap { axes, shape, components: Vec::new(), unit: "percent", values }
}

/// Datasets with the maps that are wanted of each.
pub type Work<K> = Vec<(PairedPrompts, Vec<K>)>;

/// The making of maps on one model.
struct Making<'a, C: MadeMaps> {
    command: &'a C,
    work: Work<C::Kind>,
    folder: &'a Path,
    manifest: &'a mut Manifest,
}

impl<C: MadeMaps> DeviceWork for Making<'_, C> {
    type Output = Vec<Named>;

    fn run<B: Backend>(self, engine: &Engine<B>) -> Result<Vec<Named>> {
        self.manifest.computed_on(engine);
        let mut all = Vec::new();
        for (prompts, kinds) in self.work {
            self.manifest.saw(&prompts)?;
            let found = self.command.make(engine, &prompts, &kinds).with_context(|| prompts.name.clone())?;
            write(&found, self.folder, self.manifest)?;
            all.extend(found);
        }
        Ok(all)
    }
}

/// Makes the maps that a command asks for, for every model.
pub fn run<C: MadeMaps>(command: &C) -> Result<()> {
    for_every_model(command, |model, folder, work| {
        let run = &command.shared().run;
        let mut manifest = run.manifest(C::NAME, command, folder, Some(&model))?;
        let work = Making { command, work, folder, manifest: &mut manifest };
        let maps = run.in_pool(|| run.on_device(model, work))?;
        Ok((maps, manifest.finish()?))
    })
}

/// Goes through the models of a command: says what is planned, or has the maps that are wanted of a model made, unless
/// there are none, and shows them.
pub fn for_every_model<C: MapCommand>(
    command: &C,
    make: impl Fn(Model, &Path, Work<C::Kind>) -> Result<(Vec<Named>, RunRecord)>,
) -> Result<()> {
    let MapArgs { models, compat, run, .. } = command.shared();
    let catalogue = compat.catalogue(run)?;
    let mut all = Vec::new();
    for spec in &distinct(&models.models) {
        let mut model = models.load(spec, run.seed)?;
        if let Some(along) = command.readout() {
            let direction = unit_direction((run, compat), &model, along).context("--along")?;
            model = model.with_readout(direction)?;
        }
        let (name, folder) = (model.name.clone(), run.folder(&model.name));
        let mut work = Vec::new();
        for prompts in command.shared().prompts(&catalogue, &model)? {
            let kinds = wanted(command, distinct(&command.kinds(&model, &prompts)?), &folder, &prompts.name);
            if !kinds.is_empty() {
                work.push((prompts, kinds));
            }
        }
        if run.dry_run {
            let plans = work.iter().map(|(prompts, kinds)| command.plan(&model, prompts, kinds));
            print(&format!("{name}\n{}\n", plans.collect::<Result<Vec<_>>>()?.join("\n")))?;
            continue;
        }
        let (maps, record) = match work.is_empty() {
            true => (Vec::new(), None),
            false => make(model, &folder, work).map(|(maps, record)| (maps, Some(record)))?,
        };
        if !run.json {
            print(&summary(&name, &maps))?;
        }
        all.push(as_json(&name, &maps, &record));
    }
    if run.json && !run.dry_run {
        print_json(&all)?;
    }
    Ok(())
}

/// Writes maps, their figures and their directions, and notes them in the manifest.
pub fn write(maps: &[Named], folder: &Path, manifest: &mut Manifest) -> Result<()> {
    // Results must never outlive the direction they were measured with.
    let found = maps.iter().flat_map(|map| &map.directions);
    forget(folder, &found.map(|(direction, _)| format!("{}.npy", direction.name)).collect())?;
    for Named { stem, map, figure, weights, directions, .. } in maps {
        for (direction, record) in directions {
            manifest.wrote(&direction.write(folder, record)?, []);
        }
        if let Some(figure) = figure {
            figure.write(folder, stem)?.iter().for_each(|path| manifest.wrote(path, []));
        }
        if let Some((shape, values)) = weights {
            let path = folder.join(format!("{stem}_weights.npy"));
            write_array(&path, shape, values)?;
            manifest.wrote(&path, []);
        }
        map.write(folder, stem)?;
        ResultMap::paths(folder, stem).iter().for_each(|path| manifest.wrote(path, []));
    }
    Ok(())
}

/// How many values of a map its summary shows.
const SHOWN: usize = 8;

/// The largest values of every map; components all, in their order.
pub fn summary(model: &str, maps: &[Named]) -> String {
    let mut text = format!("{model}\n");
    for Named { stem, map, agreement, .. } in maps {
        let (shown, what) = match map.axes[..] {
            ["component"] => ((0..map.values.len()).collect::<Vec<_>>(), ""),
            _ => (map.by_size().into_iter().take(SHOWN).collect(), "largest of "),
        };
        let decimals = if map.unit == "percent" { 2 } else { 4 };
        let mut table = Table::new(map.axes.iter().copied().chain([map.unit]));
        for index in shown {
            table.push(map.labels(index).into_iter().chain([format!("{:.decimals$}", map.values[index])]));
        }
        text += &format!("{stem}: {what}{} values\n{table}", map.values.len());
        if let Some(Agreement { correlation, largest_difference }) = agreement {
            let correlation = correlation.map_or("none".into(), |value| format!("{value:.4}"));
            text += &format!(
                "beside exact patching: correlation {correlation}, largest difference {largest_difference:.2} {}\n",
                map.unit
            );
        }
        text.push('\n');
    }
    text
}

/// Maps as JSON.
pub fn as_json(model: &str, maps: &[Named], manifest: &Option<RunRecord>) -> serde_json::Value {
    let map = |Named { stem, map, agreement, .. }: &Named| {
        let mut value = json!({ "file": stem, "axes": map.axes, "shape": map.shape, (map.unit): map.values });
        if !map.components.is_empty() {
            value["components"] = json!(map.components);
        }
        if let Some(agreement) = agreement {
            value["beside_exact"] = json!(agreement);
        }
        value
    };
    json!({ "model": model, "maps": maps.iter().map(map).collect::<Vec<_>>(), "manifest": manifest })
}
