//! What the suite has measured on one or several models, as tables and figures: the results script of the paper's code.
//!
//! Everything is drawn from the files in a model's folder. What is not there is left out of a figure, and listed.

mod cosines;
mod cross_dataset;
mod fits;
mod layers;
mod scatter;
mod summary;
mod table_files;

pub use cosines::{between_layers, between_methods};
pub use cross_dataset::cross_dataset;
pub use fits::fit_tables;
pub use layers::layer_figures;
pub use scatter::scatters;
pub use summary::{Best, best_layers, summaries};

use super::{ReportError, SuiteCsv};
use crate::datasets::treebank::Scaffold;
use crate::directions::{DirectionName, Method};
use crate::engine::Metric;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The readers' warning that belongs to every best layer.
const BEST_LAYER: &str = "The best layer is chosen on the prompts that are shown, as in the paper.";

/// What one result file measures, told by its name
/// `direction_patching_<metric>_<resid|attn_result>_<scaffold><variant>.csv`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Measured {
    /// The metric.
    pub metric: Metric,
    /// `resid`, or `attn_result` for the outputs of heads.
    pub site: &'static str,
    /// The scaffold around the Treebank's sentences.
    pub scaffold: String,
    /// What else is special, for example `_ortho`; empty for plain results.
    pub variant: String,
}

impl Measured {
    /// Reads the name of a result file; `None` for other files.
    pub fn parse(stem: &str) -> Option<Self> {
        let rest = stem.strip_prefix("direction_patching_")?;
        let sites = ["resid", "attn_result"];
        let candidates = Metric::ALL.into_iter().flat_map(|metric| sites.map(|site| (metric, site)));
        candidates.into_iter().find_map(|(metric, site)| {
            let rest = rest.strip_prefix(&format!("{metric}_{site}_"))?;
            let scaffold = Scaffold::ALL.into_iter().map(Scaffold::name).find(|name| rest.starts_with(name))?;
            let variant = rest.get(scaffold.len()..)?;
            (variant.is_empty() || variant.starts_with('_')).then(|| Self {
                metric,
                site,
                scaffold: scaffold.into(),
                variant: variant.into(),
            })
        })
    }

    /// The result file's name without its ending, and the first part of every figure's.
    pub fn stem(&self) -> String {
        format!("direction_patching_{}_{}_{}{}", self.metric, self.site, self.scaffold, self.variant)
    }

    /// What the values are, with the unit.
    fn measure(&self) -> String {
        match self.metric {
            Metric::LogitDiff => "logit difference recovered (%)".into(),
            Metric::LogitDiffNoising => "logit difference lost (%)".into(),
            Metric::LogitFlip => "logit flips (%)".into(),
            Metric::SignFlip => "signs flipped (%)".into(),
            Metric::ProbDiff => "probability difference recovered (%)".into(),
        }
    }

    /// What distinguishes this file from those of other scaffolds and variants; empty for plain results.
    fn note(&self) -> String {
        let scaffold = if self.scaffold == Scaffold::Plain.name() { "" } else { &self.scaffold };
        let parts = [scaffold, self.variant.trim_start_matches('_')];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }
}

/// A result file with its directions' names taken apart.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it measures.
    pub measured: Measured,
    /// Values in percent by direction and (dataset, position).
    pub cells: BTreeMap<(DirectionName, Column), f64>,
}

/// A dataset and the position that was patched in it.
pub type Column = (String, String);

/// The fit behind a direction: method, dataset, placeholder; the same at every layer.
pub type FitOf = (Method, Option<(String, String)>);

/// The fit behind a direction.
pub fn fit_of(name: &DirectionName) -> FitOf {
    let set = name.dataset().zip(name.position());
    (name.method(), set.map(|(dataset, position)| (dataset.to_owned(), position.to_owned())))
}

/// Dataset and placeholder of a fit as text; `-` for a random direction.
pub fn fitted_on(fit: &FitOf) -> String {
    fit.1.as_ref().map_or("-".into(), |(dataset, position)| format!("{dataset} {position}"))
}

