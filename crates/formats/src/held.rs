//! Room of the memory budget, taken as a reader goes along.

use steer3d_files::memory::{self, NoRoom, Room};

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
