//! `text-loss`.

use super::corpus::CorpusArgs;
use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::runner;
use crate::experiments::ablation::Replacement;
use crate::studies::{TEXT_METHODS, TextLoss};
use anyhow::Result;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use std::path::PathBuf;

/// Arguments of `text-loss`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch text-loss --models gpt2-small --corpus openwebtext.jsonl --directions kmeans_simple_train_ADJ_layer1
  actpatch text-loss --corpus reviews.txt --directions das_simple_train_ADJ --methods zero,resample --random 4
  actpatch text-loss --corpus reviews.txt --positions COMMA,PERIOD --methods mean_over_places --by-token 100

A corpus is a file of texts, one per line, .jsonl with {\"text\": …} or {\"tokens\": […]} per line, or .npy with an array
(rows, tokens) of token ids. Directions, or whole residuals without any, are replaced in front of every block and at the end
(--layers chooses). Where only some tokens are ablated, the loss that is predicted from one of them is not counted: what
counts is what other tokens read there.
Files in DATA_DIR/<model>/: text_loss_<name>.csv (mean loss of the next token in nats, and its change; `reached` are the tokens
behind an ablated one), .svg, .png, .pdf, .html; with --by-token N text_loss_<name>_by_token_<N>.csv, _top.csv and .html, which hold
what the last such run was asked for.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    corpus: CorpusArgs,
    /// Directions to ablate: das_simple_train_ADJ is every layer's own, das_simple_train_ADJ_layer2 the same one
    /// everywhere; the whole residual without any.
    #[arg(long, value_delimiter = ',')]
    directions: Vec<String>,
    /// Layers at which to ablate (the number of layers stands for the end); all that are there without it.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',')]
    layers: Vec<String>,
    /// How many random directions to ablate in the same places for comparison.
    #[arg(long, default_value_t = TextLoss::default().random)]
    random: u32,
    /// What takes their place: zero, resample (another text's at the same position), mean_over_places (one mean of
    /// every layer over all such tokens).
    #[arg(long, value_delimiter = ',', default_values_t = TextLoss::default().methods, value_parser = method())]
    methods: Vec<Replacement>,
    /// The corpus that means are taken of, instead of the one whose loss is measured.
    #[arg(long, value_name = "FILE")]
    means_corpus: Option<PathBuf>,
    /// Tokens to ablate: ALL, COMMA, PERIOD; joined by + they are ablated together.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = TextLoss::default().positions)]
    positions: Vec<String>,
    /// Write the change of the loss of every token of the first N texts, and the N tokens of all texts that it grows
    /// most at.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    by_token: Option<u32>,
    #[command(flatten)]
    compat: CompatArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Takes the methods there are for plain text.
fn method() -> impl TypedValueParser<Value = Replacement> {
    PossibleValuesParser::new(TEXT_METHODS.map(Replacement::name)).try_map(|name| name.parse::<Replacement>())
}

/// Ablates what the arguments name.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: args.compat, run: args.run };
    let study = TextLoss {
        corpus: args.corpus.into(),
        directions: args.directions,
        layers: args.layers,
        random: args.random,
        methods: args.methods,
        means_corpus: args.means_corpus,
        positions: args.positions,
        by_token: args.by_token,
    };
    runner::run(asked, study)
}
