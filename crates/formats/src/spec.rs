//! What there is to know of a format to find and read its files.

use serde::{Deserialize, Serialize};
use steer3d_volume::mesh::Mesh;
use steer3d_volume::molecule::Molecule;
use steer3d_volume::volume::Volume;

use crate::fault::Fault;

/// What a file holds.
#[derive(Clone, Debug)]
pub enum FileContents {
    /// One or more molecules: the models of a PDB or mmCIF file, the records of an SDF file.
    Molecules(Vec<Molecule>),
    /// A triangle mesh.
    Mesh(Mesh),
    /// A sampled volume.
    Volume(Volume),
}

/// What becomes of voxels whose value is not a number (NaN), as masked maps have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Nan {
    /// Stop with the voxel named.
    #[default]
    Refuse,
    /// Put 0 in its place. Infinite values are refused still.
    Zero,
}

/// What the molecules of a file are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Several {
    /// Models of one molecule.
    Models,
    /// Molecules of their own.
    Records,
}

/// A format: how its files are found by content and by name, and how they are read.
pub(crate) struct FormatSpec {
    /// Its name, for a person.
    pub(crate) name: &'static str,
    /// The extensions that users give to its files, without the dot.
    pub(crate) extensions: &'static [&'static str],
    /// Offsets and the bytes there of which any shows it.
    pub(crate) magics: &'static [(usize, &'static [u8])],
    /// Whether a file without any format's magic number is of it, by its first lines or its size.
    pub(crate) recognises: fn(&[u8]) -> bool,
    /// What several molecules in a file are; `None` for formats of something else.
    pub(crate) several: Option<Several>,
    /// Reads the unpacked bytes of a file.
    pub(crate) read: Read,
}

/// The reader of a format, by what its files hold.
pub(crate) enum Read {
    Molecules(fn(&[u8]) -> Result<Vec<Molecule>, Fault>),
    Mesh(fn(&[u8]) -> Result<Mesh, Fault>),
    Volume(fn(&[u8], Nan) -> Result<Volume, Fault>),
}

impl FormatSpec {
    /// A format that is found by its magic number or its name.
    pub(crate) const fn new(
        name: &'static str,
        extensions: &'static [&'static str],
        read: Read,
    ) -> Self {
        Self { name, extensions, magics: &[], recognises: |_| false, several: None, read }
    }
}
