//! Launches of kernels/rows.cu.

use super::device::{Argument, Grid, Kernel, count};
use super::{CudaBackend, CudaIndices, CudaTensor};
use crate::backend::{Bases, Columns, PatchRows, Result, SwapGradientRows};
use cudarc::driver::DeviceRepr;

/// Products that a block of `patch_swap_products` computes, one pair per warp.
const PRODUCTS_PER_BLOCK: usize = 4;

/// `Columns` of kernels/rows.cu.
#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct ColumnRange {
    stride: u32,
    start: u32,
    width: u32,
}

// SAFETY: plain numbers in the layout of the kernels' struct.
unsafe impl DeviceRepr for ColumnRange {}

impl ColumnRange {
    fn new(columns: Columns) -> Result<Self> {
        Ok(Self { stride: count(columns.stride)?, start: count(columns.start)?, width: count(columns.width)? })
    }
}

/// A patch: which rows of `x` change, and what they are changed by.
pub(super) struct Edit<'a> {
    pub(super) x: &'a mut CudaTensor,
    pub(super) columns: Columns,
    pub(super) source: &'a CudaTensor,
    pub(super) source_columns: Columns,
    pub(super) rows: PatchRows<'a, CudaIndices>,
}

impl Edit<'_> {
    /// Checks that all rows exist.
    fn check(&self) {
        let inside = |tensor: &CudaTensor, columns: Columns, rows: &CudaIndices| {
            columns.start + columns.width <= columns.stride && rows.end * columns.stride <= tensor.len()
        };
        assert!(inside(self.x, self.columns, self.rows.target), "a patched row lies outside the batch");
        // The last row of a source need not be complete behind its columns.
        let behind = self.rows.source.end.saturating_sub(1) * self.source_columns.stride;
        let end = behind + self.source_columns.start + self.columns.width;
        assert!(self.rows.source.end == 0 || end <= self.source.len(), "a source row does not exist");
        assert_eq!(self.rows.target.len, self.rows.source.len, "one source row per patched row");
    }

    /// Launches `kernel` with the parameters all patches share, and more.
    ///
    /// # Safety
    /// `more` must be what `kernel` takes behind the shared parameters.
    unsafe fn launch(self, backend: &CudaBackend, kernel: Kernel, shared: usize, more: &[&dyn Argument]) -> Result<()> {
        self.check();
        let (columns, from) = (ColumnRange::new(self.columns)?, ColumnRange::new(self.source_columns)?);
        let (x, source) = (self.x.address(), self.source.address());
        let (target, source_rows) = (self.rows.target.address(), self.rows.source.address());
        let mut arguments: Vec<&dyn Argument> = vec![&x, &columns, &source, &from, &target, &source_rows];
        arguments.extend_from_slice(more);
        let grid = Grid { x: self.rows.target.len, y: 1, shared };
        // SAFETY: a block changes the columns of one row; rows were checked, the rest is the caller's promise.
        unsafe { backend.device.launch(kernel, grid, &arguments) }
    }
}

impl CudaBackend {
    pub(super) fn add_values(&self, x: &CudaTensor, y: &mut CudaTensor) -> Result<()> {
        assert_eq!(x.len(), y.len(), "a sum goes value by value");
        let grid = self.device.elements(x.len());
        // SAFETY: the parameters of `add_values`, which walks over the values of both arrays.
        unsafe { self.device.launch(Kernel::Add, grid, &[&x.address(), &y.address(), &x.len()]) }
    }

    pub(super) fn gather(&self, x: &CudaTensor, width: usize, rows: &CudaIndices, y: &mut CudaTensor) -> Result<()> {
        let n = rows.len * width;
        assert!(rows.end * width <= x.len() && n <= y.len(), "rows of a gather");
        let (grid, width) = (self.device.elements(n), count(width)?);
        // SAFETY: the parameters of `gather_rows`; rows were checked.
        unsafe {
            let (x, y) = (x.address(), y.address());
            self.device.launch(Kernel::GatherRows, grid, &[&x, &width, &rows.address(), &y, &n])
        }
    }

