//! `probing`.

use crate::cli::args::MapArgs;
use crate::cli::runner;
use crate::experiments::component::Component;
use crate::studies::Probing;
use anyhow::Result;

/// Arguments of `probing`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch probing --models gpt2-small --eval-sets simple --components resid_post,attn_out

Logistic regressions of the prompts' class (features scaled, C = 1, intercept free) at every layer and position, fitted on
four fifths of the prompts, chosen by --seed, and tested on the rest.
Files in DATA_DIR/<model>/: probing_<test|train>_<dataset>_<scaffold>_<component>.npy and .csv, accuracy in percent, .svg,
.png, .pdf and .html, and probing_test_…_weights.npy: (layer, position, width + 1) weights with the intercept behind them.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Activations: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z, q, k, v, pre, post.
    #[arg(long, value_delimiter = ',', default_values_t = Probing::default().components)]
    components: Vec<Component>,
}

/// Fits the probes that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let (asked, sets) = args.shared.parts();
    runner::run(asked, Probing { sets, components: args.components })
}
