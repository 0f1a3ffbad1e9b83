//! The head of `.npy` files (NumPy enhancement proposal 1), read by hand: a message has to say which type and shape were
//! found, and a shape that lies must not be allocated.

use regex::bytes::Regex;
use std::io::Read;
use std::sync::LazyLock;

/// Longest head, in bytes; NumPy writes 128.
const LONGEST_HEAD: u64 = 1 << 20;

/// What stands in front of an array's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyHead {
    /// Type of the values, such as `<f4`.
    pub dtype: String,
    /// Does the first axis run fastest?
    pub fortran: bool,
    /// Length of every axis.
    pub shape: Vec<usize>,
}

/// What is wrong with a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NpyFault {
    /// Which field of it.
    pub field: &'static str,
    /// What would fit.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl NpyHead {
    /// Reads the head; `reader` then stands at the data.
    ///
    /// # Errors
    /// [`NpyFault`] for anything but a head with its three fields.
    pub fn read(reader: &mut impl Read) -> Result<Self, NpyFault> {
        static DTYPE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"'descr':\s*'([^']*)'").ok());
        static ORDER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"'fortran_order':\s*(True|False)").ok());
        static SHAPE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"'shape':\s*\(([0-9, ]*)\)").ok());
        let fault = |field, expected: String, found: String| NpyFault { field, expected, found };
        let head = head_bytes(reader).ok_or_else(|| fault("header", "an .npy file".into(), "other bytes".into()))?;
        let field = |regex: &LazyLock<Option<Regex>>, name| {
            let found = regex.as_ref().and_then(|regex| Some(regex.captures(&head)?.get(1)?.as_bytes()));
            let text = found.map(|text| String::from_utf8_lossy(text).into_owned());
            text.ok_or_else(|| fault("header", format!("a field '{name}'"), "none".into()))
        };
        let (dtype, fortran, shape) =
            (field(&DTYPE, "descr")?, field(&ORDER, "fortran_order")? == "True", field(&SHAPE, "shape")?);
        let sides: Result<Vec<usize>, _> =
            shape.split(',').map(str::trim).filter(|side| !side.is_empty()).map(str::parse).collect();
        let shape = sides.map_err(|_| fault("shape", "lengths of axes".into(), format!("({shape})")))?;
        Ok(Self { dtype, fortran, shape })
    }

    /// The shape as Python writes it.
    pub fn shape_text(&self) -> String {
        match self.shape[..] {
            [one] => format!("({one},)"),
            _ => format!("({})", self.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
        }
    }

    /// Bytes of the data when a value has `width` of them; none for more than can be counted.
    pub fn data_len(&self, width: usize) -> Option<usize> {
        self.shape.iter().try_fold(width, |product, side| product.checked_mul(*side))
    }
}

/// The dictionary of a head; none when there is no head.
fn head_bytes(reader: &mut impl Read) -> Option<Vec<u8>> {
    let mut start = [0; 8];
    reader.read_exact(&mut start).ok()?;
    // Version 1 counts in two bytes, those after it in four.
    let mut length = [0; 4];
    let digits = if start.strip_prefix(b"\x93NUMPY")?[0] == 1 { 2 } else { 4 };
    reader.read_exact(&mut length[..digits]).ok()?;
    let length = u64::from(u32::from_le_bytes(length));
    let mut head = Vec::new();
    reader.take(length.min(LONGEST_HEAD)).read_to_end(&mut head).ok()?;
    (head.len() as u64 == length).then_some(head)
}
