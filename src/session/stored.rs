//! Stored directions by name, checked against the model that they are used with.

use super::provenance::{hash_of_matrix, shortened};
use super::{Fault, Mend, OfSetting, Session, distinct, processing_names, wrong};
use crate::compat::Compat;
use crate::directions::{
    Direction, DirectionName, FitRecord, Matched, Method, family, list, matched, random_subspace, select, spelled,
};
use crate::model::Source;
use crate::report::results;
use crate::types::Matrix;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Unit columns by layer, `(d_model, k)` each.
pub type ByLayer = BTreeMap<usize, Arc<Matrix>>;

/// Where directions are, for the names of results: nothing for all layers of a model.
pub fn at_layers<T>(columns: &BTreeMap<usize, T>, n_layers: usize) -> String {
    if columns.len() == n_layers + 1 {
        return String::new();
    }
    format!(" at layers {}", results::ranges(columns.keys().copied()).join(" "))
}

/// The hashes of directions by layer.
pub(crate) fn hash_of_layers(columns: &ByLayer) -> BTreeMap<usize, String> {
    columns.iter().map(|(layer, columns)| (*layer, hash_of_matrix(columns))).collect()
}

impl Session {
    /// The directions that names stand for, each followed by `random` random ones at the same layers, to compare with;
    /// those that several have in common are there once.
    ///
    /// A file's name (`das_simple_train_ADJ_layer2`) is the same direction in front of each of `layers` (of every block and
    /// at the end, without), a name without a layer (`das_simple_train_ADJ`) is every layer's own, a pattern every file that
    /// it matches.
    ///
    /// # Errors
    /// A direction that is not there, and those of [`Session::check_directions`].
    pub fn with_random(
        &self,
        names: &[String],
        layers: Option<&[usize]>,
        random: u32,
    ) -> Result<Vec<(String, ByLayer)>> {
        let mut all = Vec::new();
        for name in &self.named("directions", names)? {
            let own = self.by_layer("directions", name, layers)?;
            let random = (1..=random).map(|number| random_like(&own, number, self.seed()));
            all.extend(std::iter::once((name.clone(), own.clone())).chain(random));
        }
        Ok(distinct(&all))
    }

