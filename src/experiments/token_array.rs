//! A corpus of token ids as an array: an `.npy` file of integers, `(rows, tokens)`, read row by row.

use super::corpus::CorpusError;
use crate::npy::{NpyFault, NpyHead};
use crate::types::numbers;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Longest row, in bytes: it is in memory as a whole.
const LONGEST_ROW: usize = 16 << 20;

/// The rows of an array that have not been read yet.
pub(super) struct TokenArray {
    path: PathBuf,
    reader: BufReader<File>,
    dtype: Integer,
    /// Rows of the array, and tokens of each.
    shape: [usize; 2],
    /// Rows read so far.
    read: usize,
    d_vocab: usize,
}

/// Type of the ids, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Integer {
    U16,
    U32,
    I32,
    I64,
}

impl Integer {
    fn of(dtype: &str) -> Option<Self> {
        match dtype {
            "<u2" => Some(Self::U16),
            "<u4" => Some(Self::U32),
            "<i4" => Some(Self::I32),
            "<i8" => Some(Self::I64),
            _ => None,
        }
    }

    fn width(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }

    /// The value of `width` bytes.
    fn value(self, bytes: &[u8]) -> i64 {
        let unsigned = bytes.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        match self {
            Self::I32 => (unsigned as u32 as i32).into(),
            Self::U16 | Self::U32 | Self::I64 => unsigned as i64,
        }
    }
}

impl TokenArray {
    /// Reads the head of a file; ids are checked against a vocabulary of `d_vocab` as rows are read.
    ///
    /// # Errors
    /// [`CorpusError::Io`]; [`CorpusError::Array`] for other types, shapes and orders, and for a file of another length.
    pub fn open(path: &Path, d_vocab: usize) -> Result<Self, CorpusError> {
        let io = |source| CorpusError::Io { path: path.into(), source };
        let wrong = |field: &str, expected: String, found| CorpusError::Array {
            path: path.into(),
            field: field.into(),
            expected,
            found,
        };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let head =
            NpyHead::read(&mut reader).map_err(|NpyFault { field, expected, found }| wrong(field, expected, found))?;
        let types = "uint16, uint32, int32 or int64, little-endian";
        let dtype = Integer::of(&head.dtype).ok_or_else(|| wrong("dtype", types.into(), head.dtype.clone()))?;
        let [rows, tokens] = head.shape[..] else {
            return Err(wrong("shape", "(rows, tokens)".into(), head.shape_text()));
        };
        // An array of one row or one column has both orders.
        if head.fortran && rows > 1 && tokens > 1 {
            return Err(wrong("fortran_order", "False".into(), "True".into()));
        }
        let longest = LONGEST_ROW / dtype.width();
        if tokens > longest {
            return Err(wrong("shape", format!("rows of at most {longest} tokens"), head.shape_text()));
        }
        let behind = length - io::Seek::stream_position(&mut reader).map_err(io)?;
        match head.data_len(dtype.width()) {
            Some(expected) if expected as u64 == behind => {}
            expected => {
                let bytes = expected.map_or("more".into(), |expected| expected.to_string());
                return Err(wrong(
                    "data",
                    format!("{bytes} bytes for {}", head.shape_text()),
                    format!("{behind} bytes"),
                ));
            }
        }
        let rows = if tokens == 0 { 0 } else { rows };
        Ok(Self { path: path.into(), reader, dtype, shape: [rows, tokens], read: 0, d_vocab })
    }
}

