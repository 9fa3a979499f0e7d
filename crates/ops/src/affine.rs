//! Trilinear resampling of volumes by affine maps.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use crate::check::{expect_argument, volume_dims};
use crate::float::cuda_fwd;
use crate::float::{Float, dispatch, elements, storage};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, args, space as source};

const OP: &str = "affine_resample3d";

/// Samples each volume of `x`, N,C,D,H,W, where its map of `theta`, N,3,4, says: the value at position
/// p of the result is that of `x` at theta · (p, 1), interpolated linearly along x, y and z, with
/// zeros outside the grid. Positions are x, y, z in voxels about the centre (n - 1) / 2.
///
/// f32 or f64; differentiable in both arguments. The derivative in `theta` is that of the linear
/// interpolation, which jumps where a sample crosses a voxel's centre. Channels are sampled one by
/// one: components of fields with l > 0 must be turned beside this.
///
/// # Errors
/// If `x` is no volume tensor, or `theta` has another shape or element type.
pub fn affine_resample3d(x: &Tensor, theta: &Tensor) -> Result<Tensor> {
    let dims = volume_dims(OP, x)?;
    expect_argument(OP, "theta", theta, &[dims[0], 3, 4], x)?;
    x.contiguous()?.apply_op2(&theta.contiguous()?, AffineResample { dims })
}

#[derive(Clone, Copy)]
struct AffineResample {
    dims: [usize; 5],
}

/// Output gradient and maps to input gradient.
struct InputGradient(AffineResample);

/// Input, maps and output gradient to the gradient of the maps.
struct MapGradient(AffineResample);

/// A voxel beside a sampled position: its offset and, for x, y, z, its weight and the derivative of
/// the weight.
struct Corner {
    offset: usize,
    weights: [f64; 3],
    slopes: [f64; 3],
}

impl Corner {
    fn weight(&self) -> f64 {
        self.weights.iter().product()
    }

    /// Derivative of the weight in the position along `axis`.
    fn slope(&self, axis: usize) -> f64 {
        (0..3).map(|i| if i == axis { self.slopes[i] } else { self.weights[i] }).product()
    }
}

impl AffineResample {
    fn voxels(&self) -> usize {
        self.dims[2..].iter().product()
    }

    /// Voxels of one plane of constant z.
    fn plane(&self) -> usize {
        self.dims[3] * self.dims[4]
    }

    /// Position x, y, z of a voxel about the centre.
    fn position(&self, voxel: usize) -> [f64; 3] {
        let [_, _, d, h, w] = self.dims;
        let index = [voxel % w, voxel / w % h, voxel / (w * h)];
        [0, 1, 2].map(|i| index[i] as f64 - ([w, h, d][i] - 1) as f64 / 2.0)
    }

    /// The voxels of the grid beside the position from which `voxel` is sampled by the map `theta`.
    fn corners<T: Float>(&self, theta: &[T], voxel: usize) -> impl Iterator<Item = Corner> {
        let [_, _, d, h, w] = self.dims;
        let (len, stride) = ([w, h, d], [1, w, w * h]);
        let [x, y, z] = self.position(voxel);
        let at = [0, 1, 2].map(|i| {
            let row = [0, 1, 2, 3].map(|j| theta[4 * i + j].to_f64());
            let index = row[0] * x + row[1] * y + row[2] * z + row[3] + (len[i] - 1) as f64 / 2.0;
            // What is far outside stays outside, where indices cannot overflow.
            index.clamp(-2.0, len[i] as f64 + 1.0)
        });
        let floor = at.map(f64::floor);
        (0..8usize).filter_map(move |corner| {
            let mut beside = Corner { offset: 0, weights: [0.0; 3], slopes: [0.0; 3] };
            for i in 0..3 {
                let (upper, t) = (corner >> i & 1, at[i] - floor[i]);
                let index = usize::try_from(floor[i] as isize + upper as isize).ok()?;
                if index >= len[i] {
                    return None;
                }
                beside.offset += index * stride[i];
                (beside.weights[i], beside.slopes[i]) =
                    if upper == 1 { (t, 1.0) } else { (1.0 - t, -1.0) };
            }
            Some(beside)
        })
    }

