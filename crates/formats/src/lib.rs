//! Readers of other programs' files: molecules, maps, images and meshes.
//!
//! Every reader takes the bytes of a whole file and gives plain data or a [`Fault`] that says where
//! the file is wrong, what was expected and what was found. [`read`] opens a path, unpacks gzip
//! and bzip2, finds the format by content (by name only where content does not tell) and adds the
//! path to the error.
//!
//! # Memory
//!
//! Readers [take room](steer3d_files::memory) before they allocate, and end with
//! [`FormatError::NoRoom`] where the budget has too little left. The room is given back when a
//! reader is done, what it has read is not counted any more. While a file is read there are
//!
//! - its packed bytes, and its unpacked ones, which may be [`MAX_RATIO`] times as many;
//! - for a volume 4 bytes for each voxel, once: values go from the file's type and order straight to
//!   those of a [`Volume`](steer3d_volume::Volume). That is 4 times the unpacked bytes at most, 5 for
//!   each voxel of binvox, whose runs are up to 128 voxels a byte, and up to 10 times for a skewed
//!   map;
//! - for a mesh 48 bytes for each vertex and 24 for each triangle, for STL 170 for each vertex: 15
//!   times the bytes of the shortest possible lines, 10 times those of binary STL;
//! - for an atom about 400 bytes: 5 times the bytes of PDB, 70 times those of the shortest possible
//!   lines of XYZ. A file has 2²⁴ atoms at most.

mod binvox;
mod bytes;
mod cif;
mod error;
mod fault;
mod format;
mod held;
mod map;
mod mol2;
mod mrc;
mod nifti;
pub mod npz;
mod numpy;
mod obj;
mod off;
mod pdb;
mod ply;
mod polygons;
mod records;
mod samples;
mod sdf;
mod spec;
mod stl;
mod stored;
mod xyz;

pub use error::FormatError;
pub use fault::{Fault, Place};
pub use format::{Format, read, read_as, read_with};
pub use held::{MAX_FILE_BYTES, MAX_RATIO};
pub use map::{
    MapWriter, direction, length_unit, write_volume, write_volume_along, write_volume_like,
};
pub use nifti::companion;
pub use numpy::read_npz_array;
pub use samples::{checked_len, unusable};
pub use spec::{FileContents, Nan, Several};
pub use stored::{Frame, Voxels};
