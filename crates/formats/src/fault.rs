//! What is wrong with the bytes of a file.

use std::fmt;

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
}
