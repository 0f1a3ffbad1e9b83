//! Options that many commands share, and the sessions they open.

use super::choice::choice;
use super::download_bars::download_bars;
use crate::backend::Dtype;
use crate::compat::Compat;
use crate::datasets::treebank::Scaffold;
use crate::model::Bos;
use crate::session::{DEFAULT_MODEL, Device, Rewrite, SessionOptions, distinct, processing_names, processing_of};
use crate::studies::maps::{MapSets, Readout};
use crate::sweep::{Shard, SweepSettings};
use anyhow::Result;
use bytesize::ByteSize;
use clap::{Arg, Command};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::PathBuf;

/// Options go by their singular and by their plural, whichever of the two a command's help has.
pub fn with_both_numbers(command: Command) -> Command {
    let names: BTreeSet<String> = command.get_arguments().filter_map(Arg::get_long).map(str::to_owned).collect();
    let other = |name: &str| name.strip_suffix('s').map_or_else(|| format!("{name}s"), str::to_owned);
    // A negative number is a wrong value of its option, not an option of its own.
    let with_other = |arg: Arg| match arg.get_long().map(other) {
        Some(other) if arg.get_action().takes_values() => {
            let arg = arg.allow_negative_numbers(true);
            if names.contains(&other) { arg } else { arg.alias(other) }
        }
        _ => arg,
    };
    command.mut_args(with_other).mut_subcommands(with_both_numbers)
}

/// A list as it is typed.
pub fn listed<T: Display>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Which models, and how their weights are read.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelArgs {
    /// Models: `demo`, an alias (gpt2-small, pythia-1.4b, …), a Hub id, a folder, a GGUF file, or `random:<alias>`.
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_MODEL)]
    pub models: Vec<String>,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Rewrites of the weights as TransformerLens does them; `none` for the checkpoint's own.
    #[arg(long, value_delimiter = ',', default_value = listed(&processing_names(SessionOptions::default().weight_processing)))]
    #[arg(value_parser = choice::<Rewrite>())]
    pub weight_processing: Vec<Rewrite>,
}

/// Where a model's files come from, and how its texts become tokens.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SourceArgs {
    /// Branch, tag or commit on the Hub.
    #[arg(long)]
    pub revision: Option<String>,
    /// Tokenizer (file, folder or Hub id) instead of the model's own; random models use the demo model's without it.
    #[arg(long)]
    pub tokenizer: Option<String>,
    /// Beginning-of-sequence token in front of every text: as the model's family is used, always, or never.
    #[arg(long, value_parser = choice::<Bos>(), default_value_t = SessionOptions::default().bos)]
    pub bos: Bos,
}

impl SourceArgs {
    /// The options of a session with these, and the others as they usually are.
    pub fn options(self) -> SessionOptions {
        let Self { revision, tokenizer, bos } = self;
        SessionOptions { revision, tokenizer, bos, downloads: download_bars(), ..SessionOptions::default() }
    }
}

/// Which ways of the paper's code to follow.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CompatArgs {
    /// Follow the paper's code where results here differ from it on purpose (docs/fidelity.md says what each name is).
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = choice::<Compat>())]
    pub compat: Vec<Compat>,
}

/// How tables are written.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CsvArgs {
    /// Put an apostrophe in front of texts in CSV files that a spreadsheet would compute: those that begin with =, +, -,
    /// @, a tab or a carriage return. Numbers stay as they are.
    #[arg(long)]
    pub csv_guard: bool,
}

