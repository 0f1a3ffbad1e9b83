//! Figures: plain data in, `<stem>.svg`, `<stem>.png`, `<stem>.pdf` and `<stem>.html` out.
//!
//! An experiment adds a figure by describing it and writing it; nothing of colours, fonts or layout is its business:
//!
//! ```no_run
//! use actpatch::report::figure::{Axis, Facet, Figure, HeatMap, Plot, Scale};
//!
//! let map = HeatMap {
//!     rows: vec!["0".into(), "1".into()],
//!     columns: vec!["0".into(), "1".into(), "2".into()],
//!     values: vec![Some(0.5), Some(-3.0), None, Some(12.0), Some(0.0), Some(1.5)],
//!     scale: Scale::Diverging,
//!     measure: "logit difference recovered (%)".into(),
//!     decimals: Some(0),
//! };
//! let facet = Facet {
//!     title: "gpt2-small".into(),
//!     x: Axis::new("head"),
//!     y: Axis::new("layer"),
//!     plot: Plot::HeatMap(map),
//! };
//! let figure = Figure::new("Activation patching of head outputs", vec![facet]);
//! figure.write("data/gpt2-small".as_ref(), "activation_patching_z")?;
//! # Ok::<(), actpatch::report::ReportError>(())
//! ```
//!
//! Series and classes of one name have one colour in every facet; heat maps of one figure share one colour scale, so
//! their measures must be the same. The SVG is drawn by plotters; resvg makes the PNG of it, at 288 pixels per inch of
//! the SVG's natural size; the PDF has the same shapes, and texts as outlines; the HTML is a page of the same data ([`super::pages`]). Text is measured and rendered with Liberation Sans, which is part of the program and
//! has the widths of Arial and Helvetica: no font has to be installed, and an SVG viewer without it shows the same
//! layout.
//!
//! Drawing is the feature `figures`. Without it figures are described and checked all the same, and come to nothing; pages of
//! other views are written with and without.

#[cfg(feature = "figures")]
mod drawing;
mod html;
mod palette;

use super::ReportError;
#[cfg(feature = "figures")]
use super::error::write_whole;
use super::pages::{self, packed};
#[cfg(feature = "figures")]
pub use drawing::FONT_FAMILY;
pub(super) use html::escaped;
pub use palette::Scale;
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};

/// What the names of a figure's files end in.
const ENDINGS: &[&str] = if cfg!(feature = "figures") { &["svg", "png", "pdf", "html"] } else { &[] };

/// One picture: a title and facets side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Above everything; may be empty.
    pub title: String,
    /// Below everything, in small type; may be empty. What a reader must know to read the values right.
    pub caption: String,
    /// The facets, row by row.
    pub facets: Vec<Facet>,
    /// Facets in one row; 0 chooses.
    pub columns: usize,
    /// What its page leads to from the cells of its heat maps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Prompts>,
}

/// The prompts behind the heat maps of a figure, whose values are the means over them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Prompts {
    /// Clean and, where there are such, corrupted texts.
    pub texts: Vec<(String, Option<String>)>,
    /// Prompt by prompt the values of all cells.
    #[serde(serialize_with = "pages::floats")]
    pub values: Vec<f32>,
    /// Of every heat map which cell is its first one, and how many there are from row to row and from column to column.
    pub cells: Vec<[usize; 3]>,
}

/// One coordinate system of a figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Facet {
    /// Above the facet; may be empty.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn.
    pub plot: Plot,
}

/// What an axis measures.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Axis {
    /// Its name with the unit in parentheses, `logit difference recovered (%)`.
    pub label: String,
    /// Both ends; from the data without it.
    pub range: Option<(f64, f64)>,
    /// Ticks at whole numbers only: layers, positions, counts.
    pub whole: bool,
}

/// The kinds of plots.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Plot {
    /// Coloured cells. The axes' ranges have no meaning here.
    HeatMap(HeatMap),
    /// One line with markers per series.
    Lines(Vec<Series>),
    /// Points of several classes.
    Scatter(Vec<Class>),
    /// Horizontal bars, one group of series per label, the first label on top. `y` is the labels' axis.
    Bars(Bars),
    /// Counts or shares between edges.
    Histogram(Histogram),
    /// Series stacked on each other, the first one lowest; all have the same x values.
    Areas(Vec<Series>),
}

/// Cells of a matrix.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeatMap {
    /// Labels of the rows, top to bottom.
    pub rows: Vec<String>,
    /// Labels of the columns, left to right.
    pub columns: Vec<String>,
    /// `(rows, columns)`, row-major; `None` is not measured and drawn as such.
    #[serde(serialize_with = "floats")]
    pub values: Vec<Option<f64>>,
    /// Colours.
    pub scale: Scale,
    /// What the values are, with the unit: the name of the colour bar.
    pub measure: String,
    /// Decimals of the values written into the cells; no values without it.
    pub decimals: Option<usize>,
}

