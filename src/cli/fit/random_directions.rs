//! `random-directions`.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::runner;
use crate::studies::RandomDirections;
use anyhow::Result;

/// Arguments of `random-directions`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  actpatch random-directions --models gpt2-small,pythia-160m")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Seed of the directions alone; without it that of --seed, and without either 42, as in the paper's code.
    #[arg(long)]
    direction_seed: Option<u64>,
}

/// Writes `random_direction_layer<ll>.npy` for every layer.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: CompatArgs::default(), run: args.run };
    runner::run(asked, RandomDirections { direction_seed: args.direction_seed })
}
