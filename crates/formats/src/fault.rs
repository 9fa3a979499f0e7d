//! What is wrong with the bytes of a file.

use std::fmt;

use steer3d_files::memory::NoRoom;

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
    no_room: Option<Box<NoRoom>>,
}

impl Fault {
    /// A fault at `place`.
    pub fn new(place: Place, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { place, expected: expected.into(), found: found.into(), no_room: None }
    }

    /// The fault of a reader that has taken `bytes` already.
    pub(crate) fn beside(mut self, bytes: u64) -> Self {
        if let Some(no_room) = &mut self.no_room {
            no_room.needed = no_room.needed.saturating_add(bytes);
        }
        self
    }

    /// The lack of memory, where that is all that is wrong.
    pub fn no_room(&self) -> Option<&NoRoom> {
        self.no_room.as_deref()
    }
}

impl From<NoRoom> for Fault {
    fn from(no_room: NoRoom) -> Self {
        let expected = format!("at most {} bytes, the memory for input", no_room.limit);
        let found = format!("{} bytes", no_room.needed);
        Self { no_room: Some(Box::new(no_room)), ..Self::new(Place::Whole, expected, found) }
    }
}
