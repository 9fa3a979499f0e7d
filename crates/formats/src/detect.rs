//! Which format a file is of.

use std::fmt;
use std::path::Path;

use crate::{cif, mol2, obj, off, pdb, sdf, stl, xyz};

/// A format that [`read`](super::read) knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Protein Data Bank, version 3.3.
    Pdb,
    /// mmCIF / PDBx and small-molecule CIF.
    Cif,
    /// MDL molfile and SDF, V2000.
    Sdf,
    /// Tripos MOL2.
    Mol2,
    /// XYZ and extended XYZ.
    Xyz,
    /// MRC 2014 / CCP4 map.
    Mrc,
    /// NIfTI-1 or NIfTI-2 in one file.
    Nifti,
    /// NumPy array.
    Npy,
    /// NumPy archive.
    Npz,
    /// Binvox.
    Binvox,
    /// Object File Format.
    Off,
    /// Wavefront OBJ.
    Obj,
    /// Stereolithography, ascii or binary.
    Stl,
    /// Polygon file format.
    Ply,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 14] = [
        Self::Pdb,
        Self::Cif,
        Self::Sdf,
        Self::Mol2,
        Self::Xyz,
        Self::Mrc,
        Self::Nifti,
        Self::Npy,
        Self::Npz,
        Self::Binvox,
        Self::Off,
        Self::Obj,
        Self::Stl,
        Self::Ply,
    ];

    /// The names of all formats, separated by commas.
    pub(crate) fn names() -> String {
        Self::ALL.map(|format| format.to_string()).join(", ")
    }

    /// The extensions that users give to files of this format, without the dot.
    fn extensions(self) -> &'static [&'static str] {
        match self {
            Self::Pdb => &["pdb", "ent"],
            Self::Cif => &["cif", "mmcif"],
            Self::Sdf => &["sdf", "sd", "mol"],
            Self::Mol2 => &["mol2"],
            Self::Xyz => &["xyz", "extxyz"],
            Self::Mrc => &["mrc", "map", "ccp4", "msk", "rec", "st"],
            Self::Nifti => &["nii"],
            Self::Npy => &["npy"],
            Self::Npz => &["npz"],
            Self::Binvox => &["binvox"],
            Self::Off => &["off"],
            Self::Obj => &["obj"],
            Self::Stl => &["stl"],
            Self::Ply => &["ply"],
        }
    }

    /// The format of the unpacked bytes of the file at `path`: by content where that tells, else by
    /// extension (before `.gz`).
    pub fn detect(bytes: &[u8], path: &Path) -> Option<Self> {
        Self::of_content(bytes).or_else(|| Self::of_name(path))
    }

    /// The format that the first bytes show.
    fn of_content(bytes: &[u8]) -> Option<Self> {
        let has = |offset: usize, magic: &[u8]| {
            bytes.get(offset..).is_some_and(|rest| rest.starts_with(magic))
        };
        let magics: [(usize, &[u8], Self); 10] = [
            (0, b"\x93NUMPY", Self::Npy),
            (0, b"PK\x03\x04", Self::Npz),
            (0, b"#binvox", Self::Binvox),
            (0, b"ply\n", Self::Ply),
            (0, b"ply\r", Self::Ply),
            (208, b"MAP ", Self::Mrc),
            (344, b"n+1\0", Self::Nifti),
            (4, b"n+2\0\r\n\x1a\n", Self::Nifti),
            // Headers of pairs, which the reader refuses.
            (344, b"ni1\0", Self::Nifti),
            (4, b"ni2\0\r\n\x1a\n", Self::Nifti),
        ];
        let magic = magics.into_iter().find(|(offset, magic, _)| has(*offset, magic));
        magic.map(|(.., format)| format).or_else(|| Self::of_text(bytes))
    }

    /// The format without a magic number that the first lines, or the size, show.
    fn of_text(bytes: &[u8]) -> Option<Self> {
        let head = &bytes[..bytes.len().min(1 << 16)];
        match bytes {
            _ if off::recognises(head) => Some(Self::Off),
            _ if stl::recognises(bytes) => Some(Self::Stl),
            _ if cif::recognises(bytes) => Some(Self::Cif),
            _ if mol2::recognises(bytes) => Some(Self::Mol2),
            _ if sdf::recognises(bytes) => Some(Self::Sdf),
            _ if pdb::recognises(bytes) => Some(Self::Pdb),
            _ if xyz::recognises(bytes) => Some(Self::Xyz),
            _ if obj::recognises(head) => Some(Self::Obj),
            _ => None,
        }
    }

    fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        let extension = name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1.to_owned();
        Self::ALL.into_iter().find(|format| format.extensions().contains(&extension.as_str()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pdb => "PDB",
            Self::Cif => "mmCIF",
            Self::Sdf => "SDF",
            Self::Mol2 => "MOL2",
            Self::Xyz => "XYZ",
            Self::Mrc => "MRC/CCP4",
            Self::Nifti => "NIfTI",
            Self::Npy => "NPY",
            Self::Npz => "NPZ",
            Self::Binvox => "binvox",
            Self::Off => "OFF",
            Self::Obj => "OBJ",
            Self::Stl => "STL",
            Self::Ply => "PLY",
        })
    }
}

/// The beginning of a file, for a person to recognise.
pub(crate) fn describe(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".to_owned(),
        _ => format!("a file that begins \"{}\"", bytes[..bytes.len().min(24)].escape_ascii()),
    }
}
