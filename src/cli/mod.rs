//! The command line: arguments become a resolved configuration, which a library call carries out.

#![allow(rustdoc::invalid_html_tags, reason = "help texts write placeholders so")]

mod ablate;
mod args;
mod choice;
mod data;
mod download_bars;
mod errors;
mod fit;
mod patch;
mod read;
mod runner;
mod stop;
mod sweeps;
mod texts;
mod whole;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

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
    /// No progress and no notes: results, warnings and errors alone.
    #[arg(short, long, global = true, display_order = 1001, conflicts_with = "verbose")]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  actpatch demo
  actpatch fit-directions --models gpt2-small --methods das,kmeans --train-sets simple_train
  actpatch direction-patching-suite --models gpt2-small --directions 'das_*' --eval-sets simple_test,simple_adverb
  actpatch direction-patching-results --models gpt2-small

Exit codes: 0 success, 1 failure, 2 wrong arguments, 75 stopped by a signal (the same command goes on from there;
bench and self-check begin anew). A second signal ends the program at once.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Fit and patch every method on the small model that is part of the program.
    Demo(whole::demo::Args),
    /// Make what the paper asks of a model: directions, what they cause, heads, commas, figures, one page.
    Reproduce(whole::reproduce::Args),
    /// Fit directions: model x method x dataset x position x layer.
    FitDirections(fit::fit_directions::Args),
    /// Write a random unit direction for every layer.
    RandomDirections(fit::random_directions::Args),
    /// List and show datasets, and check a file of one's own.
    Datasets(data::datasets::Args),
    /// Make datasets of the Stanford Sentiment Treebank: model x split x scaffold.
    TreebankDataGen(data::treebank_data_gen::Args),
    /// Patch along directions: model x direction x dataset x position x metric.
    DirectionPatchingSuite(patch::direction_patching_suite::Args),
    /// Import, list, show and compare stored directions.
    Directions(fit::directions::Args),
    /// Print tables of what the suite has measured.
    DirectionPatchingResults(patch::direction_patching_results::Args),
    /// Patch every head, or every layer and position, on its own: model x map x dataset x metric.
    ActivationPatchingMaps(patch::activation_patching_maps::Args),
    /// Patch the paths from senders to receivers.
    PathPatching(patch::path_patching::Args),
    /// Ablate every head, neuron or place on its own: model x map x replacement x dataset.
    AblationMaps(ablate::ablation_maps::Args),
    /// Ablate nodes or directions together: zero, mean, resample; logit difference, accuracy, counts.
    Ablation(ablate::ablation::Args),
    /// How much of the clean run a circuit's heads restore, and how much all others do.
    Faithfulness(ablate::faithfulness::Args),
    /// What layers, heads and neurons write along the answers: logit lens and direct logit attribution.
    LogitAttribution(read::logit_attribution::Args),
    /// What is predicted at every position and layer, by clean, corrupted and patched runs side by side: the logit lens.
    LogitLens(read::logit_lens::Args),
    /// Estimate activation-patching maps from gradients, and compare them with exact ones.
    AttributionPatching(patch::attribution_patching::Args),
    /// Where heads attend: mean, value-weighted and single patterns, attention beside contribution.
    Attention(read::attention::Args),
    /// Fit linear probes at every layer and position.
    Probing(read::probing::Args),
    /// Search every layer for a direction of truth without labels (contrast-consistent search).
    Ccs(read::ccs::Args),
    /// Read every token of texts along directions: values, extremes, samples to label.
    Neuroscope(texts::neuroscope::Args),
    /// What people's labels say of values: shares along them, and the accuracy of both ends.
    LabelShares(texts::label_shares::Args),
    /// What ablating the residual stream, or directions in it, costs on plain text: the change of the loss of the next token.
    TextLoss(texts::text_loss::Args),
    /// How far negated words flip along directions between two layers.
    Negation(texts::negation::Args),
    /// How alike the changes are that heads write when prompts are corrupted.
    HeadCosines(read::head_cosines::Args),
    /// Cosines of what neurons write with directions.
    NeuronCosines(read::neuron_cosines::Args),
    /// Write texts while a direction is added: model x direction x prompt x coefficient x sample.
    Steering(texts::steering::Args),
    /// Run a whole analysis from a file: steps that are commands of this program.
    Circuit(whole::circuit::Args),
    /// Show how far sweeps are: done, running, failed and missing cells, and the time left.
    Status(sweeps::status::Args),
    /// Join the shards of sweeps, and make their result files.
    Merge(sweeps::merge::Args),
    /// Write a page over everything in a folder of results: models, settings, figures, tables, what is missing or stale.
    Report(whole::report::Args),
    /// Show that page in a browser on this machine, with the progress of running sweeps.
    Serve(whole::serve::Args),
    /// Check the engine on a model: identities that must hold before a number can be trusted.
    SelfCheck(whole::self_check::Args),
    /// Run the experiments behind published numbers, and print ours beside theirs.
    Verify(whole::verify::Args),
    /// Time fixed workloads beside the processor's peak.
    Bench(whole::bench::Args),
    /// Print what completes command lines in a shell.
    Completions(whole::reference::CompletionsArgs),
    /// Write manual pages.
    Man(whole::reference::ManArgs),
}

