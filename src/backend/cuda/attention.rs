//! Upload of attention rows, and launches of kernels/attention.cu.

use super::device::{Argument, Grid, Kernel, count};
use super::{CudaBackend, CudaTensor, address};
use crate::backend::{AttentionRow, BackendError, Dtype, Heads, KeyValues, Result};
use cudarc::driver::DeviceRepr;

/// Widest head that the kernels have registers for.
const MAX_WIDTH: usize = 128;

/// Queries, or keys, of a block.
const TILE: usize = 64;

/// Vectors that a block stages at a time.
const STAGED: usize = 32;

/// An attention kernel in its versions: precise for heads up to 64 and 128 wide, then the same in TF32.
type Versions = [Kernel; 4];

const FORWARD: Versions =
    [Kernel::Attention64, Kernel::Attention128, Kernel::AttentionTf3264, Kernel::AttentionTf32128];
const BACKWARD_QUERIES: Versions = [
    Kernel::AttentionBackwardQueries64,
    Kernel::AttentionBackwardQueries128,
    Kernel::AttentionBackwardQueriesTf3264,
    Kernel::AttentionBackwardQueriesTf32128,
];
const BACKWARD_KEYS: Versions = [
    Kernel::AttentionBackwardKeys64,
    Kernel::AttentionBackwardKeys128,
    Kernel::AttentionBackwardKeysTf3264,
    Kernel::AttentionBackwardKeysTf32128,
];

/// The version for a head's width and a number format.
fn version(versions: Versions, width: usize, dtype: Dtype) -> Kernel {
    versions[usize::from(width > MAX_WIDTH / 2) + 2 * usize::from(dtype != Dtype::F32)]
}

/// Bytes of shared memory for `vectors` of heads up to `width` wide, each with four words of padding.
fn shared_bytes(vectors: usize, width: usize) -> usize {
    let columns = if width > MAX_WIDTH / 2 { MAX_WIDTH } else { MAX_WIDTH / 2 };
    vectors * (columns + 4) * size_of::<f32>()
}

/// Vectors in shared memory: queries, keys and values; their gradients too.
const FORWARD_VECTORS: usize = TILE + 2 * STAGED;
const BACKWARD_VECTORS: usize = 2 * TILE + 2 * STAGED;

/// The rows of a ragged attention, cut into tiles of neighbouring queries and of neighbouring keys.
#[derive(Debug)]
pub struct CudaAttentionRows {
    rows: CudaTensor,
    query_tiles: CudaTensor,
    n_query_tiles: usize,
    key_tiles: CudaTensor,
    n_key_tiles: usize,
    /// First row behind those that are read or written.
    query_end: usize,
    key_end: usize,
    prefix_end: usize,
    /// Probabilities per head up to each row: (start, number).
    patterns: Vec<(usize, usize)>,
}

/// `KeyValues` of kernels/attention.cu.
#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct KeyValueAddresses {
    own: u64,
    prefix: u64,
}

// SAFETY: plain numbers in the layout of the kernels' struct.
unsafe impl DeviceRepr for KeyValueAddresses {}

/// `Heads` of kernels/attention.cu.
#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct HeadShape {
    count: u32,
    kv_count: u32,
    width: u32,
    window: u32,
    scale: f32,
}

// SAFETY: plain numbers in the layout of the kernels' struct.
unsafe impl DeviceRepr for HeadShape {}

impl HeadShape {
    fn new(heads: Heads) -> Result<Self> {
        if heads.width > MAX_WIDTH {
            return Err(BackendError::HeadTooWide { width: heads.width, most: MAX_WIDTH });
        }
        let window = heads.window.map_or(Ok(0), count)?;
        let [count, kv_count, width] = [count(heads.count)?, count(heads.kv_count)?, count(heads.width)?];
        Ok(Self { count, kv_count, width, window, scale: heads.scale })
    }
}

/// (row, first) of every tile.
fn tiles(lengths: impl Iterator<Item = usize>) -> Result<Vec<u32>> {
    let mut list = Vec::new();
    for (row, length) in lengths.enumerate() {
        for first in (0..length).step_by(TILE) {
            list.extend([count(row)?, count(first)?]);
        }
    }
    Ok(list)
}

/// What all attention kernels are called with.
struct Call<'a> {
    q: &'a CudaTensor,
    addresses: KeyValueAddresses,
    rows: &'a CudaAttentionRows,
    shape: HeadShape,
    heads: Heads,
}

