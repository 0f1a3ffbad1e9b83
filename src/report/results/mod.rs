//! What has been measured, read back from a data folder and turned into tables and figures.

mod best_layers;
mod cosines;
mod fitting;
mod patching;
mod scatter;

use super::{ReportError, SuiteCsv, SuiteName};
use crate::directions::{DirectionError, DirectionName, FoundBy, Method};
pub use best_layers::{BestLayers, best_layers_table};
pub use cosines::similarities;
pub use fitting::fits;
pub use patching::{cross_dataset, layers, simple};
pub use scatter::projections;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Said wherever the best layer is shown (bug K7 of the paper's scripts, which this is on purpose).
pub const BEST_LAYER: &str = "Each value is that of the layer where it is largest, and that layer was chosen on the very \
    prompts that are reported: it is an optimistic estimate, the random direction's too.";

/// A figure and the name of its files.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The files' name without ending.
    pub stem: String,
    /// The figure.
    pub figure: super::figure::Figure,
}

/// What can go wrong in reading results back.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// A result file.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// A direction's file, or a name that is none.
    #[error("{path}: {source}")]
    Direction {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: DirectionError,
    },
}

/// One result file of the suite.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultFile {
    /// The folder's name.
    pub model: String,
    /// The file.
    pub path: PathBuf,
    /// What the values are.
    pub name: SuiteName,
    /// Every value.
    pub cells: Vec<Cell>,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The direction that was patched along.
    pub direction: DirectionName,
    /// Dataset and position that were patched.
    pub patched: Place,
    /// The value.
    pub percent: f64,
}

/// A dataset and a position in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// Dataset.
    pub set: String,
    /// Position.
    pub position: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.set, self.position)
    }
}

/// What found a direction, and where it was fitted, at any layer.
type Fit = (FoundBy, Option<Place>);

/// What stands in the place of a dataset where there is none.
const NOWHERE: &str = "-";

/// What a random direction is found by.
const RANDOM: FoundBy = FoundBy::Method(Method::RandomDirection);

/// Points of lines, (layer, value).
type Lines<Name> = BTreeMap<Name, Vec<(f64, f64)>>;

/// Where a direction was fitted; `None` for random ones and those that were found elsewhere.
pub fn fitted_on(name: &DirectionName) -> Option<Place> {
    let (set, position) = (name.dataset()?.to_owned(), name.position()?.to_owned());
    Some(Place { set, position })
}

/// The best layer of one method, fitted on one dataset, on one evaluation column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Best {
    /// Fitting method; of a direction that was found elsewhere its name without the layer.
    pub method: FoundBy,
    /// Dataset and placeholder of the fit, `-` for directions that were fitted on none.
    pub fitted_on: String,
    /// Dataset and position that were patched.
    pub patched: String,
    /// The metric in percent at the best layer.
    pub percent: f64,
    /// That layer.
    pub layer: usize,
    /// The random direction's on the same prompts, at its own best layer.
    pub random: Option<f64>,
}