/// Parses the arguments, runs the command, prints an error.
pub fn main() -> ExitCode {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(std::env::args_os()).unwrap_or_else(|error| refuse(&error));
    errors::speak_of(called(&command, &matches));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    start_logging(cli.verbose);
    runner::be_quiet(cli.quiet);
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr is no reason to do anything else.
            let mut stderr = std::io::stderr();
            if let Some(stopped) = errors::stopped(&error) {
                let _ = writeln!(stderr, "{stopped}");
                return ExitCode::from(stop::EXIT_CODE);
            }
            let _ = writeln!(stderr, "error: {}", errors::without_control(&errors::text_of(&error)));
            ExitCode::FAILURE
        }
    }
}

/// Prints help, a version, or what is wrong with the arguments, and ends the program.
fn refuse(error: &clap::Error) -> ! {
    let code = match error.print() {
        Err(unprinted) if unprinted.kind() != ErrorKind::BrokenPipe => error.exit_code().max(1),
        _ => error.exit_code(),
    };
    std::process::exit(code)
}

/// The command that was called, below its topic if it has one.
fn called<'a>(command: &'a clap::Command, matches: &clap::ArgMatches) -> &'a clap::Command {
    let below = matches.subcommand().and_then(|(name, matches)| Some((command.find_subcommand(name)?, matches)));
    below.map_or(command, |(command, matches)| called(command, matches))
}

/// The definition of the command line.
fn command() -> clap::Command {
    args::with_both_numbers(Cli::command())
}

/// The command reference as Markdown, which is `docs/cli.md`.
pub fn reference() -> String {
    whole::reference::markdown()
}

/// Runs a command.
fn execute(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => whole::demo::run(args),
        Command::Reproduce(args) => whole::reproduce::run(args),
        Command::FitDirections(args) => fit::fit_directions::run(args),
        Command::RandomDirections(args) => fit::random_directions::run(args),
        Command::Datasets(args) => data::datasets::run(args),
        Command::TreebankDataGen(args) => data::treebank_data_gen::run(args),
        Command::DirectionPatchingSuite(args) => patch::direction_patching_suite::run(args),
        Command::Directions(args) => fit::directions::run(args),
        Command::DirectionPatchingResults(args) => patch::direction_patching_results::run(args),
        Command::ActivationPatchingMaps(args) => patch::activation_patching_maps::run(args),
        Command::PathPatching(args) => patch::path_patching::run(args),
        Command::AblationMaps(args) => ablate::ablation_maps::run(args),
        Command::Ablation(args) => ablate::ablation::run(args),
        Command::Faithfulness(args) => ablate::faithfulness::run(args),
        Command::LogitAttribution(args) => read::logit_attribution::run(args),
        Command::LogitLens(args) => read::logit_lens::run(args),
        Command::AttributionPatching(args) => patch::attribution_patching::run(args),
        Command::Attention(args) => read::attention::run(args),
        Command::Probing(args) => read::probing::run(args),
        Command::Ccs(args) => read::ccs::run(args),
        Command::Neuroscope(args) => texts::neuroscope::run(args),
        Command::LabelShares(args) => texts::label_shares::run(args),
        Command::TextLoss(args) => texts::text_loss::run(args),
        Command::Negation(args) => texts::negation::run(args),
        Command::HeadCosines(args) => read::head_cosines::run(args),
        Command::NeuronCosines(args) => read::neuron_cosines::run(args),
        Command::Steering(args) => texts::steering::run(args),
        Command::Circuit(args) => whole::circuit::run(args),
        Command::Status(args) => sweeps::status::run(args),
        Command::Merge(args) => sweeps::merge::run(args),
        Command::Report(args) => whole::report::run(args),
        Command::Serve(args) => whole::serve::run(args),
        Command::SelfCheck(args) => whole::self_check::run(args),
        Command::Verify(args) => whole::verify::run(args),
        Command::Bench(args) => whole::bench::run(args),
        Command::Completions(args) => whole::reference::completions(&args),
        Command::Man(args) => whole::reference::man(&args),
    }
}

