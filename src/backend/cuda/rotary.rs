//! Launches of kernels/rotary.cu.

use super::device::{Kernel, count};
use super::{CudaBackend, CudaIndices, CudaTensor};
use crate::backend::{Columns, Heads, Result};

impl CudaBackend {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn rotate(
        &self,
        x: &mut CudaTensor,
        columns: Columns,
        heads: Heads,
        half: usize,
        table: &CudaTensor,
        positions: &CudaIndices,
        inverse: bool,
    ) -> Result<()> {
        let n_heads = columns.width / heads.width;
        let rows = positions.len.min(x.len() / columns.stride);
        assert!(columns.start + columns.width <= columns.stride && 2 * half <= heads.width, "columns of a rotation");
        assert!(table.len() >= positions.end * 2 * half, "a position is behind the end of the rotary table");
        let pairs = rows * n_heads * half;
        let sign = if inverse { -1.0f32 } else { 1.0 };
        let [stride, start] = [count(columns.stride)?, count(columns.start)?];
        let [n_heads, width, half] = [count(n_heads)?, count(heads.width)?, count(half)?];
        // SAFETY: the parameters of `rotary`; a pair lies in one of the counted rows of `x`, its angle in the table.
        unsafe {
            let (address, table, positions) = (x.address(), table.address(), positions.address());
            let arguments: &[&dyn super::device::Argument] =
                &[&address, &stride, &start, &n_heads, &width, &half, &table, &positions, &sign, &pairs];
            self.device.launch(Kernel::Rotary, self.device.elements(pairs), arguments)
        }
    }
}
