//! Why a file cannot be read or written.

use std::path::{Path, PathBuf};

use steer3d_files::FileError;
use steer3d_files::memory::NoRoom;
use steer3d_volume::volume::VolumeError;

use crate::fault::Fault;
use crate::held::MAX_RATIO;

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused to open, read or write the file.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The compressed data are damaged or cut short.
    #[error("{path}: damaged {packing} data: {source}; fetch or compress the file again",
            path = path.display())]
    Packed {
        /// The file.
        path: PathBuf,
        /// The program that packs so.
        packing: &'static str,
        /// The reason.
        source: std::io::Error,
    },
    /// The file, unpacked, is larger than [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES), or more than
    /// [`MAX_RATIO`](crate::MAX_RATIO) times its packed size.
    #[error("{path}: expected at most {limit} bytes (unpacked: 4 GiB, and {MAX_RATIO} times the packed size), \
             found more; crop, split or unpack the file", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// The memory for input has too little left.
    #[error("{path}: {source}", path = path.display())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// How much was asked for, and how much there is.
        source: NoRoom,
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
        fault: Box<Fault>,
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
        match self {
            Self::NoRoom { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Fault {
    /// The fault with the file that has it.
    pub(crate) fn of(self, path: &Path, format: &'static str) -> FormatError {
        let path = path.to_owned();
        match self.no_room() {
            Some(&source) => FormatError::NoRoom { path, source },
            None => FormatError::Malformed { path, format, fault: Box::new(self) },
        }
    }
}
