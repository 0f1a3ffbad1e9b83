//! Experiments about directions.

use super::experiment::{Experiment, Numbers, Setup, Unavailable};
use super::runs::plain;
use crate::datasets::treebank::Scaffold;
use crate::directions::{Direction, DirectionName, FitRecord, Method, similarity};
use crate::engine::Metric;
use crate::report::Golden;
use crate::session::{Fault, Mend, Observer, distinct};
use crate::studies::{FitDirections, PatchingSuite, Study};
use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
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
}

/// A method, and a layer unless the best one is meant.
type Wanted = (Method, Option<usize>);

impl Experiment for DirectionalPatching {
    const NAME: &'static str = "directional_patching";

    fn numbers(self, golden: &Golden, setup: &Setup, observer: &mut dyn Observer) -> Result<Numbers> {
        let wanted = golden.values.keys().map(|name| wanted(name)).collect::<Result<Vec<_>>>()?;
        setup.prompts(&self.eval_set, self.scaffold)?;
        self.fits(&wanted).run(setup.session()?, observer)?;
        let suite = self.suite(&wanted).run(setup.session()?, observer)?;
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
    /// Each method at all layers, or at those alone that are wanted; what earlier entries have fitted is kept.
    fn fits(&self, wanted: &[Wanted]) -> FitDirections {
        let mut fits = FitDirections {
            train_sets: vec![self.train_set.clone()],
            methods: distinct(&wanted.iter().map(|(method, _)| *method).collect::<Vec<_>>()),
            ..FitDirections::default()
        };
        if let Some(layers) = wanted.iter().map(|(_, layer)| *layer).collect::<Option<Vec<usize>>>() {
            fits.layers = layers.iter().map(ToString::to_string).collect();
        }
        fits
    }

    fn suite(self, wanted: &[Wanted]) -> PatchingSuite {
        let pattern = |(method, _): &Wanted| match method {
            Method::RandomDirection => format!("{method}_*"),
            _ => format!("{method}_{}_*", self.train_set),
        };
        PatchingSuite {
            directions: wanted.iter().map(pattern).collect(),
            eval_sets: vec![self.eval_set],
            scaffold: self.scaffold,
            metrics: vec![self.metric],
            ..PatchingSuite::default()
        }
    }
}

/// What a number's name asks for.
fn wanted(name: &str) -> Result<Wanted> {
    let (method, layer) = name.split_once(' ').map_or((name, None), |(method, layer)| (method, Some(layer)));
    let layer = layer.map(|layer| layer.parse().with_context(|| format!("values: expected a layer in {name:?}")));
    Ok((method.parse()?, layer.transpose()?))
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
