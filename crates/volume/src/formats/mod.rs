//! Readers of other programs' files: molecules, maps, images and meshes.
//!
//! Every reader takes the bytes of a whole file and gives plain data or a [`Fault`] that says where
//! the file is wrong, what was expected and what was found. [`read`] opens a path, unpacks gzip,
//! finds the format by content (by name only where content does not tell) and adds the path to the
//! error.

mod cif;
mod detect;
mod error;
mod gzip;
mod mol2;
mod pdb;
mod records;
mod sdf;
mod xyz;

use std::path::Path;

pub use detect::Format;
pub use error::{Fault, FormatError, Place};

use crate::mesh::Mesh;
use crate::molecule::Molecule;
use crate::volume::Volume;

/// Largest file, and largest unpacked size of a compressed one, in bytes: 4 GiB.
pub const MAX_FILE_BYTES: u64 = 1 << 32;

/// What a file holds.
#[derive(Clone, Debug)]
pub enum Source {
    /// One or more molecules: the models of a PDB or mmCIF file, the records of an SDF file.
    Molecules(Vec<Molecule>),
    /// A triangle mesh.
    Mesh(Mesh),
    /// A sampled volume.
    Volume(Volume),
}

/// Reads a file of any known format.
///
/// # Errors
/// If the file cannot be opened, is larger than [`MAX_FILE_BYTES`], is of no known format, or is
/// damaged.
pub fn read(path: &Path) -> Result<Source, FormatError> {
    let bytes = gzip::bytes(path)?;
    let format = Format::detect(&bytes, path).ok_or_else(|| FormatError::Unknown {
        path: path.to_owned(),
        found: detect::describe(&bytes),
    })?;
    read_as(&bytes, format).map_err(|fault| fault.of(path, format))
}

/// Reads the unpacked bytes of a file of a known format.
///
/// # Errors
/// If the bytes are not a valid file of that format.
pub fn read_as(bytes: &[u8], format: Format) -> Result<Source, Fault> {
    match format {
        Format::Pdb => pdb::read(bytes).map(Source::Molecules),
        Format::Cif => cif::read(bytes).map(Source::Molecules),
        Format::Sdf => sdf::read(bytes).map(Source::Molecules),
        Format::Mol2 => mol2::read(bytes).map(Source::Molecules),
        Format::Xyz => xyz::read(bytes).map(Source::Molecules),
        other => Err(Fault::new(Place::Whole, "a format with a reader", other.to_string())),
    }
}