    pub(super) fn scatter_add(
        &self,
        x: &CudaTensor,
        width: usize,
        rows: &CudaIndices,
        y: &mut CudaTensor,
    ) -> Result<()> {
        let n = rows.len * width;
        assert!(rows.end * width <= y.len() && n <= x.len(), "rows of a scatter");
        let (grid, width) = (self.device.elements(n), count(width)?);
        // SAFETY: the parameters of `scatter_add_rows`; rows were checked.
        unsafe {
            let (x, y) = (x.address(), y.address());
            self.device.launch(Kernel::ScatterAddRows, grid, &[&x, &width, &rows.address(), &y, &n])
        }
    }

    pub(super) fn spans(&self, x: &CudaTensor, spans: &CudaIndices, y: &mut CudaTensor) -> Result<()> {
        assert!(spans.span_ends.0 <= y.len() && spans.span_ends.1 <= x.len(), "a span lies outside its array");
        let grid = Grid::line(spans.len / 3);
        // SAFETY: the parameters of `copy_spans`; the ends of all spans were checked.
        unsafe { self.device.launch(Kernel::CopySpans, grid, &[&x.address(), &spans.address(), &y.address()]) }
    }

    pub(super) fn replace(&self, edit: Edit<'_>) -> Result<()> {
        // SAFETY: `patch_replace` has no other parameters.
        unsafe { edit.launch(self, Kernel::PatchReplace, 0, &[]) }
    }

    pub(super) fn add_rows(&self, edit: Edit<'_>, scale: f32) -> Result<()> {
        // SAFETY: `patch_add` takes the scale.
        unsafe { edit.launch(self, Kernel::PatchAdd, 0, &[&scale]) }
    }

    pub(super) fn swap(&self, edit: Edit<'_>, bases: Bases<'_, CudaTensor, CudaIndices>) -> Result<()> {
        let each = bases.k * edit.columns.width;
        assert!(bases.basis.end * each <= bases.directions.len(), "a basis does not exist");
        assert!(bases.basis.len >= edit.rows.target.len, "one basis per patched row");
        let (directions, k, basis) = (bases.directions.address(), count(bases.k)?, bases.basis.address());
        // SAFETY: `patch_swap` takes the directions, their number, and the rows' bases, which were checked; its shared
        // memory holds one coefficient per direction.
        unsafe { edit.launch(self, Kernel::PatchSwap, bases.k * size_of::<f32>(), &[&directions, &k, &basis]) }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn swap_backward(
        &self,
        dy: &CudaTensor,
        x: &CudaTensor,
        source: &CudaTensor,
        rows: SwapGradientRows<'_, CudaIndices>,
        basis: &CudaTensor,
        width: usize,
        d_basis: &mut CudaTensor,
    ) -> Result<()> {
        let (n, k) = (rows.gradient.len, basis.len() / width);
        for (list, tensor) in [(rows.gradient, dy), (rows.base, x), (rows.source, source)] {
            assert!(list.len == n && list.end * width <= tensor.len(), "rows of the gradient of a swap");
        }
        assert_eq!(basis.len(), d_basis.len(), "a basis and its gradient");
        let products = self.device.take(2 * n * k)?;
        let (values, columns) = (k * width, count(width)?);
        let directions = count(k)?;
        let [dy, x, source] = [dy, x, source].map(CudaTensor::address);
        let [gradient, base, from] = [rows.gradient, rows.base, rows.source].map(CudaIndices::address);
        let (products, basis, d_basis) = (products.address(), basis.address(), d_basis.address());
        let grid = Grid::line((n * k).div_ceil(PRODUCTS_PER_BLOCK));
        let arguments: &[&dyn Argument] =
            &[&dy, &x, &source, &gradient, &base, &from, &basis, &directions, &columns, &n, &products];
        // SAFETY: the parameters of `patch_swap_products`; rows were checked.
        unsafe { self.device.launch(Kernel::PatchSwapProducts, grid, arguments)? };
        let arguments: &[&dyn Argument] =
            &[&dy, &x, &source, &gradient, &base, &from, &products, &directions, &columns, &n, &d_basis];
        // SAFETY: the parameters of `patch_swap_backward`; as above.
        unsafe { self.device.launch(Kernel::PatchSwapBackward, self.device.elements(values), arguments) }
    }
}
