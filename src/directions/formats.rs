//! Arrays of directions in the files that other tools write: `.npy`, `.npz`, JSON lists and `.safetensors`.

use super::DirectionError;
use super::storage::{LARGEST_FILE, file_error, read_bounded};
use crate::files::{BYTE_ORDER_MARK, sha256};
use crate::npy::{NpyFault, NpyHead};
use crate::types::Matrix;
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use zip::ZipArchive;

/// How a file is written that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Npy,
    Npz,
    Json,
    SafeTensors,
}

/// What a file's ending tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Of(Format),
    /// Of Python's pickle, which may run anything.
    Torch,
}

/// Endings of the formats, those that are read first.
const ENDINGS: [(&str, Ending); 6] = [
    ("npy", Ending::Of(Format::Npy)),
    ("npz", Ending::Of(Format::Npz)),
    ("json", Ending::Of(Format::Json)),
    ("safetensors", Ending::Of(Format::SafeTensors)),
    ("pt", Ending::Torch),
    ("pth", Ending::Torch),
];

/// What can be read, for messages.
pub(super) const READABLE: &str = ".npy, .npz, .json or .safetensors";

impl Ending {
    /// The ending of a file, if it is one of ours.
    pub fn of(path: &Path) -> Option<Self> {
        let ending = path.extension()?.to_str()?;
        ENDINGS.iter().find(|(known, _)| ending.eq_ignore_ascii_case(known)).map(|(_, ending)| *ending)
    }

    /// May a file hold several arrays, each under a name?
    pub fn is_named(self) -> bool {
        matches!(self, Ending::Of(Format::Npz | Format::SafeTensors))
    }
}

/// A file of arrays, read once. What it holds is known by name before any of it is taken for a direction.
pub(super) struct Arrays {
    path: PathBuf,
    format: Format,
    bytes: Vec<u8>,
    /// The arrays' names; none of a file of one array without a name.
    pub names: Vec<Option<String>>,
}

impl Arrays {
    /// Reads a file.
    ///
    /// # Errors
    /// [`DirectionError::File`] for one that is not of its format, [`DirectionError::Io`].
    pub fn open(path: &Path, ending: Ending) -> Result<Self, DirectionError> {
        let Ending::Of(format) = ending else {
            let found = "a file of torch.save, which only Python can read: save the tensor with \
                         numpy.save(\"name_layer3.npy\", tensor.float().cpu().numpy())";
            return Err(file_error(path, "format", READABLE.into(), found.into()));
        };
        let bytes = read_bounded(path)?;
        let mut names: Vec<Option<String>> = match format {
            Format::Npy | Format::Json => vec![None],
            Format::Npz => {
                let archive = archive(path, &bytes)?;
                archive
                    .file_names()
                    .filter_map(|name| name.strip_suffix(".npy"))
                    .map(|name| Some(name.into()))
                    .collect()
            }
            Format::SafeTensors => tensors(path, &bytes)?.names().into_iter().map(|name| Some(name.into())).collect(),
        };
        names.sort();
        Ok(Self { path: path.to_owned(), format, bytes, names })
    }

    /// SHA-256 of the file.
    pub fn sha256(&self) -> String {
        sha256(&self.bytes)
    }

    /// Some of the arrays as `(d_model, k)`.
    ///
    /// # Errors
    /// [`DirectionError::File`] for one that cannot be a direction.
    pub fn read(&self, names: &[Option<String>]) -> Result<Vec<Matrix>, DirectionError> {
        let (path, bytes) = (&self.path, &self.bytes);
        match self.format {
            Format::Npy => Ok(vec![npy(path, bytes)?]),
            Format::Json => Ok(vec![json(path, bytes)?]),
            Format::Npz => npz(path, bytes, names.iter().flatten()),
            Format::SafeTensors => safetensors(path, bytes, names.iter().flatten()),
        }
    }
}

/// A fault of one array of a file that holds several.
pub(super) fn of_array(name: &str) -> impl Fn(DirectionError) -> DirectionError {
    move |error| match error {
        DirectionError::File { path, field, expected, found } => {
            DirectionError::File { path, field, expected, found: format!("{found} in array {name:?}") }
        }
        other => other,
    }
}

/// One direction as a column, however it lies: `(1, d)` is `(d,)`.
fn upright(columns: Matrix) -> Matrix {
    match columns {
        Matrix { rows: 1, cols, data } if cols > 1 => Matrix::new(cols, 1, data),
        columns => columns,
    }
}

/// The two sides of a shape; `shown` names it in errors.
fn sides(path: &Path, shape: &[usize], shown: &str) -> Result<(usize, usize), DirectionError> {
    match *shape {
        [rows] => Ok((rows, 1)),
        [rows, cols] => Ok((rows, cols)),
        _ => Err(wrong_shape(path, shown)),
    }
}

fn wrong_shape(path: &Path, shown: &str) -> DirectionError {
    file_error(path, "shape", "(d_model,) or (d_model, k)".into(), shown.into())
}

