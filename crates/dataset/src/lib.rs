//! HDF5 datasets of volumes: schema, reader, writer, loader, builds from files and imports of archives.
//!
//! # Files from strangers
//!
//! Every reader checks declared shapes and types against fixed limits before it allocates
//! ([`MAX_VALUES`](steer3d_volume::MAX_VALUES), [`dataset::MAX_ITEMS`],
//! [`MAX_ARRAY_BYTES`](steer3d_formats::npz::MAX_ARRAY_BYTES)), refuses values that are not
//! finite, and reports what it expected and what it found in a typed error.

pub mod build;
pub mod dataset;
mod hdf5_array;
pub mod import;
pub mod loader;

pub use build::{BuildError, Listing, Recipe};
pub use dataset::{
    Dataset, DatasetError, DatasetMeta, DatasetWriter, Item, Provenance, Skipped, Split, Storage,
    Summary, Tasks,
};
pub use hdf5_array::{ArrayError, import_hdf5};
pub use import::{
    ImportError, ImportOptions, import_arrays, import_cath, import_medmnist, import_tetris,
    tetris_voxeliser,
};
pub use loader::{Batch, Loader, LoaderOptions, RandomRotation, Turns};
