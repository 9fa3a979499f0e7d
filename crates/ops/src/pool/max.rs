use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::window_grid;
use crate::float::cuda_fwd;
use crate::float::{Float, dispatch, elements, storage};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, args, space as source};

const OP: &str = "max_pool3d";

/// The largest value in each cubic window of edge `kernel`, windows `stride` apart; padding voxels
/// are ignored. N,C,D,H,W to N,C,D',H',W' with D' = (D + 2 padding - kernel) / stride + 1.
///
/// f32 or f64; differentiable (the first largest value in z,y,x order takes the gradient). A NaN
/// in a window gives NaN.
///
/// # Errors
/// If `x` is no volume tensor, `kernel` or `stride` is 0, `padding` is more than half of `kernel`
/// or a window is larger than the padded volume.
pub fn max_pool3d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let (dims, out) = window_grid(OP, x, kernel, stride, padding)?;
    x.contiguous()?.apply_op1(MaxPool { dims, out, kernel, stride, padding })
}

#[derive(Clone, Copy)]
struct MaxPool {
    dims: [usize; 5],
    out: [usize; 3],
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// Input and output gradient to input gradient.
struct MaxPoolGradient(MaxPool);

impl MaxPool {
    fn in_voxels(&self) -> usize {
        self.dims[2..].iter().product()
    }

    fn out_voxels(&self) -> usize {
        self.out.iter().product()
    }

    /// First and last + 1 input position of window `o` along an axis of size `n`.
    fn window(&self, o: usize, n: usize) -> (usize, usize) {
        let start = o * self.stride;
        (start.saturating_sub(self.padding), (start + self.kernel - self.padding).min(n))
    }

    /// Calls `each` with the index of the largest element of each window of one channel.
    fn for_largest<T: Float>(&self, x: &[T], mut each: impl FnMut(usize)) {
        let [_, _, depth, height, width] = self.dims;
        let [out_depth, out_height, out_width] = self.out;
        for oz in 0..out_depth {
            let (z0, z1) = self.window(oz, depth);
            for oy in 0..out_height {
                let (y0, y1) = self.window(oy, height);
                for ox in 0..out_width {
                    let (x0, x1) = self.window(ox, width);
                    let mut best = (z0 * height + y0) * width + x0;
                    for z in z0..z1 {
                        for y in y0..y1 {
                            let line = (z * height + y) * width;
                            for i in line + x0..line + x1 {
                                if x[i] > x[best] || (x[i].is_nan() && !x[best].is_nan()) {
                                    best = i;
                                }
                            }
                        }
                    }
                    each(best);
                }
            }
        }
    }

    fn forward<T: Float>(&self, x: &[T]) -> Vec<T> {
        let mut out = vec![T::zero(); self.dims[0] * self.dims[1] * self.out_voxels()];
        let rows = out.par_chunks_mut(self.out_voxels()).zip(x.par_chunks(self.in_voxels()));
        rows.for_each(|(out, x)| {
            let mut out = out.iter_mut();
            self.for_largest(x, |best| {
                if let Some(out) = out.next() {
                    *out = x[best];
                }
            });
        });
        out
    }

    fn gradient<T: Float>(&self, x: &[T], grad: &[T]) -> Vec<T> {
        let mut out = vec![T::zero(); x.len()];
        let rows = out.par_chunks_mut(self.in_voxels()).zip(x.par_chunks(self.in_voxels()));
        rows.zip(grad.par_chunks(self.out_voxels())).for_each(|((out, x), grad)| {
            let mut window = 0;
            self.for_largest(x, |best| {
                out[best] += grad[window];
                window += 1;
            });
        });
        out
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let [d, h, w] = self.out;
        dispatch!((x), OP, T => {
            let out = self.forward(elements::<T>(x, layout, OP)?);
            Ok((storage(out), (self.dims[0], self.dims[1], d, h, w).into()))
        })
    }

    cuda_fwd!(1);

    fn bwd(&self, x: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &MaxPoolGradient(*self))?))
    }
}

impl CustomOp2 for MaxPoolGradient {
    fn name(&self) -> &'static str {
        "max_pool3d gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, grad), OP, T => {
            let (x, grad) = (elements::<T>(x, x_layout, OP)?, elements(grad, grad_layout, OP)?);
            Ok((storage(self.0.gradient(x, grad)), x_layout.shape().clone()))
        })
    }

    cuda_fwd!(2);
}

#[cfg(any(test, feature = "cuda"))]
impl MaxPool {
    /// The struct `Window` of the kernels.
    fn window_ints(&self) -> Vec<i32> {
        let [_, _, d, h, w] = self.dims;
        let sizes = [d, h, w].into_iter().chain(self.out);
        sizes.chain([self.kernel, self.stride, self.padding]).map(|n| n as i32).collect()
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for MaxPool {
    const OP: &'static str = OP;

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 1);
        let ([batch, channels, ..], [d, h, w]) = (self.dims, self.out);
        let rows = batch * channels;
        let count = rows * self.out_voxels();
        let out = routine.output(count);
        let args = args![inputs[0], out, self.window_ints(), rows as i64];
        routine.call(Call::new(source(element), "max_pool", args).over(count));
        Ok((routine, (batch, channels, d, h, w).into()))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for MaxPoolGradient {
    const OP: &'static str = "max_pool3d gradient";

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 2);
        let count = shapes[0].elem_count();
        let (rows, out) = (count / self.0.in_voxels(), routine.output(count));
        let args = args![inputs[0], inputs[1], out, self.0.window_ints(), rows as i64];
        routine.call(Call::new(source(element), "max_pool_gradient", args).over(count));
        Ok((routine, shapes[0].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check1, check2, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let x = normal(1, (2, 3, 7, 6, 5));
        for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 0), (1, 2, 0)] {
            let (dims, out) = window_grid(OP, &x, kernel, stride, padding).unwrap();
            let op = MaxPool { dims, out, kernel, stride, padding };
            check1(&op, &x);
            let grad = normal(2, (2, 3, out[0], out[1], out[2]));
            check2(&MaxPoolGradient(op), &x, &grad);
        }
    }
}
