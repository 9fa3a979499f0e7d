//! NumPy arrays as volumes: D, H, W or C, D, H, W of booleans, integers or floats, with voxels of
//! edge 1 and the grid's centre at (0, 0, 0).

use std::io::Cursor;
use std::path::Path;

use rayon::prelude::*;
use zip::result::ZipError;

use crate::bytes;
use crate::error::FormatError;
use crate::fault::{Fault, Place};
use crate::npz::{self, Archive, NpyArray, Problem, Unread, problem};
use crate::spec::{FormatSpec, Read};
use steer3d_volume::volume::{Grid, Volume, VolumeError, checked_len};

pub(crate) const NPY: FormatSpec = FormatSpec {
    magics: &[(0, b"\x93NUMPY")],
    ..FormatSpec::new("NPY", &["npy"], Read::Volume(read_npy))
};

pub(crate) const NPZ: FormatSpec = FormatSpec {
    magics: &[(0, b"PK\x03\x04")],
    ..FormatSpec::new("NPZ", &["npz"], Read::Volume(read_npz))
};

/// Reads an array.
///
/// # Errors
/// If the bytes are not an array, are cut short or go on behind it, it has another number of axes,
/// or a value is not finite.
fn read_npy(bytes: &[u8]) -> Result<Volume, Fault> {
    let at = |offset: usize| {
        move |(expected, found): Problem| Fault::new(Place::Byte(offset as u64), expected, found)
    };
    let mut rest = bytes;
    let header = npz::read_header(&mut rest).map_err(at(0))?;
    let start = bytes.len() - rest.len();
    let array = npz::read_values(header, rest, rest.len() as u64).map_err(at(start))?;
    volume(&array).map_err(at(0))
}

/// Reads the only array of an archive.
///
/// # Errors
/// As [`read_npy`], and if the archive is damaged or has another number of arrays.
fn read_npz(bytes: &[u8]) -> Result<Volume, Fault> {
    let mut archive = Archive::open(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
    match archive.keys().as_slice() {
        [key] => member(&mut archive, key),
        keys => {
            let found = format!("{} ({})", keys.len(), keys.join(", "));
            Err(Fault::new(Place::Whole, "one array, or the name of the one to read", found))
        }
    }
}

/// Reads the array `key` of the archive at `path`.
///
/// # Errors
/// As [`read`](crate::read), and if there is no such array.
pub fn read_npz_array(path: &Path, key: &str) -> Result<Volume, FormatError> {
    let archive = bytes::read(path)?;
    Archive::open(Cursor::new(archive.as_slice()))
        .map_err(|error| damaged(&error))
        .and_then(|mut archive| member(&mut archive, key))
        .map_err(|fault| fault.of(path, NPZ.name))
}

fn member(archive: &mut Archive<Cursor<&[u8]>>, key: &str) -> Result<Volume, Fault> {
    let array = archive.read(key).map_err(|unread| match unread {
        Unread::Archive(error) => damaged(&error),
        Unread::Array(problem) => array_fault(Place::Whole, key, problem),
        Unread::Missing => {
            let found = format!("the arrays {}", archive.keys().join(", "));
            Fault::new(Place::Whole, format!("an array `{key}`"), found)
        }
    })?;
    volume(&array).map_err(|problem| array_fault(Place::Whole, key, problem))
}

fn array_fault(place: Place, key: &str, (expected, found): Problem) -> Fault {
    Fault::new(place, format!("`{key}` to have {expected}"), found)
}

fn damaged(error: &ZipError) -> Fault {
    Fault::new(Place::Whole, "a zip archive", error.to_string())
}

fn volume(array: &NpyArray) -> Result<Volume, Problem> {
    let (channels, dims) = match *array.shape() {
        [d, h, w] => (1, [d, h, w]),
        [c, d, h, w] => (c, [d, h, w]),
        _ => {
            let found = format!("shape {:?}", array.shape());
            return problem("3 axes (D, H, W) or 4 (C, D, H, W)", found);
        }
    };
    let unusable = |error: VolumeError| ("a volume that can be used".to_owned(), error.to_string());
    checked_len(channels, dims).map_err(unusable)?;
    let Some(values) = array.to_f64() else {
        return problem("booleans, integers or floats", "another dtype");
    };
    let values: Vec<f32> = values.into_par_iter().map(|value| value as f32).collect();
    if let Some(i) = values.par_iter().position_first(|value| !value.is_finite()) {
        let found = format!("{} as value {i} in C order", values[i]);
        return problem("finite values within f32", found);
    }
    Grid::new(dims, [1.0; 3])
        .and_then(|grid| Volume::centred(values, channels, grid))
        .map_err(unusable)
}
