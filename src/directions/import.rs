//! Directions from elsewhere: arrays as the code of arXiv 2310.15154 and other tools write them.

use super::formats::{Format, READABLE, arrays};
use super::name::glob;
use super::storage::file_error;
use super::{Direction, DirectionError, DirectionName};
use crate::files::sha256_of_file;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file that an imported direction was read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportSource {
    /// Its path.
    pub file: String,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// The direction's name in a file that may hold several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
}

/// Which directions are read, and for which model.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Names without the file's ending; `*` and `?` match anything.
    pub patterns: &'a [String],
    /// The layer of those whose name has none.
    pub layer: Option<usize>,
    /// Width of the model's residual stream.
    pub d_model: usize,
    /// Blocks of the model.
    pub n_layers: usize,
}

/// Reads the wanted directions of a file, or of all `.npy`, `.npz`, `.json` and `.safetensors` files of a folder. A
/// direction goes by its file's name; where a file holds several, or its own name has no layer, by its name there. All
/// of them or none: the first fault is the answer.
///
/// # Errors
/// [`DirectionError::Name`] for a name that is no direction's, [`DirectionError::File`] for two files of one direction,
/// a layer that the model has not, a format that cannot be read, and everything that [`Direction::read`] refuses;
/// [`DirectionError::NoMatch`] for a pattern that selects nothing; [`DirectionError::Io`].
pub fn read_files(from: &Path, wanted: Wanted<'_>) -> Result<Vec<(Direction, ImportSource)>, DirectionError> {
    let mut found: BTreeMap<DirectionName, (Direction, ImportSource)> = BTreeMap::new();
    for Candidate { path, names, .. } in selected(from, wanted.patterns)? {
        let format = Format::of(&path).unwrap_or(Format::Npy);
        let all = arrays(&path, format)?;
        let alone = all.len() == 1;
        let sha256 = sha256_of_file(&path).map_err(|source| DirectionError::Io { path: path.clone(), source })?;
        for (array, columns) in all {
            if names.as_ref().is_some_and(|names| !array.as_ref().is_some_and(|array| names.contains(array))) {
                continue;
            }
            let name = name_of(&path, array.as_deref(), alone, wanted.layer)?;
            if name.layer() > wanted.n_layers {
                let expected = format!("0 to {}", wanted.n_layers);
                return Err(file_error(&path, "layer", expected, name.layer().to_string()));
            }
            if let Some((_, first)) = found.get(&name) {
                let both = format!("{} as well", first.file);
                return Err(file_error(&path, "name", format!("one file of {name}"), both));
            }
            let direction = Direction::checked(&path, &name, wanted.d_model, columns)?;
            let source = ImportSource { file: path.display().to_string(), sha256: sha256.clone(), array };
            found.insert(name, (direction, source));
        }
    }
    Ok(found.into_values().collect())
}

/// What a direction is called: as its file, or as its array there.
fn name_of(
    path: &Path,
    array: Option<&str>,
    alone: bool,
    layer: Option<usize>,
) -> Result<DirectionName, DirectionError> {
    let stem = stem(path);
    let has_layer = |name: &str| {
        let digits = name.rsplit_once("_layer").map(|(_, digits)| digits);
        digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let name = match array {
        Some(array) if !alone || (has_layer(array) && !has_layer(&stem)) => array,
        _ => &stem,
    };
    match layer {
        Some(layer) if !has_layer(name) => format!("{name}_layer{layer}").parse(),
        _ => name.parse(),
    }
}

/// A file that may be read.
struct Candidate {
    path: PathBuf,
    /// Of a file of named arrays those that are wanted; none for all.
    names: Option<Vec<String>>,
    /// Is any of it wanted?
    wanted: bool,
}

/// The files that the patterns select, sorted by name.
fn selected(from: &Path, patterns: &[String]) -> Result<Vec<Candidate>, DirectionError> {
    let mut candidates: Vec<Candidate> =
        files(from)?.into_iter().map(|path| Candidate { path, names: Some(Vec::new()), wanted: false }).collect();
    for pattern in patterns {
        let matcher = glob(pattern);
        let matches = |name: &str| matcher.as_ref().is_some_and(|regex| regex.is_match(name));
        let mut hit = false;
        for candidate in &mut candidates {
            if matches(&stem(&candidate.path)) {
                (candidate.names, candidate.wanted, hit) = (None, true, true);
            } else if let Some(names) = &mut candidate.names
                && let Some(format) = Format::of(&candidate.path).filter(|format| format.is_named())
            {
                // A file that cannot be read has nothing that the pattern could mean.
                let all = arrays(&candidate.path, format).unwrap_or_default();
                let own: Vec<String> =
                    all.into_iter().filter_map(|(name, _)| name).filter(|name| matches(name)).collect();
                candidate.wanted |= !own.is_empty();
                hit |= !own.is_empty();
                names.extend(own);
            }
        }
        if !hit {
            let examples = format!(" ({READABLE} files in {})", from.display());
            return Err(DirectionError::NoMatch { pattern: pattern.clone(), available: candidates.len(), examples });
        }
    }
    candidates.retain(|candidate| candidate.wanted);
    Ok(candidates)
}

/// A file itself, or those of a folder that have an ending of ours, sorted.
fn files(from: &Path) -> Result<Vec<PathBuf>, DirectionError> {
    let io = |source| DirectionError::Io { path: from.into(), source };
    if std::fs::metadata(from).map_err(io)?.is_file() {
        return match Format::of(from) {
            Some(_) => Ok(vec![from.to_owned()]),
            None => {
                let found = from.extension().unwrap_or_default().to_string_lossy().into_owned();
                Err(file_error(from, "format", READABLE.into(), format!("{found:?}")))
            }
        };
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(from).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if Format::of(&path).is_some() && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