/// A line, or one band of stacked areas.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// In the legend; one name has one colour in all facets.
    pub name: String,
    /// `(x, y)` in order of x.
    pub points: Vec<(f64, f64)>,
    /// A baseline to compare the others with: grey and dashed.
    pub baseline: bool,
}

/// Points of one colour and shape.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Class {
    /// In the legend; one name has one colour in all facets.
    pub name: String,
    /// The points.
    pub points: Vec<Point>,
}

/// A point of a scatter plot.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// Horizontal.
    pub x: f64,
    /// Vertical.
    pub y: f64,
    /// Beside the point where there is room, and always under the pointer; may be empty.
    pub label: String,
}

/// Bars in groups.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bars {
    /// Labels of the groups, top to bottom.
    pub labels: Vec<String>,
    /// Per series its name and one value per label; `None` is not measured.
    pub series: Vec<(String, Vec<Option<f64>>)>,
}

/// Bars between edges.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Histogram {
    /// Ascending, one more than values.
    pub edges: Vec<f64>,
    /// Per series its name and one value per bin.
    pub series: Vec<(String, Vec<f64>)>,
}

fn floats<S: Serializer>(values: &[Option<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    packed(values.iter().map(|value| value.map_or(f32::NAN, |value| value as f32))).serialize(serializer)
}

impl Axis {
    /// An axis whose range comes from the data.
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), range: None, whole: false }
    }

    /// An axis of whole numbers.
    pub fn whole(label: impl Into<String>) -> Self {
        Self { whole: true, ..Self::new(label) }
    }
}

impl Figure {
    /// A figure without a caption.
    pub fn new(title: impl Into<String>, facets: Vec<Facet>) -> Self {
        Self { title: title.into(), caption: String::new(), facets, columns: 0, prompts: None }
    }

    /// Gives the facets without a range of their own the vertical range that holds all their values.
    pub fn share_y(&mut self) {
        let ranges: Vec<(f64, f64)> = self.facets.iter().filter_map(|facet| facet.plot.ranges().1).collect();
        let shared = ranges.into_iter().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        for facet in &mut self.facets {
            facet.y.range = facet.y.range.or(shared);
        }
    }

    /// The files that [`Figure::write`] writes: none without the feature `figures`.
    pub fn paths(folder: &Path, stem: &str) -> Vec<PathBuf> {
        ENDINGS.iter().map(|ending| folder.join(format!("{stem}.{ending}"))).collect()
    }

    /// Writes `<stem>.svg`, `<stem>.png`, `<stem>.pdf` and `<stem>.html` into `folder`, each whole or not at all, and returns their
    /// paths. Without the feature `figures` the values are checked, nothing is written and there are no paths.
    ///
    /// # Errors
    /// [`ReportError::Figure`] for values that cannot be drawn (not finite, another number of values than the labels
    /// say, nothing at all), [`ReportError::Io`].
    pub fn write(&self, folder: &Path, stem: &str) -> Result<Vec<PathBuf>, ReportError> {
        self.check()?;
        let paths = Self::paths(folder, stem);
        #[cfg(feature = "figures")]
        for (path, bytes) in paths.iter().zip(drawing::files(self, stem)?) {
            write_whole(path, &bytes)?;
        }
        Ok(paths)
    }

    /// The same for a figure of data that are on disk already: one that cannot be drawn costs a warning, and no data.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write_beside_data(&self, folder: &Path, stem: &str) -> Result<Vec<PathBuf>, ReportError> {
        self.write(folder, stem).or_else(|error| match error {
            ReportError::Figure { .. } => {
                tracing::warn!("{stem} is not drawn, its data are there: {error}");
                Ok(Vec::new())
            }
            other => Err(other),
        })
    }

    /// The figure as SVG text.
    ///
    /// # Errors
    /// [`ReportError::Figure`].
    #[cfg(feature = "figures")]
    pub fn svg(&self) -> Result<String, ReportError> {
        self.check()?;
        drawing::svg(self)
    }

    fn fault(&self, field: &str, expected: &str, found: &str) -> ReportError {
        let title = self.title.clone();
        ReportError::Figure { title, field: field.into(), expected: expected.into(), found: found.into() }
    }

    /// Refuses what cannot be drawn.
    fn check(&self) -> Result<(), ReportError> {
        if self.facets.is_empty() {
            return Err(self.fault("facets", "at least one", "none"));
        }
        for facet in &self.facets {
            let place =
                |what: &str| if facet.title.is_empty() { what.into() } else { format!("{}: {what}", facet.title) };
            for (wanted, found, what) in facet.plot.counts() {
                if wanted != found {
                    return Err(self.fault(&place(what), &wanted.to_string(), &found.to_string()));
                }
            }
            if let Some(wrong) = facet.plot.values().into_iter().find(|value| !value.is_finite()) {
                return Err(self.fault(&place("values"), "finite numbers", &wrong.to_string()));
            }
            let ends = [facet.x.range, facet.y.range].into_iter().flatten();
            if let Some((low, high)) =
                ends.into_iter().find(|(low, high)| !(low.is_finite() && high.is_finite() && low <= high))
            {
                return Err(self.fault(&place("range"), "a finite range", &format!("{low}..{high}")));
            }
        }
        if self.facets.iter().all(|facet| facet.plot.values().is_empty()) {
            return Err(self.fault("values", "at least one", "none"));
        }
        Ok(())
    }
}

