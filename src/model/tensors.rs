//! `.safetensors` files, single or sharded, memory-mapped: their tensors are checked against the architecture once,
//! and converted to f32 when they are read.

use super::families::{Architecture, TensorSpec};
use super::stored_names::StoredNames;
use super::{ModelConfig, ModelError};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// Name of a model's only weight file.
pub(crate) const SINGLE: &str = "model.safetensors";

/// Name of the table of contents of a sharded model.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Values that one task converts.
const CHUNK: usize = 1 << 16;

/// A file's contents.
#[derive(Debug)]
enum Contents {
    Mapped(Mmap),
    Embedded(&'static [u8]),
}

/// One `.safetensors` file and its header.
#[derive(Debug)]
struct Shard {
    path: PathBuf,
    contents: Contents,
    /// Where the tensors' bytes start.
    data: usize,
    tensors: HashMap<String, TensorInfo>,
}

/// A tensor of the model, found in one of the files.
#[derive(Debug, Clone)]
struct Location {
    shard: usize,
    bytes: Range<usize>,
    dtype: Dtype,
    /// Values in a row (the last dimension).
    width: usize,
}

/// A model's tensors by the names its family gives them.
#[derive(Debug)]
pub(crate) struct TensorFiles {
    shards: Vec<Shard>,
    locations: HashMap<String, Location>,
}

impl TensorFiles {
    /// Opens the weights in `folder`, single or sharded, and checks every tensor that `architecture` needs.
    pub fn open(folder: &Path, architecture: &dyn Architecture) -> Result<Self, ModelError> {
        let (contents, paths) = weight_files(folder)?;
        let shards = paths.iter().map(|path| Shard::map(path)).collect::<Result<Vec<_>, _>>()?;
        Self::check(shards, Place { listing: &contents, config: &folder.join("config.json") }, architecture)
    }

    /// The same for a file that is part of the program.
    pub fn embedded(path: &Path, bytes: &'static [u8], architecture: &dyn Architecture) -> Result<Self, ModelError> {
        let shard = Shard::parse(path, Contents::Embedded(bytes))?;
        Self::check(vec![shard], Place { listing: path, config: &path.with_file_name("config.json") }, architecture)
    }

    /// The weight files, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|shard| shard.path.as_path())
    }

    /// Lets the system take back the memory of what was read: it stays in the file, and in the page cache while there
    /// is room.
    pub fn release(&self) {
        for shard in &self.shards {
            if let Contents::Mapped(map) = &shard.contents {
                release(map, &shard.path);
            }
        }
    }

