//! HDF5 datasets of volumes: schema, reader, writer, loader, and builds of files, archives and generated shapes.
//!
//! # Files from strangers
//!
//! Every reader checks declared shapes and types against fixed limits before it allocates
//! ([`MAX_VALUES`](steer3d_volume::MAX_VALUES), [`MAX_ITEMS`],
//! [`MAX_ARRAY_BYTES`](steer3d_formats::npz::MAX_ARRAY_BYTES)) and against the memory for input
//! ([`memory`](steer3d_files::memory)), refuses values that are not
//! finite, and reports what it expected and what it found in a typed error. HDF5 files are read in Rust; libhdf5,
//! which a damaged file can crash, writes only.

mod array;
mod build;
mod chunks;
mod columns;
mod distort;
mod error;
mod export;
mod item;
mod loader;
mod maps;
mod meta;
mod patch;
mod reader;
mod recipe;
mod source;
mod sources;
mod split;
mod stored;
mod summary;
mod verify;
mod writer;

pub use array::import_hdf5;
pub use build::{BuildReport, build};
pub use columns::{
    MAX_ALL_VALUES, MAX_ID_BYTES, MAX_ITEMS, MAX_META_BYTES, MAX_POINTS, MAX_SKIPPED_BYTES,
    MAX_SOURCE_BYTES,
};
pub use distort::{Chance, Distortion, Distortions, RandomDistortion};
pub use error::DatasetError;
pub use item::Item;
pub use loader::{Batch, Loader, LoaderOptions, RandomRotation, Turns};
pub use maps::Hdf5Map;
pub use meta::{
    DatasetMeta, Grids, MAX_TARGETS, Provenance, SCHEMA_VERSION, Skipped, Split, Storage, Tasks,
};
pub use patch::{Patch, RandomPatch, Sample};
pub use reader::{Dataset, is_hdf5};
pub use recipe::{Atoms, Fit, Intensity, Prepared, Recipe, Unsuited, check_unit, name_of};
pub use source::{
    BuildError, Entry, ImportOptions, Importer, ItemData, ItemError, ItemSource, MakeItem,
};
pub use sources::IMPORTERS;
pub use sources::arrays::{arrays, import_arrays};
pub use sources::backbone::backbone;
pub use sources::cath::{cath, import_cath};
pub use sources::files::{FileReader, FileRecipe, files};
pub use sources::listing::Listing;
pub use sources::medmnist::{import_medmnist, medmnist};
pub use sources::recipe::{RecipeOptions, Store};
pub use sources::tetris::{import_tetris, tetris, tetris_voxeliser};
pub use split::{Fractions, group_splits, random_splits};
pub use summary::{GridRanges, SplitSummary, Summary};
pub use verify::Broken;
pub use writer::DatasetWriter;
