//! `attribution-patching`.

use crate::cli::args::{MapArgs, listed};
use crate::cli::runner;
use crate::engine::Metric;
use crate::experiments::activation_maps::MapKind;
use crate::studies::AttributionPatching;
use anyhow::Result;

/// Arguments of `attribution-patching`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch attribution-patching --models gpt2-small --maps z,resid_pre,post
  actpatch attribution-patching --models gpt2-small --maps z,mlp_out --exact
  actpatch attribution-patching --models gpt2-small --maps z,mlp_out --integrated 10 --exact

Maps as activation-patching-maps makes them, to first order: change of a node times the metric's gradient there, two forward
passes and one backward pass for all of them.
Files in DATA_DIR/<model>/: attribution_patching_<metric>_<dataset>_<scaffold>_<map>.npy and .csv, in percent, and .svg, .png, .pdf
and .html; with --integrated N integrated_gradients_N_…")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Maps: z, q, k, v, pattern (layer, head), pre, post (layer, neuron), the same with _by_position, and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[arg(long, value_delimiter = ',', default_value = listed(&AttributionPatching::default().maps))]
    maps: Vec<MapKind>,
    /// Metrics: logit_diff, logit_diff_noising.
    #[arg(long, value_delimiter = ',', default_values_t = AttributionPatching::default().metrics)]
    metrics: Vec<Metric>,
    /// Integrated gradients: their mean over this many steps from one run's input to the other's.
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u16).range(1..=1000))]
    integrated: Option<u16>,
    /// Patch every node exactly too, into the files of activation-patching-maps, and compare.
    #[arg(long)]
    exact: bool,
}

/// Estimates the maps that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let Args { shared, maps, metrics, integrated, exact } = args;
    let (asked, sets) = shared.parts();
    runner::run(asked, AttributionPatching { sets, maps, metrics, integrated, exact })
}
