//! The command line: arguments become a resolved configuration, which a library call carries out.

mod ablation;
mod ablation_maps;
mod activation_patching_maps;
mod attention;
mod attribution_patching;
mod bench;
mod circuit;
mod common;
mod corpus;
mod demo;
mod device;
mod direction_patching_results;
mod direction_patching_suite;
mod directions;
mod download_bars;
mod faithfulness;
mod fit_directions;
mod fit_projections;
mod fit_statistics;
mod head_cosines;
mod label_shares;
mod logit_attribution;
mod map_sweep;
mod maps;
mod merge;
mod negation;
mod neuron_cosines;
mod neuroscope;
mod neuroscope_files;
mod path_patching;
mod places;
mod probing;
mod random_directions;
mod self_check;
mod status;
mod steering;
mod stored_directions;
mod suite_plan;
mod sweeping;
mod tables;
mod text_loss;
mod text_loss_files;
mod token_pages;
mod treebank_data_gen;
mod twins;
mod verify;

use crate::sweep::Stop;
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
    /// Fit and patch every method on the small model that is part of the program.
    Demo(demo::Args),
    /// Fit directions: model x method x dataset x position x layer.
    FitDirections(fit_directions::Args),
    /// Write a random unit direction for every layer.
    RandomDirections(random_directions::Args),
    /// Make datasets of the Stanford Sentiment Treebank: model x split x scaffold.
    TreebankDataGen(treebank_data_gen::Args),
    /// Patch along directions: model x direction x dataset x position x metric.
    DirectionPatchingSuite(direction_patching_suite::Args),
    /// Import, list, show and compare stored directions.
    Directions(directions::Args),
    /// Print tables of what the suite has measured.
    DirectionPatchingResults(direction_patching_results::Args),
    /// Patch every head, or every layer and position, on its own: model x map x dataset x metric.
    ActivationPatchingMaps(activation_patching_maps::Args),
    /// Patch the paths from senders to receivers.
    PathPatching(path_patching::Args),
    /// Ablate every head, neuron or place on its own: model x map x replacement x dataset.
    AblationMaps(ablation_maps::Args),
    /// Ablate nodes or directions together: zero, mean, resample; logit difference, accuracy, counts.
    Ablation(ablation::Args),
    /// How much of the clean run a circuit's heads restore, and how much all others do.
    Faithfulness(faithfulness::Args),
    /// What layers, heads and neurons write along the answers: logit lens and direct logit attribution.
    LogitAttribution(logit_attribution::Args),
    /// Estimate activation-patching maps from gradients, and compare them with exact ones.
    AttributionPatching(attribution_patching::Args),
    /// Where heads attend: mean, value-weighted and single patterns, attention beside contribution.
    Attention(attention::Args),
    /// Fit linear probes at every layer and position.
    Probing(probing::ProbingArgs),
    /// Search every layer for a direction of truth without labels (contrast-consistent search).
    Ccs(probing::CcsArgs),
    /// Read every token of texts along directions: values, extremes, samples to label.
    Neuroscope(neuroscope::Args),
    /// What people's labels say of values: shares along them, and the accuracy of both ends.
    LabelShares(label_shares::Args),
    /// What ablating the residual stream, or directions in it, costs on plain text: the change of the loss of the next token.
    TextLoss(text_loss::Args),
    /// How far negated words flip along directions between two layers.
    Negation(negation::Args),
    /// How alike the changes are that heads write when prompts are corrupted.
    HeadCosines(head_cosines::Args),
    /// Cosines of what neurons write with directions.
    NeuronCosines(neuron_cosines::Args),
    /// Write texts while a direction is added: model x direction x prompt x coefficient x sample.
    Steering(steering::Args),
    /// Run a whole analysis from a file: steps that are commands of this program.
    Circuit(circuit::Args),
    /// Show how far sweeps are: done, running, failed and missing cells, and the time left.
    Status(status::Args),
    /// Join the shards of sweeps, and make their result files.
    Merge(merge::Args),
    /// Check the engine on a model: identities that must hold before a number can be trusted.
    SelfCheck(self_check::Args),
    /// Run the experiments behind published numbers, and print ours beside theirs.
    Verify(verify::Args),
    /// Time fixed workloads beside the processor's peak.
    Bench(bench::Args),
}

/// Parses the arguments, runs the command, prints an error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.verbose);
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(stopped) = error.downcast_ref::<sweeping::Stopped>() {
                let _ = writeln!(std::io::stderr(), "{stopped}");
                return ExitCode::from(Stop::EXIT_CODE);
            }
            let mut stderr = std::io::stderr();
            // Errors may repeat their cause at the end of their own message: print each sentence once.
            let mut message = String::new();
            for cause in error.chain().map(ToString::to_string) {
                if !message.contains(&cause) {
                    message = if message.is_empty() { cause } else { format!("{message}: {cause}") };
                }
            }
            let _ = writeln!(stderr, "error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command.
fn execute(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(args),
        Command::FitDirections(args) => fit_directions::run(args),
        Command::RandomDirections(args) => random_directions::run(args),
        Command::TreebankDataGen(args) => treebank_data_gen::run(args),
        Command::DirectionPatchingSuite(args) => direction_patching_suite::run(args),
        Command::Directions(args) => directions::run(args),
        Command::DirectionPatchingResults(args) => direction_patching_results::run(args),
        Command::ActivationPatchingMaps(args) => map_sweep::run(&args),
        Command::PathPatching(args) => map_sweep::run(&args),
        Command::Attention(args) => maps::run(&args),
        Command::Probing(args) => maps::run(&args),
        Command::Ccs(args) => maps::run(&args),
        Command::AblationMaps(args) => maps::run(&args),
        Command::Ablation(args) => tables::run(&args),
        Command::Faithfulness(args) => tables::run(&args),
        Command::AttributionPatching(args) => maps::run(&args),
        Command::LogitAttribution(args) => maps::run(&args),
        Command::Steering(args) => steering::run(args),
        Command::Status(args) => status::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Neuroscope(args) => neuroscope::run(args),
        Command::LabelShares(args) => label_shares::run(args),
        Command::TextLoss(args) => tables::run(&args),
        Command::Negation(args) => negation::run(args),
        Command::HeadCosines(args) => maps::run(&args),
        Command::NeuronCosines(args) => neuron_cosines::run(args),
        Command::SelfCheck(args) => self_check::run(args),
        Command::Circuit(args) => circuit::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Bench(args) => bench::run(args),
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
