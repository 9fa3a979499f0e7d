//! Average and Gaussian pooling: one filter along each axis, of which every stride-th value is
//! kept.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use super::window::Windows;
use crate::check::{Volume, invalid};
use crate::float::Float;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Arg, Routine, Slot, args, int, space};
use crate::op::{Op, apply, apply_constant};
use crate::simd::Lanes;

/// Half width of the Gaussian's taps in units of its sigma.
const GAUSSIAN_REACH: f64 = 4.0;

/// Lines along W that are filtered at once.
const LINES: usize = 16;

/// Largest sigma of the Gaussian, in voxels.
const SIGMA_MAX: f64 = 1024.0;

/// The mean of each cubic window of edge `kernel`, windows `stride` apart. Padding voxels count as
/// zeros (the divisor is always kernel^3). N,C,D,H,W to N,C,D',H',W' with
/// D' = (D + 2 padding - kernel) / stride + 1. f32 or f64; differentiable.
///
/// # Errors
/// If `x` is no volume tensor, `kernel` or `stride` is 0, `padding` is more than half of `kernel`
/// or a window is larger than the padded volume.
pub fn avg_pool3d(x: &Tensor, kernel: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let Windows { volume, out, .. } = Windows::new("avg_pool3d", x, kernel, stride, padding)?;
    let axes = [0, 1, 2].map(|axis| AxisFilter {
        taps: vec![1.0 / kernel as f64; kernel],
        start: -(padding as isize),
        stride,
        size: volume.size[axis],
        out: out[axis],
    });
    apply(AxisFilters::new(volume, axes), [x])
}

const OP: &str = "gaussian_pool3d";

/// Antialiased subsampling: every channel is blurred by an isotropic Gaussian of width `sigma`
/// (voxels), then sampled every `stride` voxels. N,C,D,H,W to N,C,D',H',W' with
/// D' = D / stride, rounded up. f32 or f64; differentiable.
///
/// The samples lie symmetrically about the volume's centre: along an axis of n voxels, sample j of
/// m is at (n-1)/2 + (j - (m-1)/2) stride, on a voxel or midway between two. So the 24 rotations
/// of the cube commute with this operation up to rounding. The taps reach 4 sigma and sum to 1;
/// outside the volume the field is taken as 0.
///
/// # Errors
/// If `x` is no volume tensor, `stride` is 0 or `sigma` is not in 0..=1024 (0 excluded).
pub fn gaussian_pool3d(x: &Tensor, stride: usize, sigma: f64) -> Result<Tensor> {
    apply(AxisFilters::gaussian(Volume::of(OP, x)?, stride, sigma)?, [x])
}

/// [`gaussian_pool3d`] with a stride and a width for each of the axes D, H, W; a stride of 1 and a width of 0 leave an
/// axis as it is. One axis after the other gives the same.
///
/// # Errors
/// As [`gaussian_pool3d`].
pub fn gaussian_pool3d_along(x: &Tensor, stride: [usize; 3], sigma: [f64; 3]) -> Result<Tensor> {
    const OP: &str = "gaussian_pool3d_along";
    let volume = Volume::of(OP, x)?;
    apply(AxisFilters::new(volume, gaussian_axes(OP, volume.size, stride, sigma)?), [x])
}

/// The filters of a Gaussian pool of a grid of D, H, W voxels.
pub(super) fn gaussian_axes(
    op: &'static str,
    size: [usize; 3],
    stride: [usize; 3],
    sigma: [f64; 3],
) -> Result<[AxisFilter; 3]> {
    if stride.contains(&0) {
        return Err(invalid(op, "expected a stride of at least 1, got 0"));
    }
    for (stride, sigma) in stride.into_iter().zip(sigma) {
        let left = stride == 1 && sigma == 0.0;
        if !(left || sigma > 0.0 && sigma <= SIGMA_MAX) {
            let problem = format!("expected a sigma above 0 and at most {SIGMA_MAX}, got {sigma}");
            return Err(invalid(op, problem));
        }
    }
    if size.contains(&0) {
        return Err(invalid(op, format!("expected sizes of at least 1, got {size:?}")));
    }
    Ok([0, 1, 2].map(|axis| AxisFilter::gaussian(size[axis], stride[axis], sigma[axis])))
}

/// What [`gaussian_pool3d`] does along an axis of `size` voxels: taps and `start` in
/// `out[j] = sum_t taps[t] in[j stride + start + t]`, where `in` is zero outside. They depend on `size` through
/// (size - 1) mod `stride` alone.
///
/// # Errors
/// As [`gaussian_pool3d`].
pub fn gaussian_filter(size: usize, stride: usize, sigma: f64) -> Result<(Vec<f64>, isize)> {
    let [filter, ..] = gaussian_axes("gaussian_filter", [size; 3], [stride; 3], [sigma; 3])?;
    Ok((filter.taps, filter.start))
}

/// `out[j] = sum_t taps[t] in[j stride + start + t]` along one axis, zero outside.
#[derive(Clone)]
pub(super) struct AxisFilter {
    taps: Vec<f64>,
    start: isize,
    stride: usize,
    size: usize,
    out: usize,
}

