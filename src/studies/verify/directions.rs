//! Experiments about directions.

use super::experiment::{Experiment, Numbers, Setup, Unavailable};
use super::runs::plain;
use crate::datasets::treebank::Scaffold;
use crate::directions::{Direction, DirectionName, FitRecord, Method, cosine, similarity};
use crate::engine::Metric;
use crate::report::Golden;
use crate::session::{Fault, Mend, Observer, distinct};
use crate::studies::{FitDirections, Fitted, PatchingSuite, Study};
use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Directions fitted on one dataset and patched on another, in percent, with the defaults of the studies that do so; a
/// number's name is a method (its best layer) or a method and a layer, such as `das 6`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectionalPatching {
    train_set: String,
    eval_set: String,
    #[serde(default = "plain")]
    scaffold: Scaffold,
    metric: Metric,
    /// Where directions are patched.
    #[serde(default = "main_position")]
    position: String,
}

fn main_position() -> String {
    "auto".into()
}

/// A method, and a layer unless the best one is meant.
type Wanted = (Method, Option<usize>);

impl Experiment for DirectionalPatching {
    const NAME: &'static str = "directional_patching";

    fn numbers(self, golden: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        let wanted = golden.values.keys().map(|name| wanted(name)).collect::<Result<Vec<_>>>()?;
        setup.prompts(&self.eval_set, self.scaffold)?;
        let methods = distinct(&wanted.iter().map(|(method, _)| *method).collect::<Vec<_>>());
        // Each method at all layers, or at those alone that are wanted.
        let layers = wanted.iter().map(|(_, layer)| *layer).collect::<Option<Vec<usize>>>();
        let fitted = fit(setup, &self.train_set, methods, layers.as_deref(), observer)?;
        let suite = self.suite(&fitted, &wanted)?.run(setup.session()?, observer)?;
        let mut numbers = Numbers::new();
        for cell in suite.cells {
            let name: DirectionName = cell.direction.parse()?;
            let Some(percent) = cell.percent else { continue };
            numbers.insert(format!("{} {}", name.found_by(), name.layer()), percent);
            // The best layer is chosen on the prompts that are reported, as in the paper's tables.
            let best = numbers.entry(name.found_by().to_string()).or_insert(percent);
            *best = best.max(percent);
        }
        Ok(numbers)
    }
}

impl DirectionalPatching {
    /// What was fitted and is wanted, by name: a pattern would find other datasets' directions too.
    fn suite(self, fitted: &[Fitted], wanted: &[Wanted]) -> Result<PatchingSuite> {
        let mut directions = Vec::new();
        for Fitted { name, .. } in fitted.iter().filter(|fitted| fitted.skipped.is_none()) {
            let parsed: DirectionName = name.parse()?;
            let of_method = |(method, _): &&Wanted| parsed.method() == Some(*method);
            let at_layer = |(_, layer): &Wanted| layer.is_none_or(|layer| layer == parsed.layer());
            if wanted.iter().filter(of_method).any(at_layer) {
                directions.push(name.clone());
            }
        }
        Ok(PatchingSuite {
            directions,
            eval_sets: vec![self.eval_set],
            scaffold: self.scaffold,
            metrics: vec![self.metric],
            positions: vec![self.position],
            ..PatchingSuite::default()
        })
    }
}

/// Fits methods on a dataset, at its main position, at all layers without any; what earlier entries have fitted is kept.
///
/// # Errors
/// Those of the study.
fn fit(
    setup: &Setup,
    train_set: &str,
    methods: Vec<Method>,
    layers: Option<&[usize]>,
    observer: &mut dyn Observer,
) -> Result<Vec<Fitted>> {
    let mut fits = FitDirections { train_sets: vec![train_set.into()], methods, ..FitDirections::default() };
    if let Some(layers) = layers {
        fits.layers = layers.iter().map(ToString::to_string).collect();
    }
    Ok(fits.run(setup.session()?, observer)?.directions)
}