/// Where results go and how they are computed.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Results go to DATA_DIR/<model>; its words.toml and datasets.toml, if there, add to the built-in ones.
    #[arg(long, default_value_os_t = SessionOptions::default().data_dir)]
    pub data_dir: PathBuf,
    /// Another file of datasets: pairs in .csv or .jsonl, or TOML (docs/datasets.md).
    #[arg(long)]
    pub dataset_file: Vec<PathBuf>,
    /// Device: cpu, cuda or cuda:N (the N-th GPU), cuda:0,cuda:1 or cuda:all (they share the work of a sweep), or auto
    /// for a GPU when there is one.
    #[arg(long, default_value_t = SessionOptions::default().device)]
    pub device: Device,
    /// Number format of the matrix products.
    #[arg(long, value_parser = choice::<Dtype>(), default_value_t = SessionOptions::default().dtype)]
    pub dtype: Dtype,
    /// Threads; 0 for one per core.
    #[arg(long, default_value_t = SessionOptions::default().threads, value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
    /// Most tokens of one batch.
    #[arg(long, default_value_t = SessionOptions::default().batch_tokens, value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_tokens: u32,
    /// Most memory for what is kept of prompts at once, such as 500MB or 8GB; a batch may take as much again, and the weights
    /// come on top. By default a quarter of what the device has free behind the weights.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// Seed of everything that is drawn: DAS starts, random directions, sampled positions, resampled prompts, written texts,
    /// `random:` models.
    #[arg(long, default_value_t = SessionOptions::default().seed)]
    pub seed: u64,
    /// Compute what already exists again, instead of skipping it.
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub csv: CsvArgs,
    /// Print what would be computed, its arithmetic and memory, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the results, or what would be computed, as one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// What a command asks of sessions: on which models, and how.
#[derive(Debug, Clone)]
pub struct Asked {
    pub models: ModelArgs,
    pub compat: CompatArgs,
    pub run: RunArgs,
}

impl Asked {
    /// The models, each once.
    pub fn models(&self) -> Vec<String> {
        distinct(&self.models.models)
    }

    /// The options of the sessions.
    pub fn options(&self) -> Result<SessionOptions> {
        let Self { models, compat, run } = self.clone();
        Ok(SessionOptions {
            weight_processing: processing_of(&models.weight_processing)?,
            compat: compat.compat,
            data_dir: run.data_dir,
            dataset_file: run.dataset_file,
            device: run.device,
            dtype: run.dtype,
            threads: run.threads,
            batch_tokens: run.batch_tokens,
            memory: run.memory,
            seed: run.seed,
            overwrite: run.overwrite,
            csv_guard: run.csv.csv_guard,
            arguments: arguments(),
            ..models.source.options()
        })
    }
}

/// The command line, for manifests.
pub fn arguments() -> Vec<String> {
    std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

/// Options of every command that makes maps.
#[derive(Debug, Clone, clap::Args)]
pub struct MapArgs {
    #[command(flatten)]
    pub models: ModelArgs,
    /// Datasets to patch.
    #[arg(long, value_delimiter = ',', default_values_t = MapSets::default().eval_sets)]
    pub eval_sets: Vec<String>,
    /// Text around the Treebank's sentences; all other datasets are plain.
    #[arg(long, value_parser = choice::<Scaffold>(), default_value_t = MapSets::default().scaffold)]
    pub scaffold: Scaffold,
    #[command(flatten)]
    pub compat: CompatArgs,
    #[command(flatten)]
    pub run: RunArgs,
}

impl MapArgs {
    /// What is asked of sessions, and the datasets.
    pub fn parts(self) -> (Asked, MapSets) {
        let Self { models, eval_sets, scaffold, compat, run } = self;
        (Asked { models, compat, run }, MapSets { eval_sets, scaffold })
    }
}

/// What patched runs are measured by.
#[derive(Debug, Clone, clap::Args)]
pub struct ReadoutArgs {
    /// A stored direction to measure along instead of the answers: a prompt's logit difference is then the product of the
    /// direction and the last residual behind the final norm, turned round in negative prompts.
    #[arg(long, value_name = "DIRECTION")]
    along: Option<String>,
}

impl From<ReadoutArgs> for Readout {
    fn from(ReadoutArgs { along }: ReadoutArgs) -> Self {
        Readout { along }
    }
}

/// Options of every sweep.
#[derive(Debug, Clone, clap::Args)]
pub struct SweepArgs {
    /// Compute only share I of N, counted from 0, into DATA_DIR/<model>/shards/I-of-N; `actpatch merge` joins them.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Compute the cells again that failed.
    #[arg(long)]
    retry_failed: bool,
}

impl From<SweepArgs> for SweepSettings {
    fn from(SweepArgs { shard, retry_failed }: SweepArgs) -> Self {
        SweepSettings { shard, retry_failed }
    }
}
