//! `ablation-maps`.

use crate::cli::args::{MapArgs, listed};
use crate::cli::choice::choice;
use crate::cli::runner;
use crate::experiments::ablation::Replacement;
use crate::experiments::activation_maps::MapKind;
use crate::studies::{AblationMaps, Measure};
use anyhow::Result;

/// Arguments of `ablation-maps`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch ablation-maps --models gpt2-small --maps z,attn_out,mlp_out --methods zero,mean
  actpatch ablation-maps --maps z_by_position --methods resample --measures logit_diff,accuracy

Every value is one ablation of the clean run. logit_diff: change of the mean logit difference in percent of what it was.
accuracy: change of the share of prompts with a positive logit difference, in points of percent.
Files in DATA_DIR/<model>/: ablation_<method>_<measure>_<dataset>_<scaffold>_<map>.npy and .csv, and .svg, .png, .pdf and .html;
with at most 1,000,000 values of all prompts, …_prompts.npy: every prompt's map, whose mean is the map, and in the .html behind the
cells.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Maps, as in activation-patching-maps: z, q, k, v, pattern, pre, post (also with _by_position), resid_pre,
    /// resid_mid, resid_post, attn_out, mlp_out.
    #[arg(long, value_delimiter = ',', default_value = listed(&AblationMaps::default().maps))]
    maps: Vec<MapKind>,
    /// What takes an activation's place: zero, mean (over the prompts, at each position), mean_over_places,
    /// mean_of_other_class, resample (another clean prompt), corrupted (the prompt's own corrupted one).
    #[arg(long, value_delimiter = ',', default_values_t = AblationMaps::default().methods)]
    methods: Vec<Replacement>,
    /// What is compared with the clean run.
    #[arg(long, value_delimiter = ',', value_parser = choice::<Measure>(), default_values_t = AblationMaps::default().measures)]
    measures: Vec<Measure>,
}

/// Makes the maps that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let (asked, sets) = args.shared.parts();
    runner::run(asked, AblationMaps { sets, maps: args.maps, methods: args.methods, measures: args.measures })
}