fn start_logging(verbose: u8) {
    // The drawing of figures warns of shapes that are empty on purpose.
    let level = ["warn,usvg=error", "info,usvg=error", "debug"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    // Another subscriber can only be there already when a program embeds this one: then its logging is used.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| WithoutRepetition)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .try_init();
}

/// Writes events to stderr, every warning once: several parts of a command may read the same damaged file.
struct WithoutRepetition;

impl Write for WithoutRepetition {
    /// An event comes as one text, which begins with its level.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        static WARNINGS: Mutex<BTreeSet<Vec<u8>>> = Mutex::new(BTreeSet::new());
        let is_warning = event.windows(4).take(10).any(|part| part == b"WARN");
        let mut warnings = WARNINGS.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_warning || warnings.insert(event.to_vec()) {
            io::stderr().write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ArgAction};

    /// Every command that takes arguments, with the words that call it.
    fn all(command: &clap::Command, words: &[String], found: &mut Vec<(Vec<String>, clap::Command)>) {
        let words = [words, &[command.get_name().to_owned()]].concat();
        for sub in command.get_subcommands() {
            all(sub, &words, found);
        }
        found.push((words, command.clone()));
    }

    fn commands() -> Vec<(Vec<String>, clap::Command)> {
        let mut found = Vec::new();
        all(&command(), &[], &mut found);
        assert!(found.len() > 35, "{}", found.len());
        found
    }

    /// The names by which an option can be given.
    fn names(arg: &Arg) -> Vec<String> {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases).map(str::to_owned).collect()
    }

    #[test]
    fn the_command_line_is_well_defined() {
        command().debug_assert();
    }

    #[test]
    fn options_go_by_singular_and_plural_on_every_command() {
        const LISTS: [&str; 20] = [
            "model",
            "eval-set",
            "train-set",
            "test-set",
            "metric",
            "position",
            "layer",
            "method",
            "direction",
            "head",
            "map",
            "node",
            "site",
            "receiver",
            "sender",
            "coefficient",
            "experiment",
            "workload",
            "dataset-file",
            "prompt",
        ];
        let (mut seen, mut several) = (BTreeSet::new(), 0);
        for (words, command) in commands() {
            for arg in command.get_arguments() {
                let names = names(arg);
                let of_list = |name: &&&str| names.iter().any(|own| own.trim_end_matches('s') == **name);
                if let Some(name) = LISTS.iter().find(of_list) {
                    assert!(names.contains(&(*name).to_owned()), "{words:?}: {names:?}");
                    assert!(names.contains(&format!("{name}s")), "{words:?}: {names:?}");
                    seen.insert(*name);
                }
                // No command has a list by one name alone.
                several += usize::from(matches!(arg.get_action(), ArgAction::Append) && arg.get_long().is_some());
                assert!(!matches!(arg.get_action(), ArgAction::Append) || names.len() != 1, "{words:?}: {names:?}");
            }
        }
        assert_eq!(seen.len(), LISTS.len(), "{seen:?}");
        assert!(several > 50, "{several}");
    }

    #[test]
    fn values_of_places_and_coefficients_may_begin_with_a_minus() {
        let counted = ["layer", "position", "coefficient"];
        let mut found = 0;
        for (words, command) in commands() {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                let of_place = |name: &String| counted.iter().any(|word| name.trim_end_matches('s').ends_with(word));
                if names(arg).iter().any(of_place) && arg.get_action().takes_values() {
                    assert!(arg.is_allow_hyphen_values_set(), "{words:?}: {:?}", arg.get_long());
                    found += 1;
                }
            }
        }
        assert!(found > 15, "{found}");
    }
}
