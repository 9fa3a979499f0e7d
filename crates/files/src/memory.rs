//! How much memory a process may take for what it reads: one budget, from which readers take before they allocate what
//! a file asks for.
//!
//! A reader [takes](take) room for what it is about to hold and gives it back when it is done. Readers on several
//! threads share the budget; nobody waits while holding room, so there is no deadlock: who finds too little gets
//! [`NoRoom`], which says whether the same read can succeed when the others are done.

use std::sync::atomic::{AtomicU64, Ordering};

use bytesize::ByteSize;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// The budget in bytes; 0 until it is set or asked for.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Bytes of the budget that are taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// More memory than the budget has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected at most {}, the memory for input, found {}; give more with --memory, or a smaller file",
        ByteSize(*.limit), ByteSize(*.needed))]
pub struct NoRoom {
    /// Bytes that were asked for, with those that the reader held.
    pub needed: u64,
    /// The budget in bytes.
    pub limit: u64,
}

impl NoRoom {
    /// Whether the same read can succeed once other readers are done.
    pub fn is_temporary(&self) -> bool {
        self.needed <= self.limit
    }
}

/// Part of the budget, given back when dropped.
#[derive(Debug)]
pub struct Room {
    bytes: u64,
}

impl Room {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// [`NoRoom`] if the budget has less; what was held stays held.
    pub fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let limit = limit();
        let needed = self.bytes.saturating_add(bytes);
        let grown = |taken: u64| taken.checked_add(bytes).filter(|total| *total <= limit);
        TAKEN
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
            .map_err(|_| NoRoom { needed, limit })?;
        self.bytes = needed;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Takes `bytes` of the budget.
///
/// # Errors
/// [`NoRoom`] if it has less.
pub fn take(bytes: u64) -> Result<Room, NoRoom> {
    let mut room = Room { bytes: 0 };
    room.grow(bytes)?;
    Ok(room)
}

/// The budget in bytes: half of what this process may have at most, unless [`set_limit`] says otherwise.
pub fn limit() -> u64 {
    match LIMIT.load(Ordering::Relaxed) {
        0 => {
            LIMIT.store((available() / 2).max(1), Ordering::Relaxed);
            LIMIT.load(Ordering::Relaxed)
        }
        limit => limit,
    }
}

/// Sets the budget in bytes, at least 1.
pub fn set_limit(bytes: u64) {
    LIMIT.store(bytes.max(1), Ordering::Relaxed);
}

/// The memory of the machine, of the group of processes (cgroup) or of the process (`ulimit -v`), whichever is least.
fn available() -> u64 {
    let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(what);
    let group = system.cgroup_limits().map(|group| group.total_memory);
    let limits = [Some(system.total_memory()), group, of_process()];
    limits.into_iter().flatten().filter(|bytes| *bytes > 0).min().unwrap_or(u64::MAX)
}

#[cfg(unix)]
fn of_process() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

#[cfg(not(unix))]
fn of_process() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_share_one_budget_and_give_it_back() {
        assert!(limit() > 1 << 26 && limit() < u64::MAX);
        set_limit(1000);
        let mut first = take(600).unwrap();
        let busy = take(500).unwrap_err();
        assert_eq!(busy, NoRoom { needed: 500, limit: 1000 });
        assert!(busy.is_temporary());
        let never = first.grow(u64::MAX).unwrap_err();
        assert!(!never.is_temporary());
        first.grow(400).unwrap();
        drop(first);
        take(1000).unwrap();
        let text = take(3 << 30).unwrap_err().to_string();
        assert!(text.contains("3.0 GiB") && text.contains("1000 B"), "{text}");
    }
}