impl Iterator for TokenArray {
    type Item = Result<Vec<u32>, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let [rows, tokens] = self.shape;
        if self.read == rows {
            return None;
        }
        let row = self.read;
        self.read += 1;
        let mut bytes = vec![0; tokens * self.dtype.width()];
        if let Err(source) = self.reader.read_exact(&mut bytes) {
            return Some(Err(CorpusError::Io { path: self.path.clone(), source }));
        }
        let token = |(column, bytes): (usize, &[u8])| {
            let value = self.dtype.value(bytes);
            let known = usize::try_from(value).is_ok_and(|token| token < self.d_vocab);
            known.then_some(value as u32).ok_or_else(|| CorpusError::Array {
                path: self.path.clone(),
                field: format!("row {row}, column {column}"),
                expected: format!("tokens {}", numbers(self.d_vocab)),
                found: value.to_string(),
            })
        };
        Some(bytes.chunks_exact(self.dtype.width()).enumerate().map(token).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An `.npy` file of version 1.
    fn npy(dtype: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let head = format!("{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes(), data].concat()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u32>>, CorpusError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.npy");
        std::fs::write(&path, bytes).unwrap();
        TokenArray::open(&path, 70_000)?.collect()
    }

    #[test]
    fn all_types_are_read() {
        let expected = [[0u64, 258], [65_535, 7], [3, 4]];
        for (dtype, width) in [("<u2", 2), ("<u4", 4), ("<i4", 4), ("<i8", 8)] {
            let ids: Vec<u8> = expected.iter().flatten().flat_map(|id| id.to_le_bytes()[..width].to_vec()).collect();
            let expected = expected.map(|row| row.map(|id| id as u32));
            assert_eq!(read(&npy(dtype, "False", "(3, 2)", &ids)).unwrap(), expected, "{dtype}");
        }
        let one = [5u8, 0, 6, 0];
        assert_eq!(read(&npy("<u2", "True", "(1, 2)", &one)).unwrap(), [[5, 6]]);
        assert_eq!(read(&npy("<u2", "False", "(99999999999, 0)", b"")).unwrap(), Vec::<Vec<u32>>::new());
        // What NumPy writes.
        let mut bytes = Vec::new();
        ndarray_npy::WriteNpyExt::write_npy(&ndarray::array![[1i64, 2, 3], [4, 5, 69_999]], &mut bytes).unwrap();
        assert_eq!(read(&bytes).unwrap(), [[1, 2, 3], [4, 5, 69_999]]);
    }

    #[test]
    fn faults_are_named() {
        for (bytes, fault) in [
            (b"[[1, 2]]".to_vec(), "header: expected an .npy file, found other bytes"),
            (npy("<f4", "False", "(1, 1)", &[0; 4]), "dtype: expected uint16, uint32, int32 or int64"),
            (npy(">i4", "False", "(1, 1)", &[0; 4]), "little-endian, found >i4"),
            (npy("<i4", "False", "(2,)", &[0; 8]), "shape: expected (rows, tokens), found (2,)"),
            (npy("<i4", "False", "(1, 1, 1)", &[0; 4]), "found (1, 1, 1)"),
            (npy("<i4", "False", "(1, 99999999)", &[0; 4]), "shape: expected rows of at most 4194304 tokens"),
            (npy("<i4", "True", "(2, 2)", &[0; 16]), "fortran_order: expected False, found True"),
            (npy("<i4", "False", "(2, 2)", &[0; 15]), "data: expected 16 bytes for (2, 2), found 15 bytes"),
            (npy("<i4", "False", "(2, 2)", &[0; 17]), "found 17 bytes"),
            (npy("<i8", "False", "(9999999999999999999, 2)", &[0; 8]), "data: expected more bytes"),
            (
                npy("<i4", "False", "(1, 2)", &[0, 0, 0, 0, 255, 255, 255, 255]),
                "row 0, column 1: expected tokens 0 to 69999, found -1",
            ),
            (
                npy("<i8", "False", "(2, 1)", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]),
                "row 1, column 0: expected tokens 0 to 69999, found 4294967296",
            ),
        ] {
            let message = read(&bytes).unwrap_err().to_string();
            assert!(message.contains(fault) && message.contains("tokens.npy"), "{message}");
        }
        assert!(
            TokenArray::open(Path::new("nowhere.npy"), 9).map(|_| ()).unwrap_err().to_string().contains("nowhere.npy")
        );
    }
}
