//! `attention`.

use crate::cli::args::{MapArgs, listed};
use crate::cli::choice::choice;
use crate::cli::runner;
use crate::studies::{AttentionMaps, HeadChoice, OverPrompts};
use anyhow::Result;

/// Arguments of `attention`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch attention --models gpt2-small --heads 7.1,9.2,10.1,10.4 --prompts 0,21
  actpatch attention --models gpt2-small --heads top:4 --to ADJ,VRB

Every clean prompt is read at its last position: `contribution` is what a head writes there along the answers (the logit
difference's share, final norm frozen), and --to sets it against the head's attention from there to a position.
Files in DATA_DIR/<model>/: attention_<map>_<dataset>_<scaffold>_<heads>.npy and .csv, and .svg, .png, .pdf and .html;
attention_patterns_<dataset>_<scaffold>_<heads>.html shows the patterns of the run together.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Heads: a list of layer.head, all, or top:N for those that write most along the answers.
    #[arg(long, default_value_t = AttentionMaps::default().heads)]
    heads: HeadChoice,
    /// Over all prompts: mean patterns, the same weighted by the lengths of the values read, and heads' contributions.
    #[arg(long, value_delimiter = ',', default_value = listed(&AttentionMaps::default().maps))]
    #[arg(value_parser = choice::<OverPrompts>())]
    maps: Vec<OverPrompts>,
    /// Patterns of these prompts too, by number.
    #[arg(long, value_delimiter = ',')]
    prompts: Vec<usize>,
    /// Attention from the last position to these, beside the contribution, prompt by prompt: placeholders or numbers.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',')]
    to: Vec<String>,
}

/// Makes the maps that the arguments name.
pub fn run(args: Args) -> Result<()> {
    let Args { shared, heads, maps, prompts, to } = args;
    let (asked, sets) = shared.parts();
    runner::run(asked, AttentionMaps { sets, heads, maps, prompts, to })
}
