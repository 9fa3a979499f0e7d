//! The chunks of a column, decoded here on any number of threads.
//!
//! A chunk is some rows of the column, encoded as shuffle, deflate, fletcher32 or by some of these
//! (see `docs/src/guide/dataset-file.md`).

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use hdf5_reader::Hdf5File;
use hdf5_reader::chunk_index::ChunkEntry;

pub(crate) const DEFLATE: u16 = 1;
pub(crate) const SHUFFLE: u16 = 2;
pub(crate) const FLETCHER32: u16 = 3;

/// The rows of a column.
pub(crate) struct Chunks {
    pub(crate) file: Arc<Hdf5File>,
    /// In the order of their rows.
    pub(crate) entries: Vec<ChunkEntry>,
    /// Rows of a chunk.
    pub(crate) rows: usize,
    /// Bytes of a row.
    pub(crate) row: usize,
    /// Bytes of a value.
    pub(crate) width: usize,
    pub(crate) big_endian: bool,
    /// The filters, in the order in which they encode.
    pub(crate) filters: Vec<u16>,
    /// The last chunks of several rows that were read.
    pub(crate) recent: Mutex<VecDeque<(usize, Arc<Vec<u8>>)>>,
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks").field("chunks", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Chunks {
    /// The bytes of some rows, each value little-endian; the error says what is wrong.
    pub(crate) fn read(&self, rows: Range<usize>) -> Result<Vec<u8>, String> {
        if self.rows == 1 && rows.len() == 1 {
            return self.decoded(rows.start);
        }
        let mut bytes = Vec::with_capacity(rows.len() * self.row);
        let mut at = rows.start;
        while at < rows.end {
            let index = at / self.rows;
            let first = index * self.rows;
            let end = rows.end.min(first + self.rows);
            let part = (at - first) * self.row..(end - first) * self.row;
            bytes.extend_from_slice(&self.chunk(index)?[part]);
            at = end;
        }
        Ok(bytes)
    }

    /// Writes the values of a row of 32-bit floats to `target`, which has as many.
    pub(crate) fn read_f32(&self, row: usize, target: &mut [f32]) -> Result<(), String> {
        if self.rows != 1 || self.big_endian || self.filters != [SHUFFLE, DEFLATE, FLETCHER32] {
            let bytes = self.read(row..row + 1)?;
            let values = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
            target.iter_mut().zip(values).for_each(|(target, value)| *target = value);
            return Ok(());
        }
        // Without another pass over the bytes.
        let planes = self.unfiltered(row, &self.filters[1..])?;
        let mut planes = planes.chunks_exact(target.len().max(1));
        let [a, b, c, d] = std::array::from_fn(|_| planes.next().unwrap_or_default());
        let bytes = a.iter().zip(b).zip(c.iter().zip(d));
        for (value, ((&a, &b), (&c, &d))) in target.iter_mut().zip(bytes) {
            *value = f32::from_le_bytes([a, b, c, d]);
        }
        Ok(())
    }

    /// A chunk of several rows, of which some are kept, since items take parts of them.
    fn chunk(&self, index: usize) -> Result<Arc<Vec<u8>>, String> {
        /// Chunks have about 256 KiB.
        const KEPT: usize = 8;
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = recent().iter().find(|(kept, _)| *kept == index) {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(self.decoded(index)?);
        let mut recent = recent();
        recent.truncate(KEPT - 1);
        recent.push_front((index, Arc::clone(&bytes)));
        Ok(bytes)
    }

    fn decoded(&self, index: usize) -> Result<Vec<u8>, String> {
        let mut bytes = self.unfiltered(index, &self.filters)?;
        if self.big_endian {
            bytes.chunks_exact_mut(self.width).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }

    /// A chunk after undoing `filters`, the last ones of the column.
    fn unfiltered(&self, index: usize, filters: &[u16]) -> Result<Vec<u8>, String> {
        let ChunkEntry { address, size, .. } = self.entries[index];
        let stored = self.file.storage().read_range(address, size as usize);
        let stored = stored.map_err(|error| error.to_string())?;
        let len = self.rows * self.row;
        let mut bytes: Vec<u8> = stored.to_vec();
        for (place, filter) in filters.iter().enumerate().rev() {
            bytes = match *filter {
                FLETCHER32 => checked(bytes).ok_or("a chunk whose checksum is another")?,
                // Only a checksum can have come before.
                DEFLATE => {
                    inflated(&bytes, len + 4 * usize::from(filters[..place].contains(&FLETCHER32)))
                        .ok_or("a chunk that does not unpack")?
                }
                _ => unshuffle(bytes, self.width),
            };
        }
        if bytes.len() == len {
            Ok(bytes)
        } else {
            Err(format!("a chunk of {} bytes", bytes.len()))
        }
    }
}

/// The bytes before their checksum, if it holds.
fn checked(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (body, sum) = bytes.split_last_chunk::<4>()?;
    let holds = fletcher32(body) == u32::from_le_bytes(*sum);
    bytes.truncate(bytes.len() - 4);
    holds.then_some(bytes)
}

/// Exactly `len` bytes.
fn inflated(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut unpacked = vec![0; len];
    let mut inflate = flate2::Decompress::new(true);
    let status = inflate.decompress(bytes, &mut unpacked, flate2::FlushDecompress::Finish);
    let complete =
        matches!(status, Ok(flate2::Status::StreamEnd)) && inflate.total_out() == len as u64;
    complete.then_some(unpacked)
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
    let count = bytes.len() / width;
    if width == 1 || count == 0 {
        return bytes;
    }
    let mut values = vec![0; bytes.len()];
    for (k, plane) in bytes.chunks_exact(count).take(width).enumerate() {
        for (value, &byte) in values.chunks_exact_mut(width).zip(plane) {
            value[k] = byte;
        }
    }
    // What is no whole value stays at the end.
    let whole = count * width;
    values[whole..].copy_from_slice(&bytes[whole..]);
    values
}
