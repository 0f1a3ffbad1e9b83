//! `directions list`.

use super::StoredArgs;
use crate::studies::Listing;
use anyhow::Result;

/// Arguments of `directions list`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch directions list --model gpt2-small
  actpatch directions list 'das_*' 'kmeans_*' --model gpt2-small --json")]
pub(super) struct Args {
    #[command(flatten)]
    stored: StoredArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    args.stored.show(&Listing(args.stored.read()?))
}