impl Plot {
    /// Pairs of numbers that must be equal, and what they count.
    fn counts(&self) -> Vec<(usize, usize, &'static str)> {
        match self {
            Self::HeatMap(map) => vec![(map.rows.len() * map.columns.len(), map.values.len(), "values")],
            Self::Bars(bars) => {
                bars.series.iter().map(|(_, values)| (bars.labels.len(), values.len(), "values")).collect()
            }
            Self::Histogram(histogram) => {
                let bins = histogram.edges.len().saturating_sub(1);
                histogram.series.iter().map(|(_, values)| (bins, values.len(), "values")).collect()
            }
            Self::Areas(series) => {
                let first = series.first().map_or(0, |series| series.points.len());
                series.iter().map(|series| (first, series.points.len(), "points")).collect()
            }
            Self::Lines(_) | Self::Scatter(_) => Vec::new(),
        }
    }

    /// Every number that is drawn.
    fn values(&self) -> Vec<f64> {
        let both = |points: &[(f64, f64)]| points.iter().flat_map(|&(x, y)| [x, y]).collect::<Vec<_>>();
        match self {
            Self::HeatMap(map) => map.values.iter().flatten().copied().collect(),
            Self::Lines(series) | Self::Areas(series) => {
                series.iter().flat_map(|series| both(&series.points)).collect()
            }
            Self::Scatter(classes) => {
                classes.iter().flat_map(|class| class.points.iter().flat_map(|point| [point.x, point.y])).collect()
            }
            Self::Bars(bars) => bars.series.iter().flat_map(|(_, values)| values.iter().flatten().copied()).collect(),
            Self::Histogram(histogram) => {
                let values = histogram.series.iter().flat_map(|(_, values)| values.iter().copied());
                histogram.edges.iter().copied().chain(values).collect()
            }
        }
    }

    /// Horizontal and vertical range of the data; `None` where an axis has no numbers.
    fn ranges(&self) -> (Option<Range>, Option<Range>) {
        let points: Vec<(f64, f64)> = match self {
            Self::HeatMap(_) => return (None, None),
            Self::Bars(_) => {
                return (extent(self.values().into_iter().chain([0.0])), None);
            }
            Self::Lines(series) => series.iter().flat_map(|series| series.points.iter().copied()).collect(),
            Self::Areas(series) => {
                let stacked = stacked(series);
                let tops = stacked.iter().flatten().map(|&(x, _, top)| (x, top));
                let bottoms = stacked.iter().flatten().map(|&(x, bottom, _)| (x, bottom));
                tops.chain(bottoms).collect()
            }
            Self::Scatter(classes) => {
                classes.iter().flat_map(|class| class.points.iter().map(|point| (point.x, point.y))).collect()
            }
            Self::Histogram(histogram) => {
                let values = histogram.series.iter().flat_map(|(_, values)| values.iter().copied());
                return (extent(histogram.edges.iter().copied()), extent(values.chain([0.0])));
            }
        };
        (extent(points.iter().map(|point| point.0)), extent(points.iter().map(|point| point.1)))
    }
}

/// Smallest and largest value.
type Range = (f64, f64);

fn extent(values: impl Iterator<Item = f64>) -> Option<Range> {
    values.fold(None, |range: Option<Range>, value| {
        Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))))
    })
}

/// Bottom and top of every series at every x.
fn stacked(series: &[Series]) -> Vec<Vec<(f64, f64, f64)>> {
    let mut tops = vec![0.0; series.first().map_or(0, |series| series.points.len())];
    let mut bands = Vec::new();
    for one in series {
        let band = one.points.iter().zip(&mut tops).map(|(&(x, height), top)| {
            let bottom = *top;
            *top += height;
            (x, bottom, *top)
        });
        bands.push(band.collect());
    }
    bands
}

#[cfg(all(test, not(feature = "figures")))]
mod tests {
    use super::*;

    #[test]
    fn without_the_figures_feature_values_are_checked_and_nothing_is_written() {
        let figure = |y: f64| {
            let line = Series { name: "das".into(), points: vec![(0.0, y)], baseline: false };
            let plot = Plot::Lines(vec![line]);
            Figure::new("x", vec![Facet { title: String::new(), x: Axis::new("layer"), y: Axis::new("%"), plot }])
        };
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(figure(1.0).write(folder.path(), "stem").unwrap(), Figure::paths(folder.path(), "stem"));
        assert_eq!(Figure::paths(folder.path(), "stem"), Vec::<PathBuf>::new());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let message = figure(f64::NAN).write(folder.path(), "stem").unwrap_err().to_string();
        assert!(message.contains("expected finite numbers"), "{message}");
    }
}
