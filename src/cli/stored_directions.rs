//! Stored directions as commands name them, checked against the model that they are used with.

use super::common::{CompatArgs, RunArgs, processing_names};
use crate::compat::Compat;
use crate::directions::{Direction, DirectionName, FitRecord, Method, list, random_subspace};
use crate::model::{Model, Source};
use crate::types::Matrix;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Unit columns by layer, `(d_model, k)` each.
pub type ByLayer = BTreeMap<usize, Arc<Matrix>>;

/// The directions that `name` stands for in front of each of `layers` (all that there are, without): a file's name
/// (`das_simple_train_ADJ_layer2`) is the same direction everywhere, without its layer (`das_simple_train_ADJ`) it is every
/// layer's own.
///
/// # Errors
/// A direction that is not there, and those of [`check_records`].
pub fn by_layer(
    (run, compat): (&RunArgs, &CompatArgs),
    model: &Model,
    name: &str,
    layers: Option<&[usize]>,
) -> Result<ByLayer> {
    let (folder, config) = (run.folder(&model.name), &model.config);
    let names = list(&folder).context("--directions: fit directions first (actpatch fit-directions)")?;
    let read = |name: &DirectionName| -> Result<Arc<Matrix>> {
        check_records(run, compat, &folder, std::slice::from_ref(name), model)?;
        Ok(Arc::new(Direction::read(&folder, name, config.d_model)?.unit_columns()))
    };
    if let Ok(single) = name.parse::<DirectionName>() {
        let columns = read(&single)?;
        let everywhere: Vec<usize> = (0..=config.n_layers).collect();
        return Ok(layers.unwrap_or(&everywhere).iter().map(|&layer| (layer, columns.clone())).collect());
    }
    let own: BTreeMap<usize, &DirectionName> =
        names.iter().filter(|other| family(other) == name).map(|other| (other.layer(), other)).collect();
    if own.is_empty() {
        let known: std::collections::BTreeSet<String> = names.iter().map(family).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.into_iter().collect::<Vec<_>>().join(", ") };
        bail!("--directions: {name} is not in {}; there: {known}", folder.display());
    }
    let all: Vec<usize> = own.keys().copied().collect();
    let one = |&layer: &usize| match own.get(&layer) {
        Some(name) => Ok((layer, read(name)?)),
        None => bail!("--directions: {name} has no layer {layer}; fit it with --layers {layer}"),
    };
    layers.unwrap_or(&all).iter().map(one).collect()
}

/// Random subspaces at the same layers and of the same dimensions, to compare with, and their name.
pub fn random_like(own: &ByLayer, number: u32, seed: u64) -> (String, ByLayer) {
    let k = own.values().map(|columns| columns.cols).max().unwrap_or(1);
    let name = if k == 1 { format!("random_{number}") } else { format!("random{k}d_{number}") };
    let seed = seed.wrapping_add(number.into());
    let random = |(&layer, columns): (&usize, &Arc<Matrix>)| {
        (layer, Arc::new(random_subspace(columns.rows, columns.cols, layer, seed)))
    };
    (name, own.iter().map(random).collect())
}

/// A direction's name without its layer.
pub fn family(name: &DirectionName) -> String {
    let text = name.to_string();
    text.rsplit_once("_layer").map_or(text.clone(), |(family, _)| family.to_owned())
}

/// A direction needs a layer of the model, and lives in the basis of the weights it was fitted with: their processing,
/// and a random model's seed.
///
/// # Errors
/// The direction and what does not fit.
pub fn check_records(
    run: &RunArgs,
    compat: &CompatArgs,
    folder: &Path,
    directions: &[DirectionName],
    model: &Model,
) -> Result<()> {
    let (n_layers, seed) = (model.config.n_layers, run.seed);
    if let Some(name) = directions.iter().find(|name| name.layer() > n_layers) {
        bail!("{name}: layer: expected 0..{n_layers} for {}, found {}", model.name, name.layer());
    }
    let ours = processing_names(model.processing);
    let mut without_record = 0;
    for name in directions.iter().filter(|name| name.method() != Method::RandomDirection) {
        let path = Direction::paths(folder, name).1;
        if !path.exists() {
            without_record += 1;
            continue;
        }
        let record = FitRecord::read(folder, name)?;
        if record.weight_processing != ours && !compat.has(Compat::UnprocessedFits) {
            let show = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(",") };
            bail!(
                "{}: weight_processing: expected {}, found {}; run with --weight-processing {}",
                path.display(),
                show(&ours),
                show(&record.weight_processing),
                show(&record.weight_processing)
            );
        }
        if matches!(model.provenance.source, Source::Random { .. }) && record.seed != seed {
            bail!(
                "{}: seed: expected {seed}, the seed of the random weights, found {}; run with --seed {}",
                path.display(),
                record.seed,
                record.seed
            );
        }
    }
    if without_record > 0 {
        tracing::warn!("{without_record} directions have no record of their fit: their weight processing is unknown");
    }
    Ok(())
}
