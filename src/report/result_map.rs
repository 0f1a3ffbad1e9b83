//! Maps of results: an array for programs, a long table for people, and a figure.

use super::ReportError;
use super::error::{write_csv, write_whole};
use super::figure::{Axis, Bars, Facet, Figure, HeatMap, Plot, Scale};
use ndarray::{ArrayD, ArrayViewD};
use ndarray_npy::{WritableElement, WriteNpyExt};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Values over named axes.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultMap {
    /// Names of the axes, outermost first.
    pub axes: Vec<String>,
    /// Their lengths.
    pub shape: Vec<usize>,
    /// What the numbers along the first axis stand for, and along one that is called like it with `other_` in front; empty
    /// where they are just numbers.
    pub components: Vec<String>,
    /// Unit of the values, as the table's column and the JSON name it: `percent`, `logits`.
    pub unit: String,
    /// Row-major.
    pub values: Vec<f64>,
}

/// What the array of a map does not say of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapHead {
    /// Names of the axes.
    pub axes: Vec<String>,
    /// What the numbers along the first axis stand for.
    pub components: Vec<String>,
    /// Unit of the values.
    pub unit: String,
}

/// How many heads or neurons, largest first, a figure shows as bars.
const BARS: usize = 15;

impl ResultMap {
    /// Values over axes whose numbers stand for themselves.
    pub fn new(axes: &[&str], shape: Vec<usize>, unit: &str, values: Vec<f64>) -> Self {
        let axes = axes.iter().map(|axis| (*axis).to_owned()).collect();
        Self { axes, shape, components: Vec::new(), unit: unit.to_owned(), values }
    }

    /// Fractions, in percent.
    pub fn percent(axes: &[&str], shape: Vec<usize>, fractions: &[f64]) -> Self {
        Self::new(axes, shape, "percent", fractions.iter().map(|value| 100.0 * value).collect())
    }

    /// The same with names for the numbers along the first axis.
    pub fn with_components(self, components: Vec<String>) -> Self {
        Self { components, ..self }
    }

    /// What its array does not say of it.
    pub fn head(&self) -> MapHead {
        MapHead { axes: self.axes.clone(), components: self.components.clone(), unit: self.unit.clone() }
    }

    /// Reads the map that [`ResultMap::write`] wrote, given what its array does not say.
    ///
    /// # Errors
    /// [`ReportError`] for an array that cannot be read or has other axes.
    pub fn read(folder: &Path, stem: &str, head: MapHead) -> Result<Self, ReportError> {
        let [path, _] = Self::paths(folder, stem);
        let array: ArrayD<f64> = ndarray_npy::read_npy(&path).map_err(|error| failed(&path, error.to_string()))?;
        let MapHead { axes, components, unit } = head;
        if axes.len() != array.ndim() {
            let found = format!("{} axes", array.ndim());
            let (field, expected) = ("shape".to_owned(), format!("{} axes: {}", axes.len(), axes.join(", ")));
            return Err(ReportError::Content { path, field, expected, found });
        }
        let shape = array.shape().to_vec();
        Ok(Self { axes, shape, components, unit, values: array.iter().copied().collect() })
    }

    /// The array and the table of a map named `stem`.
    pub fn paths(folder: &Path, stem: &str) -> [PathBuf; 2] {
        ["npy", "csv"].map(|ending| folder.join(format!("{stem}.{ending}")))
    }

    /// The place of value `index` on every axis.
    pub fn place(&self, index: usize) -> Vec<usize> {
        let mut left = index;
        let mut place: Vec<usize> = Vec::with_capacity(self.shape.len());
        for len in self.shape.iter().rev() {
            place.push(left % len.max(&1));
            left /= len.max(&1);
        }
        place.reverse();
        place
    }

    /// What a number along an axis stands for, if it has a name.
    fn component(&self, axis: usize, number: usize) -> Option<&String> {
        let named = axis == 0 || self.axes[axis].strip_prefix("other_") == Some(&self.axes[0]);
        self.components.get(number).filter(|_| named)
    }

    /// The place of value `index` as a table names it.
    pub fn labels(&self, index: usize) -> Vec<String> {
        let label = |(axis, number): (usize, usize)| {
            self.component(axis, number).cloned().unwrap_or_else(|| number.to_string())
        };
        self.place(index).into_iter().enumerate().map(label).collect()
    }

    /// Does it have a value? None of them where what it measures is undefined.
    pub fn has_values(&self) -> bool {
        self.values.iter().any(|value| value.is_finite())
    }

    /// Value numbers from the largest absolute value down.
    pub fn by_size(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by(|&a, &b| self.values[b].abs().total_cmp(&self.values[a].abs()));
        order
    }

