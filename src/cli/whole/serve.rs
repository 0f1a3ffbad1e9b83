//! `serve`.

use crate::cli::runner::{self, Terminal};
use crate::session::SessionOptions;
use crate::studies::{Listening, OVERVIEW_PORT, Overview};
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `serve`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch serve
  actpatch serve --data-dir /results --port 0

It listens on 127.0.0.1 alone, prints its address, and ends at Ctrl-C. It shows the folder as it is and writes nothing.")]
pub struct Args {
    /// The folder of results.
    #[arg(long, default_value_os_t = SessionOptions::default().data_dir)]
    data_dir: PathBuf,
    #[arg(long, help = format!("The port; 0 for any free one. Without it {OVERVIEW_PORT}, or any free one if that is taken."))]
    port: Option<u16>,
}

/// Shows a folder of results until a signal ends it.
pub fn run(args: Args) -> Result<()> {
    let listening = Listening::on(Overview::open(&args.data_dir)?, args.port)?;
    let mut terminal = Terminal::new()?;
    runner::print(&format!("{}\n", listening.address()))?;
    runner::tell(&format!("shows {} until Ctrl-C", args.data_dir.display()));
    listening.serve(&mut terminal)
}
