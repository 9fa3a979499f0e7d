//! A bounds-checked front for the `gemm` crate.

use crate::float::Float;

/// A strided view of a matrix.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// Rows of contiguous elements, `row_stride` apart.
    pub(crate) fn new(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed view.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride
                < self.data.len()
    }
}

/// `out = a b`, or `out += a b` if `accumulate`, on the calling thread. `out` is row-major without
/// gaps.
///
/// # Panics
/// If the sizes do not agree or a view reaches past its data.
pub(crate) fn matmul<T: Float>(
    out: &mut [T],
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    accumulate: bool,
) {
    assert_eq!(a.cols, b.rows, "inner sizes of a matrix product");
    assert_eq!(out.len(), a.rows * b.cols, "size of a matrix product");
    assert!(a.fits() && b.fits(), "matrix view past its data");
    // SAFETY: the assertions above keep every element that gemm touches inside the slices, `out`
    // is borrowed mutably so that it overlaps neither operand, and T is f32 or f64.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_accumulation_agree_with_sums() {
        let a: Vec<f64> = (0..15).map(f64::from).collect();
        let b: Vec<f64> = (0..20).map(|i| f64::from(i * i)).collect();
        // a is columns 1..4 of a 3x5 matrix; b is the transpose of the first 3 columns of a 4x5.
        let left = Matrix::new(&a[1..], 3, 3, 5);
        let right = Matrix::new(&b, 4, 3, 5).transposed();
        let mut out = vec![1.0; 12];
        matmul(&mut out, left, right, true);
        for i in 0..3 {
            for j in 0..4 {
                let dot: f64 = (0..3).map(|k| a[1 + i * 5 + k] * b[j * 5 + k]).sum();
                assert_eq!(out[i * 4 + j], 1.0 + dot);
            }
        }
    }

    #[test]
    #[should_panic(expected = "matrix view past its data")]
    fn view_past_its_data_is_refused() {
        let mut out = vec![0.0f32; 4];
        let a = [0.0; 4];
        matmul(&mut out, Matrix::new(&a, 2, 2, 3), Matrix::new(&a, 2, 2, 2), false);
    }
}
