//! Volumes in files: in the format that a name has, or on the voxels of another file, whole or some planes at a time.

use std::io::{BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use nalgebra::Matrix3;
use steer3d_files::AtPath;
use steer3d_volume::volume::{Volume, VolumeError};
use tempfile::NamedTempFile;

use crate::bytes::{self, extension};
use crate::error::FormatError;
use crate::format::Format;
use crate::npz::npy_header;
use crate::samples::{Axis, Element};
use crate::stored::{Frame, Stored, Voxels};
use crate::{mrc, nifti};

/// Least and largest value, their sum and that of their squares.
#[derive(Clone, Copy, Debug)]
struct Statistics {
    least: f32,
    most: f32,
    sum: f64,
    squares: f64,
}

/// The most classes whose labels every format holds.
const MOST_LABELS: usize = 1 << 15;

/// A map that is written some planes of constant z at a time, in any order. Its file appears when it is finished.
#[derive(Debug)]
pub struct MapWriter {
    path: PathBuf,
    file: NamedTempFile,
    stored: Stored,
    channels: usize,
    statistics: Statistics,
}

impl MapWriter {
    /// Begins a map in the format that the extension of `path` names: `npy` (C, D, H, W, or D, H, W of one channel of
    /// labels), `nii` or `nii.gz`, or `mrc`, `map` or `ccp4`. With a file `like`, of which the volume or its grid was
    /// read, the voxels lie as there: in the order of its axes, with its affine or cell, its unit and its byte order.
    /// Where that file is of another format than `path`, has another number of voxels or a skewed lattice, and where
    /// there is none, the grid lies as the frame says: right, anterior and superior in NIfTI if it is upright, x, y, z in
    /// MRC.
    ///
    /// # Errors
    /// If the extension names no such format, the format cannot hold the volume, the file `like` cannot be read, or no
    /// file can be made.
    pub fn create(path: &Path, frame: &Frame, like: Option<&Path>) -> Result<Self, FormatError> {
        if let Voxels::Labels(classes) = frame.voxels
            && classes > MOST_LABELS
        {
            return Err(FormatError::Export {
                path: path.to_owned(),
                format: "map of labels",
                source: VolumeError::Parameter {
                    field: "classes",
                    expected: "at most 32768, which 16 bits hold in every format",
                    found: classes.to_string(),
                },
            });
        }
        let alike = like.map(|like| frame.like(path, like)).transpose()?.flatten();
        let stored = alike.map_or_else(|| frame.upright(path), Ok)?;
        let mut file = steer3d_files::temporary_beside(path).at_path(path)?;
        let values = frame.channels * frame.grid.voxels();
        let length = stored.header.len() + values * stored.element.size();
        file.as_file().set_len(length as u64).at_path(path)?;
        file.write_all(&stored.header).at_path(path)?;
        let statistics =
            Statistics { least: f32::INFINITY, most: f32::NEG_INFINITY, sum: 0.0, squares: 0.0 };
        let channels = frame.channels;
        Ok(Self { path: path.to_owned(), file, stored, channels, statistics })
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
    ) -> Result<(), FormatError> {
        let [x, y, z] = self.stored.axes;
        let count = values.len() / (x.len * y.len);
        assert!(channel < self.channels && first + count <= z.len, "planes of the map");
        self.statistics.add(values);
        // Axes that are stored faster than z, and slower; blocks of them are one after the other in the file.
        let others = [(x, 1), (y, x.len)];
        let (faster, slower): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(axis, _)| axis.stride < z.stride);
        let planes = Axis { len: count, flipped: z.flipped, stride: z.stride };
        let inner: Vec<(Axis, usize)> = [&faster[..], &[(planes, x.len * y.len)]].concat();
        // Where the block of the first of the slower axes begins.
        let start = if z.flipped { z.len - first - count } else { first } * z.stride;
        let voxels = x.len * y.len * z.len;
        let (size, element) = (self.stored.element.size(), self.stored.element);
        let mut block = vec![0; size * inner.iter().map(|(axis, _)| axis.len).product::<usize>()];
        for (outer, source) in places(&slower) {
            for (inner, at) in places(&inner) {
                let place = &mut block[size * inner..][..size];
                put(place, values[source + at], element, self.stored.big_endian);
            }
            let at = self.stored.header.len() + size * (channel * voxels + start + outer);
            let file = self.file.as_file_mut();
            file.seek(SeekFrom::Start(at as u64))
                .and_then(|_| file.write_all(&block))
                .at_path(&self.path)?;
        }
        Ok(())
    }

    /// Makes the file appear, packed if its name ends in `.gz`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(), FormatError> {
        let path = self.path;
        if self.stored.statistics {
            let count =
                self.channels * self.stored.axes.iter().map(|axis| axis.len).product::<usize>();
            for (at, value) in self.statistics.fields(count) {
                let mut value = (value as f32).to_le_bytes();
                if self.stored.big_endian {
                    value.reverse();
                }
                let file = self.file.as_file_mut();
                file.seek(SeekFrom::Start(at))
                    .and_then(|_| file.write_all(&value))
                    .at_path(&path)?;
            }
        }
        let packed = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz"));
        if !packed {
            return Ok(steer3d_files::persist(self.file, &path).at_path(&path)?);
        }
        let written = steer3d_files::write_with(&path, |target| {
            let file = self.file.as_file_mut();
            file.seek(SeekFrom::Start(0))?;
            let mut packer = GzEncoder::new(target, Compression::fast());
            std::io::copy(&mut BufReader::new(file), &mut packer)?;
            packer.finish()?.flush()
        });
        Ok(written.at_path(&path)?)
    }
}

