//! `path-patching`.

use crate::cli::args::{MapArgs, ReadoutArgs, SweepArgs};
use crate::cli::choice::choice;
use crate::cli::runner;
use crate::engine::Metric;
use crate::experiments::path_patching::NodePattern;
use crate::studies::{PathMethod, PathPatching};
use anyhow::Result;

/// Arguments of `path-patching`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch path-patching --models gpt2-small --senders z --receivers resid_post:11
  actpatch path-patching --models gpt2-small --senders z --receivers v:7.1,v:10.1,v:10.4,v:11.9 --positions EACH
  actpatch path-patching --models gpt2-small --senders z --receivers v:9.2 --method two-steps
  actpatch path-patching --models gpt2-small --receivers resid_post:11 --along das_simple_train_ADJ_layer12

A node is a component (z, q, k, v, pattern, attn_out, pre, post, mlp_out, resid_pre, resid_mid, resid_post), alone for each
of its layers and parts in turn, or with a place: v:9.2 is layer 9, head 2; mlp_out:3 all of layer 3.
Files in DATA_DIR/<model>/: path_patching_<metric>_<dataset>_<scaffold>_<paths>.npy and .csv, in percent, and .svg, .png, .pdf and
.html; axes are (position, layer, head or neuron); along a direction path_patching_along_<direction>_<metric>_…;
path_patching_graph_<dataset>_<scaffold>_<paths>.html draws the paths of layers or heads as a graph. With at most 1,000,000 values of
all prompts, …_prompts.npy: every prompt's map, whose mean is the map, and in the .html behind the cells.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Where paths begin: one component, or nodes that act together.
    #[arg(long, value_delimiter = ',', default_values_t = PathPatching::default().senders)]
    senders: Vec<NodePattern>,
    /// Where they end: one component, or nodes that act together.
    #[arg(long, value_delimiter = ',', required = true)]
    receivers: Vec<NodePattern>,
    /// Where the senders change: a placeholder, END, a number, ALL, or EACH for one position at a time.
    #[arg(long, allow_hyphen_values = true, default_value_t = PathPatching::default().positions)]
    positions: String,
    /// How a change travels from senders to receivers.
    #[arg(long, value_parser = choice::<PathMethod>(), default_value_t = PathPatching::default().method)]
    method: PathMethod,
    /// Patch a receiver's whole layer, whichever head or neuron is named, as the paper's code does.
    #[arg(long)]
    layer_wide: bool,
    /// Metrics, all of one patching direction: logit_diff_noising, log_prob_noising; or logit_diff, logit_flip, sign_flip,
    /// prob_diff, log_prob.
    #[arg(long, value_delimiter = ',', default_values_t = PathPatching::default().metrics)]
    metrics: Vec<Metric>,
    #[command(flatten)]
    readout: ReadoutArgs,
    #[command(flatten)]
    sweep: SweepArgs,
}

/// Patches the paths that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let (asked, sets) = args.shared.parts();
    let paths = PathPatching {
        sets,
        senders: args.senders,
        receivers: args.receivers,
        positions: args.positions,
        method: args.method,
        layer_wide: args.layer_wide,
        metrics: args.metrics,
        readout: args.readout.into(),
        sweep: args.sweep.into(),
    };
    runner::run(asked, paths)
}
