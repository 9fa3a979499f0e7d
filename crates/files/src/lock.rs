//! Locks that end with the process that holds them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::is_temporary;

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
    loop {
        let Ok(file) = File::open(folder) else { return Ok(Lock { _folder: None }) };
        match claim(&file, folder) {
            Claim::Held => return Ok(Lock { _folder: Some(file) }),
            Claim::Busy => return Err(Busy { path: folder.into() }),
            Claim::Gone => {}
        }
    }
}

/// What came of locking a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is locked, or its file system has no locks.
    Held,
    /// Another holds it.
    Busy,
    /// It was removed before it was locked.
    Gone,
}

/// Locks the open file or folder of this name.
#[cfg(unix)]
pub(crate) fn claim(file: &File, path: &Path) -> Claim {
    use std::os::unix::fs::MetadataExt;
    if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
        return Claim::Busy;
    }
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) => {
            Claim::Held
        }
        _ => Claim::Gone,
    }
}

/// Elsewhere a lock would keep the other handles of this process from the file.
#[cfg(not(unix))]
pub(crate) fn claim(_file: &File, _path: &Path) -> Claim {
    Claim::Held
}

/// Removes the temporary files of dead processes from a folder.
pub(crate) fn remove_dead(folder: &Path) {
    let entries = if cfg!(unix) { fs::read_dir(folder).ok() } else { None };
    let entries = entries.into_iter().flatten();
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_file = || fs::symlink_metadata(&path).is_ok_and(|data| data.is_file());
        // Who makes a temporary file looks whether it is there after it was locked. A file that cannot be opened or
        // removed is another user's.
        if is_temporary(&path)
            && is_file()
            && let Ok(file) = File::options().write(true).open(&path)
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::temporary_beside;

    #[test]
    fn temporary_files_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let folder = tempfile::tempdir().unwrap();
        let [dead, other] =
            [".steer3d-dead.tmp", ".steer3d-notes.txt"].map(|name| folder.path().join(name));
        let alive = folder.path().join(".steer3d-alive.tmp");
        for path in [&dead, &other, &alive] {
            fs::write(path, "half a file").unwrap();
        }
        let held = File::open(&alive).unwrap();
        held.try_lock().unwrap();
        let ours = temporary_beside(&folder.path().join("file")).unwrap();
        assert!(!dead.exists() && other.exists() && alive.exists());
        let another = File::open(ours.path()).unwrap();
        assert!(matches!(another.try_lock(), Err(fs::TryLockError::WouldBlock)));
    }

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