    fn forward<T: Float>(&self, x: &[T], theta: &[T]) -> Vec<T> {
        let (channels, plane, planes) = (self.dims[1], self.plane(), self.dims[2]);
        let mut out = vec![T::zero(); x.len()];
        out.par_chunks_mut(plane).enumerate().for_each(|(i, out)| {
            let (channel, first) = (i / planes, i % planes * plane);
            let x = &x[channel * self.voxels()..(channel + 1) * self.voxels()];
            let theta = &theta[channel / channels * 12..][..12];
            for (voxel, out) in (first..).zip(out) {
                let terms = self.corners(theta, voxel).map(|c| c.weight() * x[c.offset].to_f64());
                *out = T::from_f64(terms.sum());
            }
        });
        out
    }

    fn input_gradient<T: Float>(&self, grad: &[T], theta: &[T]) -> Vec<T> {
        let (channels, voxels) = (self.dims[1], self.voxels());
        let mut out = vec![T::zero(); grad.len()];
        let rows = out.par_chunks_mut(voxels).zip(grad.par_chunks(voxels)).enumerate();
        rows.for_each(|(channel, (out, grad))| {
            let theta = &theta[channel / channels * 12..][..12];
            for (voxel, grad) in grad.iter().enumerate() {
                for corner in self.corners(theta, voxel) {
                    out[corner.offset] += T::from_f64(corner.weight() * grad.to_f64());
                }
            }
        });
        out
    }

    fn map_gradient<T: Float>(&self, x: &[T], theta: &[T], grad: &[T]) -> Vec<T> {
        let (channels, plane, planes) = (self.dims[1], self.plane(), self.dims[2]);
        let of_plane = |(i, grad): (usize, &[T])| {
            let (channel, first) = (i / planes, i % planes * plane);
            let x = &x[channel * self.voxels()..(channel + 1) * self.voxels()];
            let theta = &theta[channel / channels * 12..][..12];
            let mut sums = [0.0; 12];
            for (voxel, grad) in (first..).zip(grad) {
                let mut slopes = [0.0; 3];
                for corner in self.corners(theta, voxel) {
                    let x = x[corner.offset].to_f64();
                    slopes = [0, 1, 2].map(|i| slopes[i] + corner.slope(i) * x);
                }
                let [x, y, z] = self.position(voxel);
                for (i, slope) in slopes.into_iter().enumerate() {
                    for (j, p) in [x, y, z, 1.0].into_iter().enumerate() {
                        sums[4 * i + j] += grad.to_f64() * slope * p;
                    }
                }
            }
            sums
        };
        // Summed in a fixed order.
        let sums: Vec<[f64; 12]> = grad.par_chunks(plane).enumerate().map(of_plane).collect();
        let of_map = |sums: &[[f64; 12]]| -> Vec<T> {
            (0..12).map(|i| T::from_f64(sums.iter().map(|sum| sum[i]).sum())).collect()
        };
        sums.chunks(channels * planes).flat_map(of_map).collect()
    }
}

impl CustomOp2 for AffineResample {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        theta: &CpuStorage,
        theta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, theta), OP, T => {
            let (x, theta) = (elements::<T>(x, x_layout, OP)?, elements(theta, theta_layout, OP)?);
            Ok((storage(self.forward(x, theta)), x_layout.shape().clone()))
        })
    }

    cuda_fwd!(2);

    fn bwd(
        &self,
        x: &Tensor,
        theta: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let of_input = grad.apply_op2_no_bwd(theta, &InputGradient(*self))?;
        let of_maps = x.apply_op3_no_bwd(theta, &grad, &MapGradient(*self))?;
        Ok((Some(of_input), Some(of_maps)))
    }
}

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "affine_resample3d input gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        layout: &Layout,
        theta: &CpuStorage,
        theta_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((grad, theta), OP, T => {
            let (grad, theta) =
                (elements::<T>(grad, layout, OP)?, elements(theta, theta_layout, OP)?);
            Ok((storage(self.0.input_gradient(grad, theta)), layout.shape().clone()))
        })
    }

    cuda_fwd!(2);
}

