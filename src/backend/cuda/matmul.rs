//! Packing of weights, and launches of kernels/matmul.cu.

use super::device::{Grid, Kernel, count};
use super::{CudaBackend, CudaTensor, activation, address};
use crate::backend::{Dtype, Epilogue, Result};
use crate::types::Matrix;
use cudarc::driver::DeviceRepr;
use half::{bf16, f16};

/// How deep a stage is, and how many there are, as in the kernels.
const STAGE_BYTES: usize = 64;
const STAGES: usize = 4;

/// Asynchronous copies move 16 bytes: rows are padded to them.
const CHUNK_BYTES: usize = 16;

/// A weight on the device, `(in, stride)` with zeros behind the last output, and its bias.
#[derive(Debug)]
pub struct CudaWeight {
    inputs: usize,
    outputs: usize,
    stride: usize,
    /// Rounded to the products' format; pairs of 16-bit numbers in the bits of floats.
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
    x_stride: u32,
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

/// Bytes of shared memory of a block. A stage takes the same in every format: W lies by depths forwards, by columns
/// backwards.
fn shared_bytes(backward: bool, tile: Tile) -> usize {
    let side = tile as usize;
    let x = side * (STAGE_BYTES + CHUNK_BYTES);
    STAGES * (x + if backward { x } else { STAGE_BYTES * (side + 8) })
}

/// Length of a row in memory that starts on 16 bytes, as do those around it.
fn padded(len: usize, dtype: Dtype) -> usize {
    len.next_multiple_of(CHUNK_BYTES / dtype.weight_bytes())
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

fn pack_kernel(dtype: Dtype) -> Kernel {
    match dtype {
        Dtype::F32 => Kernel::PackF32,
        Dtype::Tf32 => Kernel::PackTf32,
        Dtype::Bf16 => Kernel::PackBf16,
        Dtype::F16 => Kernel::PackF16,
    }
}

/// To nearest, ties away from zero, as `cvt.rna.tf32`.
fn to_tf32(value: f32) -> f32 {
    if value.is_finite() { f32::from_bits((value.to_bits() + 0x1000) & !0x1fff) } else { value }
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
            Dtype::F32 => values.extend_from_slice(&row),
            Dtype::Tf32 => values.extend(row.iter().copied().map(to_tf32)),
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
                let bytes = shared_bytes(backward, tile);
                if bytes <= self.device.shared_limit() {
                    self.device.allow_shared(kernel(self.dtype, backward, tile), bytes)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn pack_weight(&self, weight: &Matrix, bias: &[f32]) -> Result<CudaWeight> {
        assert_eq!(weight.cols, bias.len(), "a bias has one value per output");
        let stride = padded(weight.cols, self.dtype);
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
        let fits = shared_bytes(backward, Tile::Large) <= self.device.shared_limit();
        if fills && fits { Tile::Large } else { Tile::Small }
    }

    /// x as the products read it, `(rows, padded depth)`: rounded to their format; none where it is so already.
    fn pack_x(&self, x: &CudaTensor, depth: usize) -> Result<Option<CudaTensor>> {
        let stride = padded(depth, self.dtype);
        if self.dtype == Dtype::F32 && stride == depth {
            return Ok(None);
        }
        let rows = x.len() / depth.max(1);
        let packed = self.device.take(rows * stride * self.dtype.weight_bytes() / size_of::<f32>())?;
        // SAFETY: a block packs one row of x into one of `packed`, which is as long as said.
        unsafe {
            let (x, to, depth, stride) = (x.address(), packed.address(), count(depth)?, count(stride)?);
            self.device.launch(pack_kernel(self.dtype), Grid::line(rows), &[&x, &to, &depth, &stride])
        }?;
        Ok(Some(packed))
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
        let shared = shared_bytes(backward, tile);
        let grid = Grid { x: rows.div_ceil(side), y: columns.div_ceil(side), shared };
        let shape = ProductShape {
            rows: count(rows)?,
            depth: count(depth)?,
            columns: count(columns)?,
            stride: count(weight.stride)?,
            x_stride: count(padded(depth, self.dtype))?,
            accumulate,
            activation,
        };
        let bias = if backward { 0 } else { weight.bias.address() };
        let packed = self.pack_x(x, depth)?;
        // SAFETY: the parameters of the products; shapes were checked above, and what lies outside is not touched.
        unsafe {
            let x = packed.as_ref().unwrap_or(x).address();
            let (values, y) = (weight.values.address(), y.address());
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
    fn tf32_weights_are_rounded_to_nearest() {
        let weight = Matrix::new(1, 2, vec![1.0 + 3.0 / 4096.0, f32::INFINITY]);
        assert_eq!(packed(&weight, 4, Dtype::Tf32), [1.0 + 1.0 / 1024.0, f32::INFINITY, 0.0, 0.0]);
    }

    #[test]
    fn tiles_fit_what_every_gpu_has() {
        for backward in [false, true] {
            assert!(shared_bytes(backward, Tile::Small) <= 48 << 10, "the limit without asking");
            assert!(shared_bytes(backward, Tile::Large) <= 99 << 10, "compute capability 8.6");
            // A multiprocessor of compute capability 8.0 has 164 KiB, of which a block takes one more.
            assert!(2 * (shared_bytes(backward, Tile::Large) + (1 << 10)) <= 164 << 10, "two blocks");
        }
    }
}
