//! Room of the memory budget, taken as a reader goes along.

use steer3d_files::memory::{self, NoRoom, Room};

/// Bytes that are taken of the budget at a time.
const BLOCK: u64 = 1 << 16;

/// Room for what a reader holds.
#[derive(Debug)]
pub(crate) struct Held {
    room: Room,
    /// Bytes of the room that nothing fills yet.
    spare: u64,
}

impl Held {
    pub(crate) fn new() -> Result<Self, NoRoom> {
        Ok(Self { room: memory::take(0)?, spare: 0 })
    }

    /// Makes room for `bytes` more.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), NoRoom> {
        if bytes > self.spare {
            let block = bytes.max(BLOCK);
            self.room.grow(block)?;
            self.spare += block;
        }
        self.spare -= bytes;
        Ok(())
    }
}
