//! Why a file cannot be read or written.

use std::path::{Path, PathBuf};

use steer3d_files::FileError;
use steer3d_files::memory::NoRoom;
use steer3d_volume::volume::VolumeError;

use crate::fault::Fault;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused to open, read or write the file.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The compressed data are damaged or cut short.
    #[error("{path}: damaged gzip data: {source}; fetch or compress the file again",
            path = path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file, unpacked, is larger than [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES).
    #[error("{path}: expected at most {limit} bytes (unpacked), found more; crop or split the file",
            path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// Neither content nor name tells the format.
    #[error("{path}: expected one of {formats}, found {found}", path = path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The names of the known formats.
        formats: String,
        /// How the file begins.
        found: String,
    },
    /// The file is damaged or uses what the reader does not know.
    #[error("{path}: {format}: {fault}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The name of the format that it was read as.
        format: &'static str,
        /// What is wrong.
        fault: Fault,
    },
    /// A volume that the format cannot hold.
    #[error("{path}: {format}: {source}", path = path.display())]
    Export {
        /// The file that was to be written.
        path: PathBuf,
        /// The name of its format.
        format: &'static str,
        /// What the format cannot hold.
        source: VolumeError,
    },
}

impl FormatError {
    /// The lack of memory, where that is the reason; the same file may be read later if it is
    /// [temporary](NoRoom::is_temporary).
    pub fn no_room(&self) -> Option<&NoRoom> {
        None
    }
}

impl Fault {
    /// The fault with the file that has it.
    pub(crate) fn of(self, path: &Path, format: &'static str) -> FormatError {
        FormatError::Malformed { path: path.to_owned(), format, fault: self }
    }
}
