//! `verify`: our numbers beside those that others have published or computed.

use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::errors::Options;
use crate::cli::runner::{self, Terminal};
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
    if asked.run.dry_run {
        let plan = |model: &String| runner::show_plan(&verify.plan_of(model, options.revision.as_deref())?);
        return asked.models().iter().try_for_each(plan);
    }
    let (mut all, mut verdict) = (Vec::new(), Verdict::default());
    for model in asked.models() {
        let mut verification = verify.begin(&model, options.clone())?;
        let mut terminal = Terminal::new()?;
        while let Some(entry) = verification.next(&mut terminal)? {
            verdict.count(&entry);
            match asked.run.json {
                true => all.push(entry.as_json(&Options)),
                false => runner::print(&entry.text(&Options))?,
            }
        }
    }
    match asked.run.json {
        true => runner::print_json(&all)?,
        false => runner::print(&verdict.to_string())?,
    }
    Ok(verdict.check()?)
}