    /// Heat maps of the values, layers from top to bottom, one beside the other for positions that stand beside two other
    /// axes (those at which nothing differs are left out). `positions` are the labels of the positions. Heads stand beside
    /// it as bars, the largest first; neurons, which are too many to be seen, as bars alone, and so do components, in their
    /// order. None for a single number, and where there are no values.
    pub fn figure(&self, title: &str, measure: &str, positions: &[String]) -> Option<Figure> {
        if !self.has_values() {
            return None;
        }
        let Sides { apart, rows, columns } = self.sides()?;
        if self.are_bars(columns) {
            return Some(Figure::new(title, vec![self.bars(measure)]));
        }
        let label = |axis: usize, number: usize| match self.axes[axis].as_str() {
            "position" => positions.get(number).cloned().unwrap_or_else(|| number.to_string()),
            _ => self.component(axis, number).cloned().unwrap_or_else(|| number.to_string()),
        };
        let labels = |axis: usize| (0..self.shape[axis]).map(|number| label(axis, number)).collect::<Vec<_>>();
        let facet = |number: usize| {
            let values = self.beside(apart, number);
            let map = HeatMap {
                rows: rows.map_or_else(|| vec![String::new()], labels),
                columns: labels(columns),
                values: values.into_iter().map(Some).collect(),
                scale: Scale::Diverging,
                measure: measure.to_owned(),
                decimals: None,
            };
            Facet {
                title: apart.map_or(String::new(), |axis| format!("position {}", label(axis, number))),
                x: Axis::new(&self.axes[columns]),
                y: Axis::new(rows.map_or("", |axis| &self.axes[axis])),
                plot: Plot::HeatMap(map),
            }
        };
        let mut facets: Vec<Facet> = self.facets(apart).map(facet).collect();
        if self.axes == ["layer", "head"] {
            facets.push(self.bars(measure));
        }
        (!facets.is_empty()).then(|| Figure::new(title, facets))
    }

    /// Which axes a figure shows where; none where they are too many, or none.
    fn sides(&self) -> Option<Sides> {
        let apart = self.axes.iter().position(|axis| *axis == "position").filter(|_| self.axes.len() == 3);
        let shown: Vec<usize> = (0..self.axes.len()).filter(|axis| Some(*axis) != apart).collect();
        match shown[..] {
            [columns] => Some(Sides { apart, rows: None, columns }),
            [rows, columns] => Some(Sides { apart, rows: Some(rows), columns }),
            _ => None,
        }
    }

    /// Are values along this axis shown as bars?
    fn are_bars(&self, columns: usize) -> bool {
        ["neuron", "component"].contains(&self.axes[columns].as_str())
    }

    /// The values of number `number` along the axis that stands apart, or all.
    fn beside(&self, apart: Option<usize>, number: usize) -> Vec<f64> {
        let here = |index: &usize| apart.is_none_or(|axis| self.place(*index)[axis] == number);
        (0..self.values.len()).filter(here).map(|index| self.values[index]).collect()
    }

    /// The numbers along the axis that stands apart at which something differs: a facet each; one where none stands apart.
    fn facets(&self, apart: Option<usize>) -> impl Iterator<Item = usize> {
        let differs = move |number: &usize| {
            apart.is_none() || self.beside(apart, *number).windows(2).any(|pair| pair[0] != pair[1])
        };
        (0..apart.map_or(1, |axis| self.shape[axis])).filter(differs)
    }

    /// Where the values of every heat map of [`ResultMap::figure`] lie: the number of its first one, and how many there are
    /// from row to row and from column to column.
    pub fn cells_of_facets(&self) -> Vec<[usize; 3]> {
        let Some(Sides { apart, rows, columns }) = self.sides().filter(|sides| !self.are_bars(sides.columns)) else {
            return Vec::new();
        };
        let step = |axis: Option<usize>| axis.map_or(0, |axis| self.shape[axis + 1..].iter().product());
        let facet = |number: usize| [number * step(apart), step(rows), step(Some(columns))];
        self.facets(apart).map(facet).collect()
    }

    /// The largest values as bars, named by their places, as `10.4` is layer 10, head 4; components all, in their order.
    fn bars(&self, measure: &str) -> Facet {
        let component = self.axes == ["component"];
        let shown: Vec<usize> = match component {
            true => (0..self.values.len()).collect(),
            false => self.by_size().into_iter().take(BARS).collect(),
        };
        let labels = shown.iter().map(|&index| self.labels(index).join(".")).collect();
        let values = shown.iter().map(|&index| Some(self.values[index])).collect();
        let title = if component { String::new() } else { format!("the {} largest", shown.len()) };
        let bars = Bars { labels, series: vec![(measure.to_owned(), values)] };
        Facet { title, x: Axis::new(measure), y: Axis::new(self.axes.join(".")), plot: Plot::Bars(bars) }
    }

    /// Writes `<stem>.npy` (f64, C order, of the map's shape) and `<stem>.csv` (a column per axis, then the unit's). A value
    /// that is undefined is NaN in the array and an empty cell of the table, whose cells are guarded against spreadsheets
    /// or not.
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, folder: &Path, stem: &str, guard: bool) -> Result<(), ReportError> {
        let [npy, csv] = Self::paths(folder, stem);
        let header = self.axes.iter().chain([&self.unit]).cloned().collect::<Vec<_>>();
        let cell = |value: &f64| if value.is_nan() { String::new() } else { value.to_string() };
        let row = |(index, value): (usize, &f64)| self.labels(index).into_iter().chain([cell(value)]).collect();
        write_array(&npy, &self.shape, &self.values)?;
        write_csv(&csv, std::iter::once(header).chain(self.values.iter().enumerate().map(row)), guard)
    }
}