impl ResultFile {
    /// Reads a result file; `None` when its name is not that of one.
    ///
    /// # Errors
    /// Those of [`SuiteCsv::read`], and [`ResultsError::Direction`] for a row whose name is not a direction's.
    pub fn read(model: &str, path: &Path) -> Result<Option<Self>, ResultsError> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { return Ok(None) };
        let mut cells = Vec::new();
        for ((direction, set, position), &percent) in SuiteCsv::read(path)?.cells() {
            let direction =
                direction.parse().map_err(|source| ResultsError::Direction { path: path.into(), source })?;
            cells.push(Cell { direction, patched: Place { set: set.clone(), position: position.clone() }, percent });
        }
        Ok(Some(Self { model: model.into(), path: path.into(), name, cells }))
    }

    /// The layer with the largest value of every (method, dataset of the fit, evaluation column).
    ///
    /// The layer is chosen on the same prompts that are reported, as in the paper's tables: see [`BEST_LAYER`].
    pub fn best_layers(&self) -> Vec<Best> {
        let mut bests: BTreeMap<(FoundBy, Option<Place>, &Place), (f64, usize)> = BTreeMap::new();
        for cell in &self.cells {
            let key = (cell.direction.found_by().clone(), fitted_on(&cell.direction), &cell.patched);
            let here = (cell.percent, cell.direction.layer());
            let best = bests.entry(key).or_insert(here);
            if here.0 > best.0 {
                *best = here;
            }
        }
        let random = |place| bests.get(&(RANDOM, None, place)).map(|(percent, _)| *percent);
        let rows = bests.iter().map(|((method, fitted_on, patched), (percent, layer))| Best {
            method: method.clone(),
            fitted_on: fitted_on.as_ref().map_or(NOWHERE.into(), Place::to_string),
            patched: patched.to_string(),
            percent: *percent,
            layer: *layer,
            random: random(*patched),
        });
        rows.collect()
    }

    /// What is not there: for every fit and every evaluation column of the file, the layers that other fits have.
    pub fn missing(&self) -> Vec<String> {
        let layers: BTreeSet<usize> = self.cells.iter().map(|cell| cell.direction.layer()).collect();
        let places: BTreeSet<&Place> = self.cells.iter().map(|cell| &cell.patched).collect();
        let mut found: BTreeMap<Fit, BTreeSet<(&Place, usize)>> = BTreeMap::new();
        for cell in &self.cells {
            let fit = (cell.direction.found_by().clone(), fitted_on(&cell.direction));
            found.entry(fit).or_default().insert((&cell.patched, cell.direction.layer()));
        }
        let mut lines = Vec::new();
        for ((method, fit), there) in &found {
            let mut absent: BTreeMap<Vec<usize>, Vec<String>> = BTreeMap::new();
            for place in &places {
                let lacking = layers.iter().copied().filter(|layer| !there.contains(&(*place, *layer)));
                absent.entry(lacking.collect()).or_default().push(place.to_string());
            }
            absent.remove(&Vec::new());
            let (fit, file) = (fit.as_ref().map_or(String::new(), |fit| format!(" of {fit}")), self.path.display());
            let line = |(layers, places): (&Vec<usize>, &Vec<String>)| {
                format!(
                    "{file}: {method}{fit}: layers {} on {}",
                    ranges(layers.iter().copied()).join(", "),
                    places.join(", ")
                )
            };
            lines.extend(absent.iter().map(line));
        }
        lines
    }

    /// The site, and the variant when there is one, as part of a file's name.
    pub fn kind(&self) -> String {
        let SuiteName { site, variant, .. } = &self.name;
        if variant.is_empty() { site.to_string() } else { format!("{site}_{variant}") }
    }
}

/// Ascending numbers as `0..3` and `7`.
pub(crate) fn ranges(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}..{last}") }
    };
    runs.iter().map(text).collect()
}

/// Models of one architecture go into one figure: `pythia-1.4b` and `pythia-160m` are `pythia`.
fn family(model: &str) -> &str {
    model.split(['-', '_']).next().unwrap_or(model)
}

/// At most `count` of the layers, evenly spread, the first and the last among them.
fn spread(layers: &BTreeSet<usize>, count: usize) -> Vec<usize> {
    let all: Vec<usize> = layers.iter().copied().collect();
    if all.len() <= count {
        return all;
    }
    (0..count).filter_map(|index| all.get(index * (all.len() - 1) / (count - 1)).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_listed_and_spread() {
        assert_eq!(ranges([0, 1, 2, 5, 7, 8]), ["0..2", "5", "7..8"]);
        assert_eq!(spread(&(0..=12).collect(), 4), [0, 4, 8, 12]);
        assert_eq!(spread(&[3, 9].into(), 6), [3, 9]);
    }
}
