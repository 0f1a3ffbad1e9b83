//! `datasets`.

use crate::cli::args::{CompatArgs, SourceArgs};
use crate::cli::choice::choice;
use crate::cli::runner::{end, show};
use crate::datasets::treebank::Scaffold;
use crate::session::{DEFAULT_MODEL, Session, SessionOptions};
use crate::studies::{check_datasets, list_datasets, show_dataset};
use anyhow::Result;
use clap::Subcommand;
use std::path::PathBuf;

/// Arguments of `datasets`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// List the datasets there are: pairs, classes, placeholders, source.
    #[command(after_help = "Examples:
  actpatch datasets list --model gpt2-small
  actpatch datasets list --dataset-file pairs.csv --json")]
    List {
        /// Another file of datasets: .csv, .jsonl or TOML.
        #[arg(long)]
        dataset_file: Vec<PathBuf>,
        #[command(flatten)]
        model: ModelOf,
    },
    /// Show a dataset's prompts, positions and answers as a model's tokens.
    #[command(after_help = "Examples:
  actpatch datasets show simple_test --model gpt2-small
  actpatch datasets show pairs --dataset-file pairs.csv --model gpt2-small --json")]
    Show {
        /// The dataset.
        name: String,
        /// Another file of datasets: .csv, .jsonl or TOML.
        #[arg(long)]
        dataset_file: Vec<PathBuf>,
        /// Text around the Treebank's sentences.
        #[arg(long, value_parser = choice::<Scaffold>(), default_value_t = Scaffold::Plain)]
        scaffold: Scaffold,
        #[command(flatten)]
        model: ModelOf,
    },
    /// Check a file of datasets, and say everything that is wrong with it.
    #[command(after_help = "Examples:
  actpatch datasets check pairs.csv --model gpt2-small
  actpatch datasets check mine.toml --json

A .csv file (or .jsonl with the same names) has a pair a row, in columns called clean, corrupted, answer and
wrong_answer; class (positive or negative) and position_NAME may be there too. docs/datasets.md has the details.")]
    Check {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        model: ModelOf,
    },
}

/// Which model's tokens.
#[derive(Debug, Clone, clap::Args)]
struct ModelOf {
    /// The model: `demo`, an alias (gpt2-small, pythia-1.4b, …), a Hub id, a folder, or `random:<alias>`.
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    #[command(flatten)]
    source: SourceArgs,
    /// Its words.toml and datasets.toml, if there, add to the built-in ones; the Treebank's are in DATA_DIR/<model>.
    #[arg(long, default_value_os_t = SessionOptions::default().data_dir)]
    data_dir: PathBuf,
    #[command(flatten)]
    compat: CompatArgs,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl ModelOf {
    fn open(self, dataset_file: Vec<PathBuf>) -> Result<Session> {
        let Self { model, source, data_dir, compat, .. } = self;
        let options = SessionOptions { data_dir, compat: compat.compat, dataset_file, ..source.options() };
        Session::open(&model, options)
    }
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::List { dataset_file, model } => {
            let json = model.json;
            show(&list_datasets(&model.open(dataset_file)?)?, json)
        }
        Command::Show { name, dataset_file, scaffold, model } => {
            let json = model.json;
            show(&show_dataset(&model.open(dataset_file)?, &name, scaffold)?, json)
        }
        Command::Check { file, model } => {
            let json = model.json;
            let checked = check_datasets(&model.open(Vec::new())?, &file)?;
            show(&checked, json)?;
            end(checked.failed().as_slice())
        }
    }
}