impl<'a> Call<'a> {
    /// Checks that the arrays hold what the rows name; `q` is any matrix with the queries' shape.
    fn new(
        q: &'a CudaTensor,
        kv: &KeyValues<'_, CudaTensor>,
        rows: &'a CudaAttentionRows,
        heads: Heads,
    ) -> Result<Self> {
        let prefix = kv.prefix.map_or(0, CudaTensor::len);
        assert!(q.len() >= rows.query_end * heads.count * heads.width, "queries of an attention");
        assert!(kv.own.len() >= rows.key_end * heads.kv_stride(), "keys and values of an attention");
        assert!(prefix >= rows.prefix_end * heads.kv_stride(), "prefix of an attention");
        let addresses = KeyValueAddresses { own: kv.own.address(), prefix: address(kv.prefix) };
        Ok(Self { q, addresses, rows, shape: HeadShape::new(heads)?, heads })
    }

    fn per_query(&self, shared: usize) -> Grid {
        Grid { x: self.rows.n_query_tiles, y: self.heads.count, shared }
    }

    fn check_pattern(&self, pattern: &CudaTensor) {
        let end = self.rows.patterns.iter().map(|(start, each)| start + self.heads.count * each).max();
        assert!(pattern.len() >= end.unwrap_or(0), "probabilities of an attention");
    }
}

impl CudaBackend {
    /// Lets every attention kernel use the shared memory it needs.
    pub(super) fn allow_shared_of_attention(&self) -> Result<()> {
        for width in [MAX_WIDTH / 2, MAX_WIDTH] {
            for (versions, vectors) in
                [(FORWARD, FORWARD_VECTORS), (BACKWARD_QUERIES, BACKWARD_VECTORS), (BACKWARD_KEYS, BACKWARD_VECTORS)]
            {
                self.device.allow_shared(version(versions, width, self.dtype), shared_bytes(vectors, width))?;
            }
        }
        self.device.allow_shared(Kernel::AttentionPattern, shared_bytes(TILE + STAGED, MAX_WIDTH))
    }

    pub(super) fn upload_rows(&self, rows: &[AttentionRow]) -> Result<CudaAttentionRows> {
        let mut words = Vec::with_capacity(8 * rows.len());
        for row in rows {
            let part = [row.query_start, row.n_queries, row.key_start, row.n_keys, row.prefix_start, row.n_prefix];
            for value in part {
                words.push(count(value)?);
            }
            words.extend([row.pattern_start as u32, (row.pattern_start >> 32) as u32]);
        }
        let query_tiles = tiles(rows.iter().map(|row| row.n_queries))?;
        let key_tiles = tiles(rows.iter().map(|row| row.n_keys))?;
        let end = |f: fn(&AttentionRow) -> usize| rows.iter().map(f).max().unwrap_or(0);
        Ok(CudaAttentionRows {
            rows: self.upload_words(&words)?,
            n_query_tiles: query_tiles.len() / 2,
            query_tiles: self.upload_words(&query_tiles)?,
            n_key_tiles: key_tiles.len() / 2,
            key_tiles: self.upload_words(&key_tiles)?,
            query_end: end(|row| row.query_start + row.n_queries),
            key_end: end(|row| row.key_start + row.n_keys),
            prefix_end: end(|row| if row.n_prefix == 0 { 0 } else { row.prefix_start + row.n_prefix }),
            patterns: rows.iter().map(|row| (row.pattern_start, row.n_queries * row.total_keys())).collect(),
        })
    }

    pub(super) fn attend(
        &self,
        q: &CudaTensor,
        kv: KeyValues<'_, CudaTensor>,
        rows: &CudaAttentionRows,
        heads: Heads,
        z: &mut CudaTensor,
        log_sum_exp: Option<&mut CudaTensor>,
    ) -> Result<()> {
        let call = Call::new(q, &kv, rows, heads)?;
        assert!(z.len() >= rows.query_end * heads.count * heads.width, "outputs of an attention");
        let fits = |sums: &CudaTensor| sums.len() >= rows.query_end * heads.count;
        assert!(log_sum_exp.as_deref().is_none_or(fits), "log-sums of an attention");
        let (rows, tiles) = (rows.rows.address(), call.rows.query_tiles.address());
        let (z, sums) = (z.address(), address(log_sum_exp.as_deref()));
        let arguments: &[&dyn Argument] = &[&q.address(), &call.addresses, &rows, &tiles, &call.shape, &z, &sums];
        let kernel = version(FORWARD, heads.width, self.dtype);
        // SAFETY: the parameters of `attention`; every array was checked to hold the rows.
        unsafe { self.device.launch(kernel, call.per_query(shared_bytes(FORWARD_VECTORS, heads.width)), arguments) }
    }

