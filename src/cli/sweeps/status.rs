//! `status`.

use crate::cli::runner;
use crate::session::SessionOptions;
use crate::studies::sweep_status;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `status`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  actpatch status\n  actpatch status --data-dir /results --json")]
pub struct Args {
    /// The folder of the sweeps' results.
    #[arg(long, default_value_os_t = SessionOptions::default().data_dir)]
    data_dir: PathBuf,
    /// Print it as JSON, with every failed and every missing cell.
    #[arg(long)]
    json: bool,
}

/// Prints how far every sweep of a data folder is.
pub fn run(args: Args) -> Result<()> {
    runner::show(&sweep_status(&args.data_dir)?, args.json)
}
