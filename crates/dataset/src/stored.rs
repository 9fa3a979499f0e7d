//! HDF5 files as they are read.
//!
//! Files of strangers are read in Rust (`hdf5-reader`): libhdf5 follows the addresses of a damaged file beyond its
//! memory. It writes only.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hdf5_reader::error::Error;
use hdf5_reader::extensible_array::collect_extensible_array_chunk_entries_storage;
use hdf5_reader::io::Cursor;
use hdf5_reader::messages::HdfMessage;
use hdf5_reader::messages::layout::{ChunkIndexing, DataLayout};
use hdf5_reader::{Attribute, ByteOrder, Datatype, FileStorage, Hdf5File, OpenOptions, StringSize};
use steer3d_files::memory::{self, Room};
use steer3d_volume::volume::MAX_VALUES;

use crate::chunks::{Chunks, DEFLATE, FLETCHER32, SHUFFLE};
use crate::columns::{Column, Value};
use crate::error::{Context, DatasetError};

/// Largest header of an object, in bytes.
const MAX_HEADER_BYTES: usize = 1 << 20;

/// Deflate makes at most this many bytes of one.
const RATIO: u64 = 1032;

/// An open file.
pub(crate) struct StoredFile {
    pub(crate) path: PathBuf,
    file: Arc<Hdf5File>,
    /// Names of the objects at the root.
    names: BTreeSet<String>,
    /// For the columns that are in memory.
    room: Mutex<Room>,
}

impl fmt::Debug for StoredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Opens an HDF5 file whose arrays have at most as many bytes as there is memory for input.
pub(crate) fn open(path: &Path) -> Result<Hdf5File, DatasetError> {
    let most = usize::try_from(memory::limit()).unwrap_or(usize::MAX);
    let options = OpenOptions::default()
        .with_chunk_cache_bytes(0)
        .with_max_chunk_bytes(most)
        .with_max_read_bytes(most)
        .with_max_object_header_bytes(MAX_HEADER_BYTES);
    let storage = FileStorage::from_file(steer3d_files::open(path).at(path, "")?).at(path, "/")?;
    Hdf5File::from_storage_with_options(Arc::new(storage), options).at(path, "/")
}

/// What the header of a dataset says of the encoding of its values.
pub(crate) struct Encoding {
    pub(crate) layout: Option<DataLayout>,
    /// The filters, in the order in which they encode.
    pub(crate) filters: Vec<u16>,
}

pub(crate) fn encoding(file: &Hdf5File, dataset: &hdf5_reader::Dataset) -> Result<Encoding, Error> {
    let header = file.get_or_parse_header(dataset.address())?;
    let mut encoding = Encoding { layout: None, filters: vec![] };
    for message in &header.messages {
        match message {
            HdfMessage::DataLayout(found) => encoding.layout = Some(found.layout.clone()),
            HdfMessage::FilterPipeline(found) => {
                encoding.filters = found.filters.iter().map(|filter| filter.id).collect();
            }
            _ => {}
        }
    }
    Ok(encoding)
}

/// The first filter that is not read.
pub(crate) fn unknown_filter(filters: &[u16]) -> Option<String> {
    let id = filters.iter().find(|id| ![DEFLATE, SHUFFLE, FLETCHER32].contains(id))?;
    Some(match id {
        4 => "szip".to_owned(),
        5 => "nbit".to_owned(),
        6 => "scale-offset".to_owned(),
        32000 => "lzf".to_owned(),
        id => format!("filter {id}"),
    })
}

/// A type for a person.
pub(crate) fn name_of(datatype: &Datatype) -> String {
    match datatype {
        Datatype::FixedPoint { size, signed, .. } => {
            format!("{}int{}", if *signed { "" } else { "u" }, 8 * u32::from(*size))
        }
        Datatype::FloatingPoint { size, .. } => format!("float{}", 8 * u32::from(*size)),
        Datatype::String { size: StringSize::Fixed(size), .. } => format!("text of {size} bytes"),
        Datatype::String { .. } | Datatype::VarLen { .. } => "values of any length".to_owned(),
        Datatype::Compound { .. } => "compound values".to_owned(),
        Datatype::Array { .. } => "arrays".to_owned(),
        Datatype::Enum { .. } => "an enumeration".to_owned(),
        Datatype::Opaque { .. } => "opaque values".to_owned(),
        Datatype::Reference { .. } => "references".to_owned(),
        Datatype::Bitfield { .. } => "bits".to_owned(),
    }
}

