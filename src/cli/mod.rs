//! The command line: arguments become a resolved configuration, which a library call carries out.

mod ablate;
mod args;
mod choice;
mod errors;
mod fit;
mod patch;
mod runner;
mod stop;
mod texts;

use crate::session::Stopped;
use anyhow::Result;
use clap::{Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Fit directions in a transformer's residual stream and measure, by activation patching, what they cause.
///
/// Reproduces "Linear Representations of Sentiment in Large Language Models" (arXiv 2310.15154) on a hand-written
/// engine: clean and corrupted prompts run as one batch, patched rows resume at their layer, many cells share a batch.
#[derive(Debug, Parser)]
#[command(name = "actpatch", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log what is done to stderr (-vv: more). RUST_LOG overrides it.
    #[arg(short, long, global = true, display_order = 1000, action = clap::ArgAction::Count)]
    verbose: u8,
}

const EXAMPLES: &str = "\
Examples:
  actpatch demo
  actpatch fit-directions --models gpt2-small --methods das,kmeans --train-sets simple_train
  actpatch direction-patching-suite --models gpt2-small --directions 'das_*' --eval-sets simple_test,simple_adverb
  actpatch direction-patching-results --models gpt2-small

Exit codes: 0 success, 1 failure, 2 wrong arguments, 75 stopped by a signal (the same command goes on from there).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Fit directions: model x method x dataset x position x layer.
    FitDirections(fit::fit_directions::Args),
    /// Write a random unit direction for every layer.
    RandomDirections(fit::random_directions::Args),
    /// Patch every head, or every layer and position, on its own: model x map x dataset x metric.
    ActivationPatchingMaps(patch::activation_patching_maps::Args),
    /// Patch the paths from senders to receivers.
    PathPatching(patch::path_patching::Args),
    /// Ablate nodes or directions together: zero, mean, resample; logit difference, accuracy, counts.
    Ablation(ablate::ablation::Args),
    /// Read every token of texts along directions: values, extremes, samples to label.
    Neuroscope(texts::neuroscope::Args),
    /// What people's labels say of values: shares along them, and the accuracy of both ends.
    LabelShares(texts::label_shares::Args),
    /// What ablating the residual stream, or directions in it, costs on plain text: the change of the loss of the next token.
    TextLoss(texts::text_loss::Args),
    /// How far negated words flip along directions between two layers.
    Negation(texts::negation::Args),
    /// Write texts while a direction is added: model x direction x prompt x coefficient x sample.
    Steering(texts::steering::Args),
}

/// Parses the arguments, runs the command, prints an error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.verbose);
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr is no reason to do anything else.
            let mut stderr = std::io::stderr();
            if let Some(stopped) = error.downcast_ref::<Stopped>() {
                let _ = writeln!(stderr, "{}", errors::stopped(stopped));
                return ExitCode::from(stop::EXIT_CODE);
            }
            let _ = writeln!(stderr, "error: {}", errors::text_of(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs a command.
fn execute(command: Command) -> Result<()> {
    match command {
        Command::FitDirections(args) => fit::fit_directions::run(args),
        Command::RandomDirections(args) => fit::random_directions::run(args),
        Command::ActivationPatchingMaps(args) => patch::activation_patching_maps::run(args),
        Command::PathPatching(args) => patch::path_patching::run(args),
        Command::Ablation(args) => ablate::ablation::run(args),
        Command::Neuroscope(args) => texts::neuroscope::run(args),
        Command::LabelShares(args) => texts::label_shares::run(args),
        Command::TextLoss(args) => texts::text_loss::run(args),
        Command::Negation(args) => texts::negation::run(args),
        Command::Steering(args) => texts::steering::run(args),
    }
}

fn start_logging(verbose: u8) {
    let level = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    // Another subscriber can only be there already when a program embeds this one: then its logging is used.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .try_init();
}
