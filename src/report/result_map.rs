//! Maps of results: an array for programs, a long table for people, and a figure; all in percent.

use super::ReportError;
use super::error::write_whole;
use super::figure::{Axis, Facet, Figure, HeatMap, Plot, Scale};
use ndarray::ArrayViewD;
use ndarray_npy::WriteNpyExt;
use std::path::{Path, PathBuf};

/// Values over named axes.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultMap {
    /// Names of the axes, outermost first.
    pub axes: Vec<&'static str>,
    /// Their lengths.
    pub shape: Vec<usize>,
    /// Percent, row-major.
    pub percent: Vec<f64>,
}

impl ResultMap {
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

    /// Value numbers from the largest absolute value down.
    pub fn by_size(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.percent.len()).collect();
        order.sort_by(|&a, &b| self.percent[b].abs().total_cmp(&self.percent[a].abs()));
        order
    }

    /// Heat maps of the values, layers from top to bottom, one beside the other for positions that stand beside two other
    /// axes (those at which nothing differs are left out). `positions` are the labels of the positions. None for a single
    /// number, and for neurons, which are too many to be seen.
    pub fn figure(&self, title: &str, measure: &str, positions: &[String]) -> Option<Figure> {
        let apart = self.axes.iter().position(|axis| *axis == "position").filter(|_| self.axes.len() == 3);
        let shown: Vec<usize> = (0..self.axes.len()).filter(|axis| Some(*axis) != apart).collect();
        let (rows, columns) = match shown[..] {
            [columns] => (None, columns),
            [rows, columns] => (Some(rows), columns),
            _ => return None,
        };
        if self.axes[columns] == "neuron" {
            return None;
        }
        let label = |axis: usize, number: usize| match self.axes[axis] {
            "position" => positions.get(number).cloned().unwrap_or_else(|| number.to_string()),
            _ => number.to_string(),
        };
        let labels = |axis: usize| (0..self.shape[axis]).map(|number| label(axis, number)).collect::<Vec<_>>();
        let facet = |number: usize| {
            let here = |index: &usize| apart.is_none_or(|axis| self.place(*index)[axis] == number);
            let values: Vec<f64> = (0..self.percent.len()).filter(here).map(|index| self.percent[index]).collect();
            if apart.is_some() && values.windows(2).all(|pair| pair[0] == pair[1]) {
                return None;
            }
            let map = HeatMap {
                rows: rows.map_or_else(|| vec![String::new()], labels),
                columns: labels(columns),
                values: values.into_iter().map(Some).collect(),
                scale: Scale::Diverging,
                measure: measure.to_owned(),
                decimals: None,
            };
            Some(Facet {
                title: apart.map_or(String::new(), |axis| format!("position {}", label(axis, number))),
                x: Axis::new(self.axes[columns]),
                y: Axis::new(rows.map_or("", |axis| self.axes[axis])),
                plot: Plot::HeatMap(map),
            })
        };
        let facets: Vec<Facet> = (0..apart.map_or(1, |axis| self.shape[axis])).filter_map(facet).collect();
        (!facets.is_empty()).then(|| Figure::new(title, facets))
    }

    /// Writes `<stem>.npy` (f64, C order, of the map's shape) and `<stem>.csv` (a column per axis, then `percent`).
    ///
    /// # Errors
    /// [`ReportError::Io`].
    pub fn write(&self, folder: &Path, stem: &str) -> Result<(), ReportError> {
        let [npy, csv] = Self::paths(folder, stem);
        let failed =
            |path: &Path, reason: String| ReportError::Io { path: path.into(), source: std::io::Error::other(reason) };
        let mut bytes = Vec::new();
        let view = ArrayViewD::from_shape(self.shape.clone(), &self.percent);
        view.map_err(|error| failed(&npy, error.to_string()))?
            .write_npy(&mut bytes)
            .map_err(|error| failed(&npy, error.to_string()))?;
        let mut writer = csv::Writer::from_writer(Vec::new());
        let header = self.axes.iter().copied().chain(["percent"]);
        let mut rows = vec![header.map(str::to_owned).collect::<Vec<_>>()];
        for (index, percent) in self.percent.iter().enumerate() {
            rows.push(self.place(index).iter().map(usize::to_string).chain([percent.to_string()]).collect());
        }
        rows.iter().try_for_each(|row| writer.write_record(row)).map_err(|error| failed(&csv, error.to_string()))?;
        let table = writer.into_inner().map_err(|error| failed(&csv, error.to_string()))?;
        write_whole(&npy, &bytes)?;
        write_whole(&csv, &table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_and_tables_hold_the_same_values() {
        let map = ResultMap {
            axes: vec!["position", "layer", "head"],
            shape: vec![2, 1, 3],
            percent: vec![1.0, -2.5, 3.0, 0.0, 50.25, -60.0],
        };
        assert_eq!(map.place(4), [1, 0, 1]);
        assert_eq!(map.by_size()[..2], [5, 4]);
        let folder = tempfile::tempdir().unwrap();
        map.write(folder.path(), "x").unwrap();
        let [npy, csv] = ResultMap::paths(folder.path(), "x");
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
        let single = ResultMap { axes: vec![], shape: vec![], percent: vec![1.0] };
        assert_eq!(single.figure("x", "y", &[]), None);
        assert!(table.starts_with("position,layer,head,percent\n0,0,0,1\n0,0,1,-2.5\n"), "{table}");
        assert_eq!(table.lines().count(), 7);
    }
}
