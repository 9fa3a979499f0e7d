//! The taps of a kernel and where they sit.

use crate::KernelError;

/// The largest kernel size: a cube of this edge is still a sensible filter.
pub const MAX_SIZE: usize = 31;

/// How many times as coarse as those that a kernel was made for voxels may be along an axis: far beyond what is
/// accurate (`docs/src/exactness.md` has the errors).
pub const MAX_COARSENING: f64 = 4.0;

/// How many times as coarse as those that a kernel was made for voxels may be along an axis before accuracy suffers.
/// Jets of k = 5 and order 2 then give outputs that are 1 % off, on fields of bumps that are two of the voxels wide that
/// they were made for.
pub const ACCURATE_COARSENING: f64 = 2.0;

/// The k³ taps of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct TapGrid {
    size: usize,
    voxel_size: [f64; 3],
    /// Size and voxel edges for which the kernel was made, where they are others.
    made_for: Option<(usize, [f64; 3])>,
}

impl TapGrid {
    /// A grid of `size`³ taps with voxel edges `voxel_size` = (x, y, z), in the unit of length in
    /// which the parameters of a [`crate::Family`] are given. Cubic voxels have \[1, 1, 1\]; for others
    /// let the shortest edge be 1.
    ///
    /// # Errors
    /// If `size` is even or above [`MAX_SIZE`], or an edge is not positive and finite.
    pub fn new(size: usize, voxel_size: [f64; 3]) -> Result<Self, KernelError> {
        if size.is_multiple_of(2) || size > MAX_SIZE {
            return Err(KernelError::Size { found: size, max: MAX_SIZE });
        }
        for (axis, found) in ['x', 'y', 'z'].into_iter().zip(voxel_size) {
            if !(found.is_finite() && found > 0.0) {
                return Err(KernelError::VoxelSize { axis, found });
            }
        }
        Ok(Self { size, voxel_size, made_for: None })
    }

    /// The taps of the same kernels on voxels with other edges (x, y, z), in the same unit. There are as many along
    /// each axis as reach as far as the outermost one does along the axis whose edges shrink most, 2 ⌈(k/2) / h⌉ + 1
    /// for the ratio h of the edges, and never fewer than k: fewer would reach as far on coarse voxels, but give filters
    /// that are twice as wrong. On the voxels that it has these are the same taps, as is a single tap on all.
    ///
    /// # Errors
    /// If an edge is not positive and finite, more than [`MAX_COARSENING`] times as long, or so short that more than
    /// [`MAX_SIZE`] taps would be needed.
    pub fn at_spacing(&self, voxel_size: [f64; 3]) -> Result<Self, KernelError> {
        let made_for = self.made_for();
        let half = made_for.size / 2;
        let mut most = half;
        for (axis, name) in ['x', 'y', 'z'].into_iter().enumerate() {
            let (found, edge) = (voxel_size[axis], made_for.voxel_size[axis]);
            if !(found.is_finite() && found > 0.0) {
                return Err(KernelError::VoxelSize { axis: name, found });
            }
            let least = edge * half as f64 / (MAX_SIZE / 2) as f64;
            let largest = edge * MAX_COARSENING;
            if half > 0 && !(least..=largest).contains(&found) {
                return Err(KernelError::Spacing { axis: name, found, least, largest });
            }
            // A ratio that is off by rounding needs no further tap.
            most = most.max((half as f64 * edge / found - 1e-6).ceil() as usize);
        }
        if half == 0 || voxel_size == made_for.voxel_size {
            return Ok(made_for);
        }
        let (size, made_for) = (2 * most + 1, Some((made_for.size, made_for.voxel_size)));
        Ok(Self { size, voxel_size, made_for })
    }

    /// The taps of the voxels for which the kernel was made: on them its functions have unit norm.
    #[must_use]
    pub fn made_for(&self) -> Self {
        let (size, voxel_size) = self.made_for.unwrap_or((self.size, self.voxel_size));
        Self { size, voxel_size, made_for: None }
    }

    /// Volume of a voxel over that of one for which the kernel was made.
    pub fn volume_ratio(&self) -> f64 {
        let volume = |edges: [f64; 3]| edges.iter().product::<f64>();
        volume(self.voxel_size) / volume(self.made_for().voxel_size)
    }

    /// Taps along each axis, k.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Voxel edges (x, y, z).
    pub fn voxel_size(&self) -> [f64; 3] {
        self.voxel_size
    }

    /// k³.
    pub fn num_taps(&self) -> usize {
        self.size.pow(3)
    }

    /// Positions (x, y, z) of the taps about the centre, taps in z, y, x order.
    pub fn positions(&self) -> Vec<[f64; 3]> {
        let k = self.size;
        let centre = (k / 2) as f64;
        let at = |index: usize, axis: usize| (index as f64 - centre) * self.voxel_size[axis];
        (0..self.num_taps()).map(|t| [at(t % k, 0), at(t / k % k, 1), at(t / (k * k), 2)]).collect()
    }

    /// k/2 of the taps for which the kernel was made: the radius of the largest ball that fits their cube.
    pub fn radius(&self) -> f64 {
        self.made_for().size as f64 / 2.0
    }

    /// The distinct distances of the taps from the centre, ascending, up to [`radius`](Self::radius).
    pub fn radii(&self) -> Vec<f64> {
        let radius = self.radius();
        let mut radii: Vec<f64> = self
            .positions()
            .iter()
            .map(|p| p.iter().map(|c| c * c).sum::<f64>().sqrt())
            .filter(|r| *r <= radius)
            .collect();
        radii.sort_by(f64::total_cmp);
        radii.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
        radii
    }
}
