//! Volumes and what becomes one: point clouds, molecules and meshes, their voxelisers, rotation and translation.
//!
//! # Conventions
//!
//! - Arrays are C, D, H, W = channel, z, y, x; positions, shifts and voxel sizes are x, y, z.
//! - Voxel (0, 0, 0) has its centre at index 0; a volume turns about the centre (n - 1) / 2 of its
//!   grid, in physical space, so that voxels need not be cubes.
//! - A rotation acts on a field as (R f)(p) = ρ(R) f(R⁻¹ p); see [`steer3d_so3`] for ρ.

mod bend;
pub mod density;
mod distance;
pub mod elements;
mod filter;
pub mod intensity;
pub mod mesh;
pub mod molecule;
pub mod picture;
pub mod points;
pub mod resample;
mod spline;
pub mod volume;

pub use bend::Bend;
pub use density::{Centring, ChannelScheme, MoleculeVoxeliser, Weight};
pub use distance::squared_distances;
pub use mesh::Mesh;
pub use mesh::inside::Inside;
pub use mesh::voxeliser::{MeshField, MeshVoxeliser};
pub use points::{Gaussian, Normalisation, PointCloud, PointValue, Voxeliser};
pub use resample::{
    Deformation, Interpolation, Rotator, change_voxel_size, crop, deform_into, reflected_as,
    resample_to, rotate, rotate_into, translate, translate_into, upright,
};
pub use volume::{
    Grid, MAX_LENGTH, MAX_VALUES, MIN_VOXEL, Volume, VolumeError, check_coordinates, check_finite,
    checked_len, is_length,
};
