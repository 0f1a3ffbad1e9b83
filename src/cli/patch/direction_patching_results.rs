//! `direction-patching-results`.

use crate::cli::args::CsvArgs;
use crate::cli::runner;
use crate::session::{DEFAULT_MODEL, OfSetting, SessionOptions};
use crate::studies::{export_patching_values, patching_results};
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `direction-patching-results`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch direction-patching-results --models demo
  actpatch direction-patching-results --models gpt2-small,pythia-160m,pythia-1.4b
  actpatch direction-patching-results --models gpt2-small,pythia-160m --parquet values.parquet

Figures (.svg, .png, .pdf, .html) of one model go to DATA_DIR/<model>/figures, those of all together and
direction_patching_results.csv to DATA_DIR/figures.")]
pub struct Args {
    /// Models, as they were named when they were patched.
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_MODEL)]
    models: Vec<String>,
    /// Where results are: those of a model in DATA_DIR/<model>.
    #[arg(long, default_value_os_t = SessionOptions::default().data_dir)]
    data_dir: PathBuf,
    /// Also write every value of all these models to this Parquet file, one a row: those of the files
    /// DATA_DIR/<model>/direction_patching.csv.
    #[arg(long, value_name = "FILE")]
    parquet: Option<PathBuf>,
    #[command(flatten)]
    csv: CsvArgs,
    /// Print the tables as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints a table per result file of every model, and draws the figures.
pub fn run(args: Args) -> Result<()> {
    let mut results = patching_results(&args.data_dir, &args.models, args.csv.csv_guard)?;
    if let Some(path) = args.parquet {
        export_patching_values(&args.data_dir, &args.models, &path).of_setting("parquet")?;
        results.written.push(path);
    }
    runner::show(&results, args.json)
}
