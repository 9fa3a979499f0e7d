//! What is wrong with a file.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Format;
use steer3d_volume::volume::VolumeError;

/// Where a file is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    Whole,
    /// A byte of the (unpacked) file, counted from 0.
    Byte(u64),
    /// A line, counted from 1.
    Line(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Byte(offset) => write!(f, "byte {offset}: "),
            Self::Line(line) => write!(f, "line {line}: "),
        }
    }
}

/// What is wrong with the bytes of a file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}expected {expected}, found {found}")]
pub struct Fault {
    /// Where.
    pub place: Place,
    /// What the format asks for.
    pub expected: String,
    /// What the file holds.
    pub found: String,
}

impl Fault {
    /// A fault at `place`.
    pub fn new(place: Place, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { place, expected: expected.into(), found: found.into() }
    }

    /// The fault with the file that has it.
    pub(crate) fn of(self, path: &Path, format: Format) -> FormatError {
        FormatError::Malformed { path: path.to_owned(), format, fault: self }
    }
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused to open or read the file.
    #[error("{path}: {source}; check the path and its permissions", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The compressed data are damaged or cut short.
    #[error("{path}: damaged gzip data: {source}; fetch or compress the file again",
            path = path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file, unpacked, is larger than [`MAX_FILE_BYTES`](super::MAX_FILE_BYTES).
    #[error("{path}: expected at most {limit} bytes (unpacked), found more; crop or split the file",
            path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// Neither content nor name tells the format.
    #[error("{path}: expected one of {formats}, found {found}", path = path.display(),
            formats = Format::names())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// How the file begins.
        found: String,
    },
    /// The file is damaged or uses what the reader does not know.
    #[error("{path}: {format}: {fault}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format that it was read as.
        format: Format,
        /// What is wrong.
        fault: Fault,
    },
    /// A volume that the format cannot hold.
    #[error("{path}: {format}: {source}", path = path.display())]
    Export {
        /// The file that was to be written.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What the format cannot hold.
        source: VolumeError,
    },
}
