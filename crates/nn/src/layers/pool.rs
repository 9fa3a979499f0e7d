use candle_core::Tensor;
use steer3d_ops::{gaussian_pool3d, gaussian_upsample3d, max_pool3d};

use crate::{Field, NnError};

/// Antialiased subsampling: a Gaussian blur, then every `stride`-th voxel.
///
/// The Gaussian is isotropic and the voxels kept lie symmetrically about the centre for even and
/// odd sizes, so the 24 rotations of the cube commute with it exactly.
#[derive(Debug, Clone, Copy)]
pub struct GaussianPool {
    /// Factor by which the grid shrinks.
    pub stride: usize,
    /// Width of the Gaussian in voxels of the input.
    pub sigma: f64,
}

impl GaussianPool {
    /// A pool of the given stride whose Gaussian is 0.6 strides wide: at the highest frequency of
    /// the new grid it passes exp(-(0.6 π)² / 2) = 17 % of the amplitude.
    pub fn new(stride: usize) -> Self {
        Self { stride, sigma: 0.6 * stride as f64 }
    }

    /// Pools a field of any type.
    ///
    /// # Errors
    /// When the stride is zero or the width not positive.
    pub fn forward(&self, field: &Field) -> Result<Field, NnError> {
        field.with(gaussian_pool3d(field.values(), self.stride, self.sigma)?)
    }

    /// Up-samples a field of any type to the grid of `size` = D,H,W voxels whose pooled grid it lives on:
    /// the adjoint of [`forward`](Self::forward), scaled so that a constant field stays constant. The 24
    /// rotations of the cube commute with it exactly.
    ///
    /// # Errors
    /// When the grid of the field is not the pooled one.
    pub fn upsample(&self, field: &Field, size: [usize; 3]) -> Result<Field, NnError> {
        field.with(gaussian_upsample3d(field.values(), size, self.stride, self.sigma)?)
    }
}

/// Any of the ways to shrink the grid.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pool {
    Gaussian(GaussianPool),
    Max(usize),
    /// The maximum over 27 voxels before a Gaussian.
    Antialiased(GaussianPool),
}

impl Pool {
    pub(crate) fn forward(self, field: &Field) -> Result<Field, NnError> {
        match self {
            Self::Gaussian(pool) => pool.forward(field),
            Self::Max(n) => field.with(max_pool3d(field.values(), n, n, 0)?),
            Self::Antialiased(pool) => {
                pool.forward(&field.with(max_pool3d(field.values(), 3, 1, 1)?)?)
            }
        }
    }

    /// A field on the pooled grid of a grid of `size` = D,H,W, on that grid.
    pub(crate) fn upsample(self, field: &Field, size: [usize; 3]) -> Result<Field, NnError> {
        match self {
            Self::Gaussian(pool) | Self::Antialiased(pool) => pool.upsample(field, size),
            Self::Max(n) => repeated(field, size, n),
        }
    }

    /// The pooled grid of a grid of `size` = D,H,W.
    pub(crate) fn pooled(self, size: [usize; 3]) -> [usize; 3] {
        match self {
            Self::Gaussian(pool) | Self::Antialiased(pool) => size.map(|n| n.div_ceil(pool.stride)),
            Self::Max(stride) => size.map(|n| n / stride),
        }
    }
}

/// Every voxel `n` times along each axis, the last ones once more where the pooling left some out.
fn repeated(field: &Field, size: [usize; 3], n: usize) -> Result<Field, NnError> {
    let mut values = field.values().clone();
    for (axis, size) in (2..5).zip(size) {
        let last = values.dim(axis)? - 1;
        let source: Vec<u32> = (0..size).map(|i| (i / n).min(last) as u32).collect();
        let source = Tensor::new(source, values.device())?;
        values = values.contiguous()?.index_select(&source, axis)?;
    }
    field.with(values)
}
