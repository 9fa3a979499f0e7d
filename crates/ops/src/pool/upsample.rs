//! Up-sampling, the adjoint of Gaussian pooling.

use candle_core::{Result, Tensor};

use super::axis_filter::{AxisFilters, gaussian_axes};
use crate::check::{Volume, invalid};
use crate::op::apply;

/// Up-sampling to a grid of `size` = D,H,W voxels that lie as [`gaussian_pool3d`](crate::gaussian_pool3d)
/// with the same `stride` and `sigma` takes them: stride³ times its adjoint, that is a Gaussian of width
/// `sigma` (in voxels of the result) at every voxel of `x`. N,C,D',H',W' to N,C,D,H,W with D' = D / stride,
/// rounded up. f32 or f64; differentiable.
///
/// The 24 rotations of the cube commute with it up to rounding. With sigma = 0.6 stride a constant field
/// stays constant to 0.5 % away from the border.
///
/// # Errors
/// If `x` is no volume tensor, its grid is not that of the pooled `size`, `stride` is 0 or `sigma` is not
/// in 0..=1024 (0 excluded).
pub fn gaussian_upsample3d(
    x: &Tensor,
    size: [usize; 3],
    stride: usize,
    sigma: f64,
) -> Result<Tensor> {
    gaussian_upsample3d_along(x, size, [stride; 3], [sigma; 3])
}

/// [`gaussian_upsample3d`] with a stride and a width for each of the axes D, H, W; a stride of 1 and a width of 0 leave
/// an axis as it is. One axis after the other gives the same.
///
/// # Errors
/// As [`gaussian_upsample3d`].
pub fn gaussian_upsample3d_along(
    x: &Tensor,
    size: [usize; 3],
    stride: [usize; 3],
    sigma: [f64; 3],
) -> Result<Tensor> {
    const OP: &str = "gaussian_upsample3d";
    let volume = Volume::of(OP, x)?;
    let [z, y, w] = gaussian_axes(OP, size, stride, sigma)?;
    let axes = [z.times(stride[0]), y.times(stride[1]), w.times(stride[2])];
    let expected = [0, 1, 2].map(|i| size[i].div_ceil(stride[i]));
    if volume.size != expected {
        let found = volume.size;
        let problem = format!("expected a grid of {expected:?} for {size:?}, got {found:?}");
        return Err(invalid(OP, problem));
    }
    let filters = AxisFilters::new(Volume { size, ..volume }, axes);
    apply(filters.transposed(), [x])
}
