//! The stored bytes of an item without the lock of the HDF5 library.
//!
//! An item is one chunk, encoded as shuffle, deflate, fletcher32 (see `FORMAT.md`). Where the chunk
//! index tells the place of every chunk, any number of threads read and decode them at once.

use std::fs::File;
use std::path::Path;

use hdf5::datatype::ByteOrder;
use hdf5::filters::Filter;

/// The chunks of the dataset `volumes`.
#[derive(Debug)]
pub(crate) struct Chunks {
    file: File,
    /// Offset and encoded length of the chunk of each item.
    places: Vec<(u64, usize)>,
    /// Bytes of a value and of an item.
    width: usize,
    len: usize,
}

impl Chunks {
    /// `None` where a chunk is not one item encoded as this crate encodes it, or the HDF5 library
    /// cannot list the chunks: such files are read through the library.
    pub(crate) fn find(path: &Path, volumes: &hdf5::Dataset, shape: &[usize]) -> Option<Self> {
        let dtype = volumes.dtype().ok()?;
        let width = dtype.size();
        let filters = volumes.filters();
        let ours =
            matches!(filters.as_slice(), [Filter::Shuffle, Filter::Deflate(_), Filter::Fletcher32]);
        let ordered = width == 1 || dtype.byte_order() == ByteOrder::LittleEndian;
        let chunk = volumes.chunk()?;
        if !ours || !ordered || chunk[0] != 1 || chunk[1..] != shape[1..] {
            return None;
        }
        let len = width * shape[1..].iter().product::<usize>();
        let file = File::open(path).ok()?;
        let end = file.metadata().ok()?.len();
        let places = places(volumes, shape[0])?;
        let inside = |&(offset, size): &(u64, usize)| {
            size > 4 && offset.checked_add(size as u64).is_some_and(|last| last <= end)
        };
        places.iter().all(inside).then_some(Self { file, places, width, len })
    }

    /// The stored bytes of an item; `None` if the chunk is damaged or cannot be read.
    pub(crate) fn read(&self, item: usize) -> Option<Vec<u8>> {
        Some(unshuffle(self.planes(item)?, self.width))
    }

    /// The values of an item of 32-bit floats, likewise.
    pub(crate) fn read_f32(&self, item: usize, target: &mut [f32]) -> Option<()> {
        let planes = self.planes(item)?;
        let mut planes = planes.chunks_exact(target.len());
        let [a, b, c, d] = [planes.next()?, planes.next()?, planes.next()?, planes.next()?];
        let bytes = a.iter().zip(b).zip(c.iter().zip(d));
        for (value, ((&a, &b), (&c, &d))) in target.iter_mut().zip(bytes) {
            *value = f32::from_le_bytes([a, b, c, d]);
        }
        Some(())
    }

    /// The first bytes of all values, then the second, ...
    fn planes(&self, item: usize) -> Option<Vec<u8>> {
        let (offset, size) = self.places[item];
        let mut encoded = vec![0; size];
        read_at(&self.file, &mut encoded, offset)?;
        let (body, sum) = encoded.split_last_chunk::<4>()?;
        if fletcher32(body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut shuffled = vec![0; self.len];
        let mut inflate = flate2::Decompress::new(true);
        let status = inflate.decompress(body, &mut shuffled, flate2::FlushDecompress::Finish);
        let complete = matches!(status, Ok(flate2::Status::StreamEnd))
            && inflate.total_out() == self.len as u64;
        complete.then_some(shuffled)
    }
}

/// Offset and length of the chunk of each item.
#[cfg(feature = "static-hdf5")]
fn places(volumes: &hdf5::Dataset, items: usize) -> Option<Vec<(u64, usize)>> {
    let mut places = vec![(0, 0); items];
    let mut regular = true;
    let visited = volumes.chunks_visit(|chunk| {
        let place = places.get_mut(chunk.offset[0] as usize);
        match (place, usize::try_from(chunk.size)) {
            (Some(place), Ok(size)) if chunk.filter_mask == 0 => *place = (chunk.addr, size),
            _ => regular = false,
        }
        0
    });
    (visited.is_ok() && regular).then_some(places)
}

/// Older libraries list chunks in quadratic time.
#[cfg(not(feature = "static-hdf5"))]
fn places(_volumes: &hdf5::Dataset, _items: usize) -> Option<Vec<(u64, usize)>> {
    None
}

#[cfg(unix)]
fn read_at(file: &File, target: &mut [u8], offset: u64) -> Option<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, target, offset).ok()
}

#[cfg(not(unix))]
fn read_at(_file: &File, _target: &mut [u8], _offset: u64) -> Option<()> {
    None
}

/// The checksum of HDF5's filter fletcher32: two sums of big-endian 16-bit words.
fn fletcher32(bytes: &[u8]) -> u32 {
    // As many words as two 32-bit sums can take.
    const WORDS: usize = 360;
    let fold = |sum: u32| (sum & 0xffff) + (sum >> 16);
    let (mut first, mut second) = (0u32, 0u32);
    let (words, rest) = bytes.as_chunks::<2>();
    for block in words.chunks(WORDS) {
        for &word in block {
            first += u32::from(u16::from_be_bytes(word));
            second += first;
        }
        (first, second) = (fold(first), fold(second));
    }
    if let [last] = rest {
        first += u32::from(*last) << 8;
        second += first;
        (first, second) = (fold(first), fold(second));
    }
    fold(second) << 16 | fold(first)
}

/// Undoes HDF5's filter shuffle, which stores the first bytes of all values, then the second, ...
fn unshuffle(bytes: Vec<u8>, width: usize) -> Vec<u8> {
    if width == 1 {
        return bytes;
    }
    let count = bytes.len() / width;
    let mut values = vec![0; bytes.len()];
    for (k, plane) in bytes.chunks_exact(count).enumerate() {
        for (value, &byte) in values.chunks_exact_mut(width).zip(plane) {
            value[k] = byte;
        }
    }
    values
}
