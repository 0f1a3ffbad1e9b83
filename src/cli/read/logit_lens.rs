//! `logit-lens`.

use crate::cli::args::MapArgs;
use crate::cli::runner;
use crate::engine::Site;
use crate::studies::LogitLens;
use anyhow::Result;

/// Arguments of `logit-lens`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch logit-lens --models gpt2-small --text 'I thought this movie was great, I loved it. The conclusion was'
  actpatch logit-lens --models gpt2-small --eval-sets simple_test --prompts 0,21
  actpatch logit-lens --directions kmeans_simple_train_ADJ_layer1 --sites blocks.2.hook_resid_pre --positions ADJ,ALL

The final norm and the unembedding are applied to the residual stream in front of every block, and at the end, where they give
the model's own prediction. Of datasets, clean, corrupted and patched runs stand side by side; a patch goes from the clean
prompt into the corrupted one, along one direction or of the whole residual stream at one site.
Files in DATA_DIR/<model>/: logit_lens_<dataset>_<scaffold>.csv, of texts logit_lens_<name>.csv, a row per predicted token: the
likeliest ones (role top), the one that comes next, and behind the last token the right and the wrong answers, each with rank
and log probability; and .html, the same to look at.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// A text to read instead of datasets; may be given again.
    #[arg(long, conflicts_with_all = ["eval_sets", "prompts", "directions", "sites"])]
    text: Vec<String>,
    /// Name of the files of texts; `text` without it.
    #[arg(long, requires = "text")]
    name: Option<String>,
    /// Prompts of the datasets, by number; the first 8 without it.
    #[arg(long, value_delimiter = ',')]
    prompts: Vec<usize>,
    /// Where the residual stream is read: `all`, or layers such as 0,3,6..9 (the number of layers stands for the end).
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = LogitLens::default().layers)]
    layers: Vec<String>,
    /// How many of the likeliest tokens are kept of every prediction.
    #[arg(long, default_value_t = LogitLens::default().top, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Stored directions to patch along, one at a time and each at its own layer; `*` and `?` match anything.
    #[arg(long, value_delimiter = ',')]
    directions: Vec<String>,
    /// Hook names at which the residual stream is patched as a whole, one at a time, such as blocks.1.hook_resid_pre.
    #[arg(long, value_delimiter = ',')]
    sites: Vec<Site>,
    /// Positions that are patched, one after the other: placeholders, END, ALL, auto, numbers, COMMA, PERIOD; those joined by +
    /// together.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = LogitLens::default().positions)]
    positions: Vec<String>,
}

/// Reads what the arguments name.
pub fn run(args: Args) -> Result<()> {
    let Args { shared, text, name, prompts, layers, top, directions, sites, positions } = args;
    let (asked, sets) = shared.parts();
    runner::run(asked, LogitLens { sets, text, name, prompts, layers, top, directions, sites, positions })
}
