use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use super::window::Windows;
use crate::float::Float;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot, args, int, space};
use crate::op::{Op, apply, apply_constant};
use crate::simd::Lanes;

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
    apply(MaxPool(Windows::new(OP, x, kernel, stride, padding)?), [x])
}

#[derive(Clone, Copy)]
struct MaxPool(Windows);

/// Input and output gradient to input gradient.
struct MaxPoolGradient(MaxPool);

impl MaxPool {
    /// First and last + 1 input position of window `o` along an axis of size `n`.
    fn window(&self, o: usize, n: usize) -> (usize, usize) {
        let Windows { kernel, stride, padding, .. } = self.0;
        let start = o * stride;
        (start.saturating_sub(padding), (start + kernel - padding).min(n))
    }

    /// Calls `each` with the index of the largest element of each window of one channel.
    fn for_largest<T: Float>(&self, x: &[T], mut each: impl FnMut(usize)) {
        let [depth, height, width] = self.0.volume.size;
        let [out_depth, out_height, out_width] = self.0.out;
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

    /// The struct `Window` of the kernels.
    #[cfg(any(test, feature = "cuda"))]
    fn window_ints(&self) -> Vec<i32> {
        let Windows { volume, kernel, stride, padding, out } = self.0;
        let sizes = volume.size.into_iter().chain(out).chain([kernel, stride, padding]);
        sizes.map(int).collect()
    }
}

impl Op<1> for MaxPool {
    const NAME: &'static str = OP;

    fn shape(&self, _: [&Shape; 1]) -> Shape {
        self.0.result().shape()
    }

    fn cpu<T: Lanes>(&self, [x]: [&[T]; 1]) -> Vec<T> {
        let (from, to) = (self.0.volume.voxels(), self.0.result().voxels());
        let mut out = vec![T::zero(); self.0.volume.rows() * to];
        out.par_chunks_mut(to).zip(x.par_chunks(from)).for_each(|(out, x)| {
            let mut out = out.iter_mut();
            self.for_largest(x, |best| {
                if let Some(out) = out.next() {
                    *out = x[best];
                }
            });
        });
        out
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x]: [Slot; 1], out: Slot) -> Result<()> {
        let (count, rows) = (routine.len(out), self.0.volume.rows() as i64);
        routine.call(space, "max_pool", args![x, out, self.window_ints(), rows]).over(count);
        Ok(())
    }

    fn backward(&self, [x]: [&Tensor; 1], grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(apply_constant(MaxPoolGradient(*self), [x, grad])?)])
    }
}

impl Op<2> for MaxPoolGradient {
    const NAME: &'static str = "max_pool3d gradient";

    fn cpu<T: Lanes>(&self, [x, grad]: [&[T]; 2]) -> Vec<T> {
        let windows = self.0.0;
        let (from, to) = (windows.volume.voxels(), windows.result().voxels());
        let mut out = vec![T::zero(); x.len()];
        let rows = out.par_chunks_mut(from).zip(x.par_chunks(from));
        rows.zip(grad.par_chunks(to)).for_each(|((out, x), grad)| {
            let mut window = 0;
            self.0.for_largest(x, |best| {
                out[best] += grad[window];
                window += 1;
            });
        });
        out
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, grad]: [Slot; 2], out: Slot) -> Result<()> {
        let (count, rows) = (routine.len(out), self.0.0.volume.rows() as i64);
        let args = args![x, grad, out, self.0.window_ints(), rows];
        routine.call(space, "max_pool_gradient", args).over(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let x = normal(1, (2, 3, 7, 6, 5));
        for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 0), (1, 2, 0)] {
            let op = MaxPool(Windows::new(OP, &x, kernel, stride, padding).unwrap());
            check(&op, [&x]);
            let grad = normal(2, op.0.result().shape());
            check(&MaxPoolGradient(op), [&x, &grad]);
        }
    }
}
