//! Dense products through strides: the one door to `gemm` for matrices that are not activations.

/// f32 or f64.
pub(crate) trait Scalar: Copy + 'static {
    /// 1.
    const ONE: Self;
}

impl Scalar for f32 {
    const ONE: Self = 1.0;
}

impl Scalar for f64 {
    const ONE: Self = 1.0;
}

/// A matrix seen through strides, so that transposes and sub-matrices cost nothing.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a, T> {
    /// Entry `(i, j)` is `data[i * row_stride + j * col_stride]`.
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a, T: Copy> Strided<'a, T> {
    /// A row-major matrix without gaps.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, without moving anything.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }

    /// Columns `from .. from + count`.
    pub fn columns(self, from: usize, count: usize) -> Self {
        Self { data: &self.data[(from * self.col_stride).min(self.data.len())..], cols: count, ..self }
    }

    fn assert_in_bounds(&self) {
        if self.rows > 0 && self.cols > 0 {
            assert!((self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len());
        }
    }
}

/// `out += scale · left right`, on one thread; row `i` of `out` starts at `i * out_stride`.
pub(crate) fn multiply_add<T: Scalar>(out: &mut [T], out_stride: usize, scale: T, left: Strided<T>, right: Strided<T>) {
    let (m, n, k) = (left.rows, right.cols, left.cols);
    assert_eq!(k, right.rows);
    left.assert_in_bounds();
    right.assert_in_bounds();
    Strided { data: &*out, rows: m, cols: n, row_stride: out_stride, col_stride: 1 }.assert_in_bounds();
    // SAFETY: every entry that the strides reach lies inside its slice, as just asserted; `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            true,
            left.data.as_ptr(),
            left.col_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.col_stride as isize,
            right.row_stride as isize,
            T::ONE,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
