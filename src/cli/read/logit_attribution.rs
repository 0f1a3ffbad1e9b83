//! `logit-attribution`.

use crate::cli::args::{MapArgs, listed};
use crate::cli::choice::choice;
use crate::cli::patch::twins::TwinArgs;
use crate::cli::runner;
use crate::experiments::logit_attribution::{Attributed, LogitMap};
use crate::studies::LogitAttribution;
use anyhow::Result;

/// Arguments of `logit-attribution`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch logit-attribution --models gpt2-small --eval-sets simple
  actpatch logit-attribution --models gpt2-small --maps heads,neurons --of difference
  actpatch logit-attribution --models gpt2-small --along das_simple_train_ADJ_layer1 --maps heads,heads_by_position
  actpatch logit-attribution --models gpt2-small --ablate kmeans_simple_train_ADJ_layer1 --ablate-layers 1

The final norm is frozen at its scale in the run, so that parts add up: `layers` to the logit difference, heads (without
the bias they share) to their block's attention. Means over the prompts, at the last position.
Files in DATA_DIR/<model>/: logit_attribution_<run>_<dataset>_<scaffold>_<map>.npy and .csv, in logits, and .svg, .png, .pdf and
.html; along a direction, turned round in negative prompts, direction_attribution_<direction>_<run>_…; with --ablate
logit_attribution_ablated_<direction>_<method>_<positions>_difference_….")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Maps: lens (the residual stream in front of every block, inside and at the end), lens_by_position, layers
    /// (embeddings, attention, MLPs, biases), heads, heads_by_position, neurons.
    #[arg(long, value_delimiter = ',', default_value = listed(&LogitAttribution::default().maps))]
    maps: Vec<LogitMap>,
    /// Whose: the clean prompts' (as without it), the corrupted ones' (with the clean ones' answers), or clean less
    /// corrupted; with --ablate clean less ablated (as without it).
    #[arg(long, value_parser = choice::<Attributed>())]
    of: Option<Attributed>,
    /// A stored direction to read along instead of the answers.
    #[arg(long)]
    along: Option<String>,
    #[command(flatten)]
    twin: TwinArgs,
}

/// Makes the maps that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let Args { shared, maps, of, along, twin } = args;
    let (asked, sets) = shared.parts();
    runner::run(asked, LogitAttribution { sets, maps, of, along, twin: twin.into() })
}