    /// The names of a list, each once, as they are stored; a pattern (`*`, `?`) stands for all that it matches, or for the
    /// names without a layer that it matches.
    ///
    /// # Errors
    /// A pattern that matches nothing.
    pub fn named(&self, setting: &str, names: &[String]) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for name in names {
            if !name.contains(['*', '?']) {
                all.push(spelled(name));
                continue;
            }
            let stored = stored(&self.results()?).of_setting(setting)?;
            let ours = |names| self.of_our_weights(name, names).of_setting(setting);
            match matched(name, &stored).of_setting(setting)? {
                Matched::Names(names) => all.extend(ours(names)?.iter().map(DirectionName::to_string)),
                Matched::Families(names) => all.extend(ours(names)?.iter().map(family)),
            }
        }
        Ok(distinct(&all))
    }

    /// The stored directions that any of `patterns` (`*`, `?`) matches.
    ///
    /// # Errors
    /// A folder that is not there, and a pattern that matches nothing.
    pub fn selected(&self, patterns: &[String]) -> Result<Vec<DirectionName>> {
        let stored = stored(&self.results()?)?;
        let mut all = Vec::new();
        for pattern in patterns {
            all.extend(self.of_our_weights(pattern, matched(pattern, &stored)?.names())?);
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// Of several directions that `pattern` stands for those of the session's weight processing, if there are any: a folder
    /// may hold others beside them.
    fn of_our_weights(&self, pattern: &str, names: Vec<DirectionName>) -> Result<Vec<DirectionName>> {
        if names.len() == 1 || self.options.compat.contains(&Compat::UnprocessedFits) {
            return Ok(names);
        }
        let (folder, ours) = (self.folder(), processing_names(self.model().processing));
        let is_ours = |name: &DirectionName| -> Result<bool> {
            if name.method() == Some(Method::RandomDirection) || !Direction::paths(&folder, name).1.exists() {
                return Ok(true);
            }
            Ok(FitRecord::read(&folder, name)?.weight_processing == ours)
        };
        let (mut kept, mut others) = (Vec::new(), Vec::new());
        for name in &names {
            if is_ours(name)? { kept.push(name.clone()) } else { others.push(name.to_string()) }
        }
        // Where nothing fits, the check of every direction says what does not, and the way out.
        let fitted = |name: &DirectionName| name.method() != Some(Method::RandomDirection);
        if others.is_empty() || !kept.iter().any(fitted) {
            return Ok(names);
        }
        tracing::warn!(
            "{pattern}: {} directions of another weight processing than {} are left out: {}",
            others.len(),
            listed(&ours),
            others.join(", ")
        );
        Ok(kept)
    }

    /// A stored direction and the hash of its file.
    ///
    /// # Errors
    /// Those of [`Direction::read`].
    pub(crate) fn direction(&self, name: &DirectionName) -> Result<(Direction, String)> {
        let folder = self.folder();
        let (direction, hash) = Direction::read_hashed(&folder, name, self.config().d_model)?;
        let (array, record) = Direction::paths(&folder, name);
        let written = FitRecord::read(&folder, name).ok().and_then(|record| record.array_sha256);
        if written.is_some_and(|written| written != hash) {
            tracing::warn!("{} has changed since {} was written", array.display(), record.display());
        }
        Ok((direction, hash))
    }

    /// The stored directions that any of `patterns` matches, of unit length.
    ///
    /// # Errors
    /// A subspace of several dimensions, and those of [`Session::selected`] and [`Session::check_directions`].
    pub fn unit_directions(&self, patterns: &[String]) -> Result<Vec<(DirectionName, Vec<f32>)>> {
        let names = self.selected(patterns).of_setting("directions")?;
        self.check_directions(&names).of_setting("directions")?;
        let read = |name: DirectionName| {
            let direction = self.unit("directions", &name)?;
            Ok((name, direction))
        };
        names.into_iter().map(read).collect()
    }

    /// The one stored direction of a name, of unit length.
    ///
    /// # Errors
    /// A pattern, and those of [`Session::unit_directions`], as faults of `setting`.
    pub fn unit_direction(&self, setting: &str, name: &str) -> Result<Vec<f32>> {
        let stored = stored(&self.results()?).of_setting(setting)?;
        let named = name.parse().ok().filter(|named| stored.contains(named));
        let Some(named) = named else {
            match &select(&[name.to_owned()], &stored).of_setting(setting)?[..] {
                [only] => wrong!(setting, "expected the name of a direction, found {name}, which matches {only}"),
                found => wrong!(setting, "expected one direction, found {} that match {name}", found.len()),
            }
        };
        self.check_directions(std::slice::from_ref(&named)).of_setting(setting)?;
        self.unit(setting, &named)
    }

    /// A stored direction, of unit length, that `setting` asks for.
    fn unit(&self, setting: &str, name: &DirectionName) -> Result<Vec<f32>> {
        let columns = self.direction(name).of_setting(setting)?.0.unit_columns();
        match columns.cols {
            1 => Ok(columns.data),
            found => wrong!(setting, "{name}: expected a direction, found a subspace of {found} dimensions"),
        }
    }

    /// What one name stands for that `setting` gives, at some layers or at all that are there, as in
    /// [`Session::with_random`].
    ///
    /// # Errors
    /// A direction that is not there, and those of [`Session::check_directions`].
    pub fn by_layer(&self, setting: &str, name: &str, layers: Option<&[usize]>) -> Result<ByLayer> {
        let (folder, config) = (self.results()?, self.config());
        let stored = stored(&folder).of_setting(setting)?;
        let read = |names: &[DirectionName]| -> Result<Vec<Arc<Matrix>>> {
            self.check_directions(names).of_setting(setting)?;
            let one = |name| Ok(Arc::new(self.direction(name).of_setting(setting)?.0.unit_columns()));
            names.iter().map(one).collect()
        };
        // A name of a method's direction is told by itself, any other by being there.
        let single = name.parse::<DirectionName>().ok();
        if let Some(single) = single.filter(|single| single.method().is_some() || stored.contains(single)) {
            let columns = read(&[single])?.remove(0);
            let everywhere: Vec<usize> = (0..=config.n_layers).collect();
            return Ok(layers.unwrap_or(&everywhere).iter().map(|&layer| (layer, columns.clone())).collect());
        }
        let found = stored.iter().filter(|other| family(other) == name).cloned().collect();
        let own = self.of_our_weights(name, found).of_setting(setting)?;
        let own: BTreeMap<usize, DirectionName> = own.into_iter().map(|other| (other.layer(), other)).collect();
        if own.is_empty() {
            let known: BTreeSet<String> = stored.iter().map(family).collect();
            let known = if known.is_empty() { "none".to_owned() } else { Vec::from_iter(known).join(", ") };
            wrong!(setting, "{name} is not in {}; there: {known}", folder.display());
        }
        let one = |layer: &usize| {
            own.get(layer).cloned().ok_or_else(|| {
                let fit = Mend::Study("fit-directions", vec![("layers", layer.to_string())]);
                Fault::of(setting, format!("{name} has no layer {layer}")).mended_by(fit)
            })
        };
        let names: Vec<DirectionName> = match layers {
            None => own.values().cloned().collect(),
            Some(layers) => layers.iter().map(one).collect::<Result<_, _>>()?,
        };
        let columns = read(&names)?;
        Ok(names.iter().map(DirectionName::layer).zip(columns).collect())
    }

    /// A direction needs a layer of the model, and lives in the basis of the weights it was fitted with: their
    /// processing, and a random model's seed.
    ///
    /// # Errors
    /// The direction and what does not fit.
    pub fn check_directions(&self, directions: &[DirectionName]) -> Result<()> {
        let (model, n_layers, folder) = (self.model(), self.config().n_layers, self.folder());
        if let Some(name) = directions.iter().find(|name| name.layer() > n_layers) {
            let found = name.layer();
            return Err(Fault::new(format!(
                "{name}: layer: expected 0 to {n_layers} for {}, found {found}",
                model.name
            ))
            .into());
        }
        let mut without_record = 0;
        for name in directions.iter().filter(|name| name.method() != Some(Method::RandomDirection)) {
            match Direction::paths(&folder, name).1.exists() {
                true => self.check_record(&folder, name)?,
                false => without_record += 1,
            }
        }
        if without_record > 0 {
            tracing::warn!(
                "{without_record} directions have no record of their fit: their weight processing is unknown"
            );
        }
        Ok(())
    }

    fn check_record(&self, folder: &Path, name: &DirectionName) -> Result<()> {
        let (model, seed) = (self.model(), self.seed());
        let ours = processing_names(model.processing);
        let record = FitRecord::read(folder, name)?;
        let path = Direction::paths(folder, name).1;
        let fault = |setting: &'static str, expected: &str, found: String| {
            let message = format!("{}: {setting}: expected {expected}, found {found}", path.display());
            Err(Fault::new(message).mended_by(Mend::Set(setting, found)).into())
        };
        if record.weight_processing != ours && !self.options.compat.contains(&Compat::UnprocessedFits) {
            return fault("weight_processing", &listed(&ours), listed(&record.weight_processing));
        }
        if matches!(model.provenance.source, Source::Random { .. }) && record.seed != seed {
            return fault("seed", &format!("{seed}, the seed of the random weights"), record.seed.to_string());
        }
        let weights = record.provenance.as_ref().and_then(|settings| settings.get("weights"));
        let ours = self.weights()?;
        if let Some(found) = weights.filter(|found| **found != ours) {
            let found = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            let (expected, found) = (shortened(ours), shortened(&found));
            let message =
                format!("{}: weights: expected {expected}, found {found}: fitted on another model", path.display());
            return Err(Fault::new(message).mended_by(Mend::Another("data_dir")).into());
        }
        Ok(())
    }
}

