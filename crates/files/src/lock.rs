//! Folders that one process at a time writes to.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// A folder that another process writes to.
#[derive(Debug, thiserror::Error)]
#[error("{}: another steer3d is writing here; wait for its end, or take another folder", path.display())]
pub struct Busy {
    /// The folder.
    pub path: PathBuf,
}

/// Keeps others out of a folder until it is dropped or the process ends, however that may be.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _folder: Option<File>,
}

/// Locks a folder against others that lock it. It is the folder itself that is locked, so no file is left in it; where
/// that cannot be (Windows, and file systems without locks), nobody is kept out.
///
/// # Errors
/// [`Busy`] if another process, or another part of this one, holds the lock.
pub fn lock(folder: &Path) -> Result<Lock, Busy> {
    let Ok(file) = File::open(folder) else { return Ok(Lock { _folder: None }) };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Busy { path: folder.into() }),
        locked => Ok(Lock { _folder: locked.is_ok().then_some(file) }),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_for_one_at_a_time_and_nothing_is_left_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let message = lock(folder.path()).unwrap_err().to_string();
        assert!(message.contains("another steer3d is writing here"), "{message}");
        drop(first);
        drop(lock(folder.path()).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(lock(&folder.path().join("missing")).unwrap());
    }
}
