//! `faithfulness`.

use crate::cli::args::MapArgs;
use crate::cli::runner;
use crate::studies::{Faithfulness, HeadAt};
use anyhow::Result;

/// Arguments of `faithfulness`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch faithfulness --models gpt2-small --heads 7.1,9.2,10.1,10.4,11.9,8.5,9.10
  actpatch faithfulness --heads 0.4@ADJ+VRB,7.1@END,9.2@END --directions kmeans_simple_train_ADJ_layer1

The corrupted run gets the clean values of the circuit's heads, of all other heads, and of all heads: whole, at the heads'
positions if any are given, and along every direction. 0 % is the corrupted run, 100 % the clean one.
Files in DATA_DIR/<model>/: faithfulness_<dataset>_<scaffold>.csv, to which every run adds its rows, and .svg, .png, .pdf and .html.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// The circuit: layer.head, and behind @ the positions at which it counts, joined by +.
    #[arg(long, value_delimiter = ',', required = true)]
    heads: Vec<HeadAt>,
    /// Directions along which heads are patched: das_simple_train_ADJ is every layer's own, das_simple_train_ADJ_layer2
    /// the same one everywhere.
    #[arg(long, value_delimiter = ',')]
    directions: Vec<String>,
    /// How many random directions to patch along for comparison.
    #[arg(long, default_value_t = Faithfulness::default().random)]
    random: u32,
}

/// Tests the circuit that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let (asked, sets) = args.shared.parts();
    runner::run(asked, Faithfulness { sets, heads: args.heads, directions: args.directions, random: args.random })
}
