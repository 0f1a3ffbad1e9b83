//! Packing of weights, and launches of kernels/matmul.cu.

use super::device::{Grid, Kernel, count};
use super::{CudaBackend, CudaTensor, activation, address};
use crate::backend::{Dtype, Epilogue, Result};
use crate::types::Matrix;
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};

/// Depth of one stage, as in the kernels.
const DEPTH: usize = 32;

/// Asynchronous copies move 16 bytes: rows of weights are padded to them.
const CHUNK_BYTES: usize = 16;

/// A weight on the device, `(in, stride)` with zeros behind the last output, and its bias.
#[derive(Debug)]
pub struct CudaWeight {
    inputs: usize,
    outputs: usize,
    stride: usize,
    /// Pairs of 16-bit numbers in the bits of floats when the products are in bfloat16 or f16.
    values: CudaTensor,
    bias: CudaTensor,
}

/// `Product` of kernels/matmul.cu.
#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct ProductShape {
    rows: u32,
    depth: u32,
    columns: u32,
    stride: u32,
    x_aligned: i32,
    accumulate: i32,
    activation: i32,
}

// SAFETY: plain numbers in the layout of the kernels' struct.
unsafe impl DeviceRepr for ProductShape {}

/// Rows and columns of y that a block computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// 64 x 64.
    Small = 64,
    /// 128 x 128.
    Large = 128,
}

/// Bytes of shared memory of a block: two stages, or the sums that take their place at the end.
fn shared_bytes(dtype: Dtype, backward: bool, tile: Tile) -> usize {
    let (side, bytes, padding) = match dtype {
        Dtype::F32 | Dtype::Tf32 => (tile as usize, 4, 4),
        Dtype::Bf16 | Dtype::F16 => (tile as usize, 2, 8),
    };
    let x = side * (DEPTH + padding) * size_of::<f32>();
    let w = if backward { side * (DEPTH + padding) } else { DEPTH * (side + 8) } * bytes;
    (2 * (x + w)).max(side * (side + 8) * size_of::<f32>())
}

fn kernel(dtype: Dtype, backward: bool, tile: Tile) -> Kernel {
    match (dtype, backward, tile) {
        (Dtype::F32, false, Tile::Small) => Kernel::MatmulF32,
        (Dtype::F32, false, Tile::Large) => Kernel::MatmulF32Large,
        (Dtype::F32, true, Tile::Small) => Kernel::MatmulF32Backward,
        (Dtype::F32, true, Tile::Large) => Kernel::MatmulF32BackwardLarge,
        (Dtype::Tf32, false, Tile::Small) => Kernel::MatmulTf32,
        (Dtype::Tf32, false, Tile::Large) => Kernel::MatmulTf32Large,
        (Dtype::Tf32, true, Tile::Small) => Kernel::MatmulTf32Backward,
        (Dtype::Tf32, true, Tile::Large) => Kernel::MatmulTf32BackwardLarge,
        (Dtype::Bf16, false, Tile::Small) => Kernel::MatmulBf16,
        (Dtype::Bf16, false, Tile::Large) => Kernel::MatmulBf16Large,
        (Dtype::Bf16, true, Tile::Small) => Kernel::MatmulBf16Backward,
        (Dtype::Bf16, true, Tile::Large) => Kernel::MatmulBf16BackwardLarge,
        (Dtype::F16, false, Tile::Small) => Kernel::MatmulF16,
        (Dtype::F16, false, Tile::Large) => Kernel::MatmulF16Large,
        (Dtype::F16, true, Tile::Small) => Kernel::MatmulF16Backward,
        (Dtype::F16, true, Tile::Large) => Kernel::MatmulF16BackwardLarge,
    }
}

/// The rows of `weight` padded to `stride`, pairs of 16-bit numbers in one float when `dtype` says so.
fn packed(weight: &Matrix, stride: usize, dtype: Dtype) -> Vec<f32> {
    let pairs = |row: &[f32], bits: fn(f32) -> u16| -> Vec<f32> {
        let pair = |&[low, high]: &[f32; 2]| f32::from_bits(u32::from(bits(low)) | u32::from(bits(high)) << 16);
        row.as_chunks::<2>().0.iter().map(pair).collect()
    };
    let mut values = Vec::with_capacity(weight.rows * stride);
    let mut row = vec![0.0; stride];
    for source in weight.data.chunks_exact(weight.cols.max(1)) {
        row[..weight.cols].copy_from_slice(source);
        match dtype {
            Dtype::F32 | Dtype::Tf32 => values.extend_from_slice(&row),
            Dtype::Bf16 => values.extend(pairs(&row, |value| bf16::from_f32(value).to_bits())),
            Dtype::F16 => values.extend(pairs(&row, |value| f16::from_f32(value).to_bits())),
        }
    }
    values
}

