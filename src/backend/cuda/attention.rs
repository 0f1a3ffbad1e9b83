//! Upload of attention rows, and launches of kernels/attention.cu.

use super::device::{Argument, Grid, Kernel, count};
use super::{CudaBackend, CudaTensor, address};
use crate::backend::{AttentionRow, BackendError, Heads, KeyValues, Result};
use cudarc::driver::DeviceRepr;

/// Widest head that the kernels have registers for.
const MAX_WIDTH: usize = 128;

/// Queries, or keys, of a block: one per warp.
const TILE: usize = 8;

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
#[derive(Clone, Copy)]
struct KeyValueAddresses {
    own: u64,
    prefix: u64,
}

// SAFETY: plain numbers in the layout of the kernels' struct.
unsafe impl DeviceRepr for KeyValueAddresses {}

/// `Heads` of kernels/attention.cu.
#[repr(C)]
#[derive(Clone, Copy)]
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

    fn per_query(&self) -> Grid {
        Grid { x: self.rows.n_query_tiles, y: self.heads.count, shared: 0 }
    }

    fn check_pattern(&self, pattern: &CudaTensor) {
        let end = self.rows.patterns.iter().map(|(start, each)| start + self.heads.count * each).max();
        assert!(pattern.len() >= end.unwrap_or(0), "probabilities of an attention");
    }
}

impl CudaBackend {
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
        // SAFETY: the parameters of `attention`; every array was checked to hold the rows.
        unsafe { self.device.launch(Kernel::Attention, call.per_query(), arguments) }
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
        let mut z = self.device.pool().take(q.len())?;
        let mut sums = self.device.pool().take(rows.query_end * heads.count)?;
        self.attend(q, kv, rows, heads, &mut z, Some(&mut sums))?;
        let (rows, tiles) = (rows.rows.address(), rows.query_tiles.address());
        let (sums, pattern) = (sums.address(), pattern.address());
        let arguments: &[&dyn Argument] = &[&q.address(), &call.addresses, &rows, &tiles, &call.shape, &sums, &pattern];
        // SAFETY: the parameters of `attention_pattern`; every array was checked to hold the rows.
        unsafe { self.device.launch(Kernel::AttentionPattern, call.per_query(), arguments) }
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
        unsafe { self.device.launch(Kernel::ApplyPattern, call.per_query(), arguments) }
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
        let means = self.device.pool().take(queries)?;
        let (row_list, tiles) = (rows.rows.address(), rows.query_tiles.address());
        let (sums, means) = (log_sum_exp.address(), means.address());
        let (q, dz, dq, dkv) = (q.address(), dz.address(), dq.address(), dkv.address());
        let arguments: &[&dyn Argument] =
            &[&q, &call.addresses, &row_list, &tiles, &call.shape, &sums, &dz, &dq, &means];
        // SAFETY: the parameters of `attention_backward_queries`; every array was checked to hold the rows.
        unsafe { self.device.launch(Kernel::AttentionBackwardQueries, call.per_query(), arguments)? };
        let tiles = rows.key_tiles.address();
        let grid = Grid { x: rows.n_key_tiles, y: heads.kv_count, shared: 0 };
        let arguments: &[&dyn Argument] =
            &[&q, &call.addresses, &row_list, &tiles, &call.shape, &sums, &means, &dz, &dkv];
        // SAFETY: the parameters of `attention_backward_keys`; as above.
        unsafe { self.device.launch(Kernel::AttentionBackwardKeys, grid, arguments) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_query_once() {
        assert_eq!(tiles([0, 1, 8, 17].into_iter()).unwrap(), [1, 0, 2, 0, 3, 0, 3, 8, 3, 16]);
    }
}
