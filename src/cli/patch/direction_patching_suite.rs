//! `direction-patching-suite`.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs, SweepArgs};
use crate::cli::choice::choice;
use crate::cli::runner;
use crate::datasets::treebank::Scaffold;
use crate::engine::Metric;
use crate::studies::{Heads, PatchedLayers, PatchingSuite, Projection};
use anyhow::Result;

/// Arguments of `direction-patching-suite`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch direction-patching-suite --models gpt2-small --directions 'das_*,kmeans_*' --eval-sets simple_test
  actpatch direction-patching-suite --positions ADJ,ALL --metrics logit_diff,logit_flip --layers all
  actpatch direction-patching-suite --eval-sets simple_adverb --projection ortho
  actpatch direction-patching-suite --eval-sets classification_4 --compat double-spaces,unprocessed-fits
  actpatch direction-patching-suite --models gpt2-small --directions 'das_*' --heads paper --compat unpatched-runs
  actpatch direction-patching-suite --eval-sets treebank_test --scaffold classification --positions END,ALL")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Direction files by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', default_values_t = PatchingSuite::default().directions)]
    directions: Vec<String>,
    /// Datasets to patch.
    #[arg(long, value_delimiter = ',', default_values_t = PatchingSuite::default().eval_sets)]
    eval_sets: Vec<String>,
    /// Text around the Treebank's sentences; all other datasets are plain.
    #[arg(long, value_parser = choice::<Scaffold>(), default_value_t = PatchingSuite::default().scaffold)]
    scaffold: Scaffold,
    /// Metrics: logit_diff, logit_diff_noising, logit_flip (normalised, as in the paper), sign_flip (the literal share
    /// of prompts whose logit difference changes sign), prob_diff, log_prob, log_prob_noising.
    #[arg(long, value_delimiter = ',', default_values_t = PatchingSuite::default().metrics)]
    metrics: Vec<Metric>,
    /// Positions: placeholders, ALL, or auto for the main placeholder.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = PatchingSuite::default().positions)]
    positions: Vec<String>,
    /// Patch at the direction's own layer, or in front of every block.
    #[arg(long, allow_hyphen_values = true, value_parser = choice::<PatchedLayers>(), default_value_t = PatchingSuite::default().layers)]
    layers: PatchedLayers,
    /// Patch the results of these heads, layer.head, at every position instead of the residual stream: for example
    /// 9.2,10.1, or `paper` for the paper's list (gpt2-small, pythia-2.8b).
    #[arg(long, conflicts_with = "layers")]
    heads: Option<Heads>,
    /// Keep only the part of the direction parallel or orthogonal to the one fitted on the evaluation dataset itself.
    #[arg(long, value_parser = choice::<Projection>())]
    projection: Option<Projection>,
    #[command(flatten)]
    compat: CompatArgs,
    #[command(flatten)]
    sweep: SweepArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Patches what the arguments name.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: args.compat, run: args.run };
    let suite = PatchingSuite {
        directions: args.directions,
        eval_sets: args.eval_sets,
        scaffold: args.scaffold,
        metrics: args.metrics,
        positions: args.positions,
        layers: args.layers,
        heads: args.heads,
        projection: args.projection,
        sweep: args.sweep.into(),
    };
    runner::run(asked, suite)
}
