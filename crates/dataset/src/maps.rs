//! Maps of labels or probabilities of voxels in HDF5 files, written some planes at a time.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hdf5::types::VarLenUnicode;
use hdf5::{H5Type, Hyperslab, SliceOrIndex};
use ndarray::{ArrayView1, ArrayViewD};
use steer3d_files::persist;
use steer3d_formats::{Frame, Voxels};
use tempfile::NamedTempFile;

use crate::columns::{file_beside, packed};
use crate::error::{Context, DatasetError, wrong_argument};

/// Most classes whose labels fill 8 bits.
const NARROW: usize = 1 << 8;

/// Most classes whose labels fill 16 bits.
const MOST_LABELS: usize = 1 << 16;

/// A map in an HDF5 file that is written some planes of constant z at a time, in any order. The file appears when it is
/// finished.
///
/// It has one array: `labels`, D, H, W, unsigned integers of 8 bits or, of more than 256 classes, of 16, or
/// `probabilities`, C, D, H, W, 32-bit floats. A plane of a channel is a chunk, shuffled, deflated and with a checksum. The
/// attributes of the array are
///
/// - `classes`: their names;
/// - `voxel_size`: edges of a voxel along x, y, z, in `unit`;
/// - `origin`: the centre of the first voxel, x, y, z;
/// - `direction`: 3 × 3, the directions of the axes x, y, z as columns: voxel (x, y, z) lies at
///   `origin` + `direction` · (`voxel_size` · (x, y, z)).
///
/// [`import_hdf5`](crate::import_hdf5) reads the array.
#[derive(Debug)]
pub struct Hdf5Map {
    path: PathBuf,
    array: hdf5::Dataset,
    file: hdf5::File,
    temporary: NamedTempFile,
    frame: Frame,
}

impl Hdf5Map {
    /// Begins a map that will lie at `path`, of labels or of the probabilities of classes with these names.
    ///
    /// # Errors
    /// If there are more than 65,536 classes of labels, a name has a zero byte, or the folder cannot be written.
    pub fn create(
        path: &Path,
        frame: &Frame,
        classes: &[String],
        unit: &str,
    ) -> Result<Self, DatasetError> {
        if let Voxels::Labels(count) = frame.voxels
            && count > MOST_LABELS
        {
            let expected = format!("at most {MOST_LABELS}, whose labels 16 bits hold");
            return wrong_argument(path, "classes", expected, count.to_string());
        }
        let (file, temporary) = file_beside(path)?;
        let [d, h, w] = frame.grid.dims();
        let made = match frame.voxels {
            Voxels::Values => array::<f32>(&file, frame, vec![frame.channels, d, h, w]),
            Voxels::Labels(count) if count <= NARROW => array::<u8>(&file, frame, vec![d, h, w]),
            Voxels::Labels(_) => array::<u16>(&file, frame, vec![d, h, w]),
        };
        let array = made.at(path, name(frame))?;
        describe(&array, frame, classes, unit).at(path, name(frame))?;
        Ok(Self { path: path.to_owned(), array, file, temporary, frame: *frame })
    }

    /// Writes planes of a channel, H × W values each, from plane `first` on.
    ///
    /// # Errors
    /// If they cannot be written.
    ///
    /// # Panics
    /// If there is no such channel, or no such planes.
    pub fn write(
        &mut self,
        channel: usize,
        first: usize,
        values: &[f32],
    ) -> Result<(), DatasetError> {
        let written = match self.frame.voxels {
            Voxels::Values => self.put(channel, first, values),
            Voxels::Labels(count) if count <= NARROW => {
                let labels: Vec<u8> = values.iter().map(|&label| label as u8).collect();
                self.put(channel, first, &labels)
            }
            Voxels::Labels(_) => {
                let labels: Vec<u16> = values.iter().map(|&label| label as u16).collect();
                self.put(channel, first, &labels)
            }
        };
        written.at(&self.path, name(&self.frame))
    }

    fn put<T: H5Type>(&self, channel: usize, first: usize, values: &[T]) -> hdf5::Result<()> {
        let [depth, height, width] = self.frame.grid.dims();
        let end = first + values.len() / (height * width);
        assert!(channel < self.frame.channels && end <= depth, "planes of the map");
        let mut place = vec![first..end, 0..height, 0..width];
        if self.frame.voxels == Voxels::Values {
            place.insert(0, channel..channel + 1);
        }
        let shape: Vec<usize> = place.iter().map(ExactSizeIterator::len).collect();
        let planes = ArrayViewD::from_shape(shape, values).expect("whole planes");
        self.array.write_slice(planes, slab(place))
    }

    /// Makes the file appear.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(self) -> Result<(), DatasetError> {
        let Self { path, array, file, temporary, .. } = self;
        // What is written when an array is closed fails without a word, as on a full disk.
        file.flush().at(&path, "/")?;
        drop(array);
        file.close().at(&path, "/")?;
        persist(temporary, &path).at(&path, "")
    }
}

/// The name of the array of a map.
fn name(frame: &Frame) -> &'static str {
    if frame.voxels == Voxels::Values { "probabilities" } else { "labels" }
}

fn array<T: H5Type>(
    file: &hdf5::File,
    frame: &Frame,
    shape: Vec<usize>,
) -> hdf5::Result<hdf5::Dataset> {
    let mut chunk = shape.clone();
    chunk[..shape.len() - 2].fill(1);
    packed::<T>(file, chunk).shape(shape).create(name(frame))
}

/// Adds the attributes.
fn describe(
    array: &hdf5::Dataset,
    frame: &Frame,
    classes: &[String],
    unit: &str,
) -> hdf5::Result<()> {
    let text = |words: &str| {
        VarLenUnicode::from_str(words).map_err(|error| hdf5::Error::from(error.to_string()))
    };
    let names = classes.iter().map(|name| text(name)).collect::<hdf5::Result<Vec<_>>>()?;
    let attribute = array.new_attr::<VarLenUnicode>().shape(names.len()).create("classes")?;
    attribute.write_raw(ArrayView1::<VarLenUnicode>::from(&names[..]))?;
    array.new_attr::<VarLenUnicode>().create("unit")?.write_scalar(&text(unit)?)?;
    let numbers = |name: &str, shape: &[usize], values: &[f64]| {
        let attribute = array.new_attr::<f64>().shape(shape).create(name)?;
        attribute.write_raw(ArrayView1::<f64>::from(values))
    };
    let direction: [f64; 9] = std::array::from_fn(|i| frame.direction[(i / 3, i % 3)]);
    numbers("voxel_size", &[3], &frame.grid.voxel_size())?;
    numbers("origin", &[3], &frame.origin)?;
    numbers("direction", &[3, 3], &direction)
}

fn slab(place: Vec<Range<usize>>) -> Hyperslab {
    place.into_iter().map(SliceOrIndex::from).collect::<Vec<_>>().into()
}
