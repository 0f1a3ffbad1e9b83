//! `directions`: what is stored for a model, and what comes from elsewhere.

mod compare;
mod import;
mod list;
mod show;

use crate::cli::runner::{print, print_json};
use crate::studies::{Stored, StoredDirections};
use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;
use std::fmt::Display;
use std::path::PathBuf;

/// Arguments of `directions`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Take over directions from elsewhere, by any name: .npy, .npz, .safetensors or JSON.
    Import(import::Args),
    /// List what is stored for a model.
    List(list::Args),
    /// Show directions: how they came about, their length, the loss curve.
    Show(show::Args),
    /// Compare directions: the cosine of every two.
    Compare(compare::Args),
}

/// Runs the subcommand.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Import(args) => import::run(args),
        Command::List(args) => list::run(args),
        Command::Show(args) => show::run(args),
        Command::Compare(args) => compare::run(args),
    }
}

/// Which stored directions.
#[derive(Debug, Clone, clap::Args)]
struct StoredArgs {
    /// Directions by name, `*` and `?` match anything.
    #[arg(value_name = "NAME", value_delimiter = ',', default_values_t = StoredDirections::default().names)]
    names: Vec<String>,
    /// The model, as it was named when they were fitted or imported.
    #[arg(long, default_value_t = StoredDirections::default().model)]
    model: String,
    /// Where results are: the directions are in DATA_DIR/<model>.
    #[arg(long, default_value_os_t = StoredDirections::default().data_dir)]
    data_dir: PathBuf,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl StoredArgs {
    /// The selected directions.
    fn read(&self) -> Result<Vec<Stored>> {
        let Self { names, model, data_dir, .. } = self.clone();
        StoredDirections { names, model, data_dir }.read()
    }

    /// Prints an outcome as text, or as JSON where that is asked for.
    fn show(&self, outcome: &(impl Display + Serialize)) -> Result<()> {
        if self.json { print_json(outcome) } else { print(&outcome.to_string()) }
    }
}
