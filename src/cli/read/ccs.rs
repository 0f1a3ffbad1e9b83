//! `ccs`.

use crate::cli::args::MapArgs;
use crate::cli::runner;
use crate::studies::Ccs;
use anyhow::Result;

/// Arguments of `ccs`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch ccs --models pythia-1.4b --eval-sets treebank_test --scaffold classification
  actpatch ccs --models pythia-1.4b --eval-sets classification_4
  actpatch logit-attribution --models pythia-1.4b --eval-sets classification_4 --along ccs_classification_4_ANSWER_layer24

Every prompt is completed with its positive and its negative answer; at the completion's token, in front of every block and
behind the last, contrast-consistent search (no labels) and a logistic regression on the difference of both completions
(labels) are fitted on the first half of the prompts and tested on the second.
Files in DATA_DIR/<model>/: ccs_accuracy_<dataset>_<scaffold>_resid.npy and .csv (method, layer), in percent, .svg, .png, .pdf and
.html, and …_weights.npy: (layer, d_model + 1) weights of the search with the intercept behind them; and every layer's direction
from false to true, ccs_<dataset>_ANSWER_layer<l>.npy and .json, to be named like those of fit-directions.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Steps of each try.
    #[arg(long, default_value_t = Ccs::default().epochs, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    epochs: u32,
    /// Random starts, of which the one with the lowest loss counts.
    #[arg(long, default_value_t = Ccs::default().tries, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
}

/// Searches the datasets that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let (asked, sets) = args.shared.parts();
    runner::run(asked, Ccs { sets, epochs: args.epochs, tries: args.tries })
}
