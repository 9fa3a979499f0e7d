//! Readers of other programs' files: molecules, maps, images and meshes.
//!
//! Every reader takes the bytes of a whole file and gives plain data or a [`Fault`] that says where
//! the file is wrong, what was expected and what was found. [`read`] opens a path, unpacks gzip,
//! finds the format by content (by name only where content does not tell) and adds the path to the
//! error.

pub mod binvox;
mod cif;
mod detect;
mod error;
mod gzip;
mod mol2;
pub mod mrc;
pub mod nifti;
pub mod npz;
pub mod numpy;
mod obj;
mod off;
mod pdb;
mod ply;
mod polygons;
mod records;
mod samples;
mod sdf;
mod stl;
mod xyz;

use std::io::{BufWriter, Write};
use std::path::Path;

pub use detect::Format;
pub use error::{Fault, FormatError, Place};
pub use mrc::write as write_mrc;
pub use nifti::write as write_nifti;
pub use numpy::read_npz_array;
pub use samples::{checked_len, unusable};

use steer3d_files::{persist, temporary_beside};
use steer3d_volume::mesh::Mesh;
use steer3d_volume::molecule::Molecule;
use steer3d_volume::volume::Volume;

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
        Format::Off => off::read(bytes).map(Source::Mesh),
        Format::Obj => obj::read(bytes).map(Source::Mesh),
        Format::Stl => stl::read(bytes).map(Source::Mesh),
        Format::Ply => ply::read(bytes).map(Source::Mesh),
        Format::Pdb => pdb::read(bytes).map(Source::Molecules),
        Format::Cif => cif::read(bytes).map(Source::Molecules),
        Format::Sdf => sdf::read(bytes).map(Source::Molecules),
        Format::Mol2 => mol2::read(bytes).map(Source::Molecules),
        Format::Xyz => xyz::read(bytes).map(Source::Molecules),
        Format::Mrc => mrc::read(bytes).map(Source::Volume),
        Format::Nifti => nifti::read(bytes).map(Source::Volume),
        Format::Npy => numpy::read_npy(bytes).map(Source::Volume),
        Format::Npz => numpy::read_npz(bytes).map(Source::Volume),
        Format::Binvox => binvox::read(bytes).map(Source::Volume),
    }
}

/// Writes a header and little-endian values to a file that takes the place of `path` only when it
/// is on disk.
fn write_file(path: &Path, header: &[u8], values: &[f32]) -> Result<(), FormatError> {
    let write = || {
        let mut file = BufWriter::new(temporary_beside(path)?);
        file.write_all(header)?;
        values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))?;
        persist(file.into_inner().map_err(std::io::IntoInnerError::into_error)?, path)
    };
    write().map_err(|source| FormatError::Io { path: path.to_owned(), source })
}
