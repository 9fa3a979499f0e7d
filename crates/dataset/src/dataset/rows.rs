//! Lists of an HDF5 file that grow row by row.

use hdf5::H5Type;
use ndarray::{ArrayView1, ArrayView2};

/// Level of deflate compression.
const DEFLATE: u8 = 4;

/// Bytes in one chunk of a list, about.
const CHUNK_BYTES: usize = 1 << 18;

/// A chunked, compressed dataset with a checksum for each chunk and no time of change.
pub(super) fn create_dataset<T: H5Type>(
    file: &hdf5::File,
    name: &str,
    shape: impl Into<hdf5::Extents>,
    chunk: &[usize],
) -> hdf5::Result<hdf5::Dataset> {
    file.new_dataset::<T>()
        .chunk(chunk)
        .obj_track_times(false)
        .shuffle()
        .deflate(DEFLATE)
        .fletcher32()
        .shape(shape)
        .create(name)
}

/// Writes a whole list, over the old one if there is one.
pub(super) fn write_list<T: H5Type + Clone>(
    file: &hdf5::File,
    name: &str,
    values: &[T],
) -> hdf5::Result<()> {
    if file.link_exists(name) {
        file.unlink(name)?;
    }
    let mut rows = Rows::create(file, name, 1)?;
    rows.push(values)?;
    rows.finish()
}

/// A list of rows of `width` values that is written chunk by chunk.
#[derive(Debug)]
pub(super) struct Rows<T> {
    dataset: hdf5::Dataset,
    width: usize,
    chunk: usize,
    pending: Vec<T>,
    written: usize,
}

impl<T: H5Type + Clone> Rows<T> {
    /// A new list; rows of width 1 make a list of one axis.
    pub(super) fn create(file: &hdf5::File, name: &str, width: usize) -> hdf5::Result<Self> {
        let chunk = CHUNK_BYTES / (width * size_of::<T>());
        let dataset = match width {
            1 => create_dataset::<T>(file, name, 0.., &[chunk]),
            _ => create_dataset::<T>(file, name, (0.., width), &[chunk, width]),
        }?;
        Ok(Self { dataset, width, chunk, pending: Vec::new(), written: 0 })
    }

    /// Number of rows so far.
    pub(super) fn len(&self) -> usize {
        self.written + self.pending.len() / self.width
    }

    /// Appends whole rows.
    pub(super) fn push(&mut self, values: &[T]) -> hdf5::Result<()> {
        self.pending.extend_from_slice(values);
        self.write(self.pending.len() / self.width / self.chunk * self.chunk)
    }

    pub(super) fn finish(mut self) -> hdf5::Result<()> {
        self.write(self.pending.len() / self.width)
    }

    /// Writes the first `rows` of the pending ones.
    fn write(&mut self, rows: usize) -> hdf5::Result<()> {
        if rows == 0 {
            return Ok(());
        }
        let values = &self.pending[..rows * self.width];
        let place = self.written..self.written + rows;
        if self.width == 1 {
            self.dataset.resize(place.end)?;
            self.dataset.write_slice(ArrayView1::from(values), place)?;
        } else {
            self.dataset.resize((place.end, self.width))?;
            let view = ArrayView2::from_shape((rows, self.width), values);
            self.dataset.write_slice(view.expect("whole rows"), (place, ..))?;
        }
        self.pending.drain(..rows * self.width);
        self.written += rows;
        Ok(())
    }
}
