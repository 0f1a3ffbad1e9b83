//! `random-directions`.

use super::common::{ModelArgs, RunArgs, distinct, note_skipped, print, print_json, processing_names};
use super::sweeping::forget;
use crate::directions::{Direction, DirectionName, FitRecord, Method, RANDOM_DIRECTION_SEED, random_direction};
use crate::model::Model;
use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of `random-directions`.
#[derive(Debug, Clone, clap::Args, Serialize)]
#[command(after_help = "Example:\n  actpatch random-directions --models gpt2-small,pythia-160m")]
pub struct Args {
    #[command(flatten)]
    #[serde(flatten)]
    models: ModelArgs,
    #[command(flatten)]
    #[serde(flatten)]
    run: RunArgs,
    /// Seed of the directions.
    #[arg(long, default_value_t = RANDOM_DIRECTION_SEED)]
    direction_seed: u64,
}

/// Writes `random_direction_layer<ll>.npy` for every layer.
pub fn run(args: Args) -> Result<()> {
    let mut all = Vec::new();
    for spec in &distinct(&args.models.models) {
        let model = args.models.load(spec, args.run.seed)?;
        let folder = args.run.folder(&model.name);
        let layers = 0..=model.config.n_layers;
        if args.run.dry_run {
            print(&format!("{} random directions into {}\n", layers.count(), folder.display()))?;
            continue;
        }
        let (kept, wanted): (Vec<usize>, Vec<usize>) = layers.partition(|&layer| {
            !args.run.overwrite && Direction::paths(&folder, &DirectionName::random(layer)).0.exists()
        });
        note_skipped(kept.len(), "random directions", &folder);
        let mut manifest = None;
        if !wanted.is_empty() {
            let mut started = args.run.manifest("random-directions", &args, &folder, Some(&model))?;
            let changing = wanted.iter().map(|&layer| format!("{}.npy", DirectionName::random(layer)));
            forget(&folder, &changing.collect())?;
            for &layer in &wanted {
                started.wrote(&write(&folder, &model, spec, layer, args.direction_seed)?, []);
            }
            manifest = Some(started.finish()?);
        }
        if !args.run.json {
            print(&format!("{}: {} random directions in {}\n", model.name, wanted.len(), folder.display()))?;
        }
        let written: Vec<_> = wanted.into_iter().map(|layer| DirectionName::random(layer).to_string()).collect();
        let folder = folder.display().to_string();
        all.push(json!({ "model": model.name, "folder": folder, "written": written, "manifest": manifest }));
    }
    if args.run.json && !args.run.dry_run { print_json(&all) } else { Ok(()) }
}

/// Writes the random direction of a layer, in the place of an older one, whose results are forgotten already.
pub(super) fn write(folder: &Path, model: &Model, spec: &str, layer: usize, seed: u64) -> Result<PathBuf> {
    let name = DirectionName::random(layer);
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
        compat: Vec::new(),
        settings: json!({}),
        loss_curve: Vec::new(),
        test_loss_curves: BTreeMap::new(),
        final_metric: None,
        version: env!("CARGO_PKG_VERSION").into(),
        imported: None,
    };
    let columns = random_direction(model.config.d_model, layer, seed);
    Ok(Direction { name, columns }.write(folder, &record)?)
}
