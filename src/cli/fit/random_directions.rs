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
    /// Seed of the directions.
    #[arg(long, default_value_t = RandomDirections::default().direction_seed)]
    direction_seed: u64,
}

/// Writes `random_direction_layer<ll>.npy` for every layer.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: CompatArgs::default(), run: args.run };
    runner::run(asked, RandomDirections { direction_seed: args.direction_seed })
}
