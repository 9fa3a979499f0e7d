use steer3d_ops::{gaussian_pool3d, gaussian_upsample3d};

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
        let values = gaussian_pool3d(field.values(), self.stride, self.sigma)?;
        Field::new(field.irreps().clone(), values)
    }

    /// Up-samples a field of any type to the grid of `size` = D,H,W voxels whose pooled grid it lives on:
    /// the adjoint of [`forward`](Self::forward), scaled so that a constant field stays constant. The 24
    /// rotations of the cube commute with it exactly.
    ///
    /// # Errors
    /// When the grid of the field is not the pooled one.
    pub fn upsample(&self, field: &Field, size: [usize; 3]) -> Result<Field, NnError> {
        let values = gaussian_upsample3d(field.values(), size, self.stride, self.sigma)?;
        Field::new(field.irreps().clone(), values)
    }
}
