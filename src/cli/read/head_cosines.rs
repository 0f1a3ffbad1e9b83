//! `head-cosines`.

use crate::cli::args::MapArgs;
use crate::cli::runner;
use crate::studies::{HeadAtPosition, HeadCosines};
use anyhow::Result;

/// Arguments of `head-cosines`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:
  actpatch head-cosines --models gpt2-small --nodes 0.4@ADJ,0.4@VRB,7.1@END,9.2@END,10.1@END,10.4@END

What a head writes at a position in the clean prompts less what it writes in the corrupted ones (the other way round where
the clean one is negative), each through the scale of its block's norm there, averaged over the prompts; cosines of these
changes with each other.
Files in DATA_DIR/<model>/: head_cosines_cosine_<dataset>_<scaffold>_<nodes>.npy and .csv (node, other node), .svg, .png, .pdf and
.html.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Heads at positions: layer.head@POSITION, a placeholder, END or a number.
    #[arg(long, value_delimiter = ',', required = true)]
    nodes: Vec<HeadAtPosition>,
}

/// Compares the heads that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let (asked, sets) = args.shared.parts();
    runner::run(asked, HeadCosines { sets, nodes: args.nodes })
}
