//! `directions show`.

use super::StoredArgs;
use crate::studies::Details;
use anyhow::Result;

/// Arguments of `directions show`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:
  actpatch directions show das_simple_train_ADJ_layer6 --model gpt2-small")]
pub(super) struct Args {
    #[command(flatten)]
    stored: StoredArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    args.stored.show(&Details(args.stored.read()?))
}
