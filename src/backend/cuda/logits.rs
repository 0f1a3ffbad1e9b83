//! Launches of kernels/logits.cu.

use super::device::{Grid, Kernel, count};
use super::{CudaBackend, CudaTensor};
use crate::backend::Result;

/// Values that a block of `answer_logits` computes, one per warp.
const VALUES_PER_BLOCK: usize = 8;

impl CudaBackend {
    pub(super) fn logits_forward(
        &self,
        x: &CudaTensor,
        columns: &CudaTensor,
        bias: &CudaTensor,
        y: &mut CudaTensor,
    ) -> Result<()> {
        let (n, width) = (bias.len(), columns.len() / bias.len().max(1));
        let rows = y.len() / n.max(1);
        assert!(x.len() == rows * width && y.len() == rows * n, "shapes of the answer logits");
        let grid = Grid::line(y.len().div_ceil(VALUES_PER_BLOCK));
        let [rows, n, width] = [count(rows)?, count(n)?, count(width)?];
        // SAFETY: the parameters of `answer_logits`; its shapes were checked above.
        unsafe {
            let (x, columns, bias, y) = (x.address(), columns.address(), bias.address(), y.address());
            self.device.launch(Kernel::AnswerLogits, grid, &[&x, &columns, &bias, &y, &rows, &n, &width])
        }
    }

    pub(super) fn logits_backward(
        &self,
        dy: &CudaTensor,
        columns: &CudaTensor,
        n: usize,
        dx: &mut CudaTensor,
    ) -> Result<()> {
        let width = columns.len() / n.max(1);
        let rows = dy.len() / n.max(1);
        assert!(dx.len() == rows * width, "shapes of the gradient of answer logits");
        let grid = self.device.elements(dx.len());
        let [rows, n, width] = [count(rows)?, count(n)?, count(width)?];
        // SAFETY: the parameters of `answer_logits_backward`; its shapes were checked above.
        unsafe {
            let (dy, columns, dx) = (dy.address(), columns.address(), dx.address());
            self.device.launch(Kernel::AnswerLogitsBackward, grid, &[&dy, &columns, &dx, &rows, &n, &width])
        }
    }

    pub(super) fn rows_log_sum_exp(&self, x: &CudaTensor, width: usize, y: &mut CudaTensor) -> Result<()> {
        assert_eq!(x.len(), y.len() * width, "rows of a log-sum-exp");
        let (grid, width) = (Grid::line(y.len()), count(width)?);
        // SAFETY: the parameters of `log_sum_exp`; a block reads one row and writes one value.
        unsafe { self.device.launch(Kernel::LogSumExp, grid, &[&x.address(), &width, &y.address()]) }
    }
}
