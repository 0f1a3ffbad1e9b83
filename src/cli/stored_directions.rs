//! Stored directions as commands name them, checked against the model that they are used with.

use super::common::{CompatArgs, RunArgs, distinct, processing_names};
use crate::compat::Compat;
use crate::directions::{Direction, DirectionName, FitRecord, Method, list, random_subspace, select};
use crate::model::{Model, Source};
use crate::types::Matrix;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Unit columns by layer, `(d_model, k)` each.
pub type ByLayer = BTreeMap<usize, Arc<Matrix>>;

/// The directions that names stand for, each followed by `random` random ones at the same layers, to compare with; those that
/// several have in common are there once.
///
/// A file's name (`das_simple_train_ADJ_layer2`) is the same direction in front of each of `layers` (of every block and at the
/// end, without), a name without a layer (`das_simple_train_ADJ`) is every layer's own.
///
/// # Errors
/// A direction that is not there, and those of [`check_records`].
pub fn with_random(
    (run, compat): (&RunArgs, &CompatArgs),
    model: &Model,
    names: &[String],
    layers: Option<&[usize]>,
    random: u32,
) -> Result<Vec<(String, ByLayer)>> {
    let mut all = Vec::new();
    for name in &distinct(names) {
        let own = by_layer("--directions", (run, compat), model, (name, layers))?;
        let random = (1..=random).map(|number| random_like(&own, number, run.seed));
        all.extend(std::iter::once((name.clone(), own.clone())).chain(random));
    }
    Ok(distinct(&all))
}

/// Where directions are, for the names of results: nothing for all layers of a model.
pub fn at_layers<T>(columns: &BTreeMap<usize, T>, n_layers: usize) -> String {
    let layers: Vec<String> = columns.keys().map(usize::to_string).collect();
    if layers.len() == n_layers + 1 { String::new() } else { format!(" at layers {}", layers.join(" ")) }
}

/// The stored directions that any of `patterns` (`*`, `?`) matches.
///
/// # Errors
/// A folder that is not there, and a pattern that matches nothing.
pub fn selected(patterns: &[String], folder: &Path) -> Result<Vec<DirectionName>> {
    let names = match list(folder) {
        Ok(names) => names,
        Err(_) if !folder.exists() => {
            bail!("{}: no such folder; fit directions first (actpatch fit-directions)", folder.display())
        }
        Err(error) => return Err(error.into()),
    };
    Ok(select(patterns, &names)?)
}

/// The stored directions that any of `patterns` matches, of unit length.
///
/// # Errors
/// A subspace of several dimensions, and those of [`selected`] and [`check_records`].
pub fn unit_directions(
    (run, compat): (&RunArgs, &CompatArgs),
    model: &Model,
    patterns: &[String],
) -> Result<Vec<(DirectionName, Vec<f32>)>> {
    let folder = run.folder(&model.name);
    let names = selected(patterns, &folder)?;
    check_records(run, compat, &folder, &names, model)?;
    let read = |name: DirectionName| {
        let columns = Direction::read(&folder, &name, model.config.d_model)?.unit_columns();
        match columns.cols {
            1 => Ok((name, columns.data)),
            found => bail!("--directions: {name}: expected a direction, found a subspace of {found} dimensions"),
        }
    };
    names.into_iter().map(read).collect()
}

/// The one stored direction of a name, of unit length.
///
/// # Errors
/// A name that several match, and those of [`unit_directions`].
pub fn unit_direction(stored: (&RunArgs, &CompatArgs), model: &Model, name: &String) -> Result<Vec<f32>> {
    let mut found = unit_directions(stored, model, std::slice::from_ref(name))?;
    match (found.pop(), found.len()) {
        (Some((_, direction)), 0) => Ok(direction),
        (_, others) => bail!("expected one direction, found {} that match {name}", others + 1),
    }
}

/// What one name stands for that the option `flag` gives, at some layers or at all that are there, as in [`with_random`].
///
/// # Errors
/// A direction that is not there, and those of [`check_records`].
pub fn by_layer(
    flag: &str,
    (run, compat): (&RunArgs, &CompatArgs),
    model: &Model,
    (name, layers): (&str, Option<&[usize]>),
) -> Result<ByLayer> {
    let (folder, config) = (run.folder(&model.name), &model.config);
    let stored = list(&folder).with_context(|| format!("{flag}: fit directions first (actpatch fit-directions)"))?;
    let read = |names: &[DirectionName]| -> Result<Vec<Arc<Matrix>>> {
        check_records(run, compat, &folder, names, model)?;
        let one = |name| Ok(Arc::new(Direction::read(&folder, name, config.d_model)?.unit_columns()));
        names.iter().map(one).collect()
    };
    if let Ok(single) = name.parse::<DirectionName>() {
        let columns = read(&[single])?.remove(0);
        let everywhere: Vec<usize> = (0..=config.n_layers).collect();
        return Ok(layers.unwrap_or(&everywhere).iter().map(|&layer| (layer, columns.clone())).collect());
    }
    let own: BTreeMap<usize, DirectionName> =
        stored.iter().filter(|other| family(other) == name).map(|other| (other.layer(), other.clone())).collect();
    if own.is_empty() {
        let known: BTreeSet<String> = stored.iter().map(family).collect();
        let known = if known.is_empty() { "none".to_owned() } else { Vec::from_iter(known).join(", ") };
        bail!("{flag}: {name} is not in {}; there: {known}", folder.display());
    }
    let one = |layer: &usize| {
        own.get(layer)
            .cloned()
            .with_context(|| format!("{flag}: {name} has no layer {layer}; fit it with --layers {layer}"))
    };
    let names: Vec<DirectionName> = match layers {
        None => own.values().cloned().collect(),
        Some(layers) => layers.iter().map(one).collect::<Result<_>>()?,
    };
    let columns = read(&names)?;
    Ok(names.iter().map(DirectionName::layer).zip(columns).collect())
}

/// Random subspaces at the same layers and of the same dimensions, and their name.
fn random_like(own: &ByLayer, number: u32, seed: u64) -> (String, ByLayer) {
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
