//! `verify`: our numbers beside those that others have published or computed.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::errors::Options;
use crate::cli::runner::{Printer, Terminal, print};
use crate::studies::Verify;
use crate::studies::verify::Verdict;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `verify`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch verify
  actpatch verify --models gpt2-small --experiments baselines,direction_cosines
  actpatch verify --models ./my_model --golden my_numbers.toml

Every experiment is run anew, in a folder of its own that is gone afterwards; imported directions and Treebank datasets
are taken from DATA_DIR/<model>. Exit code 1: a number is off, or none could be checked.")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Another file of golden numbers (docs/verify.md describes the format).
    #[arg(long)]
    golden: Vec<PathBuf>,
    /// Only these kinds of experiments.
    #[arg(long, value_delimiter = ',')]
    experiments: Vec<String>,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs the experiments behind the golden numbers of every model; fails when a number is off or none could be checked.
pub fn run(args: Args) -> Result<()> {
    let verify = Verify { golden: args.golden, experiments: args.experiments };
    let asked = Asked { models: args.models, compat: CompatArgs::default(), run: args.run };
    let options = asked.options()?;
    let mut printer = Printer::new(asked.run.json);
    if asked.run.dry_run {
        let mut plan = |model: &String| printer.plan(model, &verify.plan_of(model, options.clone())?);
        let result = asked.models().iter().try_for_each(&mut plan);
        return printer.finish(result);
    }
    let mut verdict = Verdict::default();
    let mut verify_one = |model: &String| -> Result<()> {
        let mut verification = verify.begin(model, options.clone())?;
        let mut terminal = Terminal::new()?;
        while let Some(entry) = verification.next(&mut terminal)? {
            verdict.count(&entry);
            printer.show(&entry.text(&Options), entry.as_json(&Options))?;
        }
        Ok(())
    };
    let result = asked.models().iter().try_for_each(&mut verify_one);
    printer.finish(result)?;
    if !asked.run.json {
        print(&verdict.to_string())?;
    }
    Ok(verdict.check()?)
}