impl AxisFilter {
    fn gaussian(size: usize, stride: usize, sigma: f64) -> Self {
        if sigma == 0.0 {
            return Self { taps: vec![1.0], start: 0, stride, size, out: size };
        }
        let out = size.div_ceil(stride);
        // Position of the first sample, in half voxels.
        let first = size - 1 - (out - 1) * stride;
        let reach = (GAUSSIAN_REACH * sigma).ceil() as usize;
        let count = 2 * reach + usize::from(first.is_multiple_of(2));
        let centre = (count - 1) as f64 / 2.0;
        let weight = |t: usize| (-((t as f64 - centre) / sigma).powi(2) / 2.0).exp();
        let weights: Vec<_> = (0..count).map(weight).collect();
        let total: f64 = weights.iter().sum();
        Self {
            taps: weights.iter().map(|w| w / total).collect(),
            start: (first as isize - (count as isize - 1)) / 2,
            stride,
            size,
            out,
        }
    }

    /// With every tap times `factor`.
    pub(super) fn times(mut self, factor: usize) -> Self {
        self.taps.iter_mut().for_each(|tap| *tap *= factor as f64);
        self
    }

    /// Filters the middle axis of `input` (outer, size, inner), or with `transpose` the middle axis
    /// of (outer, out, inner) back to (outer, size, inner).
    #[inline(always)]
    fn apply<T: Float>(&self, input: &[T], inner: usize, transpose: bool) -> Vec<T> {
        let (from, to) = self.lengths(transpose);
        let mut output = vec![T::zero(); input.len() / from * to];
        let taps: Vec<T> = self.taps.iter().map(|&tap| T::from_f64(tap)).collect();
        if inner == 1 {
            self.apply_to_lines(input, &mut output, &taps, transpose);
            return output;
        }
        let slabs = output.chunks_exact_mut(to * inner).zip(input.chunks_exact(from * inner));
        slabs.for_each(|(output, input)| self.apply_to_slab(input, output, &taps, transpose));
        output
    }

    fn lengths(&self, transpose: bool) -> (usize, usize) {
        if transpose { (self.out, self.size) } else { (self.size, self.out) }
    }

    /// Lines of adjacent values, turned several at a time into a slab so that vectors span lines.
    #[inline(always)]
    fn apply_to_lines<T: Float>(&self, input: &[T], output: &mut [T], taps: &[T], transpose: bool) {
        let (from, to) = self.lengths(transpose);
        let mut source = vec![T::zero(); from * LINES];
        let mut target = vec![T::zero(); to * LINES];
        for (output, input) in output.chunks_mut(to * LINES).zip(input.chunks(from * LINES)) {
            for (line, values) in input.chunks_exact(from).enumerate() {
                values.iter().enumerate().for_each(|(i, &x)| source[i * LINES + line] = x);
            }
            target.fill(T::zero());
            self.apply_to_slab(&source, &mut target, taps, transpose);
            for (line, values) in output.chunks_exact_mut(to).enumerate() {
                values.iter_mut().enumerate().for_each(|(i, y)| *y = target[i * LINES + line]);
            }
        }
    }

    /// Adds to `output` (to, inner) the filter of `input` (from, inner).
    #[inline(always)]
    fn apply_to_slab<T: Float>(&self, input: &[T], output: &mut [T], taps: &[T], transpose: bool) {
        let inner = input.len() / self.lengths(transpose).0;
        for j in 0..self.out {
            let start = (j * self.stride) as isize + self.start;
            let first = usize::try_from(-start).unwrap_or(0).min(taps.len());
            let last = (self.size as isize - start).clamp(0, taps.len() as isize) as usize;
            let taps = &taps[first..last.max(first)];
            let i = ((start + first as isize) as usize).min(self.size);
            for (i, &tap) in (i..).zip(taps) {
                let (source, target) = if transpose { (j, i) } else { (i, j) };
                let source = &input[source * inner..][..inner];
                let target = &mut output[target * inner..][..inner];
                target.iter_mut().zip(source).for_each(|(y, &x)| *y += tap * x);
            }
        }
    }
}

/// A filter along each of D,H,W, or its transpose.
#[derive(Clone)]
pub(crate) struct AxisFilters {
    /// Batch and channels, and sizes before the filters.
    volume: Volume,
    axes: [AxisFilter; 3],
    transpose: bool,
}

impl AxisFilters {
    pub(super) fn new(volume: Volume, axes: [AxisFilter; 3]) -> Self {
        Self { volume, axes, transpose: false }
    }

    /// Those of [`gaussian_pool3d`].
    pub(crate) fn gaussian(volume: Volume, stride: usize, sigma: f64) -> Result<Self> {
        Ok(Self::new(volume, gaussian_axes(OP, volume.size, [stride; 3], [sigma; 3])?))
    }

    pub(crate) fn transposed(&self) -> Self {
        Self { transpose: !self.transpose, ..self.clone() }
    }

