//! Figures of what patching along directions recovers.

use super::{BEST_LAYER, Lines, NOWHERE, Named, Place, RANDOM, ResultFile, family, fitted_on};
use crate::directions::FoundBy;
use crate::engine::Metric;
use crate::report::figure::{Axis, Facet, Figure, HeatMap, Plot, Scale, Series};
use std::collections::{BTreeMap, BTreeSet};

/// Name and unit of a metric.
fn measure(metric: Metric) -> &'static str {
    match metric {
        Metric::LogitDiff => "logit difference recovered (%)",
        Metric::LogitDiffNoising => "logit difference, noising (%)",
        Metric::LogitFlip => "logit flips (%)",
        Metric::SignFlip => "sign flips (%)",
        Metric::ProbDiff => "probability difference recovered (%)",
        Metric::LogProb => "log probability recovered (%)",
        Metric::LogProbNoising => "log probability, noising (%)",
    }
}

/// What an evaluation column is called: the scaffold belongs to the Treebank's names.
fn column(file: &ResultFile, place: &Place) -> String {
    let scaffold = file.name.scaffold.name();
    if scaffold == "plain" { place.to_string() } else { format!("{place} {scaffold}") }
}

/// A name for files: parts that are not empty, joined.
fn stem(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("_")
}

/// The metric against the layer: colour is the method, a facet is a model and an evaluation column. One figure for each
/// kind of result file, family of models and dataset of the fit.
pub fn layers(files: &[ResultFile]) -> Vec<Named> {
    let mut groups: BTreeMap<(String, Metric, &str), Vec<&ResultFile>> = BTreeMap::new();
    for file in files {
        let kind = stem(&[&file.name.site.to_string(), file.name.scaffold.name(), &file.name.variant]);
        groups.entry((kind, file.name.metric, family(&file.model))).or_default().push(file);
    }
    let mut figures = Vec::new();
    for ((kind, metric, family), files) in groups {
        let cells = || files.iter().flat_map(|file| &file.cells);
        let fits: BTreeSet<Option<Place>> = cells().map(|cell| fitted_on(&cell.direction)).collect();
        let named: Vec<Option<Place>> = fits.iter().filter(|fit| fit.is_some()).cloned().collect();
        let fits = if named.is_empty() { fits.into_iter().collect() } else { named };
        let several = fits.len() > 1;
        for fit in fits {
            let facets = files.iter().flat_map(|file| layer_facets(file, fit.as_ref())).collect();
            let on = fit.as_ref().map_or(String::new(), |fit| format!(", directions fitted on {fit}"));
            let mut figure = Figure::new(format!("{}, {kind}{on}", measure(metric)), facets);
            figure.caption = "Layer l is blocks.l.hook_resid_pre, the last one hook_resid_post of the last block. \
                Dashed: a random direction."
                .into();
            figure.share_y();
            let ending = fit.filter(|_| several).map_or(String::new(), |fit| format!("{}_{}", fit.set, fit.position));
            let name = stem(&["direction_patching", metric.name(), &kind, family, "facet_plot", &ending]);
            figures.push(Named { stem: name, figure });
        }
    }
    figures
}

/// One facet per evaluation column: the methods fitted on `fit`, the random direction, and those from elsewhere.
fn layer_facets(file: &ResultFile, fit: Option<&Place>) -> Vec<Facet> {
    let mut columns: BTreeMap<&Place, Lines<FoundBy>> = BTreeMap::new();
    for cell in &file.cells {
        // What was fitted on no dataset stands beside every fit.
        if fitted_on(&cell.direction).is_none_or(|own| Some(&own) == fit) {
            let (found_by, point) = (cell.direction.found_by().clone(), (cell.direction.layer() as f64, cell.percent));
            columns.entry(&cell.patched).or_default().entry(found_by).or_default().push(point);
        }
    }
    let facet = |(place, methods): (&Place, Lines<FoundBy>)| {
        let series = methods.into_iter().map(|(method, mut points)| {
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series { name: method.to_string(), points, baseline: method == RANDOM }
        });
        Facet {
            title: format!("{}: {}", file.model, column(file, place)),
            x: Axis::whole("layer"),
            y: Axis::new(measure(file.name.metric)),
            plot: Plot::Lines(series.collect()),
        }
    };
    columns.into_iter().map(facet).collect()
}

/// Cells of a table that is filled in any order.
#[derive(Default)]
struct Cells {
    rows: Vec<String>,
    columns: Vec<String>,
    values: BTreeMap<(String, String), f64>,
}

impl Cells {
    fn insert(&mut self, row: String, column: String, value: f64) {
        if !self.rows.contains(&row) {
            self.rows.push(row.clone());
        }
        if !self.columns.contains(&column) {
            self.columns.push(column.clone());
        }
        self.values.insert((row, column), value);
    }

