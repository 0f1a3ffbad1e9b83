//! A GGUF file, memory-mapped: its header, its metadata and the places of its tensors, all checked before anything else looks at
//! them. Values are read later, by those who know what a tensor is for.

use super::metadata::Metadata;
use super::quantised::TensorType;
use super::reader::{Reader, shown};
use crate::model::ModelError;
use memmap2::Mmap;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What a file begins with.
const MAGIC: &[u8] = b"GGUF";

/// The key of what tensors' offsets are multiples of, and its default.
const ALIGNMENT: (&str, u64) = ("general.alignment", 32);

/// Bytes of the shortest description of a tensor: an empty name's length, a dimension and its count, a type, an offset.
const SHORTEST_TENSOR: usize = 32;

/// The most dimensions a tensor has.
const MOST_DIMENSIONS: u32 = 4;

/// The longest name of a tensor, by the format's description; llama.cpp reads shorter ones only.
const LONGEST_NAME: u64 = 64;

/// A tensor's place in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Where its description begins.
    pub described: usize,
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    /// The type of its values.
    pub kind: TensorType,
    /// Its blocks.
    pub bytes: Range<usize>,
}

/// One file.
#[derive(Debug)]
pub(super) struct GgufFile {
    path: PathBuf,
    map: Mmap,
    /// Its metadata.
    pub metadata: Metadata,
    /// Its tensors by name.
    pub tensors: HashMap<String, Place>,
    /// Does it end where the last tensor does, filled up or not to the next offset?
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only a cache of downloads asks"))]
    pub whole: bool,
}

impl GgufFile {
    /// Maps a file and checks it.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is only ever read, as bytes and as f32 (any bit pattern is a value of both). Another process that
        // changes the file while the model is in use would change its weights or end this process; models are replaced by
        // renaming, not rewritten, and a copy in memory is what mapping is there to avoid.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let mut reader = Reader::new(path, &map, 0);
        let (n_tensors, n_keys) = header(&mut reader)?;
        let metadata = Metadata::read(path, &mut reader, n_keys)?;
        let alignment = alignment(&metadata)?;
        let tensors = tensors(&mut reader, n_tensors, alignment)?;
        let end = tensors.values().map(|place| place.bytes.end).max().unwrap_or(reader.at());
        let whole = (end..=end.next_multiple_of(alignment as usize)).contains(&map.len());
        Ok(Self { path: path.into(), map, metadata, tensors, whole })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The file's memory.
    pub fn map(&self) -> &Mmap {
        &self.map
    }

    /// Reads the file from its beginning.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.path, &self.map, 0)
    }

    /// The complaint about a tensor.
    pub fn wrong(&self, tensor: &str, expected: impl Into<String>, found: impl ToString) -> ModelError {
        ModelError::Gguf {
            path: self.path.clone(),
            byte: self.tensors.get(tensor).map(|place| place.described),
            what: what(tensor),
            expected: expected.into(),
            found: shown(&found.to_string()),
        }
    }
}

/// What messages call a tensor.
fn what(name: &str) -> String {
    format!("tensor `{}`", shown(name))
}

/// Checks what the file begins with; the numbers of its tensors and of its keys.
fn header(reader: &mut Reader<'_>) -> Result<(usize, usize), ModelError> {
    let magic = reader.bytes(MAGIC.len() as u64, "header")?;
    if magic != MAGIC {
        return Err(reader.wrong(0, "header", "the letters GGUF", format!("{:?}", magic.escape_ascii().to_string())));
    }
    let byte = reader.at();
    let version = reader.u32("version")?;
    match version {
        2 | 3 => {}
        _ if version != 0 && version & 0xFFFF == 0 => {
            let found = format!("version {}, big-endian", version.swap_bytes());
            return Err(reader.wrong(byte, "version", "a little-endian file", found));
        }
        _ => return Err(reader.wrong(byte, "version", "2 or 3", version)),
    }
    let n_tensors = reader.count(SHORTEST_TENSOR, "number of tensors")?;
    Ok((n_tensors, reader.count(Metadata::SHORTEST, "number of keys")?))
}