/// Which axes a figure of a map shows where.
struct Sides {
    /// Facet beside facet.
    apart: Option<usize>,
    rows: Option<usize>,
    columns: usize,
}

fn failed(path: &Path, reason: String) -> ReportError {
    ReportError::Io { path: path.into(), source: std::io::Error::other(reason) }
}

/// Writes an array of this shape, in C order, as `.npy`.
///
/// # Errors
/// [`ReportError::Io`], also for values that do not fill the shape.
pub fn write_array<T: WritableElement>(path: &Path, shape: &[usize], values: &[T]) -> Result<(), ReportError> {
    let mut bytes = Vec::new();
    let view = ArrayViewD::from_shape(shape, values).map_err(|error| failed(path, error.to_string()))?;
    view.write_npy(&mut bytes).map_err(|error| failed(path, error.to_string()))?;
    write_whole(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(axes: Vec<&'static str>, shape: Vec<usize>, values: Vec<f64>) -> ResultMap {
        ResultMap::new(&axes, shape, "percent", values)
    }

    #[test]
    fn arrays_and_tables_hold_the_same_values() {
        let values = vec![1.0, -2.5, 3.0, 0.0, 50.25, -60.0];
        let map = percent(vec!["position", "layer", "head"], vec![2, 1, 3], values);
        assert_eq!(map.place(4), [1, 0, 1]);
        assert_eq!(map.by_size()[..2], [5, 4]);
        let folder = tempfile::tempdir().unwrap();
        map.write(folder.path(), "x", false).unwrap();
        let [npy, csv] = ResultMap::paths(folder.path(), "x");
        assert_eq!(ResultMap::read(folder.path(), "x", map.head()).unwrap(), map);
        let other = MapHead { axes: vec!["layer".into()], ..map.head() };
        assert!(ResultMap::read(folder.path(), "x", other).unwrap_err().to_string().contains("expected 1 axes: layer"));
        let array: ndarray::Array3<f64> = ndarray_npy::read_npy(npy).unwrap();
        assert_eq!((array.shape(), array[[1, 0, 2]]), (&[2, 1, 3][..], -60.0));
        let table = std::fs::read_to_string(csv).unwrap();
        let figure = map.figure("x", "logit_diff (%)", &["0".into(), "1 ADJ".into()]).unwrap();
        assert_eq!(
            figure.facets.iter().map(|facet| &facet.title[..]).collect::<Vec<_>>(),
            ["position 0", "position 1 ADJ"]
        );
        let Plot::HeatMap(drawn) = &figure.facets[1].plot else { panic!("{figure:?}") };
        assert_eq!((drawn.columns.len(), &drawn.values[..]), (3, &[Some(0.0), Some(50.25), Some(-60.0)][..]));
        assert_eq!(map.cells_of_facets(), [[0, 3, 1], [3, 3, 1]]);
        let inner = percent(vec!["layer", "position", "head"], vec![2, 2, 2], vec![1.0, 1.0, 2., 3., 1., 1., 4., 5.]);
        assert_eq!(inner.cells_of_facets(), [[2, 4, 1]], "nothing differs at the first position");
        let single = percent(vec![], vec![], vec![1.0]);
        assert_eq!(single.figure("x", "y", &[]), None);
        assert!(table.starts_with("position,layer,head,percent\n0,0,0,1\n0,0,1,-2.5\n"), "{table}");
        assert_eq!(table.lines().count(), 7);
    }
    #[test]
    fn heads_stand_beside_their_map_as_bars_and_components_keep_their_order() {
        let heads = percent(vec!["layer", "head"], vec![2, 2], vec![1.0, -9.0, 3.0, 0.5]);
        let figure = heads.figure("x", "logit_diff (%)", &[]).unwrap();
        let [Plot::HeatMap(_), Plot::Bars(bars)] = [&figure.facets[0].plot, &figure.facets[1].plot] else { panic!() };
        assert_eq!(bars.labels, ["0.1", "1.0", "0.0", "1.1"]);
        assert_eq!(bars.series[0].1[..2], [Some(-9.0), Some(3.0)]);
        assert_eq!(heads.cells_of_facets(), [[0, 2, 1]]);
        let components = vec!["embed".to_owned(), "0_attn_out".to_owned()];
        let parts = ResultMap { components, ..percent(vec!["component"], vec![2], vec![1.0, -9.0]) };
        let figure = parts.figure("x", "y", &[]).unwrap();
        let [Facet { plot: Plot::Bars(bars), .. }] = &figure.facets[..] else { panic!() };
        assert_eq!(bars.labels, parts.components);
        assert_eq!(parts.labels(1), ["0_attn_out"]);
        assert_eq!(parts.cells_of_facets(), Vec::<[usize; 3]>::new());
        let square = ResultMap { axes: vec!["component".into(), "other_component".into()], shape: vec![2, 2], ..parts };
        assert_eq!(square.labels(1), ["embed", "0_attn_out"]);
    }
}
