//! `neuron-cosines`.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::runner;
use crate::studies::NeuronCosines;
use anyhow::Result;

/// Arguments of `neuron-cosines`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:
  actpatch neuron-cosines --models gpt2-small --directions 'kmeans_simple_train_ADJ_layer1'

Cosines of the rows of W_out with directions; the model does not run.
Files in DATA_DIR/<model>/: neuron_cosines_<direction>.npy and .csv (layer, neuron), and .svg, .png, .pdf and .html: the largest,
and how all of them spread.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Directions by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', required = true)]
    directions: Vec<String>,
    #[command(flatten)]
    compat: CompatArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Compares what neurons write with the directions that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let Args { models, directions, compat, run } = args;
    runner::run(Asked { models, compat, run }, NeuronCosines { directions })
}
