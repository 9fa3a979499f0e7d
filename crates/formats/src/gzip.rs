//! The bytes of a file, unpacked if it is gzip.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::{FormatError, MAX_FILE_BYTES};

const MAGIC: [u8; 2] = [0x1f, 0x8b];

pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, FormatError> {
    let io = |source| FormatError::Io { path: path.to_owned(), source };
    let packed = limited(File::open(path).map_err(io)?).map_err(io)?;
    let packed = packed.ok_or_else(|| too_large(path))?;
    if !packed.starts_with(&MAGIC) {
        return Ok(packed);
    }
    let unpacked = limited(MultiGzDecoder::new(packed.as_slice()))
        .map_err(|source| FormatError::Gzip { path: path.to_owned(), source })?;
    unpacked.ok_or_else(|| too_large(path))
}

/// Everything that `reader` has, or `None` if that is too much.
fn limited(reader: impl Read) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_FILE_BYTES).then_some(bytes))
}

fn too_large(path: &Path) -> FormatError {
    FormatError::TooLarge { path: path.to_owned(), limit: MAX_FILE_BYTES }
}
