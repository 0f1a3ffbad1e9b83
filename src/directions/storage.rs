//! Direction files: an `.npy` array, which other tools read, and a JSON record of how it came about.

use super::formats::npy;
use super::{DirectionError, DirectionName, FoundBy, ImportSource};
use crate::compat::Compat;
use crate::files::{sha256, write_all};
use crate::types::Matrix;
use ndarray::{ArrayView1, ArrayView2};
use ndarray_npy::WriteNpyExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Values of a direction file: far above any model's `3 d_model`, far below what would exhaust the memory.
pub(super) const LARGEST_FILE: u64 = 1 << 28;

/// A fitted direction or subspace.
#[derive(Debug, Clone, PartialEq)]
pub struct Direction {
    /// Method, dataset, position and layer.
    pub name: DirectionName,
    /// `(d_model, k)`, as fitted: neither unit length nor sign is implied.
    pub columns: Matrix,
}

/// How a direction was fitted: the JSON file beside the array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitRecord {
    /// The direction's name.
    pub name: String,
    /// Model, as on the Hub or the folder given.
    pub model: String,
    /// The model's revision.
    pub revision: Option<String>,
    /// Weight processing under which it was fitted (`fold_ln`, …): the residual basis depends on it.
    pub weight_processing: Vec<String>,
    /// Fitting method; of a direction that was found elsewhere its name without the layer.
    pub method: FoundBy,
    /// Dataset of the fit.
    pub dataset: Option<String>,
    /// Placeholder of the fit.
    pub position: Option<String>,
    /// Layer.
    pub layer: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// Ways of the paper's code that its prompts follow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub compat: Vec<Compat>,
    /// Settings of the method.
    pub settings: serde_json::Value,
    /// Loss after each epoch (DAS), otherwise empty.
    pub loss_curve: Vec<f64>,
    /// Loss on each test set after each epoch (DAS with test sets), by the test set's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub test_loss_curves: BTreeMap<String, Vec<f64>>,
    /// Final loss (DAS) or train accuracy.
    pub final_metric: Option<f64>,
    /// Version of this crate.
    pub version: String,
    /// Everything that its values depend on, by name; none in records of version 0.1 and of imported directions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<BTreeMap<String, serde_json::Value>>,
    /// Hash of the array's file; none in records of version 0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_sha256: Option<String>,
    /// Where an imported direction was read from. Its model and weight processing are what the user said of it; its
    /// seed and settings are not known (0 and none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<ImportSource>,
}

impl Direction {
    /// Where the array and the record lie in `folder`.
    pub fn paths(folder: &Path, name: &DirectionName) -> (PathBuf, PathBuf) {
        (folder.join(format!("{name}.npy")), folder.join(format!("{name}.json")))
    }

