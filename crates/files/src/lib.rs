//! Files that appear under their name only when they are whole and on disk, locks of folders, and the memory that input
//! may take.

pub mod lock;
pub mod memory;

use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Result, Write};
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

/// How the names of temporary files begin.
pub const TEMPORARY: &str = ".steer3d-";

/// A file or folder that the operating system refuses to open, read, write or rename.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}; check the path and its permissions", path = path.display())]
pub struct FileError {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's reason.
    pub source: std::io::Error,
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

/// A new file in the folder of `path`, removed when dropped, with the permissions of a new file.
///
/// # Errors
/// When the folder is missing or not writable.
pub fn temporary_beside(path: &Path) -> Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(TEMPORARY).suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder_of(path))
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
}
