//! Readers of other programs' files: molecules, maps, images and meshes.
//!
//! Every reader takes the bytes of a whole file and gives plain data or a [`Fault`] that says where
//! the file is wrong, what was expected and what was found. [`read`] opens a path, unpacks gzip,
//! finds the format by content (by name only where content does not tell) and adds the path to the
//! error.

mod binvox;
mod bytes;
mod cif;
mod error;
mod fault;
mod format;
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
mod xyz;

pub use bytes::MAX_FILE_BYTES;
pub use error::FormatError;
pub use fault::{Fault, Place};
pub use format::{Format, read, read_as};
pub use mrc::write as write_mrc;
pub use nifti::{companion, write as write_nifti};
pub use numpy::read_npz_array;
pub use samples::{checked_len, unusable};
pub use spec::{FileContents, Several};
