//! Single arrays of HDF5 files.

use std::path::Path;

use hdf5_reader::error::Error;
use hdf5_reader::messages::HdfMessage;
use hdf5_reader::{Datatype, EnumMember, Hdf5File};
use steer3d_files::memory;
use steer3d_formats::{Fault, Place, checked_len, unusable};
use steer3d_volume::{Grid, Volume};

use crate::error::{Context, DatasetError};
use crate::stored::{self, encoding, is_plain, name_of, unknown_filter};

/// Reads the array `object`, such as `entry/data`, of an HDF5 file as a volume: D, H, W or
/// C, D, H, W of booleans, integers or floats, with voxels of edge 1 and the grid's centre at
/// (0, 0, 0). Values beyond `f32` are rounded.
///
/// The file is read in Rust, not by libhdf5, so a damaged one is an error and not a crash. Shape and chunks are
/// compared with [`MAX_VALUES`](steer3d_volume::MAX_VALUES) and the memory for input
/// ([`memory`]) before anything is read. Values in other files (external or virtual
/// storage, external links) are refused, and so are filters other than shuffle, deflate and fletcher32, and numbers
/// that do not fill their bytes or are not of IEEE 754.
///
/// # Errors
/// If the file or the array is missing, damaged, of another type or shape, too large, or has a
/// value that is not finite.
pub fn import_hdf5(path: &Path, object: &str) -> Result<Volume, DatasetError> {
    let wrong = |fault| {
        let (path, object) = (path.to_owned(), object.to_owned());
        DatasetError::Array { path, object, fault: Box::new(fault) }
    };
    let file = stored::open(path)?;
    let dataset = file.dataset(object).at(path, object)?;
    let (channels, dims) = check(&file, &dataset).at(path, object)?.map_err(wrong)?;
    let len = dataset.num_elements().at(path, object)?;
    let bytes = dataset.raw_byte_len().at(path, object)? as u64;
    let _room = memory::take(bytes.saturating_add(4 * len)).at(path, object)?;
    let values = match dataset.dtype() {
        Datatype::Enum { .. } => {
            let bytes = dataset.read_raw_bytes().at(path, object)?;
            if let Some(byte) = bytes.iter().find(|byte| **byte > 1) {
                let found = format!("the byte {byte}");
                return Err(wrong(Fault::new(Place::Whole, "booleans, 0 or 1", found)));
            }
            bytes.into_iter().map(f32::from).collect()
        }
        _ => numbers(&dataset).at(path, object)?,
    };
    Grid::new(dims, [1.0; 3])
        .and_then(|grid| Volume::centred(values, channels, grid))
        .map_err(|error| wrong(unusable(&error)))
}

/// Channels and dims of an array that can be read.
fn check(
    file: &Hdf5File,
    dataset: &hdf5_reader::Dataset,
) -> Result<Result<(usize, [usize; 3]), Fault>, Error> {
    let fault = |expected: &str, found: String| Ok(Err(Fault::new(Place::Whole, expected, found)));
    let number = match dataset.dtype() {
        Datatype::FixedPoint { size, .. } => matches!(size, 1 | 2 | 4 | 8),
        Datatype::FloatingPoint { size, .. } => matches!(size, 2 | 4 | 8),
        Datatype::Enum { base, members } => are_booleans(base, members),
        _ => false,
    };
    if !number {
        return fault("booleans, integers or floats", name_of(dataset.dtype()));
    }
    if !is_plain(&dataset.raw_datatype()?) {
        let expected = "integers that fill their bytes or floats of IEEE 754";
        return fault(expected, format!("{} of another layout", name_of(dataset.dtype())));
    }
    let shape: Vec<usize> =
        dataset.shape().iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
    let sizes = match *shape {
        [d, h, w] => (1, [d, h, w]),
        [c, d, h, w] => (c, [d, h, w]),
        _ => return fault("3 axes (D, H, W) or 4 (C, D, H, W)", format!("shape {shape:?}")),
    };
    let chunk = dataset.chunks().map(|lens| lens.iter().map(|&len| len as usize).collect());
    for lens in [Some(shape), chunk].into_iter().flatten() {
        if let Err(fault) = checked_len(&lens, Place::Whole) {
            return Ok(Err(fault));
        }
    }
    let header = file.get_or_parse_header(dataset.address())?;
    if header.messages.iter().any(|message| matches!(message, HdfMessage::ExternalFiles(_))) {
        return fault("values in this file", "values in another file".to_owned());
    }
    if let Some(filter) = unknown_filter(&encoding(file, dataset)?.filters) {
        let expected = "no filters but shuffle, deflate and fletcher32 (h5repack changes them)";
        return fault(expected, filter);
    }
    Ok(Ok(sizes))
}

/// Are these the booleans of HDF5, FALSE and TRUE in a byte?
fn are_booleans(base: &Datatype, members: &[EnumMember]) -> bool {
    let byte = matches!(base, Datatype::FixedPoint { size: 1, .. });
    let mut names: Vec<_> =
        members.iter().map(|member| (member.value.as_slice(), member.name.as_str())).collect();
    names.sort_unstable();
    byte && names == [(&[0][..], "FALSE"), (&[1][..], "TRUE")]
}

fn numbers(dataset: &hdf5_reader::Dataset) -> Result<Vec<f32>, Error> {
    macro_rules! read {
        ($number:ty) => {
            dataset.read_array::<$number>()?.into_iter().map(|value| value as f32).collect()
        };
    }
    Ok(match dataset.dtype() {
        Datatype::FixedPoint { size: 1, signed: true, .. } => read!(i8),
        Datatype::FixedPoint { size: 2, signed: true, .. } => read!(i16),
        Datatype::FixedPoint { size: 4, signed: true, .. } => read!(i32),
        Datatype::FixedPoint { size: 8, signed: true, .. } => read!(i64),
        Datatype::FixedPoint { size: 1, .. } => read!(u8),
        Datatype::FixedPoint { size: 2, .. } => read!(u16),
        Datatype::FixedPoint { size: 4, .. } => read!(u32),
        Datatype::FixedPoint { .. } => read!(u64),
        Datatype::FloatingPoint { size: 4, .. } => read!(f32),
        Datatype::FloatingPoint { size: 8, .. } => read!(f64),
        _ => {
            let native = dataset.read_native_bytes()?;
            let halves = native.as_chunks().0.iter().map(|&bytes| half::f16::from_ne_bytes(bytes));
            halves.map(half::f16::to_f32).collect()
        }
    })
}
