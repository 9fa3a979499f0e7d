//! Limits of what readers hold, and room of the memory budget, taken as they go along.

use steer3d_files::memory::{self, NoRoom, Room};

/// Largest file, and largest unpacked size of a compressed one, in bytes: 4 GiB.
pub const MAX_FILE_BYTES: u64 = 1 << 32;

/// How many times its packed size a compressed file may have unpacked, or an array of an archive.
///
/// Deflate reaches 1,032 at most, and masks of little else than zeros come near; bzip2 could
/// otherwise make a million times the size.
pub const MAX_RATIO: u64 = 1100;

/// Unpacked sizes up to this one, 1 MiB, may be any number of times the packed size.
pub(crate) const FREE_BYTES: u64 = 1 << 20;

/// Bytes that are taken of the budget at a time.
const BLOCK: u64 = 1 << 16;

/// Room for what a reader holds.
#[derive(Debug)]
pub(crate) struct Held {
    room: Room,
    /// Bytes of the room.
    taken: u64,
    /// Bytes of the room that nothing fills yet.
    spare: u64,
}

impl Held {
    pub(crate) fn new() -> Result<Self, NoRoom> {
        Ok(Self { room: memory::take(0)?, taken: 0, spare: 0 })
    }

    /// Bytes that are taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Makes room for `bytes` more.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), NoRoom> {
        if bytes > self.spare {
            let block = bytes.max(BLOCK);
            self.room.grow(block)?;
            self.taken += block;
            self.spare += block;
        }
        self.spare -= bytes;
        Ok(())
    }
}
