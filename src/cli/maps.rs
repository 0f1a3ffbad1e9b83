//! What the commands that make maps share: datasets, result files and summaries.

use super::common::{CompatArgs, ModelArgs, RunArgs, build_prompts, distinct, note_skipped};
use crate::datasets::treebank::Scaffold;
use crate::datasets::{Catalogue, PairedPrompts};
use crate::engine::{Baselines, Metric};
use crate::model::Model;
use crate::report::{Manifest, ResultMap, RunRecord, Table};
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;
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
    #[arg(long, value_enum, default_value = "plain")]
    pub scaffold: Scaffold,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// A map and the name of its files.
pub struct Named {
    /// File name without its ending.
    pub stem: String,
    /// Above its figure.
    pub title: String,
    /// What was measured.
    pub metric: Metric,
    /// Labels of the dataset's positions.
    pub positions: Vec<String>,
    /// The values.
    pub map: ResultMap,
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
    /// Every dataset of a model.
    pub fn prompts(&self, catalogue: &Catalogue, model: &Model) -> Result<Vec<PairedPrompts>> {
        let build = |set: &String| build_prompts(&self.run, catalogue, set, self.scaffold, model);
        distinct(&self.eval_sets).iter().map(build).collect()
    }

    /// File name, without its ending, of a map `name` on a dataset.
    pub fn stem(&self, experiment: &str, name: &str, metric: Metric, set: &str) -> String {
        format!("{experiment}_{metric}_{set}_{}_{name}{}", self.scaffold, self.compat.ending())
    }

    /// Which of several maps are still wanted: `stem` names the files of each.
    pub fn wanted<T: Clone>(&self, all: &[T], folder: &Path, stem: impl Fn(&T) -> String) -> Vec<T> {
        let there = |item: &&T| ResultMap::paths(folder, &stem(item)).iter().all(|path| path.is_file());
        let kept = if self.run.overwrite { 0 } else { all.iter().filter(there).count() };
        note_skipped(kept, "maps", folder);
        all.iter().filter(|item| self.run.overwrite || !there(item)).cloned().collect()
    }
}

/// A metric that is defined on the dataset, or an error that names both.
pub fn check_defined(baselines: &Baselines, metrics: &[Metric], set: &str) -> Result<()> {
    match metrics.iter().find(|metric| !baselines.defined(**metric)) {
        None => Ok(()),
        Some(metric) => bail!("{set}: {metric} is undefined: clean and corrupted runs do not differ in it"),
    }
}

/// Fractions in percent.
pub fn percent(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| 100.0 * value).collect()
}

/// Writes maps and their figures, and notes them in the manifest.
pub fn write(maps: &[Named], folder: &Path, manifest: &mut Manifest) -> Result<()> {
    for Named { stem, title, metric, positions, map } in maps {
        if let Some(figure) = map.figure(title, &format!("{metric} (%)"), positions) {
            figure.write(folder, stem)?.iter().for_each(|path| manifest.wrote(path, []));
        }
        map.write(folder, stem)?;
        ResultMap::paths(folder, stem).iter().for_each(|path| manifest.wrote(path, []));
    }
    Ok(())
}

/// How many values of a map its summary shows.
const SHOWN: usize = 8;

/// The largest values of every map.
pub fn summary(model: &str, maps: &[Named]) -> String {
    let mut text = format!("{model}\n");
    for Named { stem, map, .. } in maps {
        let mut table = Table::new(map.axes.iter().map(|axis| (*axis).to_owned()).chain(["percent".to_owned()]));
        for index in map.by_size().into_iter().take(SHOWN) {
            let place = map.place(index).iter().map(usize::to_string).collect::<Vec<_>>();
            table.push(place.into_iter().chain([format!("{:.2}", map.percent[index])]));
        }
        text += &format!("{stem}: largest of {} values\n{table}\n", map.percent.len());
    }
    text
}

/// Maps as JSON.
pub fn as_json(model: &str, maps: &[Named], manifest: &Option<RunRecord>) -> serde_json::Value {
    let map = |named: &Named| json!({ "file": named.stem, "axes": named.map.axes, "shape": named.map.shape, "percent": named.map.percent });
    json!({ "model": model, "maps": maps.iter().map(map).collect::<Vec<_>>(), "manifest": manifest })
}
