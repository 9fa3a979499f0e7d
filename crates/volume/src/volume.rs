//! Grids, volumes and their errors.

use steer3d_files::memory::NoRoom;

/// Largest number of values (channels × voxels) in one volume: 2²⁸, or 1 GiB of `f32`.
pub const MAX_VALUES: usize = 1 << 28;

/// Largest magnitude of a coordinate or length, 10³⁰ in any unit: products of ten are within `f64`.
pub const MAX_LENGTH: f64 = 1e30;

/// Smallest voxel size, 10⁻³⁰ in any unit.
pub const MIN_VOXEL: f64 = 1e-30;

/// A volume, grid, point cloud or rotation that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// A dimension is zero, or the volume has more than [`MAX_VALUES`] values.
    #[error(
        "volume of {channels} channels and {dims:?} (D, H, W) voxels: expected at least one of \
         each and at most {MAX_VALUES} values in all; crop it or use larger voxels"
    )]
    Size {
        /// Number of channels.
        channels: usize,
        /// D, H, W.
        dims: [usize; 3],
    },
    /// A slice does not have the length that its shape asks for.
    #[error("{what}: expected {expected} values, found {found}; pass one value for each voxel")]
    Length {
        /// Which slice.
        what: &'static str,
        /// The length that the shape asks for.
        expected: usize,
        /// The length of the slice.
        found: usize,
    },
    /// A value is NaN or infinite.
    #[error("{what}: value {index} is {value}, expected a finite number; repair the source data")]
    NotFinite {
        /// Where the value stands.
        what: &'static str,
        /// Its index there.
        index: usize,
        /// The value.
        value: f64,
    },
    /// A coordinate is NaN, or larger than [`MAX_LENGTH`] in magnitude.
    #[error(
        "{what}: coordinate {index} is {value}, expected a number from -{MAX_LENGTH:e} to \
         {MAX_LENGTH:e}; repair the source data"
    )]
    Coordinate {
        /// Whose coordinate it is.
        what: &'static str,
        /// Its index, x, y and z of all points counted.
        index: usize,
        /// The coordinate.
        value: f64,
    },
    /// The memory for input has too little left for the volume.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// A parameter is outside its range.
    #[error("{field}: expected {expected}, found {found}")]
    Parameter {
        /// Name of the parameter.
        field: &'static str,
        /// Its allowed range.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// The irreps do not describe the channels of the volume.
    #[error("irreps {irreps} have dimension {dim}, but the volume has {channels} channels")]
    Irreps {
        /// The irreps in text form.
        irreps: String,
        /// Their dimension.
        dim: usize,
        /// The channels of the volume.
        channels: usize,
    },
    /// The matrix of a rotation is not orthogonal with determinant 1 (to 1e-6).
    #[error("the rotation's matrix is not orthogonal with determinant 1; orthonormalise it first")]
    NotARotation,
}

/// The error that a parameter is outside its range.
///
/// # Errors
/// Always: [`VolumeError::Parameter`].
pub fn parameter<T>(
    field: &'static str,
    expected: &'static str,
    found: impl Into<String>,
) -> Result<T, VolumeError> {
    Err(VolumeError::Parameter { field, expected, found: found.into() })
}

/// Checks that no value is NaN or infinite.
///
/// # Errors
/// [`VolumeError::NotFinite`] with `what` and the index of the first such value.
pub fn check_finite(what: &'static str, values: &[f32]) -> Result<(), VolumeError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(VolumeError::NotFinite { what, index, value: f64::from(values[index]) }),
    }
}

/// Checks that every coordinate of `points` is a number of at most [`MAX_LENGTH`] in magnitude.
///
/// # Errors
/// [`VolumeError::Coordinate`] with `what` and the index of the first other one.
pub fn check_coordinates(what: &'static str, points: &[[f64; 3]]) -> Result<(), VolumeError> {
    let coordinates = points.as_flattened();
    match coordinates.iter().position(|x| !is_length(*x)) {
        None => Ok(()),
        Some(index) => Err(VolumeError::Coordinate { what, index, value: coordinates[index] }),
    }
}

/// Is it a number of at most [`MAX_LENGTH`] in magnitude?
pub fn is_length(x: f64) -> bool {
    x.abs() <= MAX_LENGTH
}

/// The lattice of a volume: number of voxels and their size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    dims: [usize; 3],
    voxel_size: [f64; 3],
}

impl Grid {
    /// A grid of `dims` = D, H, W voxels of size `voxel_size` = x, y, z.
    ///
    /// # Errors
    /// If a dimension is zero, the product of the dimensions exceeds [`MAX_VALUES`], or a voxel
    /// size is not a number from [`MIN_VOXEL`] to [`MAX_LENGTH`].
    pub fn new(dims: [usize; 3], voxel_size: [f64; 3]) -> Result<Self, VolumeError> {
        checked_len(1, dims)?;
        if !voxel_size.iter().all(|size| (MIN_VOXEL..=MAX_LENGTH).contains(size)) {
            return parameter(
                "voxel_size",
                "numbers from 1e-30 to 1e30",
                format!("{voxel_size:?}"),
            );
        }
        Ok(Self { dims, voxel_size })
    }

    /// D, H, W.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// Edges of a voxel along x, y, z.
    pub fn voxel_size(&self) -> [f64; 3] {
        self.voxel_size
    }