    fn heat_map(&self, measure: &str) -> HeatMap {
        let pairs =
            self.rows.iter().flat_map(|row| self.columns.iter().map(move |column| (row.clone(), column.clone())));
        HeatMap {
            values: pairs.map(|pair| self.values.get(&pair).copied()).collect(),
            rows: self.rows.clone(),
            columns: self.columns.clone(),
            scale: Scale::Reds { low: 0.0, high: 100.0 },
            measure: measure.into(),
            decimals: Some(1),
        }
    }
}

/// Dataset of the fit against dataset of the evaluation, a facet per method, at the best layer. One figure for each
/// metric and kind of result file; the random direction is the last row of every facet. The files are one model's.
pub fn cross_dataset(files: &[ResultFile]) -> Vec<Named> {
    let mut groups: BTreeMap<(String, Metric), Vec<&ResultFile>> = BTreeMap::new();
    for file in files {
        groups.entry((file.kind(), file.name.metric)).or_default().push(file);
    }
    let mut figures = Vec::new();
    for ((kind, metric), files) in groups {
        let mut methods: BTreeMap<FoundBy, Cells> = BTreeMap::new();
        let mut random: Vec<(String, f64)> = Vec::new();
        for file in &files {
            for best in file.best_layers() {
                let place = if file.name.scaffold.name() == "plain" {
                    best.patched.clone()
                } else {
                    format!("{} {}", best.patched, file.name.scaffold)
                };
                if best.method == RANDOM {
                    random.push((place, best.percent));
                } else {
                    methods.entry(best.method).or_default().insert(best.fitted_on, place, best.percent);
                }
            }
        }
        for cells in methods.values_mut() {
            for (place, percent) in &random {
                cells.insert(RANDOM.to_string(), place.clone(), *percent);
            }
        }
        let facet = |(method, cells): (&FoundBy, &Cells)| Facet {
            title: method.to_string(),
            x: Axis::new("patched"),
            y: Axis::new("fitted on"),
            plot: Plot::HeatMap(cells.heat_map(measure(metric))),
        };
        let facets: Vec<Facet> = methods.iter().map(facet).collect();
        if facets.is_empty() {
            continue;
        }
        let model = files.first().map_or("", |file| file.model.as_str());
        let mut figure = Figure::new(format!("{model}: {}, best layer, {kind}", measure(metric)), facets);
        figure.caption = BEST_LAYER.into();
        // The usual figure has the paper's name: the logit difference in the residual stream.
        let metric = if metric == Metric::LogitDiff { "" } else { metric.name() };
        let kind = kind.strip_prefix("resid").map_or(kind.as_str(), |rest| rest.trim_start_matches('_'));
        figures.push(Named { stem: stem(&["direction_patching_cross_dataset", metric, kind]), figure });
    }
    figures
}

/// The paper's table: methods against `simple_test` and the Treebank's test set under both metrics, a facet per model.
/// Where neither dataset was patched, all that were.
pub fn simple(files: &[ResultFile]) -> Vec<Named> {
    let mut kinds: BTreeMap<String, BTreeMap<&str, Cells>> = BTreeMap::new();
    let usual = |set: &str| matches!(set, "simple_test" | "treebank_test");
    let any_usual = files.iter().flat_map(|file| &file.cells).any(|cell| usual(&cell.patched.set));
    for file in files.iter().filter(|file| matches!(file.name.metric, Metric::LogitDiff | Metric::LogitFlip)) {
        for best in file.best_layers() {
            let set = best.patched.split(' ').next().unwrap_or_default();
            if any_usual && !usual(set) {
                continue;
            }
            let fit = if best.fitted_on == NOWHERE { String::new() } else { format!(" {}", best.fitted_on) };
            let scaffold =
                if file.name.scaffold.name() == "plain" { String::new() } else { format!(" {}", file.name.scaffold) };
            let column = format!("{}{scaffold}, {}", best.patched, file.name.metric);
            let cells = kinds.entry(file.kind()).or_default().entry(&file.model).or_default();
            cells.insert(format!("{}{fit}", best.method), column, best.percent);
        }
    }
    let figure = |(kind, models): (String, BTreeMap<&str, Cells>)| {
        let facet = |(model, cells): (&&str, &Cells)| Facet {
            title: (*model).to_owned(),
            x: Axis::new("patched, metric"),
            y: Axis::new("method, fitted on"),
            plot: Plot::HeatMap(cells.heat_map("recovered (%)")),
        };
        let mut figure =
            Figure::new(format!("Patching along directions, best layer, {kind}"), models.iter().map(facet).collect());
        figure.caption = BEST_LAYER.into();
        Named { stem: stem(&["direction_patching", &kind, "simple"]), figure }
    };
    kinds.into_iter().map(figure).collect()
}