/// Are these the same type, in either byte order?
fn same(a: &Datatype, b: &Datatype) -> bool {
    match (a, b) {
        (
            Datatype::FixedPoint { size, signed, .. },
            Datatype::FixedPoint { size: other, signed: also, .. },
        ) => (size, signed) == (other, also),
        (Datatype::FloatingPoint { size, .. }, Datatype::FloatingPoint { size: other, .. }) => {
            size == other
        }
        (Datatype::String { size, .. }, Datatype::String { size: other, .. }) => size == other,
        _ => false,
    }
}

/// Does the message of a type of numbers say that they fill their bytes and that floats are those of IEEE 754? The
/// reader takes all for such.
pub(crate) fn is_plain(message: &[u8]) -> bool {
    let (Some([class, low, sign, ..]), Some(properties)) = (message.get(..8), message.get(8..))
    else {
        return false;
    };
    let bits = 8 * u32::from(message[4]);
    let precision = [0, 0, bits as u8, (bits >> 8) as u8];
    match class & 0xf {
        0 => properties.get(..4) == Some(&precision),
        // Places and sizes of exponent and mantissa, and the bias.
        1 => {
            let (exponent, places, bias): (u8, [u8; 4], u32) = match bits {
                16 => (15, [10, 5, 0, 10], 15),
                32 => (31, [23, 8, 0, 23], 127),
                64 => (63, [52, 11, 0, 52], 1023),
                _ => return false,
            };
            let expected = [&precision[..], &places, &bias.to_le_bytes()].concat();
            *sign == exponent && low & 0x70 == 0x20 && properties.get(..12) == Some(&expected)
        }
        _ => true,
    }
}

impl StoredFile {
    pub(crate) fn open(path: PathBuf) -> Result<Self, DatasetError> {
        let file = open(&path)?;
        let names = file.root_group().and_then(|root| root.member_names()).at(&path, "/")?;
        let names = names.0.into_iter().chain(names.1).collect();
        let room = memory::take(0).at(&path, "/")?;
        Ok(Self { path, file: Arc::new(file), names, room: Mutex::new(room) })
    }

