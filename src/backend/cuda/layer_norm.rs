//! Launches of kernels/layer_norm.cu.

use super::device::{Grid, Kernel, count};
use super::{CudaBackend, CudaTensor, address};
use crate::backend::{Norm, NormKind, Result};
use cudarc::driver::DeviceRepr;

/// `Norm` of kernels/layer_norm.cu.
#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct NormShape {
    gain: u64,
    bias: u64,
    width: u32,
    eps: f32,
    rms: i32,
}

// SAFETY: plain numbers in the layout of the kernels' struct.
unsafe impl DeviceRepr for NormShape {}

impl NormShape {
    fn new(norm: &Norm<CudaTensor>) -> Result<Self> {
        for part in [&norm.gain, &norm.bias].into_iter().flatten() {
            assert_eq!(part.len(), norm.width, "gain and bias of a norm");
        }
        let (gain, bias) = (address(norm.gain.as_ref()), address(norm.bias.as_ref()));
        let rms = i32::from(norm.kind == NormKind::Rms);
        Ok(Self { gain, bias, width: count(norm.width)?, eps: norm.eps, rms })
    }
}

impl CudaBackend {
    pub(super) fn norm_forward(&self, x: &CudaTensor, norm: &Norm<CudaTensor>, y: &mut CudaTensor) -> Result<()> {
        assert_eq!(x.len(), y.len(), "input and output of a norm");
        let (shape, grid) = (NormShape::new(norm)?, Grid::line(x.len() / norm.width));
        // SAFETY: the parameters of `layer_norm`; a block reads and writes one row of both arrays.
        unsafe { self.device.launch(Kernel::LayerNorm, grid, &[&x.address(), &shape, &y.address()]) }
    }

    pub(super) fn norm_gain_and_bias(&self, x: &mut CudaTensor, norm: &Norm<CudaTensor>) -> Result<()> {
        let (shape, grid) = (NormShape::new(norm)?, self.device.elements(x.len()));
        // SAFETY: the parameters of `gain_and_bias`, which walks over the values of `x`.
        unsafe { self.device.launch(Kernel::GainAndBias, grid, &[&x.address(), &shape, &x.len()]) }
    }

    pub(super) fn norm_backward(
        &self,
        dy: &CudaTensor,
        x: &CudaTensor,
        norm: &Norm<CudaTensor>,
        dx: &mut CudaTensor,
    ) -> Result<()> {
        assert!(x.len() == dy.len() && x.len() == dx.len(), "input and gradients of a norm");
        let (shape, grid) = (NormShape::new(norm)?, Grid::line(x.len() / norm.width));
        // SAFETY: the parameters of `layer_norm_backward`; a block reads and writes one row of all arrays.
        unsafe {
            let kernel = Kernel::LayerNormBackward;
            self.device.launch(kernel, grid, &[&dy.address(), &x.address(), &shape, &dx.address()])
        }
    }
}
