//! The columns of a dataset file, each stated once, and the file that they are read from and
//! written to.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5::file::LibraryVersion;
use hdf5::types::FixedUnicode;
use hdf5::{Extent, H5Type, Hyperslab, SimpleExtents};
use hdf5_reader::{Datatype, StringEncoding, StringPadding, StringSize};
use ndarray::ArrayViewD;
use steer3d_files::temporary_beside;
use tempfile::NamedTempFile;

use crate::error::{Context, DatasetError};
use crate::meta::{DatasetMeta, Grids};

/// A type of the values of columns, as it is written and read.
pub(crate) trait Value: H5Type + Clone {
    /// What a value becomes.
    type Read;
    /// Bytes of a value.
    const WIDTH: usize = size_of::<Self>();
    /// The type in a file.
    fn datatype() -> Datatype;
    /// A value of its little-endian bytes; `None` for text that is not UTF-8 or has control characters.
    fn read(bytes: &[u8]) -> Option<Self::Read>;
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Value for $number {
            type Read = Self;

            fn datatype() -> Datatype {
                <Self as hdf5_reader::H5Type>::hdf5_type()
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }
        })*
    };
}

numbers!(u8, u16, u32, u64, f32, f64);

impl<const BYTES: usize> Value for FixedUnicode<BYTES> {
    type Read = String;

    fn datatype() -> Datatype {
        Datatype::String {
            size: StringSize::Fixed(BYTES as u32),
            encoding: StringEncoding::Utf8,
            padding: StringPadding::NullPad,
        }
    }

    fn read(bytes: &[u8]) -> Option<String> {
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        let text = String::from_utf8(bytes[..end].to_vec()).ok()?;
        (!text.contains(char::is_control)).then_some(text)
    }
}

/// Largest number of items in a dataset: 2²⁴.
pub const MAX_ITEMS: usize = 1 << 24;

/// Largest number of points, vertices or triangles in a dataset, all items together: 2²⁸.
pub const MAX_POINTS: usize = 1 << 28;

/// Largest number of values of all volumes where each has its own grid: 2⁴⁰.
pub const MAX_ALL_VALUES: usize = 1 << 40;

/// Longest identifier of an item, in bytes of UTF-8.
pub const MAX_ID_BYTES: usize = 64;

/// Longest path of the file that an item was made from, in bytes of UTF-8.
pub const MAX_SOURCE_BYTES: usize = 512;

/// Largest size of the description of a dataset, in bytes of JSON.
pub const MAX_META_BYTES: usize = 1 << 20;

/// Largest record of the files that a build left out, in bytes of JSON.
pub const MAX_SKIPPED_BYTES: usize = 1 << 28;

/// An identifier or the name of a group as stored.
pub(crate) type Id = FixedUnicode<MAX_ID_BYTES>;

/// The path of a file as stored.
pub(crate) type SourcePath = FixedUnicode<MAX_SOURCE_BYTES>;

/// A list of the file with rows of values of type `T`.
#[derive(Clone, Debug)]
pub(crate) struct Column<T> {
    /// Name in the file.
    pub(crate) name: &'static str,
    /// Shape of a row; empty where a row is one value.
    pub(crate) row: Cow<'static, [usize]>,
    /// Largest number of rows.
    pub(crate) limit: usize,
    /// Is every row a chunk?
    pub(crate) row_chunks: bool,
    values: PhantomData<T>,
}

pub(crate) const META: Column<u8> = Column::list("meta", &[], MAX_META_BYTES);
pub(crate) const RECIPE: Column<u8> = Column::list("recipe", &[], MAX_META_BYTES);
pub(crate) const SKIPPED: Column<u8> = Column::list("skipped", &[], MAX_SKIPPED_BYTES);
pub(crate) const TASKS: Column<u8> = Column::list("tasks", &[], MAX_META_BYTES);

/// Makes a constant of each column and a field of [`ItemRows`].
macro_rules! columns {
    ($($field:ident $column:ident: $value:ty = $name:literal, $row:expr, $limit:expr;)*) => {
        $(pub(crate) const $column: Column<$value> = Column::list($name, &$row, $limit);)*

        /// The columns that are written item by item and whose rows are the same in all datasets.
        /// Those of parts that no item has are not made.
        #[derive(Debug)]
        pub(crate) struct ItemRows {
            $(pub(crate) $field: Rows<$value>,)*
        }

        impl ItemRows {
            pub(crate) fn new() -> Self {
                Self { $($field: Rows::new($column),)* }
            }

            /// Writes what is pending.
            pub(crate) fn finish(self, file: &DatasetFile) -> Result<(), DatasetError> {
                $(self.$field.finish(file)?;)*
                Ok(())
            }
        }
    };
}