    /// All values of a tensor. Borrowed straight from the file where it holds f32.
    pub fn tensor(&self, name: &str) -> Result<Cow<'_, [f32]>, ModelError> {
        let location = self.location(name)?;
        let bytes = self.bytes(location);
        if location.dtype == Dtype::F32
            && let Ok(values) = bytemuck::try_cast_slice(bytes)
        {
            return Ok(Cow::Borrowed(values));
        }
        let size = value_size(location.dtype);
        let mut values = vec![0.0; bytes.len() / size];
        values
            .par_chunks_mut(CHUNK)
            .zip(bytes.par_chunks(CHUNK * size))
            .for_each(|(values, bytes)| convert(location.dtype, bytes, values));
        Ok(Cow::Owned(values))
    }

    /// Puts rows of a two-dimensional tensor into `values`. The caller has checked that they exist.
    pub fn read_rows(&self, name: &str, rows: &[u32], values: &mut [f32]) -> Result<(), ModelError> {
        let location = self.location(name)?;
        let bytes = self.bytes(location);
        let row_size = location.width * value_size(location.dtype);
        values.par_chunks_mut(location.width).zip(rows).for_each(|(values, row)| {
            let start = *row as usize * row_size;
            convert(location.dtype, &bytes[start..start + row_size], values);
        });
        Ok(())
    }

    fn location(&self, name: &str) -> Result<&Location, ModelError> {
        self.locations.get(name).ok_or_else(|| ModelError::MissingTensor {
            path: self.shards.first().map(|shard| shard.path.clone()).unwrap_or_default(),
            tensor: name.to_owned(),
            expected: Vec::new(),
        })
    }

    fn bytes(&self, location: &Location) -> &[u8] {
        &self.shards[location.shard].bytes()[location.bytes.clone()]
    }

    /// Finds every tensor of the architecture.
    fn check(shards: Vec<Shard>, place: Place<'_>, architecture: &dyn Architecture) -> Result<Self, ModelError> {
        let stored: HashSet<&str> = shards.iter().flat_map(|shard| shard.tensors.keys().map(String::as_str)).collect();
        let names = StoredNames::find(&stored, architecture).map_err(|roots| ModelError::Weights {
            path: place.listing.into(),
            message: format!("holds several models, in front of whose tensors stand {}", roots.join(", ")),
        })?;
        check_blocks(&names, place, architecture)?;
        let outer = architecture.outer();
        let mut locations = HashMap::new();
        for spec in architecture.tensors() {
            let is_head = spec.name == outer.unembed;
            let found = shards.iter().enumerate().find_map(|(index, shard)| {
                let find = |name: String| shard.tensors.get_key_value(&name);
                Some((index, shard, names.candidates(&spec, is_head).find_map(find)?))
            });
            match found {
                Some((index, shard, (stored_name, info))) => {
                    let location = shard.locate(index, stored_name, info, &spec)?;
                    locations.insert(spec.name, location);
                }
                // Found under its other name, or missed there.
                None if architecture.tied() && (is_head || spec.name == outer.embed) => {}
                None => return Err(missing(&stored, place.listing, spec)),
            }
        }
        let mut files = Self { shards, locations };
        if architecture.tied() {
            files.tie(place, architecture)?;
        }
        Ok(files)
    }

    /// Makes the embedding and a tied head one tensor, whichever of the two names it is stored under. Two that differ stay
    /// two, as in the library: the checkpoint is right then and its configuration wrong.
    fn tie(&mut self, place: Place<'_>, architecture: &dyn Architecture) -> Result<(), ModelError> {
        let (embed, unembed) = (architecture.outer().embed, architecture.outer().unembed);
        match (self.locations.get(embed).cloned(), self.locations.get(unembed).cloned()) {
            (Some(embedding), Some(head)) => {
                if self.equal(&embedding, &head) {
                    self.locations.insert(unembed.to_owned(), embedding);
                } else {
                    tracing::warn!(
                        "{}: field `tie_word_embeddings`: {embed} and {unembed} are to be one tensor, but {} holds two \
                         that differ: both are used",
                        place.config.display(),
                        place.listing.display()
                    );
                }
                self.release();
            }
            (Some(embedding), None) => drop(self.locations.insert(unembed.to_owned(), embedding)),
            (None, Some(head)) => drop(self.locations.insert(embed.to_owned(), head)),
            (None, None) => {
                let ModelConfig { d_vocab, d_model, .. } = *architecture.config();
                let (path, tensor) = (place.listing.into(), embed.to_owned());
                return Err(ModelError::MissingTensor { path, tensor, expected: vec![d_vocab, d_model] });
            }
        }
        Ok(())
    }

    /// Do two tensors of one shape hold the same values?
    fn equal(&self, left: &Location, right: &Location) -> bool {
        let (sizes, bytes) = ([left, right].map(|l| value_size(l.dtype)), [left, right].map(|l| self.bytes(l)));
        let chunks = [0, 1].map(|side| bytes[side].par_chunks(CHUNK * sizes[side]));
        let [left_chunks, right_chunks] = chunks;
        left_chunks.zip(right_chunks).all(|(a, b)| {
            let mut values = [vec![0.0; a.len() / sizes[0]], vec![0.0; b.len() / sizes[1]]];
            convert(left.dtype, a, &mut values[0]);
            convert(right.dtype, b, &mut values[1]);
            values[0] == values[1]
        })
    }
}

/// Lets the system take back the memory of a mapped file.
#[cfg_attr(not(unix), expect(unused_variables, reason = "there is no such advice"))]
pub(crate) fn release(map: &Mmap, path: &Path) {
    // SAFETY: the map is read-only and shared with its file, so a page that is dropped and touched again is read again
    // with the same contents.
    #[cfg(unix)]
    if let Err(error) = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) } {
        tracing::debug!("{}: its memory stays mapped: {error}", path.display());
    }
}