    /// Sizes of what the operation is given and of what it gives.
    pub(crate) fn sizes(&self) -> [Volume; 2] {
        let of = |kept: bool| {
            let size = [0, 1, 2].map(|i| self.axes[i].lengths(kept).0);
            Volume { size, ..self.volume }
        };
        [of(self.transpose), of(!self.transpose)]
    }

    /// Adds the filter of one axis of `from`, which has the sizes `size` along D,H,W, to a routine.
    #[cfg(any(test, feature = "cuda"))]
    fn add_axis(
        &self,
        routine: &mut Routine,
        axis: usize,
        size: [usize; 3],
        (from, to): (Slot, Slot),
    ) {
        let filter = &self.axes[axis];
        let inner: usize = size[axis + 1..].iter().product();
        let outer = self.volume.rows() * size[..axis].iter().product::<usize>();
        let taps = routine.reals(filter.taps.clone());
        let mut args = args![from, taps, to, outer as i64, filter.size, filter.out, inner];
        args.extend(args![filter.taps.len()]);
        args.push(Arg::I32(int(filter.start)));
        args.extend(args![filter.stride, usize::from(self.transpose)]);
        let kept = filter.lengths(self.transpose).1;
        routine.call(space, "axis_filter", args).over(outer * kept * inner);
    }
}

impl Op<1> for AxisFilters {
    const NAME: &'static str = "axis filters";

    fn shape(&self, _: [&Shape; 1]) -> Shape {
        self.sizes()[1].shape()
    }

    fn cpu<T: Lanes>(&self, [input]: [&[T]; 1]) -> Vec<T> {
        let arch = pulp::Arch::new();
        let [z, y, x] = &self.axes;
        let [from, to] = self.sizes().map(|volume| volume.voxels());
        let mut output = vec![T::zero(); input.len() / from * to];
        output.par_chunks_mut(to).zip(input.par_chunks(from)).for_each(|(output, input)| {
            let filter = || {
                if self.transpose {
                    let lines = x.apply(input, 1, true);
                    let planes = y.apply(&lines, x.size, true);
                    z.apply(&planes, y.size * x.size, true)
                } else {
                    let planes = z.apply(input, y.size * x.size, false);
                    let lines = y.apply(&planes, x.size, false);
                    x.apply(&lines, 1, false)
                }
            };
            output.copy_from_slice(&arch.dispatch(filter));
        });
        output
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x]: [Slot; 1], out: Slot) -> Result<()> {
        let [mut volume, result] = self.sizes();
        let mut from = x;
        let order = if self.transpose { [2, 1, 0] } else { [0, 1, 2] };
        for (i, axis) in order.into_iter().enumerate() {
            let before = volume.size;
            volume.size[axis] = result.size[axis];
            let len = volume.rows() * volume.voxels();
            // Between the passes tensors have the element type too, of at most 8 bytes.
            let to = if i == 2 { out } else { routine.scratch_bytes(8 * len) };
            self.add_axis(routine, axis, before, (from, to));
            from = to;
        }
        Ok(())
    }

    fn backward(&self, _: [&Tensor; 1], grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(apply_constant(self.transposed(), [grad])?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{gaussian_upsample3d, gaussian_upsample3d_along};
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let x = normal(1, (2, 3, 7, 6, 5));
        let blurred = |stride, sigma| [7, 6, 5].map(|n| AxisFilter::gaussian(n, stride, sigma));
        for axes in [blurred(2, 0.8), blurred(3, 1.3), blurred(1, 0.5)] {
            let volume = Volume { batch: 2, channels: 3, size: [7, 6, 5] };
            let op = AxisFilters::new(volume, axes);
            check(&op, [&x]);
            check(&op.transposed(), [&normal(2, op.sizes()[1].shape())]);
        }
    }
    #[test]
    fn axes_after_one_another_are_all_at_once() {
        let x = normal(1, (2, 3, 7, 6, 9));
        let whole = gaussian_pool3d(&x, 2, 1.2).unwrap();
        let planes = gaussian_pool3d_along(&x, [1, 2, 2], [0.0, 1.2, 1.2]).unwrap();
        assert_eq!(planes.dims(), [2, 3, 7, 3, 5]);
        let found = gaussian_pool3d_along(&planes, [2, 1, 1], [1.2, 0.0, 0.0]).unwrap();
        let gap = |a: &Tensor, b: &Tensor| {
            let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
            gap.to_scalar::<f64>().unwrap()
        };
        assert!(gap(&found, &whole) < 1e-12);
        let risen = gaussian_upsample3d(&whole, [7, 6, 9], 2, 1.2).unwrap();
        let along =
            |x, size, stride, sigma| gaussian_upsample3d_along(x, size, stride, sigma).unwrap();
        let planes = along(&whole, [7, 3, 5], [2, 1, 1], [1.2, 0.0, 0.0]);
        let found = along(&planes, [7, 6, 9], [1, 2, 2], [0.0, 1.2, 1.2]);
        assert!(gap(&found, &risen) < 1e-12);
    }
}
