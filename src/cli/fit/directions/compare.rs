//! `directions compare`.

use super::StoredArgs;
use crate::cli::args::CsvArgs;
use crate::cli::runner::print;
use crate::studies::Cosines;
use anyhow::Result;

/// Arguments of `directions compare`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch directions compare 'das_simple_train_ADJ_*' --model gpt2-small
  actpatch directions compare '*_layer6' --model gpt2-small --csv > cosines.csv

Of two directions the cosine; where a subspace is one of them (das2d, das3d), the root mean square of the cosines of
the principal angles, which has no sign.")]
pub(super) struct Args {
    #[command(flatten)]
    stored: StoredArgs,
    /// Print as CSV, with all digits.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    guard: CsvArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    let cosines = Cosines::of(&args.stored.read()?)?;
    if args.csv { print(&cosines.csv(args.guard.csv_guard)?) } else { args.stored.show(&cosines) }
}