    /// The log-sums come from a forward pass into scratch; probabilities are only computed where somebody looks at
    /// them.
    pub(super) fn pattern(
        &self,
        q: &CudaTensor,
        kv: KeyValues<'_, CudaTensor>,
        rows: &CudaAttentionRows,
        heads: Heads,
        pattern: &mut CudaTensor,
    ) -> Result<()> {
        let call = Call::new(q, &kv, rows, heads)?;
        call.check_pattern(pattern);
        let mut z = self.device.take(q.len())?;
        let mut sums = self.device.take(rows.query_end * heads.count)?;
        self.attend(q, kv, rows, heads, &mut z, Some(&mut sums))?;
        let (rows, tiles) = (rows.rows.address(), rows.query_tiles.address());
        let (sums, pattern) = (sums.address(), pattern.address());
        let arguments: &[&dyn Argument] = &[&q.address(), &call.addresses, &rows, &tiles, &call.shape, &sums, &pattern];
        // SAFETY: the parameters of `attention_pattern`; every array was checked to hold the rows.
        unsafe {
            self.device.launch(
                Kernel::AttentionPattern,
                call.per_query(shared_bytes(TILE + STAGED, MAX_WIDTH)),
                arguments,
            )
        }
    }

    pub(super) fn attend_with(
        &self,
        pattern: &CudaTensor,
        kv: KeyValues<'_, CudaTensor>,
        rows: &CudaAttentionRows,
        heads: Heads,
        z: &mut CudaTensor,
    ) -> Result<()> {
        let call = Call::new(z, &kv, rows, heads)?;
        call.check_pattern(pattern);
        let (rows, tiles) = (rows.rows.address(), rows.query_tiles.address());
        let (pattern, z) = (pattern.address(), call.q.address());
        let arguments: &[&dyn Argument] = &[&pattern, &call.addresses, &rows, &tiles, &call.shape, &z];
        // SAFETY: the parameters of `apply_pattern`; every array was checked to hold the rows.
        unsafe { self.device.launch(Kernel::ApplyPattern, call.per_query(shared_bytes(STAGED, MAX_WIDTH)), arguments) }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn attend_backward(
        &self,
        q: &CudaTensor,
        kv: KeyValues<'_, CudaTensor>,
        rows: &CudaAttentionRows,
        heads: Heads,
        log_sum_exp: &CudaTensor,
        dz: &CudaTensor,
        dq: &mut CudaTensor,
        dkv: &mut CudaTensor,
    ) -> Result<()> {
        let call = Call::new(q, &kv, rows, heads)?;
        let queries = rows.query_end * heads.count;
        assert!(dz.len() >= queries * heads.width && dq.len() >= queries * heads.width, "gradients of an attention");
        assert!(log_sum_exp.len() >= queries && dkv.len() >= rows.key_end * heads.kv_stride(), "as above");
        let means = self.device.take(queries)?;
        let (row_list, tiles) = (rows.rows.address(), rows.query_tiles.address());
        let (sums, means) = (log_sum_exp.address(), means.address());
        let (q, dz, dq, dkv) = (q.address(), dz.address(), dq.address(), dkv.address());
        let arguments: &[&dyn Argument] =
            &[&q, &call.addresses, &row_list, &tiles, &call.shape, &sums, &dz, &dq, &means];
        let (kernel, shared) =
            (version(BACKWARD_QUERIES, heads.width, self.dtype), shared_bytes(BACKWARD_VECTORS, heads.width));
        // SAFETY: the parameters of `attention_backward_queries`; every array was checked to hold the rows.
        unsafe { self.device.launch(kernel, call.per_query(shared), arguments)? };
        let tiles = rows.key_tiles.address();
        let grid = Grid { x: rows.n_key_tiles, y: heads.kv_count, shared };
        let arguments: &[&dyn Argument] =
            &[&q, &call.addresses, &row_list, &tiles, &call.shape, &sums, &means, &dz, &dkv];
        let kernel = version(BACKWARD_KEYS, heads.width, self.dtype);
        // SAFETY: the parameters of `attention_backward_keys`; as above.
        unsafe { self.device.launch(kernel, grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_query_once() {
        assert_eq!(tiles([0, 1, 64, 130].into_iter()).unwrap(), [1, 0, 2, 0, 3, 0, 3, 64, 3, 128]);
    }

    #[test]
    fn every_kernel_fits_the_smallest_shared_memory() {
        assert!(shared_bytes(BACKWARD_VECTORS, MAX_WIDTH) <= 99 << 10, "compute capability 8.6");
        assert!(shared_bytes(STAGED, MAX_WIDTH) <= 48 << 10, "the limit without asking");
    }

    #[test]
    fn narrow_heads_take_the_narrow_kernels() {
        assert_eq!(version(FORWARD, 64, Dtype::F32), Kernel::Attention64);
        assert_eq!(version(FORWARD, 80, Dtype::F32), Kernel::Attention128);
        assert_eq!(version(BACKWARD_KEYS, 65, Dtype::Bf16), Kernel::AttentionBackwardKeysTf32128);
    }
}
