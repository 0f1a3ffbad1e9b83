//! `directions import`.

use crate::cli::choice::choice;
use crate::cli::common::{
    Rewrite, begin_manifest, lossy_path, note_skipped, print, print_json, processing_names, processing_of,
};
use crate::cli::sweeping::forget;
use crate::directions::{Direction, DirectionName, FitRecord, ImportSource, read_folder};
use crate::model::{LoadOptions, Model};
use crate::report::{RunRecord, Table};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `directions import`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Examples:
  actpatch directions import eliciting-latent-sentiment/data/gpt2-small --model gpt2-small --directions 'das_*'
  actpatch directions import their_directions --model pythia-1.4b --weight-processing none --dry-run

Files are named <method>_<dataset>_<POSITION>_layer<l>, ending in .npy or .json (a list of numbers). All of them are
checked before the first is stored.")]
pub(super) struct Args {
    /// Folder with the files.
    #[serde(serialize_with = "lossy_path")]
    folder: PathBuf,
    /// The model that the directions belong to. Its files are not needed if it has an alias.
    #[arg(long)]
    model: String,
    /// Which files: names without ending, `*` and `?` match anything.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    directions: Vec<String>,
    /// The weight processing they were fitted with. The paper's code fitted on the checkpoint's own weights.
    #[arg(long, value_delimiter = ',', value_parser = choice::<Rewrite>(), default_value = "none")]
    weight_processing: Vec<Rewrite>,
    /// They are stored in DATA_DIR/<model>.
    #[arg(long, default_value = "data")]
    #[serde(serialize_with = "lossy_path")]
    data_dir: PathBuf,
    /// Replace directions of the same names, and forget their results, instead of skipping them.
    #[arg(long)]
    overwrite: bool,
    /// Check the files and say what would be stored.
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// A direction with the file it was read from.
type Import = (Direction, ImportSource);

pub(super) fn run(args: &Args) -> Result<()> {
    let shape = Model::shape(&args.model, &LoadOptions::default()).context("--model")?;
    let processing = processing_names(processing_of(&args.weight_processing)?.possible(shape.norm));
    let all = read_folder(&args.folder, &args.directions, (shape.d_model, shape.n_layers))?;
    if all.is_empty() {
        bail!("{}: expected .npy or .json files of directions, found none", args.folder.display());
    }
    let folder = args.data_dir.join(Model::results_name(&args.model, None)?);
    let exists = |(direction, _): &Import| Direction::paths(&folder, &direction.name).0.exists();
    let (kept, wanted): (Vec<Import>, Vec<Import>) =
        all.into_iter().partition(|import| !args.overwrite && exists(import));
    note_skipped(kept.len(), "directions", &folder);
    let mut manifest = None;
    if !args.dry_run && !wanted.is_empty() {
        manifest = Some(store(args, &folder, &processing, &wanted)?);
    }
    if args.json {
        let directions: Vec<_> = wanted
            .iter()
            .map(|(direction, source)| json!({ "name": direction.name.to_string(), "imported": source }))
            .collect();
        let folder = folder.display().to_string();
        return print_json(&json!({ "folder": folder, "directions": directions, "manifest": manifest }));
    }
    let mut table = Table::new(["direction", "file"]);
    wanted.iter().for_each(|(direction, source)| table.push([direction.name.to_string(), source.file.clone()]));
    let done = if args.dry_run { "would be imported" } else { "imported" };
    print(&format!("{} directions {done} into {}\n{table}", wanted.len(), folder.display()))
}

fn store(args: &Args, folder: &Path, processing: &[String], wanted: &[Import]) -> Result<RunRecord> {
    let mut manifest = begin_manifest("directions-import", args, folder, None)?;
    // Results must never outlive the direction they were measured with.
    let replaced = wanted.iter().map(|(direction, _)| format!("{}.npy", direction.name));
    forget(folder, &replaced.collect())?;
    for (direction, source) in wanted {
        let record = record(&args.model, &direction.name, processing, source.clone());
        manifest.wrote(&direction.write(folder, &record)?, []);
    }
    Ok(manifest.finish()?)
}

fn record(model: &str, name: &DirectionName, processing: &[String], source: ImportSource) -> FitRecord {
    FitRecord {
        name: name.to_string(),
        model: model.into(),
        revision: None,
        weight_processing: processing.to_vec(),
        method: name.method(),
        dataset: name.dataset().map(Into::into),
        position: name.position().map(Into::into),
        layer: name.layer(),
        seed: 0,
        compat: Vec::new(),
        settings: json!({}),
        loss_curve: Vec::new(),
        test_loss_curves: BTreeMap::new(),
        final_metric: None,
        version: env!("CARGO_PKG_VERSION").into(),
        imported: Some(source),
    }
}