    /// Writes `<name>.npy` (f32, C order; `(d_model,)` for one column, else `(d_model, k)`) and `<name>.json` into
    /// `folder`, which is made if need be. The files appear whole, both or neither; the array comes last.
    ///
    /// # Errors
    /// [`DirectionError::File`] for a direction that [`Direction::read`] would refuse, [`DirectionError::Io`].
    pub fn write(&self, folder: &Path, record: &FitRecord) -> Result<PathBuf, DirectionError> {
        let (array, json) = Self::paths(folder, &self.name);
        check_values(&array, &self.name, &self.columns, self.columns.rows)?;
        std::fs::create_dir_all(folder).map_err(|source| DirectionError::Io { path: folder.into(), source })?;
        let mut bytes = Vec::new();
        let Matrix { rows, cols, data } = &self.columns;
        let written = if *cols == 1 {
            ArrayView1::from(data).write_npy(&mut bytes)
        } else {
            let view = ArrayView2::from_shape((*rows, *cols), data);
            view.map_err(|error| ndarray_npy::WriteNpyError::FormatData(error.into()))
                .and_then(|view| view.write_npy(&mut bytes))
        };
        written.map_err(|error| DirectionError::Io { path: array.clone(), source: std::io::Error::other(error) })?;
        let record = FitRecord { array_sha256: Some(sha256(&bytes)), ..record.clone() };
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|error| DirectionError::Io { path: json.clone(), source: error.into() })?;
        let files = [(json.as_path(), &text[..]), (array.as_path(), &bytes[..])];
        write_all(&files).map_err(|(path, source)| DirectionError::Io { path: path.into(), source })?;
        Ok(array)
    }

    /// Reads `<name>.npy` from `folder` for a model of width `d_model`: `(d_model,)`, `(1, d_model)` or `(d_model, k)`
    /// with the method's `k`, of 16, 32 or 64 bits in either byte order, C or Fortran order.
    ///
    /// # Errors
    /// [`DirectionError::File`] for another shape or type, NaN, infinity or a column of zeros; [`DirectionError::Io`].
    pub fn read(folder: &Path, name: &DirectionName, d_model: usize) -> Result<Self, DirectionError> {
        Ok(Self::read_hashed(folder, name, d_model)?.0)
    }

    /// The same, with the hash of the file.
    ///
    /// # Errors
    /// As [`Direction::read`].
    pub fn read_hashed(folder: &Path, name: &DirectionName, d_model: usize) -> Result<(Self, String), DirectionError> {
        let path = Self::paths(folder, name).0;
        let bytes = read_bounded(&path)?;
        Ok((Self::checked(&path, name, d_model, npy(&path, &bytes)?)?, sha256(&bytes)))
    }

    /// The same for an array of any width.
    ///
    /// # Errors
    /// As [`Direction::read`].
    pub fn read_any_width(folder: &Path, name: &DirectionName) -> Result<Self, DirectionError> {
        let path = Self::paths(folder, name).0;
        let columns = npy(&path, &read_bounded(&path)?)?;
        Self::checked(&path, name, columns.rows, columns)
    }

    /// A direction of a file's array, if it can be one.
    ///
    /// # Errors
    /// As [`Direction::read`].
    pub(super) fn checked(
        path: &Path,
        name: &DirectionName,
        d_model: usize,
        columns: Matrix,
    ) -> Result<Self, DirectionError> {
        check_values(path, name, &columns, d_model)?;
        Ok(Self { name: name.clone(), columns })
    }

    /// The columns scaled to unit length, as patching uses them.
    pub fn unit_columns(&self) -> Matrix {
        let Matrix { rows, cols, data } = &self.columns;
        let mut unit = self.columns.clone();
        for col in 0..*cols {
            let length = (0..*rows).map(|row| f64::from(data[row * cols + col]).powi(2)).sum::<f64>().sqrt();
            (0..*rows)
                .for_each(|row| unit.data[row * cols + col] = (f64::from(data[row * cols + col]) / length) as f32);
        }
        unit
    }
}

impl FitRecord {
    /// The record of a direction of which no more than its name is known.
    pub fn of(name: &DirectionName) -> Self {
        Self {
            name: name.to_string(),
            model: String::new(),
            revision: None,
            weight_processing: Vec::new(),
            method: name.found_by().clone(),
            dataset: name.dataset().map(Into::into),
            position: name.position().map(Into::into),
            layer: name.layer(),
            seed: 0,
            compat: Vec::new(),
            settings: serde_json::json!({}),
            loss_curve: Vec::new(),
            test_loss_curves: BTreeMap::new(),
            final_metric: None,
            version: env!("CARGO_PKG_VERSION").into(),
            provenance: None,
            array_sha256: None,
            imported: None,
        }
    }

    /// Is this the record of the array in this file, as far as it says?
    ///
    /// # Errors
    /// [`DirectionError::Io`], [`DirectionError::File`] for a file too large to be a direction.
    pub fn is_of(&self, array: &Path) -> Result<bool, DirectionError> {
        match &self.array_sha256 {
            None => Ok(true),
            Some(hash) => Ok(*hash == sha256(&read_bounded(array)?)),
        }
    }

    /// Reads the record beside a direction.
    ///
    /// # Errors
    /// [`DirectionError::Io`], [`DirectionError::File`] when it is not a record.
    pub fn read(folder: &Path, name: &DirectionName) -> Result<Self, DirectionError> {
        let (_, path) = Direction::paths(folder, name);
        serde_json::from_slice(&read_bounded(&path)?)
            .map_err(|error| file_error(&path, "content", "the record of a fit".into(), error.to_string()))
    }
}

