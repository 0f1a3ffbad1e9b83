//! `steering`.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::runner;
use crate::engine::Site;
use crate::studies::{Coefficients, STEERING_COEFFICIENTS, Steering};
use anyhow::Result;

/// Arguments of `steering`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch steering --directions kmeans_simple_train_ADJ_layer1 --coefficients -10..10:5 --samples 3
  actpatch steering --models pythia-1.4b --directions das_simple_train_ADJ_layer1 --coefficients -20..0 --threads 8
  actpatch steering --directions kmeans_simple_train_ADJ --layers 1,2 --temperature 0 --prompt 'The film was'

A coefficient times the direction, of unit length, is added at every position of the prompt and of every token that is
written. Texts depend on their own settings and --seed alone: a grid can grow, and be computed in any order.
File in DATA_DIR/<model>/: steering_<direction>.jsonl, to which every run adds its texts, one a line: settings, text, tokens,
log_probabilities of the tokens (steered model, whole vocabulary, temperature 1), and whether a token ended the text;
and a page about all of its texts, steering_<direction>.html. Once somebody has labelled them, label-shares --value
coefficient draws the labels' shares.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Directions: das_simple_train_ADJ_layer1 at its own layer unless --layers or --sites say where,
    /// das_simple_train_ADJ is every layer's own.
    #[arg(long, value_delimiter = ',', required = true)]
    directions: Vec<String>,
    /// Layers in front of which the directions are added together (the number of layers stands for the end).
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',')]
    layers: Vec<String>,
    /// Hook names of the sites at which the directions are added together, such as blocks.0.hook_mlp_out.
    #[arg(long, value_delimiter = ',', conflicts_with = "layers")]
    sites: Vec<Site>,
    /// What directions are multiplied by: numbers, and ranges with both ends, -20..0 in steps of 1, -20..0:5 in steps
    /// of 5.
    #[arg(long, value_delimiter = ',', default_value = STEERING_COEFFICIENTS, allow_hyphen_values = true)]
    coefficients: Vec<Coefficients>,
    /// A text to continue; may be given again.
    #[arg(long = "prompt", value_name = "TEXT", default_values_t = Steering::default().prompt)]
    prompts: Vec<String>,
    /// Texts of every prompt and coefficient; without it 20, or the one that there is with --temperature 0.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    samples: Option<u32>,
    /// Most tokens of a text; one that ends a text ends it earlier.
    #[arg(long, default_value_t = Steering::default().max_new_tokens, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    /// What logits are divided by before a token is drawn; 0 for the likeliest token.
    #[arg(long, default_value_t = Steering::default().temperature, value_parser = temperature)]
    temperature: f64,
    /// Draw from this many of the likeliest tokens; 0 for all.
    #[arg(long, default_value_t = Steering::default().top_k)]
    top_k: usize,
    #[command(flatten)]
    compat: CompatArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn temperature(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
    found.ok_or_else(|| "expected a number of at least 0".into())
}

/// Writes what the arguments name.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: args.compat, run: args.run };
    let study = Steering {
        directions: args.directions,
        layers: args.layers,
        sites: args.sites,
        coefficients: args.coefficients,
        prompt: args.prompts,
        samples: args.samples,
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        top_k: args.top_k,
    };
    runner::run(asked, study)
}
