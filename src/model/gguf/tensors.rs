//! A GGUF model's tensors by the names its family gives them, converted to f32 when they are read.

use super::names::{self, Order};
use super::parts::Parts;
use super::quantised::TensorType;
use crate::model::ModelError;
use crate::model::config::ConfigFile;
use crate::model::families::{Architecture, TensorSpec, transposed};
use crate::model::tensors::release;
use crate::types::Positions;
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Values that one task converts: a multiple of every type's block.
const CHUNK: usize = 1 << 16;

/// A tensor that is no weight: what the rotary wavelengths are divided by, pair by pair. The configuration is made with it.
pub(super) const ROTARY_DIVISORS: &str = "rope_freqs.weight";

/// A tensor of the model, found in one of the files.
#[derive(Debug, Clone)]
struct Location {
    part: usize,
    bytes: Range<usize>,
    kind: TensorType,
    rows: usize,
    /// Values in a row; 1 of a vector.
    width: usize,
    order: Order,
}

/// A model's tensors by the names its family gives them.
#[derive(Debug)]
pub(crate) struct GgufTensors {
    parts: Parts,
    locations: HashMap<String, Location>,
    /// Width of a head.
    d_head: usize,
    n_heads: usize,
}

impl GgufTensors {
    /// Finds every tensor that `architecture` needs, and no other: what else a file holds belongs to something that is not
    /// computed.
    pub fn find(parts: Parts, config: &ConfigFile, architecture: &dyn Architecture) -> Result<Self, ModelError> {
        let outer = architecture.outer();
        let names = names::of(config.text("model_type")?.unwrap_or_default());
        let rotary = matches!(architecture.config().positions, Positions::Rotary { .. });
        let mut used: HashSet<String> = rotary.then(|| ROTARY_DIVISORS.to_owned()).into_iter().collect();
        let mut locations = HashMap::new();
        for spec in architecture.tensors() {
            let own = if architecture.tied() && spec.name == outer.unembed { outer.embed } else { &spec.name };
            let missing = |name: &str| {
                parts.first().wrong(name, format!("a tensor of shape {:?}", spec.shape), "nothing of that name")
            };
            let (name, order) = names.stored(own, outer.blocks).ok_or_else(|| missing(own))?;
            let location = locate(&parts, &name, order, &spec)?.ok_or_else(|| missing(&name))?;
            used.insert(name);
            locations.insert(spec.name, location);
        }
        for file in parts.files() {
            let mut others: Vec<&String> = file.tensors.keys().filter(|name| !used.contains(*name)).collect();
            others.sort();
            if let Some(other) = others.first() {
                let (expected, found) =
                    (format!("tensors of a model of {} blocks only", architecture.config().n_layers), "this one");
                return Err(file.wrong(other, expected, format!("{found}, which is not computed with")));
            }
        }
        let (d_head, n_heads) = (architecture.config().d_head, architecture.config().n_heads);
        Ok(Self { parts, locations, d_head, n_heads })
    }

    /// The files.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Lets the system take back the memory of what was read: it stays in the file, and in the page cache while there is room.
    pub fn release(&self) {
        self.parts.files().iter().for_each(|file| release(file.map(), file.path()));
    }

    /// All values of a tensor, in the family's layout. Borrowed straight from the file where it holds them so.
    pub fn tensor(&self, name: &str) -> Result<Cow<'_, [f32]>, ModelError> {
        let location = self.location(name)?;
        if location.order == Order::Own {
            return Ok(self.in_order(location));
        }
        let rows: Vec<u32> = (0..location.rows as u32).collect();
        let read = |rows: &[u32], values: &mut [f32]| {
            self.read(location, rows, values);
            Ok(())
        };
        if location.order == Order::Transposed {
            return Ok(Cow::Owned(transposed(location.width, &rows, read)?.data));
        }
        let mut values = vec![0.0; location.rows * location.width];
        read(&rows, &mut values)?;
        Ok(Cow::Owned(values))
    }

    /// All values of a tensor in the file's order.
    fn in_order(&self, location: &Location) -> Cow<'_, [f32]> {
        let bytes = self.bytes(location);
        if location.kind == TensorType::F32
            && let Ok(values) = bytemuck::try_cast_slice(bytes)
        {
            return Cow::Borrowed(values);
        }
        let mut values = vec![0.0; location.rows * location.width];
        let chunk = CHUNK / location.kind.block().0 * location.kind.block().1;
        let chunks = values.par_chunks_mut(CHUNK).zip(bytes.par_chunks(chunk));
        chunks.for_each(|(values, bytes)| location.kind.read(bytes, values));
        Cow::Owned(values)
    }

    /// Puts rows of a two-dimensional tensor that is not stored transposed into `values`. The caller has checked that they
    /// exist.
    pub fn read_rows(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<(), ModelError> {
        self.read(self.location(name)?, rows, values);
        Ok(())
    }

    fn read(&self, location: &Location, rows: &[u32], values: &mut [f32]) {
        let bytes = self.bytes(location);
        let (block_values, block_bytes) = location.kind.block();
        let size = location.width / block_values * block_bytes;
        values.par_chunks_mut(location.width).zip(rows).for_each(|(values, row)| {
            let start = self.stored_row(location.order, *row as usize) * size;
            location.kind.read(&bytes[start..start + size], values);
        });
    }

    /// Where the file has the family's row `row`.
    fn stored_row(&self, order: Order, row: usize) -> usize {
        let (d_head, half) = (self.d_head, self.d_head / 2);
        let (head, within) = (row / d_head, row % d_head);
        match order {
            Order::Own | Order::Transposed => row,
            Order::Pairs => head * d_head + within % half * 2 + within / half,
            // The family's heads are (head, query | key | value).
            Order::Parts => (head % 3 * self.n_heads + head / 3) * d_head + within,
        }
    }

    fn location(&self, name: &str) -> Result<&Location, ModelError> {
        self.locations.get(name).ok_or_else(|| self.parts.first().wrong(name, "a tensor of the family", "another name"))
    }

    fn bytes(&self, location: &Location) -> &[u8] {
        &self.parts.files()[location.part].bytes()[location.bytes.clone()]
    }
}

/// A tensor's place, if it is there and has the right shape.
fn locate(parts: &Parts, name: &str, order: Order, spec: &TensorSpec) -> Result<Option<Location>, ModelError> {
    let Some((part, place)) = parts.find(name) else { return Ok(None) };
    let mut expected = spec.shape.clone();
    if order == Order::Transposed {
        expected.reverse();
    }
    if place.shape != expected {
        return Err(parts.files()[part].wrong(name, format!("shape {expected:?}"), format!("{:?}", place.shape)));
    }
    // The rows of a vector are its values: one may lie elsewhere than the next.
    let (rows, width) = match (expected.as_slice(), order) {
        ([count], Order::Own) => (1, *count),
        ([count], _) => (*count, 1),
        (sides, _) => (sides.iter().rev().skip(1).product(), sides.last().copied().unwrap_or(1)),
    };
    if width % place.kind.block().0 != 0 {
        let found = format!("a vector of type {} whose values have another order here", place.kind.name());
        return Err(parts.files()[part].wrong(name, "F32, F16 or BF16", found));
    }
    let (bytes, kind) = (place.bytes.clone(), place.kind);
    Ok(Some(Location { part, bytes, kind, rows, width, order }))
}
