//! `report`.

use crate::cli::runner;
use crate::session::SessionOptions;
use crate::studies::write_overview;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `report`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch report
  actpatch report --data-dir /results --json

Writes DATA_DIR/index.html, one file that links the figures, pages and tables beside it (docs/pages.md).")]
pub struct Args {
    /// The folder of results.
    #[arg(long, default_value_os_t = SessionOptions::default().data_dir)]
    data_dir: PathBuf,
    /// Print what is in it, and what is missing or stale, as JSON.
    #[arg(long)]
    json: bool,
}

/// Writes the page over a folder of results.
pub fn run(args: Args) -> Result<()> {
    runner::show(&write_overview(&args.data_dir)?, args.json)
}
