//! The taps of a kernel and where they sit.

use crate::KernelError;

/// The largest kernel size: a cube of this edge is still a sensible filter.
pub const MAX_SIZE: usize = 31;

/// The k³ taps of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct TapGrid {
    size: usize,
    voxel_size: [f64; 3],
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
        Ok(Self { size, voxel_size })
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

    /// The distinct distances of the taps from the centre, ascending, up to k/2: the radii of the taps in
    /// the largest ball that fits the kernel's cube.
    pub fn radii(&self) -> Vec<f64> {
        let mut radii: Vec<f64> = self
            .positions()
            .iter()
            .map(|p| p.iter().map(|c| c * c).sum::<f64>().sqrt())
            .filter(|r| *r <= self.size as f64 / 2.0)
            .collect();
        radii.sort_by(f64::total_cmp);
        radii.dedup_by(|a, b| (*a - *b).abs() < 1e-9);
        radii
    }
}
