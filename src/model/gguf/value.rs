//! Values of a GGUF file's metadata.

use super::reader::Reader;
use crate::model::ModelError;
use serde_json::Value;

/// What an entry of the metadata holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stored {
    /// A number, a flag or a text. Numbers that are not finite are `null`.
    One(Value),
    /// A list, which stays in the file.
    Many(List),
}

/// A list in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct List {
    kind: Kind,
    /// How many values it has.
    pub count: usize,
    /// Where the first one is.
    start: usize,
}

/// Types of values, by their numbers in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Flag,
    Text,
    U64,
    I64,
    F64,
}

impl Kind {
    /// The type with a number; none for lists, which cannot stand in lists, and for numbers that no type has.
    fn of(number: u32) -> Option<Self> {
        const BEFORE_LISTS: [Kind; 9] =
            [Kind::U8, Kind::I8, Kind::U16, Kind::I16, Kind::U32, Kind::I32, Kind::F32, Kind::Flag, Kind::Text];
        match number {
            10 => Some(Self::U64),
            11 => Some(Self::I64),
            12 => Some(Self::F64),
            _ => BEFORE_LISTS.get(number as usize).copied(),
        }
    }

    /// Bytes of the shortest value.
    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Flag => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::Text | Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn read(self, reader: &mut Reader<'_>, what: &str) -> Result<Value, ModelError> {
        if self == Self::Text {
            return reader.text(what).map(Value::from);
        }
        let start = reader.at();
        let bytes = reader.bytes(self.size() as u64, what)?;
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let whole = u64::from_le_bytes(wide);
        Ok(match self {
            Self::Flag if whole > 1 => return Err(reader.wrong(start, what, "0 or 1 for a flag", whole)),
            Self::Flag => (whole == 1).into(),
            Self::I8 => (whole as i8).into(),
            Self::I16 => (whole as i16).into(),
            Self::I32 => (whole as i32).into(),
            Self::I64 => (whole as i64).into(),
            Self::F32 => f64::from(f32::from_bits(whole as u32)).into(),
            Self::F64 => f64::from_bits(whole).into(),
            Self::U8 | Self::U16 | Self::U32 | Self::U64 | Self::Text => whole.into(),
        })
    }
}

/// The number of the type of lists.
const LIST: u32 = 9;

/// The next value behind its type; `what` names it.
pub(super) fn read(reader: &mut Reader<'_>, what: &str) -> Result<Stored, ModelError> {
    let start = reader.at();
    let number = reader.u32(what)?;
    if number != LIST {
        let kind = Kind::of(number).ok_or_else(|| reader.wrong(start, what, "a type from 0 to 12", number))?;
        return kind.read(reader, what).map(Stored::One);
    }
    let start = reader.at();
    let number = reader.u32(what)?;
    let kind = Kind::of(number)
        .ok_or_else(|| reader.wrong(start, what, "a list of values of a type from 0 to 12 but 9", number))?;
    let count = reader.count(kind.size(), what)?;
    let list = List { kind, count, start: reader.at() };
    if kind == Kind::Text {
        (0..count).try_for_each(|_| reader.text(what).map(drop))?;
    } else {
        reader.bytes((count * kind.size()) as u64, what)?;
    }
    Ok(Stored::Many(list))
}

impl List {
    /// The texts of a list that holds such; `reader` is one of the file.
    pub fn texts<'a>(&self, reader: &Reader<'a>, what: &str) -> Result<Vec<&'a str>, ModelError> {
        if self.kind != Kind::Text {
            return Err(reader.wrong(self.start, what, "a list of texts", format!("one of {:?}", self.kind)));
        }
        let mut reader = reader.moved(self.start);
        (0..self.count).map(|_| reader.text(what)).collect()
    }

    /// The values of a list; `reader` is one of the file.
    pub fn values(&self, reader: &Reader<'_>, what: &str) -> Result<Vec<Value>, ModelError> {
        let mut reader = reader.moved(self.start);
        (0..self.count).map(|_| self.kind.read(&mut reader, what)).collect()
    }
}
