//! Voxel volumes: rotation and translation, voxelising of point clouds, HDF5 datasets and importers.
//!
//! # Conventions
//!
//! - Arrays are C, D, H, W = channel, z, y, x; positions, shifts and voxel sizes are x, y, z.
//! - Voxel (0, 0, 0) has its centre at index 0; a volume turns about the centre (n - 1) / 2 of its
//!   grid, in physical space, so that voxels need not be cubes.
//! - A rotation acts on a field as (R f)(p) = ρ(R) f(R⁻¹ p); see [`steer3d_so3`] for ρ.
//!
//! # Files from strangers
//!
//! Every reader checks declared shapes and types against fixed limits before it allocates
//! ([`MAX_VALUES`], [`dataset::MAX_ITEMS`], [`npz::MAX_ARRAY_BYTES`]), refuses values that are not
//! finite, and reports what it expected and what it found in a typed error.

pub mod atomic;
pub mod build;
pub mod dataset;
pub mod density;
pub mod elements;
mod filter;
pub mod formats;
pub mod import;
pub mod loader;
pub mod mesh;
pub mod molecule;
pub mod npz;
pub mod picture;
pub mod points;
pub mod resample;
mod spline;
pub mod volume;

pub use build::{BuildError, Listing, Recipe};
pub use dataset::{
    Dataset, DatasetError, DatasetMeta, DatasetWriter, Item, Provenance, Skipped, Split, Storage,
    Summary, Tasks,
};
pub use density::{Centring, ChannelScheme, MoleculeVoxeliser, Weight};
pub use import::{
    ImportError, ImportOptions, import_arrays, import_cath, import_medmnist, import_tetris,
    tetris_voxeliser,
};
pub use loader::{Batch, Loader, LoaderOptions, RandomRotation, Turns};
pub use mesh::Mesh;
pub use mesh::voxeliser::{Inside, MeshField, MeshVoxeliser};
pub use points::{Gaussian, Normalisation, PointCloud, PointValue, Voxeliser};
pub use resample::{
    Interpolation, Rotator, change_voxel_size, crop, resample_to, rotate, rotate_into, translate,
    translate_into,
};
pub use volume::{Grid, MAX_VALUES, Volume, VolumeError};