fn alignment(metadata: &Metadata) -> Result<u64, ModelError> {
    let (key, default) = ALIGNMENT;
    let alignment = metadata.whole(key)?.unwrap_or(default);
    if alignment.is_power_of_two() && u32::try_from(alignment).is_ok() {
        Ok(alignment)
    } else {
        Err(metadata.wrong(key, "a power of two of 32 bits", alignment))
    }
}

/// What the file says about a tensor.
struct Description<'a> {
    byte: usize,
    name: &'a str,
    shape: Vec<usize>,
    kind: TensorType,
    size: u64,
    offset: u64,
}

/// The tensors behind the metadata. They lie one after the other, in the order of their descriptions, each beginning at a
/// multiple of `alignment`, so that none reaches into another.
fn tensors(reader: &mut Reader<'_>, count: usize, alignment: u64) -> Result<HashMap<String, Place>, ModelError> {
    let mut described = Vec::new();
    for number in 1..=count {
        described.push(description(reader, &format!("name of tensor {number} of {count}"))?);
    }
    let data = (reader.at() as u64).next_multiple_of(alignment);
    let mut next = 0u64;
    let mut tensors = HashMap::new();
    for Description { byte, name, shape, kind, size, offset } in described {
        let what = what(name);
        if offset != next {
            return Err(reader.wrong(byte, &what, format!("offset {next}, behind the tensor before it"), offset));
        }
        let end = data.checked_add(offset).and_then(|start| start.checked_add(size));
        let start = data.saturating_add(offset) as usize;
        let whole = (reader.at() + reader.left()) as u64;
        let Some(end) = end.filter(|end| *end <= whole) else {
            let expected = format!("{size} bytes at byte {start}");
            return Err(reader.wrong(byte, &what, expected, format!("a file of {whole} bytes (is it truncated?)")));
        };
        next = (offset + size).next_multiple_of(alignment);
        let place = Place { described: byte, shape, kind, bytes: start..end as usize };
        if tensors.insert(name.to_owned(), place).is_some() {
            return Err(reader.wrong(byte, &what, "each tensor once", "it a second time"));
        }
    }
    Ok(tensors)
}

fn description<'a>(reader: &mut Reader<'a>, which: &str) -> Result<Description<'a>, ModelError> {
    let byte = reader.at();
    let name = reader.name(LONGEST_NAME, which)?;
    let what = what(name);
    let dimensions = reader.u32(&what)?;
    if dimensions == 0 || dimensions > MOST_DIMENSIONS {
        return Err(reader.wrong(byte, &what, format!("1 to {MOST_DIMENSIONS} dimensions"), dimensions));
    }
    // The file has the width of a row first.
    let sides = (0..dimensions).map(|_| reader.u64(&what)).collect::<Result<Vec<u64>, _>>()?;
    let number = reader.u32(&what)?;
    let offset = reader.u64(&what)?;
    let kind = TensorType::of(number).map_err(|found| {
        reader.wrong(byte, &what, format!("a type of {}", TensorType::names()), format!("type {found}"))
    })?;
    let (values, bytes) = kind.block();
    if sides[0] % values as u64 != 0 {
        let expected = format!("rows of whole blocks of {values} values ({})", kind.name());
        return Err(reader.wrong(byte, &what, expected, format!("dimensions {sides:?}")));
    }
    let blocks = sides[1..].iter().try_fold(sides[0] / values as u64, |blocks, side| blocks.checked_mul(*side));
    let size = blocks.and_then(|blocks| blocks.checked_mul(bytes as u64));
    let shape = sides.iter().rev().map(|side| usize::try_from(*side).ok()).collect::<Option<Vec<usize>>>();
    // As many values as a file can have bytes many times over, and none that is empty.
    match (size.filter(|size| (1..1 << 48).contains(size)), shape) {
        (Some(size), Some(shape)) => Ok(Description { byte, name, shape, kind, size, offset }),
        _ => Err(reader.wrong(byte, &what, "dimensions above 0 whose product fits a file", format!("{sides:?}"))),
    }
}