/// The files that errors name.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Lists the tensors.
    listing: &'a Path,
    /// `config.json`.
    config: &'a Path,
}

/// Compares the number of blocks in the configuration with those stored. The library runs a part of a model when told so,
/// and so does this; blocks that are not there it would make up.
fn check_blocks(names: &StoredNames, place: Place<'_>, architecture: &dyn Architecture) -> Result<(), ModelError> {
    let (asked, stored, field) = (architecture.config().n_layers, names.blocks(), architecture.depth_field());
    let listing = place.listing.display();
    if stored > asked {
        tracing::warn!(
            "{}: field `{field}`: {asked}, but {listing} holds {stored} blocks: the last {} are left out",
            place.config.display(),
            stored - asked
        );
    }
    if stored == 0 || stored >= asked {
        return Ok(());
    }
    Err(ModelError::Config {
        path: place.config.into(),
        field: field.to_owned(),
        expected: format!("at most {stored}, the number of blocks in {listing}"),
        found: asked.to_string(),
    })
}

/// The complaint about a tensor that is not there, or that is there in quantised form only.
fn missing(stored: &HashSet<&str>, listing: &Path, spec: TensorSpec) -> ModelError {
    let packed = spec.name.strip_suffix("weight").and_then(|stem| {
        let packed = ["qweight", "weight_packed", "weight.absmax"].map(|kind| format!("{stem}{kind}"));
        stored.iter().find(|name| packed.iter().any(|packed| name.ends_with(packed)))
    });
    match packed {
        Some(name) => ModelError::Quantised { path: listing.into(), what: format!("tensor `{name}`") },
        None => ModelError::MissingTensor { path: listing.into(), tensor: spec.name, expected: spec.shape },
    }
}

impl Shard {
    fn map(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.into(), source };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is only ever read, as bytes and as f32 (any bit pattern is a value of both). Another process
        // that changes the file while the model is in use would change its weights or end this process; checkpoints
        // are replaced by renaming, not rewritten, and a copy in memory is what mapping is there to avoid.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Self::parse(path, Contents::Mapped(map))
    }

    fn parse(path: &Path, contents: Contents) -> Result<Self, ModelError> {
        let bytes = contents.bytes();
        let error = |message: String| ModelError::Weights { path: path.into(), message };
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error_| {
            let promised = promised_length(bytes);
            error(match promised {
                Some(length) if length > bytes.len() as u64 => {
                    format!("truncated: the header promises {length} bytes, the file has {}", bytes.len())
                }
                _ => format!("not a whole .safetensors file of {} bytes: {error_}", bytes.len()),
            })
        })?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { path: path.into(), data: header + 8, contents, tensors })
    }

    fn bytes(&self) -> &[u8] {
        self.contents.bytes()
    }

    /// Checks shape and type of a tensor.
    fn locate(&self, shard: usize, name: &str, info: &TensorInfo, spec: &TensorSpec) -> Result<Location, ModelError> {
        if is_packed(info.dtype) {
            let what = format!("tensor `{name}` of type {:?}", info.dtype);
            return Err(ModelError::Quantised { path: self.path.clone(), what });
        }
        if info.shape != spec.shape {
            return Err(ModelError::TensorShape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: spec.shape.clone(),
                found: info.shape.clone(),
            });
        }
        if !matches!(info.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            let found = format!("{:?}", info.dtype);
            return Err(ModelError::TensorType { path: self.path.clone(), tensor: name.to_owned(), found });
        }
        let (start, end) = info.data_offsets;
        let width = spec.shape.last().copied().unwrap_or(1);
        Ok(Location { shard, bytes: self.data + start..self.data + end, dtype: info.dtype, width })
    }
}

impl Contents {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Embedded(bytes) => bytes,
        }
    }
}

/// Length of the whole file according to its own header, as far as the header can be read.
fn promised_length(bytes: &[u8]) -> Option<u64> {
    let header = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let data_start = header.checked_add(8)?;
    let Some(json) = bytes.get(8..usize::try_from(data_start).ok()?) else { return Some(data_start) };
    let fields: HashMap<String, Value> = serde_json::from_slice(json).ok()?;
    let ends = fields.values().filter_map(|info| info.get("data_offsets")?.get(1)?.as_u64());
    data_start.checked_add(ends.max().unwrap_or(0))
}

