//! Launches of kernels/rotation.cu.

use super::device::{Grid, Kernel, count};
use super::{CudaBackend, CudaTensor};
use crate::backend::rotation::EXHAUSTED;
use crate::backend::{AdamState, AdamStep, Backend, ChebyshevSeries, LowRank, Result, packed_side};
use cudarc::driver::DeviceRepr;

/// Side of a tile of the triangle.
const TILE: usize = 64;

/// Floats that an f64 takes the room of: the device has one kind of array.
const DOUBLE: usize = 2;

/// `Combination` of kernels/rotation.cu.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq)]
struct Combination {
    gradient: u64,
    added: u64,
    scale: f32,
    coefficient: f32,
}

// SAFETY: plain numbers in the layout of the kernels' struct.
unsafe impl DeviceRepr for Combination {}

/// `Step` of kernels/rotation.cu.
#[repr(C)]
#[derive(Clone, Copy, PartialEq)]
struct Step {
    max_gradient_norm: f64,
    keep_first: f32,
    keep_second: f32,
    add_first: f32,
    add_second: f32,
    inverse_correction: f32,
    epsilon: f32,
    rate: f32,
}

// SAFETY: plain numbers in the layout of the kernels' struct.
unsafe impl DeviceRepr for Step {}

/// Products with the skew matrix of one triangle, and the scratch they share.
struct Skew<'a> {
    backend: &'a CudaBackend,
    triangle: &'a CudaTensor,
    d: usize,
    k: usize,
    partial: CudaTensor,
}

/// The address of value `index` of an array.
fn at(tensor: &CudaTensor, index: usize) -> u64 {
    assert!(index <= tensor.len(), "value {index} of an array of {}", tensor.len());
    tensor.address() + (index * size_of::<f32>()) as u64
}

impl<'a> Skew<'a> {
    fn new(backend: &'a CudaBackend, triangle: &'a CudaTensor, k: usize) -> Result<Self> {
        let d = packed_side(triangle.len());
        let partial = backend.device.take(k * d.div_ceil(TILE) * d)?;
        Ok(Self { backend, triangle, d, k, partial })
    }

    /// `y = coefficient gradient + scale (T - Tᵀ) x + added`; without `x` there is no product.
    ///
    /// # Safety
    /// All addresses must be those of `k * d` values, or 0 in the combination.
    unsafe fn product(&self, x: Option<u64>, combination: Combination, y: u64) -> Result<()> {
        let device = &self.backend.device;
        let (partial, [d, k]) = (self.partial.address(), [count(self.d)?, count(self.k)?]);
        let blocks = x.map_or(0, |_| self.d.div_ceil(TILE));
        if let Some(x) = x {
            let grid = Grid { x: blocks, y: blocks, shared: 0 };
            // SAFETY: the parameters of `skew_tiles`; the scratch has `d` values per vector and block.
            unsafe { device.launch(Kernel::SkewTiles, grid, &[&self.triangle.address(), &x, &d, &k, &partial])? };
        }
        let grid = device.elements(self.k * self.d);
        // SAFETY: the parameters of `skew_sum`; the arrays are as long as the caller promises.
        unsafe { device.launch(Kernel::SkewSum, grid, &[&partial, &d, &k, &count(blocks)?, &combination, &y]) }
    }
}

impl CudaBackend {
    pub(super) fn lanczos(&self, triangle: &CudaTensor, start: &CudaTensor, steps: usize) -> Result<Vec<f64>> {
        let skew = Skew::new(self, triangle, 1)?;
        assert_eq!(start.len(), skew.d, "a start vector of a Lanczos recurrence");
        let steps = steps.min(skew.d);
        let (device, d) = (&self.device, count(skew.d)?);
        let vectors = [device.take(skew.d)?, device.take(skew.d)?, device.take(skew.d)?];
        let betas = device.take(DOUBLE * steps)?;
        let mut current = start.address();
        for step in 0..steps {
            let (next, before) = (vectors[step % 3].address(), vectors[(step + 1) % 3].address());
            // The vector before the start does not exist; the kernel does not read it.
            let before = if step == 1 { start.address() } else { before };
            let combination = Combination { scale: 1.0, ..Combination::default() };
            // SAFETY: vectors of `d` values; one block adds, measures and scales.
            unsafe {
                skew.product(Some(current), combination, next)?;
                let arguments: &[&dyn super::device::Argument] = &[&next, &before, &betas.address(), &count(step)?, &d];
                self.device.launch(Kernel::LanczosStep, Grid::line(1), arguments)?;
            }
            current = next;
        }
        let words = self.download(&betas)?;
        let double =
            |[low, high]: &[f32; 2]| f64::from_bits(u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32);
        let mut betas: Vec<f64> = words.as_chunks::<DOUBLE>().0.iter().map(double).collect();
        let first = betas.first().copied().unwrap_or(0.0);
        if let Some(last) = betas.iter().position(|beta| *beta <= EXHAUSTED * first) {
            betas.truncate(last + 1);
        }
        Ok(betas)
    }

