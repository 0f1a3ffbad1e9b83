//! `fit-directions`.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::choice::{choice, choice_of};
use crate::cli::runner;
use crate::datasets::treebank::Scaffold;
use crate::directions::Method;
use crate::studies::FitDirections;
use crate::sweep::Shard;
use anyhow::Result;

/// Arguments of `fit-directions`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch fit-directions --models gpt2-small --methods das --train-sets simple_train --layers 0..12
  actpatch fit-directions --models random:pythia-160m --methods kmeans,das --layers 6 --dry-run
  actpatch fit-directions --models ./my_model --positions ADJ,VRB --test-sets simple_test,simple_adverb
  actpatch fit-directions --models gpt2-small --methods das --test-sets simple_test,simple_adverb --early-stop 8
  actpatch fit-directions --models mistral-7b --compat trailing-space --weight-processing none --batch-size 16
  actpatch fit-directions --models gpt2-small --train-sets treebank_train --scaffold classification")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Methods; all without it.
    #[arg(long, value_delimiter = ',', value_parser = choice_of(Method::of_fits()))]
    methods: Vec<Method>,
    /// Datasets to fit on.
    #[arg(long, value_delimiter = ',', default_values_t = FitDirections::default().train_sets)]
    train_sets: Vec<String>,
    /// Datasets on which fits are tested: classifiers for their accuracy, DAS for its loss after every epoch. Tested is at
    /// the fit's own position where a dataset has it, else at its main one. Classifiers that exist already are only tested.
    #[arg(long, value_delimiter = ',')]
    test_sets: Vec<String>,
    /// Text around the Treebank's sentences: classification without it; all other datasets are plain.
    #[arg(long, value_parser = choice::<Scaffold>())]
    scaffold: Option<Scaffold>,
    /// Positions: placeholders of the template, END, ALL, or auto: the main placeholder, ALL on the Treebank.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = FitDirections::default().positions)]
    positions: Vec<String>,
    /// Layers: `all`, numbers, ranges such as 2..5; layer n_layers is behind the last block.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, default_values_t = FitDirections::default().layers)]
    layers: Vec<String>,
    /// DAS: passes over the dataset: 64, or 1 on the Treebank, without it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// DAS: prompts per step.
    #[arg(long, default_value_t = FitDirections::default().batch_size, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// DAS: learning rate of Adam.
    #[arg(long, default_value_t = FitDirections::default().learning_rate, value_parser = learning_rate)]
    learning_rate: f64,
    /// DAS: stop when the mean loss on the test sets (without any, the training loss) has not become smaller for this many
    /// epochs, and keep the directions of the best epoch instead of the last.
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    early_stop: Option<u32>,
    /// Make only share I of N of the DAS fits, counted from 0 (share 0 also makes everything else); each is a file of its own
    /// in DATA_DIR/<model>, whichever share makes it.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    #[command(flatten)]
    compat: CompatArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// A step size that can move a rotation towards a smaller loss.
fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("expected a finite number above zero".into()),
    }
}

/// Fits what the arguments name.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: args.compat, run: args.run };
    let fits = FitDirections {
        methods: args.methods,
        train_sets: args.train_sets,
        test_sets: args.test_sets,
        scaffold: args.scaffold,
        positions: args.positions,
        layers: args.layers,
        epochs: args.epochs,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        early_stop: args.early_stop,
        shard: args.shard,
    };
    runner::run(asked, fits)
}
