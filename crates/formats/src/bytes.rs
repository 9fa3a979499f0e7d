//! The bytes of files: read, and unpacked if they are gzip or bzip2, or written.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use steer3d_files::AtPath;
use steer3d_files::memory::{self, NoRoom};

use crate::error::FormatError;
use crate::held::{FREE_BYTES, Held, MAX_FILE_BYTES, MAX_RATIO};

/// The largest size that `packed` bytes may unpack to.
pub(crate) fn most_unpacked(packed: u64) -> u64 {
    packed.saturating_mul(MAX_RATIO).clamp(FREE_BYTES, MAX_FILE_BYTES)
}

/// The extension of a file in lower case, before `.gz` or `.bz2`.
pub(crate) fn extension(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let bare = [".gz", ".bz2"].iter().find_map(|packed| name.strip_suffix(packed));
    Some(bare.unwrap_or(&name).rsplit_once('.')?.1.to_owned())
}

/// The bytes of a file, and their room.
#[derive(Debug)]
pub(crate) struct FileBytes {
    bytes: Vec<u8>,
    room: Held,
}

impl FileBytes {
    /// Bytes of memory that are taken for it.
    pub(crate) fn taken(&self) -> u64 {
        self.room.taken()
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes of a file, unpacked. Packed and unpacked ones are in memory side by side.
pub(crate) fn read(path: &Path) -> Result<FileBytes, FormatError> {
    let file = File::open(path).at_path(path)?;
    let len = file.metadata().at_path(path)?.len();
    let all = |found: Result<FileBytes, Unread>, limit, packing| {
        found.map_err(|unread| unread.of(path, limit, packing))
    };
    let packed = all(everything(file, len + 1, MAX_FILE_BYTES), MAX_FILE_BYTES, None)?;
    let limit = most_unpacked(packed.len() as u64);
    match Packing::of(&packed) {
        None => Ok(packed),
        Some(Packing::Gzip) => {
            all(everything(MultiGzDecoder::new(&*packed), 0, limit), limit, Some("gzip"))
        }
        Some(Packing::Bzip2) => {
            all(everything(MultiBzDecoder::new(&*packed), 0, limit), limit, Some("bzip2"))
        }
    }
}

enum Packing {
    Gzip,
    Bzip2,
}

impl Packing {
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // The level, and π or √π: a block, or the end of an empty stream.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59, ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, ..] => {
                Some(Self::Bzip2)
            }
            _ => None,
        }
    }
}

/// Why not all bytes were read.
enum Unread {
    Stream(std::io::Error),
    TooLarge,
    NoRoom(NoRoom),
}

impl Unread {
    fn of(self, path: &Path, limit: u64, packing: Option<&'static str>) -> FormatError {
        let path = path.to_owned();
        match (self, packing) {
            (Self::TooLarge, _) => FormatError::TooLarge { path, limit },
            (Self::NoRoom(source), _) => FormatError::NoRoom { path, source },
            (Self::Stream(source), Some(packing)) => FormatError::Packed { path, packing, source },
            (Self::Stream(source), None) => steer3d_files::FileError { path, source }.into(),
        }
    }
}

impl From<NoRoom> for Unread {
    fn from(no_room: NoRoom) -> Self {
        Self::NoRoom(no_room)
    }
}

/// Everything that `reader` has, at most `limit` bytes. Room for `first` bytes is taken at once,
/// then for a quarter more at a time.
fn everything(mut reader: impl Read, first: u64, limit: u64) -> Result<FileBytes, Unread> {
    let (mut bytes, mut room) = (Vec::new(), Held::new()?);
    let mut step = first.max(1 << 16).min(limit + 1);
    loop {
        room.add(step)?;
        let needed = bytes.len() as u64 + step;
        let full = |_| NoRoom { needed, limit: memory::limit() };
        bytes.try_reserve_exact(step as usize).map_err(full)?;
        let read = reader.by_ref().take(step).read_to_end(&mut bytes).map_err(Unread::Stream)?;
        if bytes.len() as u64 > limit {
            return Err(Unread::TooLarge);
        }
        if (read as u64) < step {
            return Ok(FileBytes { bytes, room });
        }
        step = (bytes.len() as u64 / 4).max(1 << 16).min(limit + 1 - bytes.len() as u64);
    }
}

/// Bytes enough for the header of a map or an image.
const HEAD: u64 = 4096;

/// The beginning of a file, unpacked.
pub(crate) fn head(path: &Path) -> Result<Vec<u8>, FormatError> {
    let mut packed = vec![];
    File::open(path)
        .and_then(|file| file.take(16 * HEAD).read_to_end(&mut packed))
        .at_path(path)?;
    let mut bytes = vec![];
    // A stream that is cut off is an error at its end only, which is no matter here.
    let _ = match Packing::of(&packed) {
        None => (&*packed).take(HEAD).read_to_end(&mut bytes),
        Some(Packing::Gzip) => MultiGzDecoder::new(&*packed).take(HEAD).read_to_end(&mut bytes),
        Some(Packing::Bzip2) => MultiBzDecoder::new(&*packed).take(HEAD).read_to_end(&mut bytes),
    };
    Ok(bytes)
}
