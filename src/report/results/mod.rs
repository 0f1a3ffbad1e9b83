//! What has been measured, read back from a data folder and turned into tables and figures.

mod best_layers;
mod cosines;
mod fitting;
mod patching;
mod scatter;

use super::{ReportError, SuiteCsv};
use crate::datasets::treebank::Scaffold;
use crate::directions::{DirectionError, DirectionName, Method};
use crate::engine::Metric;
pub use best_layers::BestLayers;
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
    /// What the values measure.
    pub metric: Metric,
    /// `resid`, or `attn_result` for the outputs of heads, with their names behind it if they are not the paper's.
    pub site: String,
    /// Text around the Treebank's sentences.
    pub scaffold: Scaffold,
    /// The rest of the file's name: `all_layers`, `para`, `ortho`, `compat_…`; mostly empty.
    pub variant: String,
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

/// A method and where it was fitted, at any layer.
type Fit = (Method, Option<Place>);

/// Points of lines, (layer, value).
type Lines<Name> = BTreeMap<Name, Vec<(f64, f64)>>;

/// Where a direction was fitted; `None` for random ones.
pub fn fitted_on(name: &DirectionName) -> Option<Place> {
    let (set, position) = (name.dataset()?.to_owned(), name.position()?.to_owned());
    Some(Place { set, position })
}

/// The best layer of one method, fitted on one dataset, on one evaluation column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Best {
    /// Fitting method.
    pub method: Method,
    /// Dataset and placeholder of the fit, `-` for random directions.
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
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let Some((metric, site, scaffold, variant)) = parts(name) else { return Ok(None) };
        let mut cells = Vec::new();
        for ((direction, set, position), &percent) in SuiteCsv::read(path)?.cells() {
            let direction =
                direction.parse().map_err(|source| ResultsError::Direction { path: path.into(), source })?;
            cells.push(Cell { direction, patched: Place { set: set.clone(), position: position.clone() }, percent });
        }
        Ok(Some(Self { model: model.into(), path: path.into(), metric, site, scaffold, variant, cells }))
    }

    /// The layer with the largest value of every (method, dataset of the fit, evaluation column).
    ///
    /// The layer is chosen on the same prompts that are reported, as in the paper's tables: see [`BEST_LAYER`].
    pub fn best_layers(&self) -> Vec<Best> {
        let mut bests: BTreeMap<(Method, Option<Place>, &Place), (f64, usize)> = BTreeMap::new();
        for cell in &self.cells {
            let key = (cell.direction.method(), fitted_on(&cell.direction), &cell.patched);
            let here = (cell.percent, cell.direction.layer());
            let best = bests.entry(key).or_insert(here);
            if here.0 > best.0 {
                *best = here;
            }
        }
        let random = |place| bests.get(&(Method::RandomDirection, None, place)).map(|(percent, _)| *percent);
        let rows = bests.iter().map(|((method, fitted_on, patched), (percent, layer))| Best {
            method: *method,
            fitted_on: fitted_on.as_ref().map_or("-".into(), Place::to_string),
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
            let fit = (cell.direction.method(), fitted_on(&cell.direction));
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
                format!("{file}: {method}{fit}: layers {} on {}", ranges(layers), places.join(", "))
            };
            lines.extend(absent.iter().map(line));
        }
        lines
    }

    /// `resid`, and the variant when there is one, as part of a file's name.
    fn kind(&self) -> String {
        if self.variant.is_empty() { self.site.clone() } else { format!("{}_{}", self.site, self.variant) }
    }
}

/// Metric, site, scaffold and the rest of the name of a result file.
fn parts(name: &str) -> Option<(Metric, String, Scaffold, String)> {
    let rest = name.strip_prefix("direction_patching_")?;
    for metric in Metric::ALL {
        let Some(rest) = rest.strip_prefix(metric.name()).and_then(|rest| rest.strip_prefix('_')) else { continue };
        for scaffold in Scaffold::ALL {
            let Some((site, variant)) = rest.split_once(&format!("_{scaffold}")) else { continue };
            // The outputs of other heads than the paper's have those heads in their name.
            let known = site == "resid" || site == "attn_result" || site.starts_with("attn_result_");
            if known && (variant.is_empty() || variant.starts_with('_')) {
                return Some((metric, site.into(), scaffold, variant.trim_start_matches('_').into()));
            }
        }
    }
    None
}

/// Ascending numbers as `0..3, 7`.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}..{last}") }
    };
    runs.iter().map(text).collect::<Vec<_>>().join(", ")
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
    fn names_of_result_files_come_apart() {
        let found = |name: &str| {
            let (metric, site, scaffold, variant) = parts(name)?;
            Some(format!("{metric} {site} {scaffold} {variant}"))
        };
        for (name, expected) in [
            ("direction_patching_logit_diff_resid_plain", "logit_diff resid plain "),
            ("direction_patching_logit_diff_noising_resid_plain_ortho", "logit_diff_noising resid plain ortho"),
            ("direction_patching_logit_flip_attn_result_classification", "logit_flip attn_result classification "),
            ("direction_patching_logit_diff_attn_result_1.0-2.1_plain", "logit_diff attn_result_1.0-2.1 plain "),
            (
                "direction_patching_sign_flip_resid_continuation_all_layers_para",
                "sign_flip resid continuation all_layers_para",
            ),
        ] {
            assert_eq!(found(name).as_deref(), Some(expected));
        }
        for name in [
            "direction_patching_notes",
            "direction_patching_banana_resid_plain",
            "direction_patching_logit_diff_resid_plainly",
        ] {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn layers_are_listed_and_spread() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0..2, 5, 7..8");
        assert_eq!(spread(&(0..=12).collect(), 4), [0, 4, 8, 12]);
        assert_eq!(spread(&[3, 9].into(), 6), [3, 9]);
    }
}
