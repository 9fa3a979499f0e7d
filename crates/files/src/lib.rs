//! Files that appear under their name only when they are whole and on disk, checksums, locks of folders, and the memory
//! that input may take.
//!
//! A temporary file is locked by its process as long as it is open. So one that can be locked is dead, left by a
//! process that was killed; it is removed by the next process that makes a temporary file in that folder.

pub mod digest;
pub mod lock;
pub mod memory;

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IntoInnerError, Result, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// How the names of temporary files begin and end.
const TEMPORARY: (&str, &str) = (".steer3d-", ".tmp");

/// A file or folder that the operating system refuses to open, read, write or rename.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}; {}", advice(source), path = path.display())]
pub struct FileError {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's reason.
    pub source: std::io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "free some space, or write to another disk"
        }
        _ => "check the path and its permissions",
    }
}

/// Names the file in an error of the operating system.
pub trait AtPath<T> {
    /// The value, or the error with the file that it is about.
    ///
    /// # Errors
    /// If there is an error.
    fn at_path(self, path: &Path) -> std::result::Result<T, FileError>;
}

impl<T> AtPath<T> for Result<T> {
    fn at_path(self, path: &Path) -> std::result::Result<T, FileError> {
        self.map_err(|source| FileError { path: path.to_owned(), source })
    }
}

/// Opens a file to read it.
///
/// # Errors
/// When it is missing or not readable, or is a folder, a pipe, a socket or a device, which might not end.
pub fn open(path: &Path) -> Result<File> {
    let what = std::fs::metadata(path)?;
    if what.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !what.is_file() {
        return Err(io::Error::other("expected a file, found a pipe, socket or device"));
    }
    File::open(path)
}

/// Writes the file `path`.
///
/// # Errors
/// When the folder is missing or not writable, or the disk is full; the file is then as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes the file `path` piece by piece.
///
/// # Errors
/// As [`write()`], and what `write` says; the file is then as it was.
pub fn write_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<NamedTempFile>) -> Result<()>,
) -> Result<()> {
    let mut file = BufWriter::new(temporary_beside(path)?);
    write(&mut file)?;
    persist(file.into_inner().map_err(IntoInnerError::into_error)?, path)
}

/// A new file in the folder of `path`, removed when dropped, with the permissions of a new file. It is locked as long as
/// it is open.
///
/// # Errors
/// When the folder is missing or not writable.
pub fn temporary_beside(path: &Path) -> Result<NamedTempFile> {
    let folder = folder_of(path);
    lock::remove_dead(folder);
    let mut builder = Builder::new();
    builder.prefix(TEMPORARY.0).suffix(TEMPORARY.1);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    loop {
        let file = builder.tempfile_in(folder)?;
        if lock::claim(file.as_file(), file.path()) == lock::Claim::Held {
            return Ok(file);
        }
    }
}

/// Has this file the name of a temporary one?
pub fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(TEMPORARY.0.as_bytes()) && name.ends_with(TEMPORARY.1.as_bytes())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Flushes the temporary file to disk, renames it to `path` and flushes the folder.
///
/// # Errors
/// When the disk is full or the name is that of a folder.
pub fn persist(temporary: NamedTempFile, path: &Path) -> Result<()> {
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_folder_of(path)
}

/// Makes a folder, and those above it that are missing, which only this user may read and write, or sees that it is
/// such a one: what is found there was written by this user.
///
/// # Errors
/// When it cannot be made, belongs to another user or may be written by others.
#[cfg(unix)]
pub fn private_folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = std::fs::metadata(path)?;
    if found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let problem = "expected a folder of this user that no other may write to";
    Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, problem))
}

/// Makes a folder and those above it that are missing.
///
/// # Errors
/// When it cannot be made.
#[cfg(not(unix))]
pub fn private_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path)
}

/// Flushes the folder of `path`, so that a new name in it stays.
pub fn sync_folder_of(path: &Path) -> Result<()> {
    if cfg!(unix) { File::open(folder_of(path))?.sync_all() } else { Ok(()) }
}

/// Bytes in hexadecimal, as checksums are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_permissions_of_a_new_one_and_no_remains_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let [ours, plain] = ["ours", "plain"].map(|name| folder.path().join(name));
        write(&ours, b"old").unwrap();
        write(&ours, b"new").unwrap();
        std::fs::write(&plain, b"new").unwrap();
        assert_eq!(std::fs::read(&ours).unwrap(), b"new");
        let permissions = |path| std::fs::metadata(path).unwrap().permissions();
        assert_eq!(permissions(&ours), permissions(&plain));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(write(&folder.path().join("missing/file"), b"").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_private_folder_is_for_one_user() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b");
        private_folder(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&path), mode(path.parent().unwrap())], [0o700; 2]);
        private_folder(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        private_folder(&path).unwrap();
        for shared in [0o777, 0o775, 0o1777] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(shared)).unwrap();
            assert!(private_folder(&path).is_err());
        }
    }
}
