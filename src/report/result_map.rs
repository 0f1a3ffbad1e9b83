//! Maps of results: an array for programs, a long table for people, both in percent.

use super::ReportError;
use super::error::write_whole;
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
        assert!(table.starts_with("position,layer,head,percent\n0,0,0,1\n0,0,1,-2.5\n"), "{table}");
        assert_eq!(table.lines().count(), 7);
    }
}