    /// Number of voxels, D × H × W.
    pub fn voxels(&self) -> usize {
        self.dims.iter().product()
    }

    /// Centre (n - 1) / 2 as a voxel index x, y, z.
    pub fn centre(&self) -> [f64; 3] {
        let [d, h, w] = self.dims;
        [w, h, d].map(|n| (n - 1) as f64 / 2.0)
    }
}

/// Number of values of `channels` × `dims`, checked against [`MAX_VALUES`].
///
/// # Errors
/// [`VolumeError`] if there are none or more.
pub fn checked_len(channels: usize, dims: [usize; 3]) -> Result<usize, VolumeError> {
    dims.iter()
        .try_fold(channels, |product, &n| product.checked_mul(n))
        .filter(|len| (1..=MAX_VALUES).contains(len))
        .ok_or(VolumeError::Size { channels, dims })
}

/// A field sampled on a grid: finite `f32` values in C, D, H, W order.
///
/// ```
/// use steer3d_volume::{Grid, Volume};
/// let grid = Grid::new([4, 5, 6], [1.0, 1.0, 2.0])?;
/// let volume = Volume::new(vec![0.0; 2 * 4 * 5 * 6], 2, grid, [0.0; 3])?;
/// assert_eq!(volume.dims(), [4, 5, 6]);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    data: Vec<f32>,
    channels: usize,
    grid: Grid,
    origin: [f64; 3],
}

impl Volume {
    /// A volume of `channels` × D × H × W values, whose voxel (0, 0, 0) lies at `origin` = x, y, z
    /// in the unit of the voxel size.
    ///
    /// # Errors
    /// If the length of `data` does not match, the volume is empty or larger than [`MAX_VALUES`],
    /// a value is not finite, or the origin is not within [`MAX_LENGTH`].
    pub fn new(
        data: Vec<f32>,
        channels: usize,
        grid: Grid,
        origin: [f64; 3],
    ) -> Result<Self, VolumeError> {
        let expected = checked_len(channels, grid.dims)?;
        if data.len() != expected {
            return Err(VolumeError::Length { what: "volume", expected, found: data.len() });
        }
        check_finite("volume", &data)?;
        check_coordinates("origin", &[origin])?;
        Ok(Self { data, channels, grid, origin })
    }

    /// As [`Volume::new`], with the origin that puts the grid's centre at (0, 0, 0).
    ///
    /// # Errors
    /// As [`Volume::new`].
    pub fn centred(data: Vec<f32>, channels: usize, grid: Grid) -> Result<Self, VolumeError> {
        let (centre, size) = (grid.centre(), grid.voxel_size);
        Self::new(data, channels, grid, [0, 1, 2].map(|axis| -centre[axis] * size[axis]))
    }

    /// Values in C, D, H, W order.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, without a copy.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The grid.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// D, H, W.
    pub fn dims(&self) -> [usize; 3] {
        self.grid.dims
    }

    /// Edges of a voxel along x, y, z.
    pub fn voxel_size(&self) -> [f64; 3] {
        self.grid.voxel_size
    }

    /// Position x, y, z of voxel (0, 0, 0).
    pub fn origin(&self) -> [f64; 3] {
        self.origin
    }

    /// The volume on the same grid with other values; they must be finite and as many.
    pub(crate) fn with_data(&self, data: Vec<f32>) -> Self {
        debug_assert_eq!(data.len(), self.data.len());
        Self { data, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked_before_use() {
        let unit = [1.0; 3];
        assert!(matches!(Grid::new([0, 2, 2], unit), Err(VolumeError::Size { .. })));
        assert!(matches!(Grid::new([usize::MAX, 3, 1], unit), Err(VolumeError::Size { .. })));
        assert!(matches!(Grid::new([1 << 32, 1 << 32, 1], unit), Err(VolumeError::Size { .. })));
        for bad in [0.0, -1.0, 1e-31, 1e31, f64::NAN, f64::INFINITY] {
            assert!(Grid::new([2; 3], [1.0, bad, 1.0]).is_err(), "{bad}");
        }
        let grid = Grid::new([2; 3], unit).unwrap();
        assert!(matches!(
            Volume::new(vec![0.0; 9], 1, grid, [0.0; 3]),
            Err(VolumeError::Length { expected: 8, found: 9, .. })
        ));
        assert!(Volume::new(Vec::new(), 0, grid, [0.0; 3]).is_err());
        assert!(matches!(
            Volume::new(vec![0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0], 1, grid, [0.0; 3]),
            Err(VolumeError::NotFinite { index: 3, .. })
        ));
        for bad in [f64::INFINITY, -1e31] {
            assert!(matches!(
                Volume::new(vec![0.0; 8], 1, grid, [0.0, bad, 0.0]),
                Err(VolumeError::Coordinate { what: "origin", index: 1, .. })
            ));
        }
    }

    #[test]
    fn a_centred_volume_has_its_centre_at_zero() {
        let grid = Grid::new([3, 4, 5], [1.0, 2.0, 4.0]).unwrap();
        let volume = Volume::centred(vec![0.0; 60], 1, grid).unwrap();
        assert_eq!(volume.origin(), [-2.0, -3.0, -4.0]);
    }
}
