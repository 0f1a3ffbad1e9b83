//! `activation-patching-maps`.

use super::twins::TwinArgs;
use crate::cli::args::{MapArgs, ReadoutArgs, SweepArgs, listed};
use crate::cli::runner;
use crate::engine::Metric;
use crate::experiments::activation_maps::MapKind;
use crate::studies::ActivationPatchingMaps;
use anyhow::Result;

/// Arguments of `activation-patching-maps`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch activation-patching-maps --models gpt2-small --eval-sets simple
  actpatch activation-patching-maps --maps z,z_by_position --metrics logit_diff,logit_diff_noising
  actpatch activation-patching-maps --models pythia-1.4b --dataset-file reviews.toml --eval-sets true_labels \\
      --along ccs_classification_4_ANSWER_layer24 --maps z,resid_pre
  actpatch activation-patching-maps --ablate kmeans_simple_train_ADJ_layer1 --ablate-layers 1 --ablate-positions ADJ

With --ablate, activations of the clean prompts' own run without the direction are patched into their clean run (noising):
0 % is the clean run, -100 % all that the ablation changes.
Files in DATA_DIR/<model>/: activation_patching_<metric>_<dataset>_<scaffold>_<map>.npy and .csv, in percent, and .svg,
.png, .pdf and .html; along a direction activation_patching_along_<direction>_<metric>_…, with --ablate
activation_patching_ablated_<direction>_<method>_<positions>_<metric>_…; with at most 1,000,000 values of all prompts, …_prompts.npy:
every prompt's map, whose mean is the map, and in the .html behind the cells.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Maps: z, q, k, v, pattern (layer, head), pre, post (layer, neuron), the same with _by_position, and resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out (layer, position).
    #[arg(long, value_delimiter = ',', default_value = listed(&ActivationPatchingMaps::default().maps))]
    maps: Vec<MapKind>,
    /// Metrics: logit_diff (as without it), logit_diff_noising, logit_flip, sign_flip, prob_diff, log_prob,
    /// log_prob_noising; with --ablate logit_diff_noising (as without it) and log_prob_noising.
    #[arg(long, value_delimiter = ',')]
    metrics: Vec<Metric>,
    #[command(flatten)]
    readout: ReadoutArgs,
    #[command(flatten)]
    twin: TwinArgs,
    #[command(flatten)]
    sweep: SweepArgs,
}

/// Makes the maps that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let (asked, sets) = args.shared.parts();
    let maps = ActivationPatchingMaps {
        sets,
        maps: args.maps,
        metrics: args.metrics,
        readout: args.readout.into(),
        twin: args.twin.into(),
        sweep: args.sweep.into(),
    };
    runner::run(asked, maps)
}
