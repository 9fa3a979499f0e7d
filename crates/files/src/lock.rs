//! Locks that end with the process that holds them.

use std::fs::{self, File};
use std::io::Result;
use std::path::Path;

use crate::is_temporary;

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

/// Makes the file `path` if it is missing and locks it as long as the file that is returned is open; `None` if another
/// holds it. Where a file system has no locks, there is none.
///
/// # Errors
/// When the file cannot be made.
pub fn lock(path: &Path) -> Result<Option<File>> {
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match claim(&file, path) {
            Claim::Held => return Ok(Some(file)),
            Claim::Busy => return Ok(None),
            Claim::Gone => {}
        }
    }
}

/// Locks the open file of this name.
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
    fn a_lock_is_held_by_one_and_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = lock(&path).unwrap().unwrap();
        assert!(lock(&path).unwrap().is_none());
        drop(first);
        assert!(lock(&path).unwrap().is_some());
        assert!(lock(&folder.path().join("missing/lock")).is_err());
    }
}