columns! {
    labels LABELS: u32 = "labels", [], MAX_ITEMS;
    splits SPLITS: u8 = "splits", [], MAX_ITEMS;
    ids IDS: Id = "ids", [], MAX_ITEMS;
    origins ORIGINS: f64 = "origins", [3], MAX_ITEMS;
    checksums CHECKSUMS: u8 = "checksums", [32], MAX_ITEMS;
    groups GROUPS: Id = "groups", [], MAX_ITEMS;
    sources SOURCES: SourcePath = "sources", [], MAX_ITEMS;
    point_offsets POINT_OFFSETS: u64 = "points/offsets", [], MAX_ITEMS + 1;
    positions POSITIONS: f64 = "points/positions", [3], MAX_POINTS;
    channels POINT_CHANNELS: u16 = "points/channels", [], MAX_POINTS;
    degrees DEGREES: u8 = "points/degrees", [], MAX_POINTS;
    values POINT_VALUES: f64 = "points/values", [3], MAX_POINTS;
    vertex_offsets VERTEX_OFFSETS: u64 = "meshes/vertex_offsets", [], MAX_ITEMS + 1;
    triangle_offsets TRIANGLE_OFFSETS: u64 = "meshes/triangle_offsets", [], MAX_ITEMS + 1;
    vertices VERTICES: f64 = "meshes/vertices", [3], MAX_POINTS;
    triangles TRIANGLES: u32 = "meshes/triangles", [3], MAX_POINTS;
    grid_dims GRID_DIMS: u32 = "grids/dims", [3], MAX_ITEMS;
    voxel_sizes VOXEL_SIZES: f64 = "grids/voxel_sizes", [3], MAX_ITEMS;
    directions DIRECTIONS: f64 = "grids/directions", [3, 3], MAX_ITEMS;
    voxel_offsets VOXEL_OFFSETS: u64 = "grids/offsets", [], MAX_ITEMS + 1;
}

/// The target values of items.
pub(crate) fn targets(each: usize) -> Column<f64> {
    let row = if each == 1 { vec![] } else { vec![each] };
    Column { row: row.into(), ..Column::list("targets", &[], MAX_ITEMS) }
}

/// The values of volumes, 32-bit floats or bytes: a row for each volume, or for each value where each volume has its own
/// grid.
pub(crate) fn volumes<T>(meta: &DatasetMeta) -> Column<T> {
    match (meta.grids, meta.dims) {
        (Grids::One, [d, h, w]) => Column::blocks("volumes", vec![meta.channels, d, h, w]),
        (Grids::Each, _) => Column::list("grids/values", &[], MAX_ALL_VALUES),
    }
}

/// The labels of the voxels of items, likewise.
pub(crate) fn voxel_labels(meta: &DatasetMeta) -> Column<u8> {
    match meta.grids {
        Grids::One => Column::blocks("voxel_labels", meta.dims.to_vec()),
        Grids::Each => Column::list("grids/labels", &[], MAX_ALL_VALUES),
    }
}

impl<T> Column<T> {
    const fn list(name: &'static str, row: &'static [usize], limit: usize) -> Self {
        Self { name, row: Cow::Borrowed(row), limit, row_chunks: false, values: PhantomData }
    }

    fn blocks(name: &'static str, row: Vec<usize>) -> Self {
        Self { row: row.into(), row_chunks: true, ..Self::list(name, &[], MAX_ITEMS) }
    }

    /// Values in a row.
    pub(crate) fn width(&self) -> usize {
        self.row.iter().product()
    }

    /// The shape of `rows` rows.
    fn shape(&self, rows: usize) -> Vec<usize> {
        [&[rows], self.row.as_ref()].concat()
    }

    /// Rows in a chunk: one, or about 256 KiB of them; 128 bytes for a fuzzer, which reads small files often.
    fn chunk_rows(&self) -> usize {
        let bytes = if cfg!(fuzzing) { 1 << 7 } else { 1 << 18 };
        let rows = bytes / (self.width() * size_of::<T>());
        if self.row_chunks { 1 } else { rows.max(1) }
    }
}

impl<T: H5Type> Column<T> {
    fn place(&self, rows: Range<usize>) -> Hyperslab {
        let row = self.row.iter().map(|_| (..).into());
        std::iter::once(rows.into()).chain(row).collect::<Vec<_>>().into()
    }
}

/// The rows of a column that is written, made in the file when the first ones come.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    column: Column<T>,
    dataset: Option<hdf5::Dataset>,
    pending: Vec<T>,
    written: usize,
}

