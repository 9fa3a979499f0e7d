//! Files that appear under their name only when they are whole and on disk.

use std::fs::File;
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// A new file in the folder of `path`, removed when dropped, with the permissions of a new file.
pub(crate) fn temporary_beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut builder = Builder::new();
    builder.prefix(".steer3d-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder.unwrap_or(Path::new(".")))
}

/// Flushes the temporary file to disk, renames it to `path` and flushes the folder.
pub(crate) fn persist(temporary: NamedTempFile, path: &Path) -> std::io::Result<()> {
    temporary.as_file().sync_all()?;
    let folder = temporary.path().parent().map(Path::to_owned);
    temporary.persist(path).map_err(|error| error.error)?;
    match folder {
        Some(folder) if cfg!(unix) => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}
