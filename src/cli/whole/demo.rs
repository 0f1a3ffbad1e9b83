//! `demo`: the whole journey on the small model that is part of the program.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs, SourceArgs};
use crate::cli::runner::{self, Printer, Terminal};
use crate::session::Session;
use crate::studies::{Demo, Study};
use anyhow::Result;

/// Arguments of `demo`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  actpatch demo --data-dir /tmp/actpatch")]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
}

/// Fits every method at every layer, patches two datasets, prints the best layer of every method.
pub fn run(args: Args) -> Result<()> {
    let models = ModelArgs {
        models: vec![Demo::MODEL.into()],
        source: SourceArgs { bos: Demo::BOS, ..SourceArgs::default() },
        weight_processing: Demo::REWRITES.into(),
    };
    let asked = Asked { models, compat: CompatArgs::default(), run: args.run };
    let session = Session::open(Demo::MODEL, asked.options()?)?;
    if asked.run.dry_run {
        let mut printer = Printer::new(asked.run.json);
        printer.plan(Demo::MODEL, &Demo {}.plan(&session)?.timed(&session))?;
        return printer.finish(Ok(()));
    }
    runner::show(&Demo {}.run(&session, &mut Terminal::new()?)?, asked.run.json)
}