/// The names of all direction files (`.npy`) in `folder`, sorted; other files are none of ours and are skipped. A name that
/// tells of no method is a direction's if there is a record of it: results may be called alike.
///
/// # Errors
/// [`DirectionError::Io`].
pub fn list(folder: &Path) -> Result<Vec<DirectionName>, DirectionError> {
    let io = |source| DirectionError::Io { path: folder.into(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let file = entry.map_err(io)?.file_name();
        let name = file.to_str().filter(|name| name.ends_with(".npy")).and_then(|name| name.parse().ok());
        let recorded =
            |name: &DirectionName| FitRecord::read(folder, name).is_ok_and(|record| record.name == name.to_string());
        names.extend(name.filter(|name: &DirectionName| name.method().is_some() || recorded(name)));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

pub(super) fn file_error(path: &Path, field: &'static str, expected: String, found: String) -> DirectionError {
    DirectionError::File { path: path.into(), field, expected, found }
}

pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, DirectionError> {
    let io = |source| DirectionError::Io { path: path.into(), source };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > LARGEST_FILE {
        return Err(file_error(path, "size", format!("at most {LARGEST_FILE} bytes"), format!("{size} bytes")));
    }
    std::fs::read(path).map_err(io)
}

/// What every direction must satisfy to be patched along.
fn check_values(path: &Path, name: &DirectionName, columns: &Matrix, d_model: usize) -> Result<(), DirectionError> {
    let k = name.dimensions().unwrap_or(columns.cols);
    // More columns than the space has dimensions are no subspace's; they may be rows.
    let fits = (columns.rows, columns.cols) == (d_model, k) && (1..=d_model).contains(&k);
    if !fits || columns.data.len() != d_model * k {
        let expected = match name.dimensions() {
            None => format!("({d_model},) or ({d_model}, k)"),
            Some(1) => format!("({d_model},)"),
            Some(k) => format!("({d_model}, {k})"),
        };
        let found = if columns.cols == 1 {
            format!("({},)", columns.rows)
        } else {
            format!("({}, {})", columns.rows, columns.cols)
        };
        let expected = format!("{expected} for {} and d_model {d_model}", name.found_by());
        return Err(file_error(path, "shape", expected, found));
    }
    if let Some(index) = columns.data.iter().position(|value| !value.is_finite()) {
        let found = format!("{} at row {}, column {}", columns.data[index], index / k, index % k);
        return Err(file_error(path, "values", "finite numbers".into(), found));
    }
    match (0..k).find(|col| columns.data.iter().skip(*col).step_by(k).all(|value| *value == 0.0)) {
        Some(col) => {
            let found = format!("only zeros, or what is zero in 32 bits, in column {col}");
            Err(file_error(path, "values", "a direction".into(), found))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &DirectionName) -> FitRecord {
        FitRecord {
            model: "gpt2".into(),
            revision: Some("main".into()),
            weight_processing: vec!["fold_ln".into()],
            compat: vec![Compat::DoubleSpaces],
            settings: serde_json::json!({"epochs": 64}),
            loss_curve: vec![0.5, 0.25],
            test_loss_curves: BTreeMap::from([("simple_test".into(), vec![0.6, 0.3])]),
            final_metric: Some(0.25),
            provenance: Some(BTreeMap::from([("dataset".into(), "0123".into())])),
            ..FitRecord::of(name)
        }
    }

    /// An `.npy` file of version 1 with the given header fields.
    fn npy(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn files_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("gpt2-small");
        for (text, k) in [("das_simple_train_ADJ_layer3", 1), ("das2d_simple_train_ADJ_layer3", 2)] {
            let name: DirectionName = text.parse().unwrap();
            let columns = Matrix::new(4, k, (0..4 * k).map(|i| i as f32 - 1.5).collect());
            let direction = Direction { name: name.clone(), columns };
            let path = direction.write(&folder, &record(&name)).unwrap();
            assert_eq!(Direction::read(&folder, &name, 4).unwrap(), direction);
            let bytes = std::fs::read(&path).unwrap();
            let written = FitRecord { array_sha256: Some(sha256(&bytes)), ..record(&name) };
            assert_eq!(FitRecord::read(&folder, &name).unwrap(), written);
            assert!(written.is_of(&path).unwrap());
            let header = String::from_utf8_lossy(&bytes[..128]).into_owned();
            let shape = if k == 1 { "(4,)" } else { "(4, 2)" };
            assert!(header.contains("'<f4'") && header.contains(shape) && header.contains("False"), "{header}");
        }
        std::fs::write(folder.join("notes.npy"), b"no direction").unwrap();
        let names: Vec<_> = list(&folder).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["das_simple_train_ADJ_layer3", "das2d_simple_train_ADJ_layer3"]);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 5, "no temporary file stays behind");
    }

    #[test]
    fn other_layouts_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let name: DirectionName = "das2d_simple_train_ADJ_layer0".parse().unwrap();
        let path = Direction::paths(folder.path(), &name).0;
        // Fortran order: column after column.
        std::fs::write(&path, npy("<f4", "True", "(3, 2)", &floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))).unwrap();
        let columns = Direction::read(folder.path(), &name, 3).unwrap().columns;
        assert_eq!(columns.data, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let name: DirectionName = "pca_simple_train_ADJ_layer0".parse().unwrap();
        let doubles: Vec<u8> = [0.5f64, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let big: Vec<u8> = [0.5f64, -2.0].iter().flat_map(|value| value.to_be_bytes()).collect();
        // 0x3800 and 0xC000 are 0.5 and -2 in IEEE 754 of 16 bits.
        for (dtype, shape, bytes) in [
            ("<f8", "(2,)", &doubles[..]),
            (">f8", "(2, 1)", &big),
            ("<f2", "(1, 2)", &[0x00, 0x38, 0x00, 0xC0]),
            (">f2", "(2,)", &[0x38, 0x00, 0xC0, 0x00]),
            ("=f2", "(2,)", &[0x00, 0x38, 0x00, 0xC0]),
            (">f4", "(1, 2)", &[0x3F, 0x00, 0x00, 0x00, 0xC0, 0x00, 0x00, 0x00]),
        ] {
            std::fs::write(Direction::paths(folder.path(), &name).0, npy(dtype, "False", shape, bytes)).unwrap();
            assert_eq!(Direction::read(folder.path(), &name, 2).unwrap().columns.data, [0.5, -2.0], "{dtype} {shape}");
            assert_eq!(Direction::read_any_width(folder.path(), &name).unwrap().columns.rows, 2, "{dtype} {shape}");
        }
    }

    #[test]
    fn bad_files_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let name: DirectionName = "pca_simple_train_ADJ_layer0".parse().unwrap();
        let path = Direction::paths(folder.path(), &name).0;
        let good = floats(&[1.0, 2.0]);
        for (bytes, fault) in [
            (npy("<f4", "False", "(3,)", &floats(&[1.0; 3])), "shape: expected (2,) for pca and d_model 2, found (3,)"),
            (npy("<f4", "False", "(2, 2)", &floats(&[1.0; 4])), "found (2, 2)"),
            (npy("<f4", "False", "(2, 1, 1)", &good), "shape: expected (d_model,)"),
            (npy("<f4", "False", "(99999999999, 99999999999)", &good), "shape: expected"),
            (npy("<i4", "False", "(2,)", &[0; 8]), "dtype: expected float16, float32 or float64, found <i4"),
            (npy("f4", "False", "(2,)", &good), "dtype: expected float16, float32 or float64, found f4"),
            (npy("|é4", "False", "(2,)", &good), "dtype: expected float16, float32 or float64, found |é4"),
            (npy("<f4", "False", "(2,)", &good[..7]), "data: expected 8 bytes for (2,), found 7 bytes"),
            (
                npy("<f4", "False", "(2,)", &floats(&[1.0, f32::NAN])),
                "values: expected finite numbers, found NaN at row 1",
            ),
            (npy("<f4", "False", "(2,)", &floats(&[f32::INFINITY, 0.0])), "found inf at row 0"),
            (
                npy("<f4", "False", "(2,)", &floats(&[0.0, -0.0])),
                "found only zeros, or what is zero in 32 bits, in column 0",
            ),
            (b"\x93NUMPY\x01\x00\xff\xff{}".to_vec(), "header: expected an .npy file"),
            (b"[1, 2]".to_vec(), "header: expected an .npy file, found other bytes"),
            (npy("<f4", "Maybe", "(2,)", &good), "a field 'fortran_order'"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let message = Direction::read(folder.path(), &name, 2).unwrap_err().to_string();
            assert!(message.contains(fault) && message.contains("pca_simple_train_ADJ_layer0.npy"), "{message}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Direction::read(folder.path(), &name, 2), Err(DirectionError::Io { .. })));
    }
}
