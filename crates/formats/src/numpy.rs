//! NumPy arrays as volumes: D, H, W or C, D, H, W of booleans, integers or floats, with voxels of
//! edge 1 and the grid's centre at (0, 0, 0).

use std::io::Cursor;
use std::path::Path;

use zip::result::ZipError;

use crate::bytes;
use crate::error::FormatError;
use crate::fault::{Fault, Place};
use crate::npz::{self, Archive, Header, Problem, Unread};
use crate::samples::{Array, Axis, Fields, fault, unusable};
use crate::spec::{FormatSpec, Nan, Read};
use steer3d_volume::volume::{Grid, Volume};

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
fn read_npy(bytes: &[u8], nan: Nan) -> Result<Volume, Fault> {
    let at = |offset: usize| {
        move |(expected, found): Problem| Fault::new(Place::Byte(offset as u64), expected, found)
    };
    let mut rest = bytes;
    let header = npz::read_header(&mut rest).map_err(at(0))?;
    let (start, len) = (bytes.len() - rest.len(), rest.len() as u64);
    header.len(len).and_then(|expected| npz::exactly(expected, len)).map_err(at(start))?;
    volume(&header, bytes, start, nan)
}

/// Reads the only array of an archive.
///
/// # Errors
/// As [`read_npy`], and if the archive is damaged or has another number of arrays.
fn read_npz(bytes: &[u8], nan: Nan) -> Result<Volume, Fault> {
    let mut archive = Archive::open(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
    match archive.keys().as_slice() {
        [key] => member(&mut archive, key, nan),
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
    Archive::open(Cursor::new(&*archive))
        .map_err(|error| damaged(&error))
        .and_then(|mut archive| member(&mut archive, key, Nan::Refuse))
        .map_err(|fault| fault.of(path, NPZ.name))
}

fn member(archive: &mut Archive<Cursor<&[u8]>>, key: &str, nan: Nan) -> Result<Volume, Fault> {
    let (header, data, _room) = archive.read(key).map_err(|unread| match unread {
        Unread::Archive(error) => damaged(&error),
        Unread::Array((expected, found)) => array_fault(key, &expected, &found),
        Unread::NoRoom(no_room) => no_room.into(),
        Unread::Missing => {
            let found = format!("the arrays {}", archive.keys().join(", "));
            Fault::new(Place::Whole, format!("an array `{key}`"), found)
        }
    })?;
    volume(&header, &data, 0, nan).map_err(|fault| match fault.no_room() {
        Some(_) => fault,
        None => array_fault(key, &fault.expected, &fault.found),
    })
}

fn array_fault(key: &str, expected: &str, found: &str) -> Fault {
    Fault::new(Place::Whole, format!("`{key}` to have {expected}"), found)
}

fn damaged(error: &ZipError) -> Fault {
    Fault::new(Place::Whole, "a zip archive", error.to_string())
}

/// The volume of an array whose values begin at byte `start`.
fn volume(header: &Header, bytes: &[u8], start: usize, nan: Nan) -> Result<Volume, Fault> {
    let shape = match *header.shape {
        [d, h, w] => [1, d, h, w],
        [c, d, h, w] => [c, d, h, w],
        _ => {
            let found = format!("shape {:?}", header.shape);
            return fault(0, "3 axes (D, H, W) or 4 (C, D, H, W)", &found);
        }
    };
    let Some((element, big_endian)) = header.numbers() else {
        return fault(0, "booleans, integers or floats", &"another dtype");
    };
    let array = Array::new(Fields { bytes, big_endian }, 0, &shape, start, element)?;
    let [c, d, h, w] = shape;
    let [channels, z, y, x] = if header.fortran {
        Axis::fastest_first(shape, 1)
    } else {
        let [x, y, z, channels] = Axis::fastest_first([w, h, d, c], 1);
        [channels, z, y, x]
    };
    let channels: Vec<usize> = (0..c).map(|i| i * channels.stride).collect();
    let (values, _room) = array.values(&channels, [x, y, z], nan, |x| x)?;
    Grid::new([d, h, w], [1.0; 3])
        .and_then(|grid| Volume::centred(values, c, grid))
        .map_err(|error| unusable(&error))
}