/// Fits what an entry calls `<method>_<dataset>_<POSITION>` (at every layer) or `<method>_<dataset>_<POSITION>_layer6`.
///
/// # Errors
/// A name of neither form, and those of the study.
pub(super) fn fit_named(setup: &Setup, directions: &str, observer: &mut dyn Observer) -> Result<()> {
    let single: Option<DirectionName> = directions.parse().ok();
    let name = match &single {
        Some(name) => name.clone(),
        None => format!("{directions}_layer0").parse().context("directions")?,
    };
    let dataset = name.dataset().with_context(|| format!("directions: expected a dataset in {directions:?}"))?;
    let method = name.method().with_context(|| format!("directions: expected a method in {directions:?}"))?;
    let layers = single.map(|name| [name.layer()]);
    let fitted = fit(setup, dataset, vec![method], layers.as_ref().map(|layers| &layers[..]), observer)?;
    match fitted.iter().any(|fitted| fitted.name.starts_with(directions)) {
        true => Ok(()),
        false => bail!("directions: expected the main position of {dataset}, found {directions}"),
    }
}

/// What a number's name asks for.
fn wanted(name: &str) -> Result<Wanted> {
    let (method, layer) = name.split_once(' ').map_or((name, None), |(method, layer)| (method, Some(layer)));
    let layer = layer.map(|layer| layer.parse().with_context(|| format!("values: expected a layer in {name:?}")));
    Ok((method.parse()?, layer.transpose()?))
}

/// Absolute cosines between fitted directions and given ones; numbers are a method and a layer, such as `pca 6`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FittedCosines {
    train_set: String,
    /// By the numbers' names; of any length.
    directions: BTreeMap<String, Vec<f32>>,
}

impl Experiment for FittedCosines {
    const NAME: &'static str = "fitted_cosines";

    fn numbers(self, _: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        let mut numbers = Numbers::new();
        for (name, theirs) in self.directions {
            let (method, layer) = wanted(&name)?;
            let layer = layer.with_context(|| format!("directions: expected a layer in {name:?}"))?;
            let fitted = fit(setup, &self.train_set, vec![method], Some(&[layer]), observer)?;
            let [Fitted { name: file, .. }] = &fitted[..] else {
                bail!("directions.{name}: expected one direction, found {}", fitted.len());
            };
            let ours = setup.session()?.unit_direction("directions", file)?;
            if ours.len() != theirs.len() {
                bail!("directions.{name}: expected {} values, found {}", ours.len(), theirs.len());
            }
            numbers.insert(name, cosine(&ours, &theirs).abs());
        }
        Ok(numbers)
    }
}

/// Absolute cosines between the layers of imported directions; numbers such as `0-1`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectionCosines {
    /// `<method>_<dataset>_<POSITION>`.
    directions: String,
}

impl Experiment for DirectionCosines {
    const NAME: &'static str = "direction_cosines";

    fn numbers(self, golden: &Golden, setup: &Setup, _: &mut dyn Observer) -> Result<Numbers> {
        let cosine = |name: &String| {
            let (first, second) =
                name.split_once('-').ok_or_else(|| anyhow!("values.{name}: expected two layers, such as 0-1"))?;
            let read = |layer: &str| imported(setup, &format!("{}_layer{layer}", self.directions));
            Ok((name.clone(), similarity(&read(first)?.columns, &read(second)?.columns).abs()))
        };
        golden.values.keys().map(cosine).collect()
    }
}

/// A direction that was imported into the model's folder.
fn imported(setup: &Setup, name: &str) -> Result<Direction> {
    let (folder, name) = (&setup.folder, name.parse::<DirectionName>()?);
    if is_imported(folder, &name)? {
        return Ok(Direction::read_any_width(folder, &name)?);
    }
    let fault = Fault::new(format!("{name} has not been imported into {}", folder.display()));
    let import = Mend::Study("directions import FOLDER", vec![("model", setup.asked.clone())]);
    Err(Unavailable(fault.mended_by(import)).into())
}

fn is_imported(folder: &Path, name: &DirectionName) -> Result<bool> {
    let (array, record) = Direction::paths(folder, name);
    Ok(array.is_file() && record.is_file() && FitRecord::read(folder, name)?.imported.is_some())
}
