//! Which format a file is of.

use std::fmt;
use std::path::Path;

use super::{cif, mol2, pdb, sdf, xyz};

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
    pub(super) fn names() -> String {
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
        let magics: [(usize, &[u8], Self); 8] = [
            (0, b"\x93NUMPY", Self::Npy),
            (0, b"PK\x03\x04", Self::Npz),
            (0, b"#binvox", Self::Binvox),
            (0, b"ply\n", Self::Ply),
            (0, b"ply\r", Self::Ply),
            (208, b"MAP ", Self::Mrc),
            (344, b"n+1\0", Self::Nifti),
            (4, b"n+2\0\r\n\x1a\n", Self::Nifti),
        ];
        let texts: [(fn(&[u8]) -> bool, Self); 5] = [
            (cif::recognises, Self::Cif),
            (mol2::recognises, Self::Mol2),
            (sdf::recognises, Self::Sdf),
            (pdb::recognises, Self::Pdb),
            (xyz::recognises, Self::Xyz),
        ];
        let magic = magics.into_iter().find(|(offset, magic, _)| has(*offset, magic));
        let text = || texts.into_iter().find(|(recognises, _)| recognises(bytes));
        magic.map(|(.., format)| format).or_else(|| text().map(|(_, format)| format))
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
pub(super) fn describe(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".to_owned(),
        _ => format!("a file that begins \"{}\"", bytes[..bytes.len().min(24)].escape_ascii()),
    }
}
