//! `bench`.

use crate::bench::Workload;
use crate::cli::args::{Asked, CompatArgs, ModelArgs, RunArgs};
use crate::cli::runner::{self, Terminal, print};
use crate::session::Session;
use crate::studies::{Benchmark, Study};
use anyhow::{Result, bail};
use serde_json::Value;

/// Arguments of `bench`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    /// Workloads: forward, forward-all-logits, shared, cell:LAYER, das:LAYER, das (every block), sweep, head-map,
    /// resid-map; all of them, with cells and DAS epochs at the first, middle and last block, without the option.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Repetitions of each workload, behind one that warms up.
    #[arg(long, default_value_t = Benchmark::default().repetitions, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repetitions: u32,
    /// Prompts of a dataset.
    #[arg(long, default_value_t = Benchmark::default().prompts, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    prompts: u32,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = Benchmark::default().tokens, value_parser = clap::value_parser!(u32).range(4..=65_536))]
    tokens: u32,
    /// Answer pairs of a prompt.
    #[arg(long, default_value_t = Benchmark::default().answer_pairs, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    answer_pairs: u32,
    /// Run one repetition per line of stdin, which names its workload (or `peak`), and print one line of JSON each: for
    /// alternating with another program.
    #[arg(long, conflicts_with_all = ["json", "dry_run", "workloads"])]
    paced: bool,
    #[command(flatten)]
    run: RunArgs,
}

const EXAMPLES: &str = "\
Examples:
  actpatch bench --models random:gpt2-small
  actpatch bench --models random:pythia-1.4b --workloads cell:12,das:12 --repetitions 3 --json
  actpatch bench --models ./folder --prompts 256 --tokens 60 --workloads cell:6

Prompts are made of token ids alone, of the shape given; nothing is written.";

/// Runs the workloads of every model.
pub fn run(args: Args) -> Result<()> {
    let asked = Asked { models: args.models, compat: CompatArgs::default(), run: args.run };
    let study = Benchmark {
        workloads: args.workloads,
        repetitions: args.repetitions,
        prompts: args.prompts,
        tokens: args.tokens,
        answer_pairs: args.answer_pairs,
    };
    if args.paced { paced(&asked, &study) } else { runner::run(asked, study) }
}

/// Takes workloads from stdin, and prints a line of JSON for each.
fn paced(asked: &Asked, study: &Benchmark) -> Result<()> {
    study.validate()?;
    let models = asked.models();
    let [model] = &models[..] else { bail!("--paced: expected one model, found {}", models.len()) };
    let session = Session::open(model, asked.options()?)?;
    let mut lines = std::iter::from_fn(|| {
        let mut line = String::new();
        match std::io::stdin().read_line(&mut line) {
            Ok(0) => None,
            read => Some(read.map(|_| line)),
        }
    });
    let mut reply = |reply: &Value| print(&format!("{reply}\n"));
    study.paced(&session, &mut lines, &mut reply, &mut Terminal::new()?)
}