impl<T: H5Type + Clone> Rows<T> {
    pub(crate) fn new(column: Column<T>) -> Self {
        Self { column, dataset: None, pending: Vec::new(), written: 0 }
    }

    /// Number of rows so far.
    pub(crate) fn len(&self) -> usize {
        self.written + self.pending.len() / self.column.width()
    }

    /// Appends whole rows.
    pub(crate) fn push(&mut self, file: &DatasetFile, values: &[T]) -> Result<(), DatasetError> {
        self.create(file)?;
        self.pending.extend_from_slice(values);
        let chunk = self.column.chunk_rows();
        self.write(file, self.pending.len() / self.column.width() / chunk * chunk)
    }

    /// Makes the column in the file, [`packed`], if it is not there.
    pub(crate) fn create(&mut self, file: &DatasetFile) -> Result<(), DatasetError> {
        if self.dataset.is_some() {
            return Ok(());
        }
        let name = self.column.name;
        let create = || {
            if let Some((group, _)) =
                name.split_once('/').filter(|(g, _)| !file.file.link_exists(g))
            {
                file.file.create_group_builder().obj_track_times(false).create(group)?;
            }
            let rows = self.column.row.iter().map(|&n| Extent::fixed(n));
            let shape: Vec<_> = std::iter::once(Extent::resizable(0)).chain(rows).collect();
            packed::<T>(&file.file, self.column.shape(self.column.chunk_rows()))
                .shape(SimpleExtents::from_vec(shape))
                .create(name)
        };
        self.dataset = Some(create().at(&file.path, name)?);
        Ok(())
    }

    /// Writes what is pending, if the column was made.
    pub(crate) fn finish(mut self, file: &DatasetFile) -> Result<(), DatasetError> {
        self.write(file, self.pending.len() / self.column.width())
    }

    /// Writes the first `rows` of the pending ones.
    fn write(&mut self, file: &DatasetFile, rows: usize) -> Result<(), DatasetError> {
        let Some(dataset) = self.dataset.as_ref().filter(|_| rows > 0) else { return Ok(()) };
        let len = rows * self.column.width();
        let place = self.written..self.written + rows;
        let write = || {
            dataset.resize(self.column.shape(place.end))?;
            let values = ArrayViewD::from_shape(self.column.shape(rows), &self.pending[..len]);
            dataset.write_slice(values.expect("whole rows"), self.column.place(place))
        };
        write().at(&file.path, self.column.name)?;
        self.pending.drain(..len);
        self.written += rows;
        Ok(())
    }
}

/// An open file and its path for messages.
#[derive(Debug)]
pub(crate) struct DatasetFile {
    pub(crate) file: hdf5::File,
    pub(crate) path: PathBuf,
}

/// A file in the folder of `path` whose headers and indices carry checksums and no times. Nobody reads a file before it has
/// its name, so none is locked: not all network file systems can, and a program started meanwhile would hold the lock.
pub(crate) fn file_beside(path: &Path) -> Result<(hdf5::File, NamedTempFile), DatasetError> {
    hdf5::silence_errors(true);
    let temporary = temporary_beside(path).at(path, "")?;
    // Libraries that cannot be told not to lock a file lock it themselves.
    #[cfg(not(feature = "static-hdf5"))]
    temporary.as_file().unlock().at(path, "")?;
    let mut builder = hdf5::FileBuilder::new();
    builder.with_fapl(|plist| plist.libver_bounds(LibraryVersion::V110, LibraryVersion::V110));
    // Libraries before 1.10.7 cannot be told so.
    #[cfg(feature = "static-hdf5")]
    builder.with_fapl(|plist| plist.file_locking(false));
    builder.with_fcpl(|plist| plist.obj_track_times(false));
    Ok((builder.create(temporary.path()).at(path, "/")?, temporary))
}

/// An array in chunks of this shape: compressed, with a checksum for each chunk and no time of change.
pub(crate) fn packed<T: H5Type>(file: &hdf5::File, chunk: Vec<usize>) -> hdf5::DatasetBuilderEmpty {
    /// Level of deflate compression.
    const DEFLATE: u8 = 4;
    file.new_dataset::<T>()
        .chunk(chunk)
        .obj_track_times(false)
        .shuffle()
        .deflate(DEFLATE)
        .fletcher32()
}

impl DatasetFile {
    /// Writes a whole list.
    pub(crate) fn write<T: H5Type + Clone>(
        &self,
        column: Column<T>,
        values: &[T],
    ) -> Result<(), DatasetError> {
        let mut rows = Rows::new(column);
        rows.push(self, values)?;
        rows.finish(self)
    }
}
