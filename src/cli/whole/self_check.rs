//! `self-check`.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::runner;
use crate::studies::SelfCheck;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `self-check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch self-check --models gpt2-small --eval-set simple_test --layers 0,6,11
  actpatch self-check --models random:pythia-1.4b --layers 12 --device cuda --dtype bf16 --against-cpu
  actpatch self-check --models gpt2-small --layers 0,6,11 --record references
  actpatch self-check --models gpt2-small --layers 0,6,11 --device cuda --against references")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Dataset to check on.
    #[arg(long, default_value_t = SelfCheck::default().eval_set)]
    eval_set: String,
    /// Layers: `all`, numbers, ranges such as 2..5; layer n_layers is behind the last block.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = SelfCheck::default().layers)]
    layers: Vec<String>,
    /// Also compare the device and the number format with the processor in f32: logits, patches, gradients, a DAS fit.
    #[arg(long)]
    against_cpu: bool,
    /// Write what the processor computes in f32 to this folder, in a file per model.
    #[arg(long, value_name = "FOLDER")]
    record: Option<PathBuf>,
    /// Compare as --against-cpu does, with what --record has written to this folder instead of computing it here.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["record", "against_cpu"])]
    against: Option<PathBuf>,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs the checks; fails when one of them does.
pub fn run(args: Args) -> Result<()> {
    let Args { models, eval_set, layers, against_cpu, record, against, run } = args;
    let study = SelfCheck { eval_set, layers, against_cpu, record, against };
    runner::run(Asked { models, compat: CompatArgs::default(), run }, study)
}