/// Bytes of a value of one of the types that are read.
fn value_size(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F64 => 8,
        Dtype::F32 => 4,
        _ => 2,
    }
}

/// Is this a type that quantised weights have?
fn is_packed(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::U8
            | Dtype::I8
            | Dtype::F8_E4M3
            | Dtype::F8_E5M2
            | Dtype::F8_E8M0
            | Dtype::F4
            | Dtype::F6_E2M3
            | Dtype::F6_E3M2
    )
}

/// Little-endian `bytes` of type `dtype` as f32; `values` has as many places as there are values.
fn convert(dtype: Dtype, bytes: &[u8], values: &mut [f32]) {
    match dtype {
        Dtype::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
            Ok(halves) => halves.convert_to_f32_slice(values),
            Err(_) => each(bytes, values, |pair| f16::from_le_bytes(pair).to_f32()),
        },
        Dtype::BF16 => each(bytes, values, |pair| bf16::from_le_bytes(pair).to_f32()),
        Dtype::F64 => each(bytes, values, |wide| f64::from_le_bytes(wide) as f32),
        _ => each(bytes, values, f32::from_le_bytes),
    }
}

fn each<const N: usize>(bytes: &[u8], values: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *value = read(*bytes);
    }
}

/// Does a folder hold weights of this format?
pub(crate) fn has_weights(folder: &Path) -> bool {
    [SINGLE, INDEX].iter().any(|name| folder.join(name).is_file())
}

/// The file that lists the folder's tensors, and the files that hold them.
fn weight_files(folder: &Path) -> Result<(PathBuf, Vec<PathBuf>), ModelError> {
    let single = folder.join(SINGLE);
    if single.is_file() {
        return Ok((single.clone(), vec![single]));
    }
    let index = folder.join(INDEX);
    if index.is_file() {
        let shards = shard_names(&index)?;
        let paths: Vec<PathBuf> = shards.iter().map(|name| folder.join(name)).collect();
        if let Some(missing) = paths.iter().find(|path| !path.is_file()) {
            let hint = format!("{} names it as a shard", index.display());
            return Err(ModelError::MissingFile { path: missing.clone(), hint });
        }
        return Ok((index, paths));
    }
    Err(ModelError::MissingFile { path: single, hint: conversion_hint(folder) })
}

/// Is this a `.safetensors` file of the length that its header gives?
#[cfg(feature = "hub")]
pub(crate) fn is_whole(path: &Path) -> bool {
    Shard::map(path).is_ok()
}

/// What to do about a folder without `.safetensors` weights.
fn conversion_hint(folder: &Path) -> String {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"].iter().find(|name| folder.join(name).is_file());
    match pickled {
        Some(name) => format!(
            "the folder has {name} only; convert it in Python: AutoModelForCausalLM.from_pretrained(\"{0}\")\
             .save_pretrained(\"{0}\", safe_serialization=True)",
            folder.display()
        ),
        None => format!("a model folder holds config.json, tokenizer.json and {SINGLE} (or {INDEX} and its shards)"),
    }
}

/// The shards that an index names, in order.
pub(crate) fn shard_names(index: &Path) -> Result<BTreeSet<String>, ModelError> {
    let bytes = std::fs::read(index).map_err(|source| ModelError::Io { path: index.into(), source })?;
    let json: Value = serde_json::from_slice(&bytes)
        .map_err(|error| ModelError::Json { path: index.into(), message: error.to_string() })?;
    let error = |message: String| ModelError::Weights { path: index.into(), message };
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.filter(|map| !map.is_empty());
    let map = map.ok_or_else(|| error("field `weight_map`: expected a table from tensors to files".to_owned()))?;
    let plain = |name: &str| {
        let mut parts = Path::new(name).components();
        matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
    };
    map.iter()
        .map(|(tensor, file)| match file.as_str().filter(|name| plain(name)) {
            Some(name) => Ok(name.to_owned()),
            None => Err(error(format!(
                "field `weight_map.{tensor}`: expected a file name in the same folder, found {file}"
            ))),
        })
        .collect()
}
