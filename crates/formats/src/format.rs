//! Which format a file is of, and its reader.

use std::fmt;
use std::path::Path;

use crate::bytes;
use crate::error::FormatError;
use crate::fault::Fault;
use crate::nifti;
use crate::spec::{FileContents, FormatSpec, Nan, Read, Several};

/// Makes [`Format`] and the table of what each format is.
macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident: $spec:expr,)*) => {
        /// A format that [`read`] knows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Format {
            $($(#[$doc])* $name,)*
        }

        impl Format {
            /// All formats, in the order in which a file is looked at for them.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            fn spec(self) -> &'static FormatSpec {
                match self {
                    $(Self::$name => &$spec,)*
                }
            }
        }
    };
}

formats! {
    /// Object File Format.
    Off: crate::off::FORMAT,
    /// Stereolithography, ascii or binary.
    Stl: crate::stl::FORMAT,
    /// mmCIF / PDBx and small-molecule CIF.
    Cif: crate::cif::FORMAT,
    /// Tripos MOL2.
    Mol2: crate::mol2::FORMAT,
    /// MDL molfile and SDF, V2000.
    Sdf: crate::sdf::FORMAT,
    /// Protein Data Bank, version 3.3.
    Pdb: crate::pdb::FORMAT,
    /// XYZ and extended XYZ.
    Xyz: crate::xyz::FORMAT,
    /// Wavefront OBJ.
    Obj: crate::obj::FORMAT,
    /// MRC 2014 / CCP4 map.
    Mrc: crate::mrc::FORMAT,
    /// NIfTI-1 or NIfTI-2, in one file or a pair.
    Nifti: crate::nifti::FORMAT,
    /// NumPy array.
    Npy: crate::numpy::NPY,
    /// NumPy archive.
    Npz: crate::numpy::NPZ,
    /// Binvox.
    Binvox: crate::binvox::FORMAT,
    /// Polygon file format.
    Ply: crate::ply::FORMAT,
}

impl Format {
    /// What several molecules in a file of this format are; `None` for formats of something else.
    pub fn several(self) -> Option<Several> {
        self.spec().several
    }

    /// The format of the unpacked bytes of the file at `path`: by content where that tells, else by
    /// extension (before `.gz` or `.bz2`).
    pub fn detect(bytes: &[u8], path: &Path) -> Option<Self> {
        let has = |(offset, magic): &(usize, &[u8])| {
            bytes.get(*offset..).is_some_and(|rest| rest.starts_with(magic))
        };
        let find = |shows: &dyn Fn(&FormatSpec) -> bool| {
            Self::ALL.into_iter().find(|format| shows(format.spec()))
        };
        find(&|spec| spec.magics.iter().any(has))
            .or_else(|| find(&|spec| (spec.recognises)(bytes)))
            .or_else(|| {
                let extension = bytes::extension(path)?;
                find(&|spec| spec.extensions.contains(&extension.as_str()))
            })
    }

    fn read(self, bytes: &[u8], nan: Nan) -> Result<FileContents, Fault> {
        match self.spec().read {
            Read::Molecules(read) => read(bytes).map(FileContents::Molecules),
            Read::Mesh(read) => read(bytes).map(FileContents::Mesh),
            Read::Volume(read) => read(bytes, nan).map(FileContents::Volume),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec().name)
    }
}

/// Reads a file of any known format; of a NIfTI pair, either file.
///
/// # Errors
/// If the file cannot be opened, is larger than [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES), is of no
/// known format, or is damaged, or if there is too little memory for it.
pub fn read(path: &Path) -> Result<FileContents, FormatError> {
    read_with(path, Nan::Refuse)
}

/// [`read`], with `nan` for the voxels of volumes that are not numbers.
///
/// # Errors
/// As [`read`].
pub fn read_with(path: &Path, nan: Nan) -> Result<FileContents, FormatError> {
    let bytes = bytes::read(path)?;
    if let Some(volume) = nifti::read_pair(path, &bytes, nan) {
        return volume.map(FileContents::Volume);
    }
    let format = Format::detect(&bytes, path).ok_or_else(|| FormatError::Unknown {
        path: path.to_owned(),
        formats: Format::ALL.map(|format| format.spec().name).join(", "),
        found: describe(&bytes),
    })?;
    format
        .read(&bytes, nan)
        .map_err(|fault| fault.beside(bytes.taken()).of(path, format.spec().name))
}

/// Reads the unpacked bytes of a file of a known format.
///
/// # Errors
/// If the bytes are not a valid file of that format, or there is too little memory for it.
pub fn read_as(bytes: &[u8], format: Format) -> Result<FileContents, Fault> {
    format.read(bytes, Nan::Refuse)
}

/// The beginning of a file, for a person to recognise.
fn describe(bytes: &[u8]) -> String {
    match bytes {
        [] => "an empty file".to_owned(),
        _ => format!("a file that begins \"{}\"", bytes[..bytes.len().min(24)].escape_ascii()),
    }
}
