//! `negation`.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::runner;
use crate::studies::Negation;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `negation`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:
  actpatch neuroscope --models gpt2-small --corpus openwebtext.jsonl --directions '*_layer1' --layers 0..10
  actpatch negation --models gpt2-small --directions '*_layer1' --summary data/gpt2-small/neuroscope_openwebtext_summary.csv

Every text has a word that it negates. The word's cosine with a direction is read in front of an early and of a late block:
raw_score is the mean change; with a summary of plain text z_score is the mean absolute change over the standard deviation
there, and a text's flip half its change in units of the way from the early value to the mean there (flip_percent are
above zero, flip_size is the median).
Files in DATA_DIR/<model>/: negation.csv, the scores of every direction, and negation_texts.csv, every text's values; with
--texts named negation_<file>.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Directions by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', required = true)]
    directions: Vec<String>,
    /// A CSV file with columns text and word instead of the paper's texts.
    #[arg(long)]
    texts: Option<PathBuf>,
    /// Where the word's early value is read.
    #[arg(long, default_value_t = Negation::default().initial)]
    initial: usize,
    /// Where its late value is read; two in front of the end of the model without it (10 of gpt2-small).
    #[arg(long)]
    last: Option<usize>,
    /// The _summary.csv of a reading of plain text along the same directions; its layers up to the late one count.
    #[arg(long)]
    summary: Option<PathBuf>,
    #[command(flatten)]
    compat: CompatArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Reads what the arguments name.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: args.compat, run: args.run };
    let study = Negation {
        directions: args.directions,
        texts: args.texts,
        initial: args.initial,
        last: args.last,
        summary: args.summary,
    };
    runner::run(asked, study)
}
