//! The bytes of files: read, and unpacked if they are gzip, or written.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use steer3d_files::AtPath;

use crate::error::FormatError;

/// Largest file, and largest unpacked size of a compressed one, in bytes: 4 GiB.
pub const MAX_FILE_BYTES: u64 = 1 << 32;

const MAGIC: [u8; 2] = [0x1f, 0x8b];

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, FormatError> {
    let too_large = || FormatError::TooLarge { path: path.to_owned(), limit: MAX_FILE_BYTES };
    let packed = File::open(path).and_then(limited).at_path(path)?.ok_or_else(too_large)?;
    if !packed.starts_with(&MAGIC) {
        return Ok(packed);
    }
    let unpacked = limited(MultiGzDecoder::new(packed.as_slice()))
        .map_err(|source| FormatError::Gzip { path: path.to_owned(), source })?;
    unpacked.ok_or_else(too_large)
}

/// Everything that `reader` has, or `None` if that is too much.
fn limited(reader: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_BYTES).then_some(bytes))
}

/// Writes a header and little-endian values to a file that takes the place of `path` only when it
/// is on disk.
pub(crate) fn write(path: &Path, header: &[u8], values: &[f32]) -> Result<(), FormatError> {
    let write = |file: &mut dyn Write| {
        file.write_all(header)?;
        values.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
    };
    Ok(steer3d_files::write_with(path, |file| write(file)).at_path(path)?)
}