    pub(super) fn chebyshev_basis(
        &self,
        triangle: &CudaTensor,
        k: usize,
        series: &ChebyshevSeries,
        basis: &mut CudaTensor,
    ) -> Result<()> {
        let skew = Skew::new(self, triangle, k)?;
        let size = k * skew.d;
        assert_eq!(basis.len(), (series.degree() + 1) * size, "the basis of a Chebyshev series");
        let grid = self.device.elements(size);
        // SAFETY: the parameters of `unit_rows`; the basis begins with `size` values.
        unsafe { self.device.launch(Kernel::UnitRows, grid, &[&basis.address(), &count(skew.d)?, &size])? };
        for j in 1..=series.degree() {
            let added = if j == 1 { 0 } else { at(basis, (j - 2) * size) };
            let scale = (if j == 1 { 1.0 } else { 2.0 } / series.radius) as f32;
            let combination = Combination { added, scale, ..Combination::default() };
            // SAFETY: every vector of the basis has `size` values.
            unsafe { skew.product(Some(at(basis, (j - 1) * size)), combination, at(basis, j * size))? };
        }
        Ok(())
    }

    pub(super) fn chebyshev_columns(
        &self,
        basis: &CudaTensor,
        series: &ChebyshevSeries,
        columns: &mut CudaTensor,
    ) -> Result<()> {
        let (terms, size) = (series.coefficients.len(), columns.len());
        assert_eq!(basis.len(), terms * size, "the basis of a Chebyshev series");
        let coefficients = self.upload_words(bytemuck::cast_slice(&series.coefficients))?;
        let grid = self.device.elements(size);
        // SAFETY: the parameters of `chebyshev_sum`; arrays in the pool start on 256 bytes, f64 on 8.
        unsafe {
            let (basis, coefficients, y) = (basis.address(), coefficients.address(), columns.address());
            self.device.launch(Kernel::ChebyshevSum, grid, &[&basis, &coefficients, &count(terms)?, &y, &size])
        }
    }

    pub(super) fn chebyshev_adjoint(
        &self,
        triangle: &CudaTensor,
        series: &ChebyshevSeries,
        gradient: &CudaTensor,
        adjoints: &mut CudaTensor,
    ) -> Result<()> {
        let (degree, size) = (series.degree(), gradient.len());
        let skew = Skew::new(self, triangle, size / packed_side(triangle.len()))?;
        assert!(size == skew.k * skew.d && adjoints.len() == degree * size, "shapes of an adjoint");
        for j in (1..=degree).rev() {
            let combination = Combination {
                gradient: gradient.address(),
                added: if j + 2 <= degree { at(adjoints, (j + 1) * size) } else { 0 },
                scale: (-2.0 / series.radius) as f32,
                coefficient: series.coefficients[j] as f32,
            };
            let later = (j < degree).then(|| at(adjoints, j * size));
            // SAFETY: every adjoint has `size` values.
            unsafe { skew.product(later, combination, at(adjoints, (j - 1) * size))? };
        }
        let (first, others) = ((1.0 / series.radius) as f32, (2.0 / series.radius) as f32);
        let n = adjoints.len();
        // SAFETY: the parameters of `scale_adjoints`, which walks over the `n` values.
        unsafe {
            let arguments: &[&dyn super::device::Argument] = &[&adjoints.address(), &first, &others, &size, &n];
            self.device.launch(Kernel::ScaleAdjoints, self.device.elements(n), arguments)
        }
    }

    pub(super) fn low_rank_step(
        &self,
        gradient: LowRank<'_, CudaTensor>,
        step: &AdamStep,
        state: AdamState<'_, CudaTensor>,
        norm: &mut CudaTensor,
    ) -> Result<()> {
        let (n, rank) = (state.triangle.len(), gradient.rank);
        let d = packed_side(n);
        assert!(gradient.left.len() >= rank * d && gradient.right.len() >= rank * d, "factors of a gradient");
        assert!(state.first.len() == n && state.second.len() == n && norm.len() == 1, "moments and norm of a step");
        let &AdamStep { max_gradient_norm, keep_first, keep_second, add_first, add_second, .. } = step;
        let &AdamStep { inverse_correction, epsilon, rate, .. } = step;
        let constants = Step {
            max_gradient_norm,
            keep_first,
            keep_second,
            add_first,
            add_second,
            inverse_correction,
            epsilon,
            rate,
        };
        let blocks = d.div_ceil(TILE);
        let squares = self.device.take(DOUBLE * blocks * blocks)?;
        let (left, right, [rank, d]) = (gradient.left.address(), gradient.right.address(), [count(rank)?, count(d)?]);
        let (grid, squares) = (Grid { x: blocks, y: blocks, shared: 0 }, squares.address());
        // SAFETY: the parameters of `low_rank_squares`; a block writes its own sum.
        unsafe { self.device.launch(Kernel::LowRankSquares, grid, &[&left, &right, &rank, &d, &squares])? };
        let [triangle, first, second] = [state.triangle, state.first, state.second].map(|tensor| tensor.address());
        let arguments: &[&dyn super::device::Argument] =
            &[&left, &right, &rank, &d, &squares, &constants, &triangle, &first, &second, &norm.address()];
        // SAFETY: the parameters of `low_rank_adam`; a block changes its own tile of the triangle and its moments.
        unsafe { self.device.launch(Kernel::LowRankAdam, grid, arguments) }
    }
}
