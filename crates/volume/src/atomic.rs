//! Files that appear under their name only when they are whole and on disk.

use std::fs::File;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// How the names of temporary files begin.
pub(crate) const TEMPORARY: &str = ".steer3d-";

/// A new file in the folder of `path`, removed when dropped, with the permissions of a new file.
pub(crate) fn temporary_beside(path: &Path) -> std::io::Result<NamedTempFile> {
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
pub(crate) fn persist(temporary: NamedTempFile, path: &Path) -> std::io::Result<()> {
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_folder_of(path)
}

/// Flushes the folder of `path`, so that a new name in it stays.
pub(crate) fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder_of(path))?.sync_all() } else { Ok(()) }
}
