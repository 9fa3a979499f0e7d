//! Why a dataset cannot be read or written.

use std::path::{Path, PathBuf};

use hdf5_reader::error::Error as ReadError;
use steer3d_files::memory::NoRoom;
use steer3d_files::{AtPath, FileError};
use steer3d_formats::{Fault, FormatError};
use steer3d_volume::volume::VolumeError;

/// A dataset, or an array of an HDF5 file, that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// An item cannot be written in the format of another program.
    #[error(transparent)]
    Export(FormatError),
    /// The operating system refused to open, write or rename the file.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The file does not begin as an HDF5 file does.
    #[error("{path}: expected an HDF5 file, found {found}; \
             build one with `steer3d dataset`", path = path.display())]
    NotHdf5 {
        /// The file.
        path: PathBuf,
        /// What the file is.
        found: &'static str,
    },
    /// The HDF5 library could not write.
    #[error("{path}: {object}: the HDF5 library reports: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The HDF5 object.
        object: String,
        /// The library's reason.
        source: hdf5::Error,
    },
    /// An object of a file is missing, damaged or cut short.
    #[error("{path}: {object}: {source}; \
             if the file is damaged or cut short, build it again; check the path of a single array",
            path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The HDF5 object.
        object: String,
        /// What is wrong.
        source: ReadError,
    },
    /// What a file holds takes more memory than there is for input.
    #[error("{path}: {object}: {source}", path = path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// The HDF5 object.
        object: String,
        /// How much memory, and how much there is.
        source: NoRoom,
    },
    /// An object of the file is not as the schema asks for.
    #[error("{path}: {object}: expected {expected}, found {found}; \
             build the dataset again from its source", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The HDF5 object or the field of the description.
        object: String,
        /// What the schema asks for.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A single array of a file cannot be used.
    #[error("{path}: {object}: {fault}", path = path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// The path of the array in the file.
        object: String,
        /// What is wrong.
        fault: Box<Fault>,
    },
    /// The fields of the description contradict each other or are out of range.
    #[error("{path}: description: {source}", path = path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: VolumeError,
    },
    /// A volume of the file or to be written is not valid.
    #[error("{path}: item {item}: {source}", path = path.display())]
    Volume {
        /// The file.
        path: PathBuf,
        /// Index of the item.
        item: usize,
        /// What is wrong.
        source: VolumeError,
    },
    /// An item to be written does not fit the dataset.
    #[error("{path}: item {item}: {field}: expected {expected}, found {found}",
            path = path.display())]
    Item {
        /// The file.
        path: PathBuf,
        /// Index of the item.
        item: usize,
        /// Which part of the item.
        field: &'static str,
        /// What the dataset asks for.
        expected: String,
        /// What the item has.
        found: String,
    },
    /// An index is beyond the end, a buffer has the wrong length, or a name no known extension.
    #[error("{path}: {field}: expected {expected}, found {found}", path = path.display())]
    Argument {
        /// The file.
        path: PathBuf,
        /// Which argument.
        field: &'static str,
        /// Its allowed values.
        expected: String,
        /// What was given.
        found: String,
    },
}

/// The error that an argument is not one of the allowed values.
pub(crate) fn wrong_argument<T>(
    path: &Path,
    field: &'static str,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Result<T, DatasetError> {
    let (path, expected, found) = (path.to_owned(), expected.into(), found.into());
    Err(DatasetError::Argument { path, field, expected, found })
}

/// Attaches the file and the object to an error of the HDF5 library or of the operating system.
pub(crate) trait Context<T> {
    fn at(self, path: &Path, object: &str) -> Result<T, DatasetError>;
}

impl<T> Context<T> for Result<T, hdf5::Error> {
    fn at(self, path: &Path, object: &str) -> Result<T, DatasetError> {
        self.map_err(|source| {
            let path = path.to_owned();
            match system_error(&source) {
                Some(source) => DatasetError::Io(FileError { path, source }),
                None => DatasetError::Write { path, object: object.to_owned(), source },
            }
        })
    }
}

/// The system's reason for which the library failed, such as a full disk.
fn system_error(error: &hdf5::Error) -> Option<std::io::Error> {
    let number = |frame: &hdf5::ErrorFrame| {
        frame.desc().split_once("errno = ")?.1.split(',').next()?.trim().parse().ok()
    };
    let number = error.stack()?.iter().find_map(number)?;
    Some(std::io::Error::from_raw_os_error(number))
}

impl<T> Context<T> for Result<T, ReadError> {
    fn at(self, path: &Path, object: &str) -> Result<T, DatasetError> {
        self.map_err(|source| {
            let (path, object) = (path.to_owned(), object.to_owned());
            // Which names the object once more.
            let source = match source {
                ReadError::Context { source, .. } => *source,
                source => source,
            };
            DatasetError::Read { path, object, source }
        })
    }
}

impl<T> Context<T> for Result<T, NoRoom> {
    fn at(self, path: &Path, object: &str) -> Result<T, DatasetError> {
        self.map_err(|source| {
            let (path, object) = (path.to_owned(), object.to_owned());
            DatasetError::NoRoom { path, object, source }
        })
    }
}

impl<T> Context<T> for Result<T, std::io::Error> {
    fn at(self, path: &Path, _object: &str) -> Result<T, DatasetError> {
        Ok(self.at_path(path)?)
    }
}