impl Frame {
    fn upright(&self, path: &Path) -> Result<Stored, FormatError> {
        match extension(path).as_deref() {
            Some("npy") => Ok(self.array()),
            Some("nii") => nifti::upright(path, self),
            Some("mrc" | "map" | "ccp4") => Ok(mrc::upright(self)),
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

    fn like(&self, path: &Path, like: &Path) -> Result<Option<Stored>, FormatError> {
        Ok(match extension(path).as_deref() {
            Some("nii") => nifti::like(&nifti_head(like)?, self),
            Some("mrc" | "map" | "ccp4") => mrc::like(&bytes::head(like)?, self),
            _ => None,
        })
    }

    fn array(&self) -> Stored {
        let [d, h, w] = self.grid.dims();
        let all = [self.channels, d, h, w];
        let labels = self.voxels != Voxels::Values;
        let shape = if labels && all[0] == 1 { &all[1..] } else { &all };
        let element = self.voxels.element((Element::U8, 256), Element::U16);
        let descr = match element {
            Element::U8 => "|u1",
            Element::U16 => "<u2",
            _ => "<f4",
        };
        let header = npy_header(descr, shape);
        let axes = Axis::fastest_first([w, h, d], 1);
        Stored { header, axes, element, big_endian: false, statistics: false }
    }
}

impl Statistics {
    fn add(&mut self, values: &[f32]) {
        for &value in values {
            self.least = self.least.min(value);
            self.most = self.most.max(value);
            self.sum += f64::from(value);
            self.squares += f64::from(value).powi(2);
        }
    }

    /// The fields of an MRC header, and where they are.
    fn fields(self, count: usize) -> [(u64, f64); 4] {
        let mean = self.sum / count as f64;
        let variance = (self.squares / count as f64 - mean.powi(2)).max(0.0);
        [(76, self.least.into()), (80, self.most.into()), (84, mean), (216, variance.sqrt())]
    }
}

/// The places of all voxels of some axes in a file and in memory, where neighbours along each are so far apart.
fn places(axes: &[(Axis, usize)]) -> impl Iterator<Item = (usize, usize)> + '_ {
    let count: usize = axes.iter().map(|(axis, _)| axis.len).product();
    (0..count).map(move |mut i| {
        let mut place = (0, 0);
        for (axis, apart) in axes {
            let index = i % axis.len;
            i /= axis.len;
            place.0 += axis.offset(index);
            place.1 += apart * index;
        }
        place
    })
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

/// The beginning of a NIfTI file, or of the header of a pair.
fn nifti_head(path: &Path) -> Result<Vec<u8>, FormatError> {
    match nifti::companion(path) {
        Some(header) if extension(path).as_deref() == Some("img") => bytes::head(&header),
        _ => bytes::head(path),
    }
}

/// The directions of the axes x, y, z of the volume that is read from a file, in the coordinates of the file, as columns:
/// for a NIfTI image the orthogonal matrix nearest to what its header says, for other formats the coordinates' own.
///
/// # Errors
/// If the beginning of the file cannot be read.
pub fn direction(path: &Path) -> Result<Matrix3<f64>, FormatError> {
    let found = match extension(path).as_deref() {
        Some("nii" | "hdr" | "img") => nifti::direction(&nifti_head(path)?),
        _ => None,
    };
    Ok(found.unwrap_or_else(Matrix3::identity))
}

/// The unit of the voxels of a file: `mm` for NIfTI, whatever its header has, `angstrom` for MRC, and none for formats that
/// have no unit.
///
/// # Errors
/// If the beginning of the file cannot be read.
pub fn length_unit(path: &Path) -> Result<Option<&'static str>, FormatError> {
    Ok(match Format::detect(&bytes::head(path)?, path) {
        Some(Format::Nifti) => Some("mm"),
        Some(Format::Mrc) => Some("angstrom"),
        _ => None,
    })
}

/// Writes a volume as a [`MapWriter`] does. The file is replaced only when the new one is on disk.
///
/// # Errors
/// As [`MapWriter`].
pub fn write_volume(path: &Path, volume: &Volume, voxels: Voxels) -> Result<(), FormatError> {
    write_volume_along(path, volume, voxels, &Matrix3::identity())
}

/// [`write_volume`], with these directions of the axes x, y, z (columns of a rotation or reflection) where the format holds
/// them.
///
/// # Errors
/// As [`MapWriter`].
pub fn write_volume_along(
    path: &Path,
    volume: &Volume,
    voxels: Voxels,
    direction: &Matrix3<f64>,
) -> Result<(), FormatError> {
    let frame = Frame { direction: *direction, ..Frame::of(volume, voxels) };
    whole(volume, MapWriter::create(path, &frame, None)?)
}

/// [`write_volume`], with the voxels where those of the file `like` are.
///
/// # Errors
/// As [`MapWriter`].
pub fn write_volume_like(
    path: &Path,
    volume: &Volume,
    voxels: Voxels,
    like: &Path,
) -> Result<(), FormatError> {
    whole(volume, MapWriter::create(path, &Frame::of(volume, voxels), Some(like))?)
}

fn whole(volume: &Volume, mut writer: MapWriter) -> Result<(), FormatError> {
    let channels = volume.data().chunks_exact(volume.grid().voxels());
    for (channel, values) in channels.enumerate() {
        writer.write(channel, 0, values)?;
    }
    writer.finish()
}
