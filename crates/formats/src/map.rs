//! Volumes in files: in the format that a name has, or on the voxels of another file.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use steer3d_files::AtPath;
use steer3d_volume::volume::{Volume, VolumeError};

use crate::bytes::{self, extension};
use crate::error::FormatError;
use crate::npz::npy;
use crate::samples::{Axis, Element};
use crate::{mrc, nifti};

/// What the voxels of a volume are, which decides how they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voxels {
    /// Real numbers, in 32 bits.
    Values,
    /// Labels: whole numbers from 0 on, in 8 bits where they fit, else in 16.
    Labels,
}

impl Voxels {
    /// The narrowest of two types that holds all of `values`.
    pub(crate) fn element(self, values: &[f32], narrow: (Element, f32), wide: Element) -> Element {
        match self {
            Self::Values => Element::F32,
            Self::Labels if values.iter().all(|&value| value <= narrow.1) => narrow.0,
            Self::Labels => wide,
        }
    }
}

/// A file with the bytes before its values, and how these lie in it.
pub(crate) struct Stored {
    pub(crate) header: Vec<u8>,
    /// Axes of x, y, z, in values, of one channel.
    pub(crate) axes: [Axis; 3],
    pub(crate) element: Element,
    pub(crate) big_endian: bool,
}

impl Stored {
    /// The bytes of the file with the values of `volume`.
    fn bytes(self, volume: &Volume) -> Vec<u8> {
        let (size, each) = (self.element.size(), volume.grid().voxels());
        let mut bytes = self.header;
        let start = bytes.len();
        bytes.resize(start + size * volume.data().len(), 0);
        let [x, y, z] = self.axes;
        let target = &mut bytes[start..];
        for (row, values) in volume.data().chunks_exact(x.len).enumerate() {
            let (plane, iy) = (row / y.len, row % y.len);
            let first = plane / z.len * each + z.offset(plane % z.len) + y.offset(iy);
            for (ix, &value) in values.iter().enumerate() {
                let at = size * (first + x.offset(ix));
                put(&mut target[at..at + size], value, self.element, self.big_endian);
            }
        }
        bytes
    }
}

/// A number as one of the types that maps are written in.
fn put(target: &mut [u8], value: f32, element: Element, big_endian: bool) {
    let whole = value as i32;
    match element {
        Element::U8 | Element::I8 => target[0] = whole as u8,
        Element::U16 | Element::I16 => target.copy_from_slice(&(whole as u16).to_le_bytes()),
        _ => target.copy_from_slice(&value.to_le_bytes()),
    }
    if big_endian {
        target.reverse();
    }
}

/// Writes a volume in the format that the extension of `path` names: `npy` (C, D, H, W, or D, H, W of one channel of
/// labels), `nii` or `nii.gz`, or `mrc`, `map` or `ccp4`. Upright grids are all that is written: right, anterior and
/// superior in NIfTI, x, y, z in MRC. The file is replaced only when the new one is on disk.
///
/// # Errors
/// If the extension names no such format, the format cannot hold the volume, or the file cannot be written.
pub fn write_volume(path: &Path, volume: &Volume, voxels: Voxels) -> Result<(), FormatError> {
    match extension(path).as_deref() {
        Some("npy") => save(path, &array(volume, voxels)),
        Some("nii") => save(path, &nifti::upright(path, volume, voxels)?.bytes(volume)),
        Some("mrc" | "map" | "ccp4") => save(path, &mrc::upright(volume, voxels).bytes(volume)),
        other => Err(FormatError::Export {
            path: path.to_owned(),
            format: "volume",
            source: VolumeError::Parameter {
                field: "extension",
                expected: "npy, nii, nii.gz, mrc, map or ccp4",
                found: format!("`{}`", other.unwrap_or_default()),
            },
        }),
    }
}

/// [`write_volume`], with the voxels where those of the file `like` are, from which `volume` or its grid comes: in the
/// order of its axes, with its affine or cell, its unit and its byte order. Where that file is of another format than
/// `path`, has another number of voxels or a skewed lattice, the grid is the upright one.
///
/// # Errors
/// As [`write_volume`], and if the file `like` cannot be read any more.
pub fn write_volume_like(
    path: &Path,
    volume: &Volume,
    voxels: Voxels,
    like: &Path,
) -> Result<(), FormatError> {
    let stored = match extension(path).as_deref() {
        Some("nii") => {
            let header = match nifti::companion(like) {
                Some(header) if extension(like).as_deref() == Some("img") => header,
                _ => like.to_owned(),
            };
            nifti::like(&bytes::head(&header)?, volume, voxels)
        }
        Some("mrc" | "map" | "ccp4") => mrc::like(&bytes::head(like)?, volume, voxels),
        _ => None,
    };
    match stored {
        Some(stored) => save(path, &stored.bytes(volume)),
        None => write_volume(path, volume, voxels),
    }
}

fn array(volume: &Volume, voxels: Voxels) -> Vec<u8> {
    let [d, h, w] = volume.dims();
    let all = [volume.channels(), d, h, w];
    let shape = if voxels == Voxels::Labels && all[0] == 1 { &all[1..] } else { &all };
    let element = voxels.element(volume.data(), (Element::U8, 255.0), Element::U16);
    let descr = match element {
        Element::U8 => "|u1",
        Element::U16 => "<u2",
        _ => "<f4",
    };
    let mut values = vec![0; element.size() * volume.data().len()];
    let places = values.chunks_exact_mut(element.size());
    places.zip(volume.data()).for_each(|(place, &value)| put(place, value, element, false));
    npy(descr, shape, &values)
}

/// Writes a file, packed if its name ends in `.gz`.
fn save(path: &Path, bytes: &[u8]) -> Result<(), FormatError> {
    let packed = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
    let written = steer3d_files::write_with(path, |file| {
        if !packed {
            return file.write_all(bytes);
        }
        let mut packer = GzEncoder::new(file, Compression::fast());
        packer.write_all(bytes)?;
        packer.finish()?.flush()
    });
    Ok(written.at_path(path)?)
}