impl ResultFile {
    /// Reads a result file; `None` for a file that is none by its name.
    ///
    /// # Errors
    /// Those of [`SuiteCsv::read`]; a row whose direction's name does not parse.
    pub fn read(path: &Path) -> Result<Option<Self>, ReportError> {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let Some(measured) = Measured::parse(stem) else { return Ok(None) };
        let mut cells = BTreeMap::new();
        for ((direction, set, position), &percent) in SuiteCsv::read(path)?.cells() {
            let name: DirectionName = direction.parse().map_err(|error| ReportError::Content {
                path: path.into(),
                field: format!("row {direction:?}"),
                expected: "the name of a direction".into(),
                found: format!("{error}"),
            })?;
            cells.insert((name, (set.clone(), position.clone())), percent);
        }
        Ok(Some(Self { path: path.into(), measured, cells }))
    }

    /// Every (dataset, position) of the file.
    pub fn columns(&self) -> BTreeSet<&Column> {
        self.cells.keys().map(|(_, column)| column).collect()
    }

    /// Cells of the file's own grid, directions by columns, that are empty.
    pub fn missing(&self) -> Vec<(&DirectionName, &Column)> {
        let directions: BTreeSet<&DirectionName> = self.cells.keys().map(|(name, _)| name).collect();
        let columns = self.columns();
        let grid = directions.into_iter().flat_map(|name| columns.iter().map(move |column| (name, *column)));
        grid.filter(|(name, column)| !self.cells.contains_key(&((*name).clone(), (*column).clone()))).collect()
    }

    /// The largest value over the layers and its layer, by fit and column.
    pub fn best(&self) -> BTreeMap<(FitOf, Column), (f64, usize)> {
        let mut bests: BTreeMap<(FitOf, Column), (f64, usize)> = BTreeMap::new();
        for ((name, column), &percent) in &self.cells {
            let best = bests.entry((fit_of(name), column.clone())).or_insert((percent, name.layer()));
            if percent > best.0 {
                *best = (percent, name.layer());
            }
        }
        bests
    }
}

/// The result files of a model's folder.
///
/// # Errors
/// Those of [`SuiteCsv::files`] and [`ResultFile::read`].
pub fn read_folder(folder: &Path) -> Result<Vec<ResultFile>, ReportError> {
    let files = SuiteCsv::files(folder)?;
    files.iter().filter_map(|path| ResultFile::read(path).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_say_what_was_measured() {
        let parse = |stem: &str| Measured::parse(stem);
        let noising = parse("direction_patching_logit_diff_noising_resid_classification_all_layers_ortho").unwrap();
        assert_eq!((noising.metric, noising.site), (Metric::LogitDiffNoising, "resid"));
        assert_eq!((&noising.scaffold[..], &noising.variant[..]), ("classification", "_all_layers_ortho"));
        assert_eq!(noising.note(), "classification, all_layers_ortho");
        let heads = parse("direction_patching_logit_diff_attn_result_plain").unwrap();
        assert_eq!((heads.metric, heads.site, &heads.note()[..]), (Metric::LogitDiff, "attn_result", ""));
        assert_eq!(heads.stem(), "direction_patching_logit_diff_attn_result_plain");
        for other in ["direction_patching_logit_diff_resid_plainly", "direction_patching_accuracy_resid_plain", "notes"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn empty_cells_of_the_grid_are_listed_and_the_best_layer_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("direction_patching_logit_diff_resid_plain.csv");
        let text = "prompt,a,b\nposition,ADJ,END\npca_s_ADJ_layer00,1,2\npca_s_ADJ_layer01,3,\nrandom_direction_layer01,0.5,0\n";
        std::fs::write(&path, text).unwrap();
        let file = ResultFile::read(&path).unwrap().unwrap();
        let missing: Vec<_> =
            file.missing().into_iter().map(|(name, column)| (name.to_string(), column.0.clone())).collect();
        assert_eq!(missing, [("pca_s_ADJ_layer1".to_owned(), "b".to_owned())]);
        let best = file.best();
        let fit = fit_of(&"pca_s_ADJ_layer0".parse().unwrap());
        assert_eq!(best[&(fit.clone(), ("a".into(), "ADJ".into()))], (3.0, 1));
        assert_eq!(best[&(fit, ("b".into(), "END".into()))], (2.0, 0));
        assert_eq!(best.len(), 4);
    }
}
