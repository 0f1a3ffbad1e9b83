//! `neuron-cosines`.

use super::common::{CompatArgs, ModelArgs, RunArgs, bar, distinct, note_skipped, print, print_json};
use super::maps::{Named, as_json, summary, write};
use super::stored_directions::unit_directions;
use crate::experiments::neuron_cosines::neuron_cosines;
use crate::model::Model;
use crate::report::ResultMap;
use crate::report::figure::{Axis, Facet, Histogram, Plot};
use anyhow::Result;
use serde::Serialize;

/// Arguments of `neuron-cosines`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Example:
  actpatch neuron-cosines --models gpt2-small --directions 'kmeans_simple_train_ADJ_layer1'

Cosines of the rows of W_out with directions; the model does not run.
Files in DATA_DIR/<model>/: neuron_cosines_<direction>.npy and .csv (layer, neuron), and .svg, .png and .html: the largest,
and how all of them spread.")]
pub struct Args {
    #[command(flatten)]
    pub models: ModelArgs,
    /// Directions by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', required = true)]
    pub directions: Vec<String>,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

/// Bins of the histogram.
const BINS: usize = 100;

/// Compares what neurons write with directions, for every model.
pub fn run(args: Args) -> Result<()> {
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let folder = args.run.folder(&model.name);
        let mut directions = unit_directions((&args.run, &args.compat), &model, &args.directions)?;
        let asked = directions.len();
        directions.retain(|(name, _)| {
            let paths = ResultMap::paths(&folder, &stem(&name.to_string()));
            args.run.overwrite || !paths.iter().all(|path| path.is_file())
        });
        note_skipped(asked - directions.len(), "maps", &folder);
        if args.run.dry_run {
            let neurons = model.config.n_layers * model.config.d_mlp;
            print(&format!("{}: {} directions, {neurons} neurons\n", model.name, directions.len()))?;
            continue;
        }
        let (mut maps, mut record) = (Vec::new(), None);
        if !directions.is_empty() {
            let mut manifest = args.run.manifest("neuron-cosines", &args, &folder, Some(&model))?;
            let (names, directions): (Vec<_>, Vec<_>) = directions.into_iter().unzip();
            let progress = bar(model.config.n_layers, "reading neurons");
            let told = |layers| -> Result<()> {
                progress.set_position(layers as u64);
                Ok(())
            };
            let found = args.run.in_pool(|| neuron_cosines(&model, &directions, told))?;
            progress.finish_and_clear();
            maps = names.iter().zip(found).map(|(name, values)| named(&model, &name.to_string(), values)).collect();
            write(&maps, &folder, &mut manifest)?;
            record = Some(manifest.finish()?);
        }
        if !args.run.json {
            print(&summary(&model.name, &maps))?;
        }
        all.push(as_json(&model.name, &maps, &record));
    }
    if args.run.json && !args.run.dry_run { print_json(&all) } else { Ok(()) }
}

fn stem(direction: &str) -> String {
    format!("neuron_cosines_{direction}")
}

/// The map of a direction, with the largest cosines as bars and all of them as a histogram.
fn named(model: &Model, direction: &str, values: Vec<f64>) -> Named {
    let shape = vec![model.config.n_layers, model.config.d_mlp];
    let map = ResultMap { axes: vec!["layer", "neuron"], shape, components: Vec::new(), unit: "cosine", values };
    let title = format!("Neurons' output along {direction}, {}", model.name);
    let mut figure = map.figure(&title, "cosine", &[]);
    if let Some(figure) = &mut figure {
        figure.facets.push(histogram(&map.values));
    }
    Named { figure, ..Named::bare(stem(direction), map) }
}

fn histogram(values: &[f64]) -> Facet {
    let most = values.iter().fold(0.0, |most: f64, value| most.max(value.abs())).max(f64::MIN_POSITIVE);
    let width = 2.0 * most / BINS as f64;
    let mut shares = vec![0.0; BINS];
    for value in values {
        shares[(((value + most) / width) as usize).min(BINS - 1)] += 100.0 / values.len() as f64;
    }
    let edges = (0..=BINS).map(|edge| edge as f64 * width - most).collect();
    let plot = Plot::Histogram(Histogram { edges, series: vec![("neurons".into(), shares)] });
    Facet { title: "all neurons".into(), x: Axis::new("cosine"), y: Axis::new("share of neurons (%)"), plot }
}
