//! `reproduce`: what the paper asks of a model, in one command.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::choice::choice_of;
use crate::cli::runner;
use crate::directions::Method;
use crate::engine::Metric;
use crate::studies::Reproduce;
use anyhow::Result;

/// Arguments of `reproduce`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch reproduce --models gpt2-small
  actpatch reproduce --models mine=path/to/folder --methods kmeans,das --layers 0..6

Writes DATA_DIR/<model>/reproduce.md, and what the commands write that it stands for: fit-directions,
direction-patching-suite, activation-patching-maps, ablation. Stopped, the same command goes on.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Methods; all of fit-directions without it.
    #[arg(long, value_delimiter = ',', value_parser = choice_of(Method::of_fits()))]
    methods: Vec<Method>,
    /// Layers: `all`, numbers, ranges such as 2..5; layer n_layers is behind the last block.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = Reproduce::default().layers)]
    layers: Vec<String>,
    /// DAS: passes over the dataset: 64 without it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Datasets to patch along the directions.
    #[arg(long, value_delimiter = ',', default_values_t = Reproduce::default().eval_sets)]
    eval_sets: Vec<String>,
    /// What is measured.
    #[arg(long, value_delimiter = ',', default_values_t = Reproduce::default().metrics)]
    metrics: Vec<Metric>,
    /// Dataset of the maps of heads, layers and positions.
    #[arg(long, default_value_t = Reproduce::default().map_set)]
    map_set: String,
    /// Dataset with commas, at which the direction is taken away.
    #[arg(long, default_value_t = Reproduce::default().comma_set)]
    comma_set: String,
    #[command(flatten)]
    compat: CompatArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Makes everything, for every model.
pub fn run(args: Args) -> Result<()> {
    let Args { models, methods, layers, epochs, eval_sets, metrics, map_set, comma_set, compat, run } = args;
    let study = Reproduce { methods, layers, epochs, eval_sets, metrics, map_set, comma_set };
    runner::run(Asked { models, compat, run }, study)
}
