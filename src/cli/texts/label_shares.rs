//! `label-shares`.

use crate::cli::args::CsvArgs;
use crate::cli::runner::{print, print_json};
use crate::studies::LabelShares;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `label-shares`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch label-shares --labels labelled.csv --summary data/gpt2-small/neuroscope_openwebtext_summary.csv
  actpatch label-shares --labels labelled_steering.csv --value coef

A file of labels is any CSV file with a column of values and one of labels: the _samples.csv of neuroscope, or the texts of
steering, to which somebody has added `sentiment`. Its directions and layers, if it has such columns, are kept apart.
Beside the file: <name>_shares.csv and .svg, .png, .pdf and .html (share of every label along the values, stacked); with a summary
<name>_accuracy.csv: labels beyond the quantiles of all tokens, and the share of signs that are right there.")]
pub struct Args {
    /// The file of labels.
    #[arg(long)]
    labels: PathBuf,
    /// Its column of values.
    #[arg(long, default_value_t = LabelShares::default().value)]
    value: String,
    /// Its column of labels; accuracy knows Positive and Negative.
    #[arg(long, default_value_t = LabelShares::default().label)]
    label: String,
    /// The _summary.csv of the reading that the values come from.
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Equal parts of the range of the values; where there are no more different values, each is a part of its own.
    #[arg(long, default_value_t = LabelShares::default().parts, value_parser = clap::value_parser!(u16).range(1..=1000))]
    parts: u16,
    #[command(flatten)]
    csv: CsvArgs,
    /// Print the results as JSON.
    #[arg(long)]
    json: bool,
}

/// Tells what labels say of values.
pub fn run(args: Args) -> Result<()> {
    let Args { labels, value, label, summary, parts, csv: CsvArgs { csv_guard }, json } = args;
    let shares = LabelShares { labels, value, label, summary, parts, csv_guard }.run()?;
    if json { print_json(&shares) } else { print(&shares.to_string()) }
}
