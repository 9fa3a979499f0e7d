//! Single arrays of HDF5 files.

use std::path::Path;

use hdf5::filters::Filter;
use hdf5::plist::dataset_create::Layout;
use hdf5::types::TypeDescriptor;

use steer3d_formats::{Fault, Place, checked_len, unusable};
use steer3d_volume::{Grid, Volume};

use crate::error::{Context, DatasetError};

/// Reads the array `object`, such as `entry/data`, of an HDF5 file as a volume: D, H, W or
/// C, D, H, W of booleans, integers or floats, with voxels of edge 1 and the grid's centre at
/// (0, 0, 0). Values beyond `f32` are rounded.
///
/// Shape and chunks are compared with [`MAX_VALUES`](steer3d_volume::MAX_VALUES) before anything is read.
/// Values in other files (external or virtual storage, external links) are refused, and so are
/// filters other than shuffle, deflate and fletcher32.
///
/// # Errors
/// If the file or the array is missing, damaged, of another type or shape, too large, or has a
/// value that is not finite.
pub fn import_hdf5(path: &Path, object: &str) -> Result<Volume, DatasetError> {
    hdf5::silence_errors(true);
    // The library's reason for a missing file is long-winded.
    std::fs::File::open(path).at(path, object)?;
    let wrong = |fault| {
        let (path, object) = (path.to_owned(), object.to_owned());
        DatasetError::Array { path, object, fault }
    };
    let file = hdf5::File::open(path).at(path, object)?;
    let dataset = file.dataset(object).at(path, object)?;
    let shape = dataset.get_shape().at(path, object)?;
    let (channels, dims) = check(&file, &dataset, &shape).at(path, object)?.map_err(wrong)?;
    let values = match dataset.dtype().and_then(|dtype| dtype.to_descriptor()).at(path, object)? {
        TypeDescriptor::Boolean => {
            let bits = dataset.read_raw::<bool>().at(path, object)?;
            bits.into_iter().map(|bit| f32::from(u8::from(bit))).collect()
        }
        _ => dataset.read_raw::<f32>().at(path, object)?,
    };
    Grid::new(dims, [1.0; 3])
        .and_then(|grid| Volume::centred(values, channels, grid))
        .map_err(|error| wrong(unusable(&error)))
}

/// Channels and dims of an array that is safe to read.
fn check(
    file: &hdf5::File,
    dataset: &hdf5::Dataset,
    shape: &[usize],
) -> hdf5::Result<Result<(usize, [usize; 3]), Fault>> {
    let fault = |expected: &str, found: String| Ok(Err(Fault::new(Place::Whole, expected, found)));
    let dtype = dataset.dtype()?.to_descriptor()?;
    let number = matches!(
        dtype,
        TypeDescriptor::Boolean
            | TypeDescriptor::Integer(_)
            | TypeDescriptor::Unsigned(_)
            | TypeDescriptor::Float(_)
    );
    if !number {
        return fault("booleans, integers or floats", dtype.to_string());
    }
    let sizes = match *shape {
        [d, h, w] => (1, [d, h, w]),
        [c, d, h, w] => (c, [d, h, w]),
        _ => return fault("3 axes (D, H, W) or 4 (C, D, H, W)", format!("shape {shape:?}")),
    };
    for lens in [Some(shape.to_vec()), dataset.chunk()].into_iter().flatten() {
        if let Err(fault) = checked_len(&lens, Place::Whole) {
            return Ok(Err(fault));
        }
    }
    let plist = dataset.dcpl()?;
    let elsewhere = dataset.filename() != file.filename()
        || plist.get_layout()? == Layout::Virtual
        || !plist.get_external()?.is_empty();
    if elsewhere {
        return fault("values in this file", "values in another file".to_owned());
    }
    let known = |f: &Filter| matches!(f, Filter::Shuffle | Filter::Deflate(_) | Filter::Fletcher32);
    if let Some(filter) = plist.get_filters()?.iter().find(|filter| !known(filter)) {
        let expected = "no filters but shuffle, deflate and fletcher32 (h5repack changes them)";
        return fault(expected, format!("{filter:?}"));
    }
    Ok(Ok(sizes))
}