    pub(crate) fn malformed(
        &self,
        object: &str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> DatasetError {
        DatasetError::Malformed {
            path: self.path.clone(),
            object: object.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Is there a group or dataset of this name, at the root or as `group/name`?
    pub(crate) fn has(&self, name: &str) -> bool {
        let Some((group, name)) = name.split_once('/') else { return self.names.contains(name) };
        let members = self.file.group(group).and_then(|group| group.member_names());
        members.is_ok_and(|(_, datasets)| datasets.iter().any(|dataset| dataset == name))
    }

    /// An attribute of the root.
    pub(crate) fn attribute(&self, name: &str) -> Option<Attribute> {
        self.file.root_group().and_then(|root| root.attribute(name)).ok()
    }

    /// All values of a column of `count` rows, if given.
    pub(crate) fn list<T: Value>(
        &self,
        column: &Column<T>,
        count: Option<usize>,
    ) -> Result<Vec<T::Read>, DatasetError> {
        let (chunks, rows) = self.column(column, count)?;
        let bytes = (rows * chunks.row) as u64;
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        room.grow(bytes).at(&self.path, column.name)?;
        let decoded = (rows.max(chunks.rows) * chunks.row) as u64;
        let _while_decoding = memory::take(2 * decoded).at(&self.path, column.name)?;
        self.rows(column, &chunks, 0..rows)
    }

    /// Some rows of a column.
    pub(crate) fn rows<T: Value>(
        &self,
        column: &Column<T>,
        chunks: &Chunks,
        rows: std::ops::Range<usize>,
    ) -> Result<Vec<T::Read>, DatasetError> {
        let bytes = chunks.read(rows).map_err(|found| self.damaged(column.name, found))?;
        let values = bytes.chunks_exact(chunks.width).map(T::read).collect::<Option<Vec<_>>>();
        values.ok_or_else(|| {
            self.malformed(column.name, "UTF-8 text without control characters", "others")
        })
    }

    pub(crate) fn damaged(&self, object: &str, found: String) -> DatasetError {
        self.malformed(object, "whole chunks", found)
    }

    /// Opens a column of `count` rows (if given) and returns it with their number, having checked its type, the shape
    /// of its rows, its filters, that every chunk is there, and that what it and a chunk declare fits the bytes that
    /// the file has of them, so that a small file does not reserve a large memory.
    pub(crate) fn column<T: Value>(
        &self,
        column: &Column<T>,
        count: Option<usize>,
    ) -> Result<(Chunks, usize), DatasetError> {
        let name = column.name;
        let wrong = |expected: String, found: String| Err(self.malformed(name, expected, found));
        if !self.has(name.split('/').next().unwrap_or(name)) {
            return wrong("a dataset".to_owned(), "none".to_owned());
        }
        let dataset = self.file.dataset(name).at(&self.path, name)?;
        let (found, asked) = (dataset.dtype(), T::datatype());
        let plain = is_plain(&dataset.raw_datatype().at(&self.path, name)?);
        if !same(found, &asked) || !plain {
            let odd = if plain { "" } else { " of an odd layout" };
            return wrong(name_of(&asked), name_of(found) + odd);
        }
        let shape: Vec<usize> =
            dataset.shape().iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
        if shape.get(1..) != Some(column.row.as_ref()) || shape[0] > column.limit {
            let expected = format!("at most {} rows of shape {:?}", column.limit, column.row);
            return wrong(expected, format!("shape {shape:?}"));
        }
        let Encoding { layout, filters } = encoding(&self.file, &dataset).at(&self.path, name)?;
        if let Some(filter) = unknown_filter(&filters) {
            let expected = "the filters shuffle, deflate and fletcher32 only";
            return wrong(expected.to_owned(), filter);
        }
        let (
            Some(DataLayout::Chunked {
                address,
                chunk_indexing: Some(ChunkIndexing::ExtensibleArray { .. }),
                ..
            }),
            Some(dims),
        ) = (layout, dataset.chunks())
        else {
            let expected = "chunks that the first axis can be extended by, as of HDF5 1.10";
            return wrong(expected.to_owned(), "another layout".to_owned());
        };
        let chunk: Vec<usize> = dims.iter().map(|&n| n as usize).collect();
        let values = chunk.iter().try_fold(1usize, |len, &n| len.checked_mul(n));
        let small = values.is_some_and(|len| (1..=MAX_VALUES).contains(&len));
        if chunk.get(1..) != Some(column.row.as_ref())
            || !small
            || column.row_chunks && chunk[0] != 1
        {
            let expected = format!("chunks of whole rows and at most {MAX_VALUES} values");
            return wrong(expected, format!("chunks of {chunk:?}"));
        }
        let superblock = self.file.superblock();
        let (width, offsets) = (T::WIDTH, superblock.offset_size);
        let row = width * column.width();
        // Without an index there is no chunk.
        let mut entries = if Cursor::is_undefined_offset(address, offsets) {
            vec![]
        } else {
            collect_extensible_array_chunk_entries_storage(
                self.file.storage(),
                address,
                offsets,
                superblock.length_size,
                dataset.shape(),
                dataset.max_dims(),
                &dims,
                None,
            )
            .at(&self.path, name)?
        };
        entries.retain(|entry| entry.offsets[0] < shape[0] as u64);
        entries.sort_by_key(|entry| entry.offsets[0]);
        if filters.is_empty() {
            // The index says nothing of the size.
            entries.iter_mut().for_each(|entry| entry.size = (chunk[0] * row) as u64);
        }
        let stored = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.size));
        let stored = stored.min(self.file.storage().len());
        // Without a row there need not be a chunk.
        let declared = if shape[0] == 0 { 0 } else { shape[0].max(chunk[0]) as u64 };
        let declared = declared.saturating_mul(row as u64);
        if declared > stored.saturating_mul(RATIO) {
            let expected = format!("{declared} bytes in at least 1/{RATIO} of that");
            return wrong(expected, format!("{stored} bytes"));
        }
        let there = entries
            .iter()
            .enumerate()
            .all(|(k, entry)| entry.offsets[0] == (k * chunk[0]) as u64 && entry.filter_mask == 0);
        let expected = shape[0].div_ceil(chunk[0]);
        if !there || entries.len() != expected {
            let found = format!("{} or others", entries.len());
            return wrong(format!("{expected} chunks, one after the other"), found);
        }
        if let Some(count) = count.filter(|count| *count != shape[0]) {
            return wrong(format!("{count} rows"), shape[0].to_string());
        }
        let big_endian = matches!(
            found,
            Datatype::FixedPoint { byte_order: ByteOrder::BigEndian, .. }
                | Datatype::FloatingPoint { byte_order: ByteOrder::BigEndian, .. }
        );
        let (file, recent) = (Arc::clone(&self.file), Mutex::new(VecDeque::new()));
        let chunks =
            Chunks { file, entries, rows: chunk[0], row, width, big_endian, filters, recent };
        Ok((chunks, shape[0]))
    }
}
