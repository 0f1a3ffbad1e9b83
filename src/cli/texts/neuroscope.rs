//! `neuroscope`.

use super::corpus::CorpusArgs;
use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::choice::choice;
use crate::cli::runner;
use crate::experiments::neuroscope::Measure;
use crate::studies::Neuroscope;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `neuroscope`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch neuroscope --text 'I loved it. The plot was awful.' --directions 'das_*' --layers all
  actpatch neuroscope --models gpt2-small --corpus openwebtext.jsonl --directions 'das_*layer1,kmeans_*layer1'
  actpatch neuroscope --models gpt2-small --corpus openwebtext.npy --directions 'das_*layer1' --exclude plain_words.txt

A corpus is a file of texts, one per line, .jsonl with {\"text\": …} or {\"tokens\": […]} per line, or .npy with an array
(rows, tokens) of uint16, uint32, int32 or int64. It goes through the model once, piece by piece, whatever the number of
directions and layers. BOS is not counted; every row begins with it, whether or not given tokens do.
Files in DATA_DIR/<model>/, all named neuroscope_<name>: _summary.csv (tokens, mean, deviation, ends and quantiles),
_top.csv and .html (the largest and smallest values with their surroundings), _samples.csv (random tokens of every bin, to
be labelled), _token_means.csv, .svg, .png, .pdf and .html (the vocabulary's extreme means and deviations); for --text and
--every-token _values.csv (every token), _texts.html (the texts in colour), and of short texts a heat map.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Directions by name, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', required = true)]
    directions: Vec<String>,
    /// Where residuals are read: `own`, each direction at its own layer, or layers for all directions (`all`,
    /// 0,3,6..9).
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = Neuroscope::default().layers)]
    layers: Vec<String>,
    /// Values: cosines of residual and direction, or their products (no samples and no quantiles then).
    #[arg(long, value_parser = choice::<Measure>(), default_value_t = Neuroscope::default().measure)]
    measure: Measure,
    /// How many largest and smallest values.
    #[arg(long, default_value_t = Neuroscope::default().top, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// Tokens shown on either side of one.
    #[arg(long, default_value_t = Neuroscope::default().window)]
    window: u16,
    /// Width of the bins that samples are drawn from.
    #[arg(long, default_value_t = Neuroscope::default().bin_width, value_parser = bin_width)]
    bin_width: f64,
    /// Samples of each bin.
    #[arg(long, default_value_t = Neuroscope::default().samples)]
    samples: u16,
    /// Least occurrences of a token in _token_means.csv.
    #[arg(long, default_value_t = Neuroscope::default().min_count)]
    min_count: u64,
    /// A file of words, one a line, that _top, _samples and _token_means leave out: each in lower case, Capitalised and
    /// in UPPER CASE, with and without a space in front or behind.
    #[arg(long, value_name = "FILE")]
    exclude: Option<PathBuf>,
    /// Share of the tokens beyond either quantile of the summary.
    #[arg(long, default_value_t = Neuroscope::default().tail, value_parser = tail)]
    tail: f64,
    /// Write every token's values; always done for --text.
    #[arg(long)]
    every_token: bool,
    #[command(flatten)]
    compat: CompatArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn bin_width(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|width| (0.001..=1.0).contains(width));
    found.ok_or_else(|| "expected a width of 0.001 to 1".into())
}

fn tail(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|share| (0.0..0.5).contains(share));
    found.ok_or_else(|| "expected a share of 0 or more and below 0.5".into())
}

/// Reads what the arguments name.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: args.compat, run: args.run };
    let study = Neuroscope {
        corpus: args.corpus.into(),
        directions: args.directions,
        layers: args.layers,
        measure: args.measure,
        top: args.top,
        window: args.window,
        bin_width: args.bin_width,
        samples: args.samples,
        min_count: args.min_count,
        exclude: args.exclude,
        tail: args.tail,
        every_token: args.every_token,
    };
    runner::run(asked, study)
}
