//! `directions import`.

use crate::cli::args::{CsvArgs, arguments, listed};
use crate::cli::choice::choice;
use crate::cli::runner::{Terminal, print, print_json};
use crate::session::Rewrite;
use crate::studies::ImportDirections;
use anyhow::Result;
use std::path::PathBuf;

/// Arguments of `directions import`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch directions import eliciting-latent-sentiment/data/gpt2-small --model gpt2-small --directions 'das_*'
  actpatch directions import their_directions --model pythia-1.4b --weight-processing none --dry-run
  actpatch directions import truth.safetensors --model gpt2-small --layer 6

Directions are named <name>_layer<l>, in .npy, .npz, .safetensors or .json (a list of numbers); any name will do, and
those of a known method are named <method>_<dataset>_<POSITION>_layer<l>. All are checked before the first is stored.")]
pub(super) struct Args {
    /// The file, or the folder with the files.
    from: PathBuf,
    /// The model that the directions belong to. Its files are not needed if it has an alias.
    #[arg(long)]
    model: String,
    /// Which of them: names without the files' ending, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', default_values_t = ImportDirections::default().directions)]
    directions: Vec<String>,
    /// The layer of those whose name has none; -1 is behind the last block.
    #[arg(long, allow_hyphen_values = true)]
    layer: Option<String>,
    /// The weight processing they were fitted with. The paper's code fitted on the checkpoint's own weights.
    #[arg(long, value_delimiter = ',', value_parser = choice::<Rewrite>(), default_value = listed(&ImportDirections::default().weight_processing))]
    weight_processing: Vec<Rewrite>,
    /// They are stored in DATA_DIR/<model>.
    #[arg(long, default_value_os_t = ImportDirections::default().data_dir)]
    data_dir: PathBuf,
    /// Replace directions of the same names, and forget their results, instead of skipping them.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    csv: CsvArgs,
    /// Check the files and say what would be stored.
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let Args { from, model, directions, layer, weight_processing, data_dir, overwrite, csv, dry_run, json } = args;
    let import = ImportDirections {
        from,
        model,
        directions,
        layer,
        weight_processing,
        data_dir,
        overwrite,
        csv_guard: csv.csv_guard,
        arguments: arguments(),
    };
    let mut terminal = Terminal::new()?;
    let imported = if dry_run { import.plan(&mut terminal)? } else { import.run(&mut terminal)? };
    if json { print_json(&imported) } else { print(&imported.to_string()) }
}
