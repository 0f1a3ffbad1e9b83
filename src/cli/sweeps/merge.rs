//! `merge`.

use crate::cli::args::CsvArgs;
use crate::cli::runner;
use crate::session::SessionOptions;
use crate::studies::merge_sweeps;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `merge`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch merge
  actpatch merge node1/data node2/data --data-dir data")]
pub struct Args {
    /// Data folders to join into DATA_DIR; without any, the shards that lie in DATA_DIR itself.
    from: Vec<PathBuf>,
    /// Where the joined ledgers and the result files go.
    #[arg(long, default_value_os_t = SessionOptions::default().data_dir)]
    data_dir: PathBuf,
    #[command(flatten)]
    csv: CsvArgs,
    /// Print it as JSON, with every missing cell.
    #[arg(long)]
    json: bool,
}

/// Joins ledgers, model by model, and makes the result files.
pub fn run(args: Args) -> Result<()> {
    runner::show(&merge_sweeps(&args.from, &args.data_dir, args.csv.csv_guard)?, args.json)
}
