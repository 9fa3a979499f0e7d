//! Trilinear resampling of volumes by affine maps.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use crate::check::{Volume, expect_argument};
use crate::float::Float;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot, args, int, space};
use crate::op::{Op, apply, apply_constant};
use crate::simd::Lanes;

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
    let volume = Volume::of(OP, x)?;
    expect_argument(OP, "theta", theta, &[volume.batch, 3, 4], x)?;
    apply(AffineResample(volume), [x, theta])
}

#[derive(Clone, Copy)]
struct AffineResample(Volume);

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
    /// Voxels of one plane of constant z.
    fn plane(&self) -> usize {
        self.0.size[1] * self.0.size[2]
    }

    /// Position x, y, z of a voxel about the centre.
    fn position(&self, voxel: usize) -> [f64; 3] {
        let [d, h, w] = self.0.size;
        let index = [voxel % w, voxel / w % h, voxel / (w * h)];
        [0, 1, 2].map(|i| index[i] as f64 - ([w, h, d][i] - 1) as f64 / 2.0)
    }

    /// The voxels of the grid beside the position from which `voxel` is sampled by the map `theta`.
    fn corners<T: Float>(&self, theta: &[T], voxel: usize) -> impl Iterator<Item = Corner> {
        let [d, h, w] = self.0.size;
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

    /// The channel of this index among those of all samples, and its map.
    fn channel<'a, T>(&self, i: usize, x: &'a [T], theta: &'a [T]) -> (&'a [T], &'a [T]) {
        let voxels = self.0.voxels();
        (&x[i * voxels..][..voxels], &theta[i / self.0.channels * 12..][..12])
    }

    /// The struct `Grid` of the kernels.
    #[cfg(any(test, feature = "cuda"))]
    fn grid_ints(&self) -> Vec<i32> {
        self.0.size.iter().map(|&n| int(n)).collect()
    }
}

impl Op<2> for AffineResample {
    const NAME: &'static str = OP;

    fn cpu<T: Lanes>(&self, [x, theta]: [&[T]; 2]) -> Vec<T> {
        let (plane, planes) = (self.plane(), self.0.size[0]);
        let mut out = vec![T::zero(); x.len()];
        out.par_chunks_mut(plane).enumerate().for_each(|(i, out)| {
            let (x, theta) = self.channel(i / planes, x, theta);
            for (voxel, out) in (i % planes * plane..).zip(out) {
                let terms = self.corners(theta, voxel).map(|c| c.weight() * x[c.offset].to_f64());
                *out = T::from_f64(terms.sum());
            }
        });
        out
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, theta]: [Slot; 2], out: Slot) -> Result<()> {
        let (count, rows) = (routine.len(out), self.0.rows() as i64);
        let args = args![x, theta, out, self.grid_ints(), self.0.channels, rows];
        routine.call(space, "resample", args).over(count);
        Ok(())
    }

    fn backward(&self, [x, theta]: [&Tensor; 2], grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let of_input = apply_constant(InputGradient(*self), [grad, theta])?;
        let of_maps = apply_constant(MapGradient(*self), [x, theta, grad])?;
        Ok([Some(of_input), Some(of_maps)])
    }
}

impl Op<2> for InputGradient {
    const NAME: &'static str = "affine_resample3d input gradient";

    fn cpu<T: Lanes>(&self, [grad, theta]: [&[T]; 2]) -> Vec<T> {
        let mut out = vec![T::zero(); grad.len()];
        out.par_chunks_mut(self.0.0.voxels()).enumerate().for_each(|(channel, out)| {
            let (grad, theta) = self.0.channel(channel, grad, theta);
            for (voxel, grad) in grad.iter().enumerate() {
                for corner in self.0.corners(theta, voxel) {
                    out[corner.offset] += T::from_f64(corner.weight() * grad.to_f64());
                }
            }
        });
        out
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [grad, theta]: [Slot; 2], out: Slot) -> Result<()> {
        let volume = self.0.0;
        let (count, rows, voxels) = (routine.len(out), volume.rows(), volume.voxels());
        let [largest, sums] = [rows, count].map(|n| routine.scratch_bytes(8 * n));
        routine.call(space, "row_largest", args![grad, largest, voxels]).grid(rows, 1).summing();
        routine.call(space, "zero", args![sums, count as i64]).over(count);
        let mut args = args![grad, theta, largest, sums, self.0.grid_ints()];
        args.extend(args![volume.channels, rows as i64]);
        routine.call(space, "resample_scatter", args).over(count);
        let args = args![sums, largest, out, voxels, rows as i64];
        routine.call(space, "resample_gather", args).over(count);
        Ok(())
    }
}

impl Op<3> for MapGradient {
    const NAME: &'static str = "affine_resample3d map gradient";

    fn shape(&self, [_, theta, _]: [&Shape; 3]) -> Shape {
        theta.clone()
    }

    fn cpu<T: Lanes>(&self, [x, theta, grad]: [&[T]; 3]) -> Vec<T> {
        let op = &self.0;
        let (plane, planes) = (op.plane(), op.0.size[0]);
        let of_plane = |(i, grad): (usize, &[T])| {
            let (x, theta) = op.channel(i / planes, x, theta);
            let mut sums = [0.0; 12];
            for (voxel, grad) in (i % planes * plane..).zip(grad) {
                let mut slopes = [0.0; 3];
                for corner in op.corners(theta, voxel) {
                    let x = x[corner.offset].to_f64();
                    slopes = [0, 1, 2].map(|i| slopes[i] + corner.slope(i) * x);
                }
                let [x, y, z] = op.position(voxel);
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
        sums.chunks(op.0.channels * planes).flat_map(of_map).collect()
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, theta, grad]: [Slot; 3], out: Slot) -> Result<()> {
        let (count, rows, channels) = (routine.len(out), self.0.0.rows(), self.0.0.channels);
        let sums = routine.scratch_bytes(8 * 12 * rows);
        let args = args![x, theta, grad, sums, self.0.grid_ints(), channels];
        routine.call(space, "resample_map_gradient", args).grid(rows, 1).summing();
        routine.call(space, "sum_maps", args![sums, out, channels, count]).over(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let op = AffineResample(Volume { batch: 2, channels: 2, size: [4, 5, 6] });
        let (x, grad) = (normal(1, (2, 2, 4, 5, 6)), normal(2, (2, 2, 4, 5, 6)));
        // Numbers that bf16 holds, away from the jumps of the slope.
        let theta =
            [0.75, 0.25, 0.125, 0.3125, -0.25, 0.875, 0.0625, -0.1875, 0.125, 0.0, 1.0, 0.4375];
        let theta: Vec<f64> = theta.iter().copied().chain(theta.iter().map(|t| 0.5 * t)).collect();
        let theta = Tensor::from_vec(theta, (2, 3, 4), x.device()).unwrap();
        check(&op, [&x, &theta]);
        check(&InputGradient(op), [&grad, &theta]);
        check(&MapGradient(op), [&x, &theta, &grad]);
    }
}