/// The array of an `.npy` file.
pub(super) fn npy(path: &Path, bytes: &[u8]) -> Result<Matrix, DirectionError> {
    let mut data = bytes;
    let head = NpyHead::read(&mut data)
        .map_err(|NpyFault { field, expected, found }| file_error(path, field, expected, found))?;
    let shape = head.shape_text();
    let (rows, cols) = sides(path, &head.shape, &shape)?;
    let (big, kind) = match head.dtype.split_at_checked(1) {
        Some((">", kind)) => (true, kind),
        Some(("<" | "=", kind)) => (false, kind),
        _ => (false, ""),
    };
    let width = match kind {
        "f2" => 2,
        "f4" => 4,
        "f8" => 8,
        _ => return Err(file_error(path, "dtype", "float16, float32 or float64".into(), head.dtype)),
    };
    let size = head.data_len(width).ok_or_else(|| wrong_shape(path, &shape))?;
    if data.len() != size {
        return Err(file_error(path, "data", format!("{size} bytes for {shape}"), format!("{} bytes", data.len())));
    }
    let value = |bytes: &[u8]| -> Result<f32, DirectionError> {
        let mut own = [0; 8];
        own[..width].copy_from_slice(bytes);
        if big {
            own[..width].reverse();
        }
        Ok(match width {
            2 => f16::from_le_bytes([own[0], own[1]]).to_f32(),
            4 => f32::from_le_bytes([own[0], own[1], own[2], own[3]]),
            _ => return narrowed(path, f64::from_le_bytes(own)),
        })
    };
    let mut values: Vec<f32> = data.chunks_exact(width).map(value).collect::<Result<_, _>>()?;
    if head.fortran {
        values = (0..rows * cols).map(|index| values[index % cols * rows + index / cols]).collect();
    }
    Ok(upright(Matrix::new(rows, cols, values)))
}

/// A number of 64 bits in 32 bits, unless it is too large for them.
fn narrowed(path: &Path, wide: f64) -> Result<f32, DirectionError> {
    let narrow = wide as f32;
    match wide.is_finite() && narrow.is_infinite() {
        true => Err(file_error(path, "values", format!("numbers up to {:e}", f32::MAX), format!("{wide:e}"))),
        false => Ok(narrow),
    }
}

fn all_narrowed(path: &Path, wide: Vec<f64>) -> Result<Vec<f32>, DirectionError> {
    wide.into_iter().map(|value| narrowed(path, value)).collect()
}

fn wrong_archive(path: &Path, message: String) -> DirectionError {
    file_error(path, "archive", "an .npz file".into(), message)
}

fn archive<'a>(path: &Path, bytes: &'a [u8]) -> Result<ZipArchive<Cursor<&'a [u8]>>, DirectionError> {
    ZipArchive::new(Cursor::new(bytes)).map_err(|error| wrong_archive(path, error.to_string()))
}

/// Arrays of an `.npz` file.
fn npz<'a>(path: &Path, bytes: &[u8], names: impl Iterator<Item = &'a String>) -> Result<Vec<Matrix>, DirectionError> {
    let mut archive = archive(path, bytes)?;
    let mut left = LARGEST_FILE;
    let array = |name: &String| {
        let wrong = |message: String| wrong_archive(path, format!("{name}: {message}"));
        let entry = archive.by_name(&format!("{name}.npy")).map_err(|error| wrong(error.to_string()))?;
        let mut array = Vec::new();
        // A small archive may unpack to any size.
        entry.take(left + 1).read_to_end(&mut array).map_err(|error| wrong(error.to_string()))?;
        left = left
            .checked_sub(array.len() as u64)
            .ok_or_else(|| file_error(path, "size", format!("at most {LARGEST_FILE} bytes unpacked"), "more".into()))?;
        npy(path, &array).map_err(of_array(name))
    };
    names.map(array).collect()
}

fn tensors<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, DirectionError> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| file_error(path, "header", "a .safetensors file".into(), error.to_string()))
}

/// Arrays of a `.safetensors` file.
fn safetensors<'a>(
    path: &Path,
    bytes: &[u8],
    names: impl Iterator<Item = &'a String>,
) -> Result<Vec<Matrix>, DirectionError> {
    let file = tensors(path, bytes)?;
    let array = |name: &String| {
        let tensor = file.tensor(name).map_err(|error| file_error(path, "header", name.clone(), error.to_string()))?;
        of_tensor(path, &tensor).map_err(of_array(name))
    };
    names.map(array).collect()
}

fn of_tensor(path: &Path, tensor: &TensorView<'_>) -> Result<Matrix, DirectionError> {
    let (rows, cols) = sides(path, tensor.shape(), &format!("{:?}", tensor.shape()))?;
    let data = tensor.data();
    let values: Vec<f32> = match tensor.dtype() {
        Dtype::F16 => data.as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F64 => {
            let values = data.as_chunks::<8>().0.iter().map(|bytes| narrowed(path, f64::from_le_bytes(*bytes)));
            values.collect::<Result<_, _>>()?
        }
        other => return Err(file_error(path, "dtype", "F16, BF16, F32 or F64".into(), format!("{other:?}"))),
    };
    Ok(upright(Matrix::new(rows, cols, values)))
}

/// A direction as JSON: a list of `d_model` numbers, or for a subspace of `d_model` lists of `k`.
fn json(path: &Path, bytes: &[u8]) -> Result<Matrix, DirectionError> {
    let wrong = |found: String| {
        let expected = "a JSON list of numbers, or of lists of numbers".into();
        file_error(path, "content", expected, found)
    };
    let bytes = bytes.strip_prefix(&BYTE_ORDER_MARK).unwrap_or(bytes);
    // The first value that is no white space behind the first bracket tells which.
    let nested = bytes.iter().filter(|byte| !byte.is_ascii_whitespace()).nth(1) == Some(&b'[');
    if !nested {
        let values: Vec<f64> = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        return Ok(Matrix::new(values.len(), 1, all_narrowed(path, values)?));
    }
    let rows: Vec<Vec<f64>> = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let k = rows.first().map_or(0, Vec::len);
    if let Some(row) = rows.iter().position(|row| row.len() != k) {
        let (expected, found) = (format!("{k} numbers in every list"), format!("{} in row {row}", rows[row].len()));
        return Err(file_error(path, "content", expected, found));
    }
    Ok(upright(Matrix::new(rows.len(), k, all_narrowed(path, rows.concat())?)))
}
