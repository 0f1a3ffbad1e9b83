//! Directions from elsewhere: a folder of `.npy` arrays or JSON lists, as the code of arXiv 2310.15154 writes and
//! publishes them.

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
}

/// Reads every `.npy` and `.json` file of `folder` whose name without the ending matches one of `patterns` (`*`, `?`),
/// for a model of `n_layers` blocks of width `d_model`. All of them or none: the first fault is the answer.
///
/// # Errors
/// [`DirectionError::Name`] for a name that is no direction's, [`DirectionError::File`] for two files of one direction,
/// a layer that the model has not, and everything that [`Direction::read`] refuses; [`DirectionError::NoMatch`] for a
/// pattern that selects nothing; [`DirectionError::Io`].
pub fn read_folder(
    folder: &Path,
    patterns: &[String],
    (d_model, n_layers): (usize, usize),
) -> Result<Vec<(Direction, ImportSource)>, DirectionError> {
    let mut found: BTreeMap<DirectionName, (Direction, ImportSource, PathBuf)> = BTreeMap::new();
    for path in selected(folder, patterns)? {
        let name: DirectionName = stem(&path).parse()?;
        if name.layer() > n_layers {
            return Err(file_error(&path, "layer", format!("0 to {n_layers}"), name.layer().to_string()));
        }
        if let Some((_, _, first)) = found.get(&name) {
            let both = format!("{} as well", first.display());
            return Err(file_error(&path, "name", format!("one file of {name}"), both));
        }
        let direction = match path.extension().is_some_and(|ending| ending == "json") {
            true => Direction::read_json_list(&path, &name, d_model)?,
            false => Direction::read_npy(&path, &name, d_model)?,
        };
        let sha256 = sha256_of_file(&path).map_err(|source| DirectionError::Io { path: path.clone(), source })?;
        let source = ImportSource { file: path.display().to_string(), sha256 };
        found.insert(name, (direction, source, path));
    }
    Ok(found.into_values().map(|(direction, source, _)| (direction, source)).collect())
}

/// The files that the patterns select, sorted by name.
fn selected(folder: &Path, patterns: &[String]) -> Result<Vec<PathBuf>, DirectionError> {
    let io = |source| DirectionError::Io { path: folder.into(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|ending| ending == "npy" || ending == "json") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let mut wanted = vec![false; files.len()];
    for pattern in patterns {
        let matcher = glob(pattern);
        let matches = |path: &PathBuf| matcher.as_ref().is_some_and(|regex| regex.is_match(&stem(path)));
        let hits: Vec<usize> = (0..files.len()).filter(|&index| matches(&files[index])).collect();
        if hits.is_empty() {
            let examples = format!(" (.npy and .json files in {})", folder.display());
            return Err(DirectionError::NoMatch { pattern: pattern.clone(), available: files.len(), examples });
        }
        hits.into_iter().for_each(|index| wanted[index] = true);
    }
    Ok(files.into_iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(path, _)| path).collect())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