impl CudaBackend {
    /// Lets every product use the shared memory it needs, where this GPU has that much.
    pub(super) fn allow_shared_of_products(&self) -> Result<()> {
        for backward in [false, true] {
            for tile in [Tile::Small, Tile::Large] {
                let bytes = shared_bytes(self.dtype, backward, tile);
                if bytes <= self.device.shared_limit() {
                    self.device.allow_shared(kernel(self.dtype, backward, tile), bytes)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn pack_weight(&self, weight: &Matrix, bias: &[f32]) -> Result<CudaWeight> {
        assert_eq!(weight.cols, bias.len(), "a bias has one value per output");
        let stride = weight.cols.next_multiple_of(CHUNK_BYTES / self.dtype.weight_bytes());
        let values = self.upload_values(&packed(weight, stride, self.dtype))?;
        Ok(CudaWeight { inputs: weight.rows, outputs: weight.cols, stride, values, bias: self.upload_values(bias)? })
    }

    /// The same backend whose products take this tile whatever their shape: a GPU has too many multiprocessors for
    /// the large one in the small shapes of tests.
    pub fn with_tile(self, tile: Tile) -> Self {
        Self { tile: Some(tile), ..self }
    }

    /// The large tile where it gives every multiprocessor a block.
    fn tile(&self, backward: bool, rows: usize, columns: usize) -> Tile {
        if let Some(tile) = self.tile {
            return tile;
        }
        let side = Tile::Large as usize;
        let fills = rows.div_ceil(side) * columns.div_ceil(side) >= self.device.multiprocessors();
        let fits = shared_bytes(self.dtype, backward, Tile::Large) <= self.device.shared_limit();
        if fills && fits { Tile::Large } else { Tile::Small }
    }

    fn multiply(
        &self,
        x: &CudaTensor,
        weight: &CudaWeight,
        backward: bool,
        epilogue: Epilogue<'_, CudaTensor>,
        y: &mut CudaTensor,
    ) -> Result<()> {
        let (depth, columns) = match backward {
            false => (weight.inputs, weight.outputs),
            true => (weight.outputs, weight.inputs),
        };
        let rows = x.len() / depth.max(1);
        assert!(x.len() == rows * depth && y.len() == rows * columns, "shapes of a product");
        let accumulate = i32::from(matches!(epilogue, Epilogue::Accumulate));
        let (activation, before) = match epilogue {
            Epilogue::Activate(activation, before) => (activation::code(activation), before),
            _ => (activation::NONE, None),
        };
        assert!(before.as_ref().is_none_or(|before| before.len() == y.len()), "values before an activation");
        let tile = self.tile(backward, rows, columns);
        let side = tile as usize;
        let shared = shared_bytes(self.dtype, backward, tile);
        let grid = Grid { x: rows.div_ceil(side), y: columns.div_ceil(side), shared };
        let shape = ProductShape {
            rows: count(rows)?,
            depth: count(depth)?,
            columns: count(columns)?,
            stride: count(weight.stride)?,
            x_aligned: i32::from(depth.is_multiple_of(CHUNK_BYTES / size_of::<f32>())),
            accumulate,
            activation,
        };
        let bias = if backward { 0 } else { weight.bias.address() };
        // SAFETY: the parameters of the products; shapes were checked above, and what lies outside is not touched.
        unsafe {
            let (x, values, y) = (x.address(), weight.values.address(), y.address());
            let before = address(before.as_deref());
            self.device.launch(kernel(self.dtype, backward, tile), grid, &[&x, &values, &bias, &y, &before, &shape])
        }
    }

    pub(super) fn product(
        &self,
        x: &CudaTensor,
        weight: &CudaWeight,
        epilogue: Epilogue<'_, CudaTensor>,
        y: &mut CudaTensor,
    ) -> Result<()> {
        self.multiply(x, weight, false, epilogue, y)
    }

    pub(super) fn product_backward(&self, dy: &CudaTensor, weight: &CudaWeight, dx: &mut CudaTensor) -> Result<()> {
        self.multiply(dy, weight, true, Epilogue::Store, dx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_row_ends_in_zeros_and_pairs_16_bit_numbers() {
        let weight = Matrix::new(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(packed(&weight, 4, Dtype::F32), [1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 0.0]);
        let pairs = packed(&weight, 8, Dtype::Bf16);
        let bits: Vec<u32> = pairs.iter().map(|pair| pair.to_bits()).collect();
        // 1.0 is 0x3f80, 2.0 is 0x4000, 3.0 is 0x4040 in bfloat16.
        assert_eq!(bits[..4], [0x4000_3f80, 0x0000_4040, 0, 0]);
        assert_eq!(bits.len(), 8);
        // 1.0 is 0x3c00 and 2.0 is 0x4000 in f16.
        assert_eq!(packed(&weight, 8, Dtype::F16)[0].to_bits(), 0x4000_3c00);
    }

    #[test]
    fn small_tiles_fit_what_every_gpu_has() {
        for dtype in Dtype::ALL {
            for backward in [false, true] {
                assert!(shared_bytes(dtype, backward, Tile::Small) <= 48 << 10, "the limit without asking");
                assert!(shared_bytes(dtype, backward, Tile::Large) <= 99 << 10, "compute capability 8.6");
            }
        }
    }
}
