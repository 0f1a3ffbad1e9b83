//! `random-directions`.

use super::common::{ModelArgs, RunArgs, distinct, note_skipped, print, print_json, processing_names};
use super::direction_patching_suite::label;
use crate::directions::{Direction, DirectionName, FitRecord, Method, RANDOM_DIRECTION_SEED, random_direction};
use crate::model::Model;
use crate::report::SuiteCsv;
use anyhow::Result;
use serde_json::json;
use std::path::Path;

/// Arguments of `random-directions`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  actpatch random-directions --models gpt2-small,pythia-160m")]
pub struct Args {
    #[command(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Seed of the directions.
    #[arg(long, default_value_t = RANDOM_DIRECTION_SEED)]
    direction_seed: u64,
}

/// Writes `random_direction_layer<ll>.npy` for every layer.
pub fn run(args: Args) -> Result<()> {
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let folder = args.run.folder(&model.name);
        let layers = 0..=model.config.n_layers;
        if args.run.dry_run {
            print(&format!("{} random directions into {}\n", layers.count(), folder.display()))?;
            continue;
        }
        args.run.check_writable(&folder)?;
        let mut written = Vec::new();
        let mut kept = 0;
        for layer in layers {
            match write(&folder, &model, spec, layer, args.direction_seed, args.run.overwrite)? {
                Some(name) => written.push(name.to_string()),
                None => kept += 1,
            }
        }
        note_skipped(kept, "random directions", &folder);
        if args.run.json {
            print_json(&json!({ "model": model.name, "folder": folder.display().to_string(), "written": written }))?;
        } else {
            print(&format!("{}: {} random directions in {}\n", model.name, written.len(), folder.display()))?;
        }
    }
    Ok(())
}

/// Writes the random direction of a layer unless it exists.
pub(super) fn write(
    folder: &Path,
    model: &Model,
    spec: &str,
    layer: usize,
    seed: u64,
    overwrite: bool,
) -> Result<Option<DirectionName>> {
    let name = DirectionName::random(layer);
    if Direction::paths(folder, &name).0.exists() {
        if !overwrite {
            return Ok(None);
        }
        SuiteCsv::forget(folder, &[label(&name)])?;
    }
    let record = FitRecord {
        name: name.to_string(),
        model: spec.into(),
        revision: super::fit_directions::revision(model),
        weight_processing: processing_names(model.processing),
        method: Method::RandomDirection,
        dataset: None,
        position: None,
        layer,
        seed,
        settings: json!({}),
        loss_curve: Vec::new(),
        final_metric: None,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    Direction { name: name.clone(), columns: random_direction(model.config.d_model, layer, seed) }
        .write(folder, &record)?;
    Ok(Some(name))
}
