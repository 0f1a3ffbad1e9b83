//! Launches of kernels/activation.cu.

use super::device::Kernel;
use super::{CudaBackend, CudaTensor};
use crate::backend::Result;
use crate::types::Activation;

/// `Activation` of kernels/activation.cuh.
pub fn code(activation: Activation) -> i32 {
    match activation {
        Activation::Gelu => 0,
        Activation::GeluTanh => 1,
        Activation::Relu => 2,
        Activation::Silu => 3,
    }
}

/// The code of no activation at all.
pub const NONE: i32 = -1;

impl CudaBackend {
    /// Launches a kernel with parameters (activation, x, y, n).
    pub(super) fn element_by_element(
        &self,
        kernel: Kernel,
        activation: Activation,
        x: &CudaTensor,
        y: &mut CudaTensor,
    ) -> Result<()> {
        assert_eq!(x.len(), y.len(), "{kernel:?} goes value by value");
        let grid = self.device.elements(x.len());
        // SAFETY: the parameters of the kernels this is called with, which walk over the values of both arrays.
        unsafe { self.device.launch(kernel, grid, &[&code(activation), &x.address(), &y.address(), &x.len()]) }
    }

    pub(super) fn gate_gradient(
        &self,
        activation: Activation,
        gate: &CudaTensor,
        value: &CudaTensor,
        dy: &mut CudaTensor,
        d_gate: &mut CudaTensor,
    ) -> Result<()> {
        let n = dy.len();
        assert!([gate.len(), value.len(), d_gate.len()] == [n; 3], "a gate's gradient goes value by value");
        let (grid, code) = (self.device.elements(n), code(activation));
        // SAFETY: the parameters of `gate_backward`, which walks over the values of all arrays.
        unsafe {
            let (gate, value) = (gate.address(), value.address());
            let kernel = Kernel::GateBackward;
            self.device.launch(kernel, grid, &[&code, &gate, &value, &dy.address(), &d_gate.address(), &n])
        }
    }
}
