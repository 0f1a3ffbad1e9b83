//! `direction-patching-results`.

use crate::cli::runner;
use crate::session::{DEFAULT_MODEL, SessionOptions};
use crate::studies::patching_results;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `direction-patching-results`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch direction-patching-results --models demo
  actpatch direction-patching-results --models gpt2-small,pythia-160m,pythia-1.4b

Figures (.svg, .png, .html) of one model go to DATA_DIR/<model>/figures, those of all together and
direction_patching_results.csv to DATA_DIR/figures.")]
pub struct Args {
    /// Models, as they were named when they were patched.
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_MODEL)]
    models: Vec<String>,
    /// Where results are: those of a model in DATA_DIR/<model>.
    #[arg(long, default_value_os_t = SessionOptions::default().data_dir)]
    data_dir: PathBuf,
    /// Print the tables as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints a table per result file of every model, and draws the figures.
pub fn run(args: Args) -> Result<()> {
    runner::show(&patching_results(&args.data_dir, &args.models)?, args.json)
}