/// A weight processing as it is typed.
fn listed(processing: &[String]) -> String {
    if processing.is_empty() { "none".to_owned() } else { processing.join(",") }
}

/// The directions that a folder holds.
///
/// # Errors
/// A folder that is not there.
fn stored(folder: &Path) -> Result<Vec<DirectionName>> {
    match list(folder) {
        Ok(names) => Ok(names),
        Err(_) if !folder.exists() => {
            let fault = Fault::new(format!("{}: no such folder", folder.display()));
            Err(fault.mended_by(Mend::Study("fit-directions", Vec::new())).into())
        }
        Err(error) => Err(error).context("stored directions"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionOptions;

    #[test]
    fn one_direction_goes_by_its_name_alone() {
        let data = tempfile::tempdir().unwrap();
        let options = SessionOptions { data_dir: data.path().into(), ..SessionOptions::default() };
        let session = Session::open("demo", options).unwrap();
        let (folder, width) = (session.folder(), session.config().d_model);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, columns) in [("pca_a_END_layer1", 1), ("das_a_END_layer1", 1), ("das2d_a_END_layer1", 2)] {
            let columns = random_subspace(width, columns, 1, 0);
            let path = folder.join(format!("{name}.npy"));
            crate::report::write_array(&path, &[width, columns.cols], &columns.data).unwrap();
        }
        assert_eq!(session.unit_direction("along", "pca_a_END_layer1").unwrap().len(), width);
        let message = |name: &str| session.unit_direction("along", name).unwrap_err().to_string();
        let pattern = "expected the name of a direction, found pc?_*, which matches pca_a_END_layer1";
        assert_eq!(message("pc?_*"), format!("along: {pattern}"));
        assert_eq!(message("*"), "along: expected one direction, found 3 that match *");
        assert!(message("kmeans_x").starts_with("along: pattern \"kmeans_x\""));
        assert!(message("das2d_a_END_layer1").starts_with("along: das2d_a_END_layer1: expected a direction"));
        assert!(session.by_layer("directions", "*a_END", None).unwrap_err().to_string().contains("*a_END is not in"));
    }
}