impl CustomOp3 for MapGradient {
    fn name(&self) -> &'static str {
        "affine_resample3d map gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        theta: &CpuStorage,
        theta_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, theta, grad), OP, T => {
            let (x, theta) = (elements::<T>(x, x_layout, OP)?, elements(theta, theta_layout, OP)?);
            let grad = elements(grad, grad_layout, OP)?;
            Ok((storage(self.0.map_gradient(x, theta, grad)), theta_layout.shape().clone()))
        })
    }

    cuda_fwd!(3);
}

#[cfg(any(test, feature = "cuda"))]
impl AffineResample {
    /// The struct `Grid` of the kernels.
    fn grid_ints(&self) -> Vec<i32> {
        self.dims[2..].iter().map(|&n| n as i32).collect()
    }

    fn rows(&self) -> usize {
        self.dims[0] * self.dims[1]
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for AffineResample {
    const OP: &'static str = OP;

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 2);
        let (count, rows) = (shapes[0].elem_count(), self.rows());
        let out = routine.output(count);
        let args = args![inputs[0], inputs[1], out, self.grid_ints(), self.dims[1], rows as i64];
        routine.call(Call::new(source(element), "resample", args).over(count));
        Ok((routine, shapes[0].clone()))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for InputGradient {
    const OP: &'static str = "affine_resample3d input gradient";

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 2);
        let (count, rows, voxels) = (shapes[0].elem_count(), self.0.rows(), self.0.voxels());
        let [largest, sums] = [rows, count].map(|n| routine.scratch_bytes(8 * n));
        let out = routine.output(count);
        let call = |function, args| Call::new(source(element), function, args);
        let largest_of_rows = call("row_largest", args![inputs[0], largest, voxels]);
        routine.call(largest_of_rows.grid(rows, 1).summing());
        routine.call(call("zero", args![sums, count as i64]).over(count));
        let (grid, channels) = (self.0.grid_ints(), self.0.dims[1]);
        let args = args![inputs[0], inputs[1], largest, sums, grid, channels, rows as i64];
        routine.call(call("resample_scatter", args).over(count));
        let args = args![sums, largest, out, voxels, rows as i64];
        routine.call(call("resample_gather", args).over(count));
        Ok((routine, shapes[0].clone()))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for MapGradient {
    const OP: &'static str = "affine_resample3d map gradient";

    fn routine(
        &self,
        shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 3);
        let (count, rows, channels) = (shapes[1].elem_count(), self.0.rows(), self.0.dims[1]);
        let sums = routine.scratch_bytes(8 * 12 * rows);
        let out = routine.output(count);
        let call = |function, args| Call::new(source(element), function, args);
        let args = args![inputs[0], inputs[1], inputs[2], sums, self.0.grid_ints(), channels];
        routine.call(call("resample_map_gradient", args).grid(rows, 1).summing());
        routine.call(call("sum_maps", args![sums, out, channels, count]).over(count));
        Ok((routine, shapes[1].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check2, check3, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let op = AffineResample { dims: [2, 2, 4, 5, 6] };
        let (x, grad) = (normal(1, (2, 2, 4, 5, 6)), normal(2, (2, 2, 4, 5, 6)));
        // Numbers that bf16 holds, away from the jumps of the slope.
        let theta =
            [0.75, 0.25, 0.125, 0.3125, -0.25, 0.875, 0.0625, -0.1875, 0.125, 0.0, 1.0, 0.4375];
        let theta: Vec<f64> = theta.iter().copied().chain(theta.iter().map(|t| 0.5 * t)).collect();
        let theta = Tensor::from_vec(theta, (2, 3, 4), x.device()).unwrap();
        check2(&op, &x, &theta);
        check2(&InputGradient(op), &grad, &theta);
        check3(&MapGradient(op), &x, &theta, &grad);
    }
}
