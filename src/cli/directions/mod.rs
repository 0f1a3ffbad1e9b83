//! `directions`: what is stored for a model, and what comes from elsewhere.

mod compare;
mod import;
mod list;
mod show;

use crate::directions::{Direction, DirectionName, FitRecord, list as stored, select};
use crate::model::Model;
use anyhow::{Context, Result, bail};
use clap::Subcommand;
use std::path::PathBuf;

/// Arguments of `directions`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Take over directions from elsewhere: .npy arrays or JSON lists, as the paper's code writes them.
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
        Command::Import(args) => import::run(&args),
        Command::List(args) => list::run(&args),
        Command::Show(args) => show::run(&args),
        Command::Compare(args) => compare::run(&args),
    }
}

/// Which stored directions.
#[derive(Debug, Clone, clap::Args)]
struct StoredArgs {
    /// Directions by name, `*` and `?` match anything.
    #[arg(value_name = "NAME", default_value = "*")]
    names: Vec<String>,
    /// The model, as it was named when they were fitted or imported.
    #[arg(long, default_value = "demo")]
    model: String,
    /// Where results are: the directions are in DATA_DIR/<model>.
    #[arg(long, default_value = "data")]
    data_dir: PathBuf,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl StoredArgs {
    fn folder(&self) -> Result<PathBuf> {
        let folder = self.data_dir.join(Model::results_name(&self.model, None).context("--model")?);
        if !folder.is_dir() {
            bail!(
                "{}: no such folder; fit directions first (actpatch fit-directions), or import them (actpatch directions \
                 import)",
                folder.display()
            );
        }
        Ok(folder)
    }

    /// The selected directions, each with its record if there is one.
    fn read(&self) -> Result<Vec<(Direction, Option<FitRecord>)>> {
        let folder = self.folder()?;
        let read = |name: &DirectionName| -> Result<_> {
            let record = match Direction::paths(&folder, name).1.exists() {
                true => Some(FitRecord::read(&folder, name)?),
                false => None,
            };
            Ok((Direction::read_any_width(&folder, name)?, record))
        };
        select(&self.names, &stored(&folder)?)?.iter().map(read).collect()
    }
}

/// Weight processing as a list for people.
fn processing(record: &FitRecord) -> String {
    if record.weight_processing.is_empty() { "none".into() } else { record.weight_processing.join(",") }
}

/// How a direction came about, in a word.
fn provenance(record: Option<&FitRecord>) -> &'static str {
    match record {
        None => "no record",
        Some(record) if record.imported.is_some() => "imported",
        Some(_) => "fitted",
    }
}
