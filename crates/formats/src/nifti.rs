//! NIfTI-1 and NIfTI-2 images in one file (<https://nifti.nimh.nih.gov/nifti-1>,
//! <https://nifti.nimh.nih.gov/nifti-2>).
//!
//! - All integer and real types up to 64 bits in either byte order; RGB24 and RGBA32 give 3 or 4
//!   channels. Complex and 128-bit types are refused, and so are pairs of .hdr and .img.
//! - Values are scl_slope · stored + scl_inter, unless the slope is 0 or not finite.
//! - Times and vector components (dimensions 4 to 7) are channels, the first of them fastest.
//! - The affine is the sform if it has a code, else the qform, else the voxel sizes alone.
//! - Axes are permuted and flipped such that x, y, z are the axes nearest to right, anterior and
//!   superior. What the affine turns or shears beyond that is left out: voxel sizes are the lengths
//!   of its columns, and the origin is where it puts the first voxel, in mm.

use std::path::{Path, PathBuf};

use nalgebra::{Matrix3, Quaternion, UnitQuaternion, Vector3};

use crate::bytes;
use crate::error::FormatError;
use crate::fault::{Fault, Place};
use crate::samples::{Array, Axis, Element, Fields, checked_len, fault, in_order, volume};
use crate::spec::{FormatSpec, Read};
use steer3d_volume::volume::{Volume, VolumeError};

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    magics: &[
        (344, MAGIC_1),
        (4, MAGIC_2),
        // Headers of pairs, which the reader refuses.
        (344, b"ni1\0"),
        (4, b"ni2\0\r\n\x1a\n"),
    ],
    ..FormatSpec::new("NIfTI", &["nii"], Read::Volume(read))
};

const MAGIC_1: &[u8] = b"n+1\0";
const MAGIC_2: &[u8] = b"n+2\0\r\n\x1a\n";

/// Reads an image.
///
/// # Errors
/// If the bytes are not an image, are cut short, or a value is not finite.
fn read(bytes: &[u8]) -> Result<Volume, Fault> {
    let header = Header::read(bytes)?;
    let (element, colours) = header.element()?;
    let lens = header.lens()?;
    let more = checked_len(&lens[3..], Place::Byte(header.at(DIM) as u64))?;
    let shape = [colours, lens[0], lens[1], lens[2], more];
    let array =
        Array::new(header.fields, header.at(DIM) as u64, &shape, header.values_at()?, element)?;
    let axes = Axis::fastest_first([lens[0], lens[1], lens[2]], colours);
    let affine = header.affine()?;

    let (slope, intercept) = header.scaling()?;
    let values = match colours {
        1 if (slope, intercept) != (1.0, 0.0) => array.values(|x| slope * x + intercept)?,
        _ => array.values(|x| x)?,
    };
    let each = colours * lens[0] * lens[1] * lens[2];
    let channels: Vec<usize> =
        (0..more).flat_map(|i| (0..colours).map(move |k| i * each + k)).collect();

    let stored = nearest_axes(&affine.columns);
    let mut origin = affine.origin;
    let xyz = [0, 1, 2].map(|i| {
        let column = affine.columns.column(stored[i]);
        let mut axis = axes[stored[i]];
        if column[i] < 0.0 {
            axis.flipped = true;
            origin += column * (axis.len - 1) as f64;
        }
        axis
    });
    let size = stored.map(|i| affine.columns.column(i).norm());
    let values = in_order(values, &channels, xyz);
    volume(values, channels.len(), xyz.map(|axis| axis.len), size, origin.into())
}

/// The stored axis nearest to x, y and z: those whose cosines have the largest sum.
fn nearest_axes(columns: &Matrix3<f64>) -> [usize; 3] {
    let cosines = Matrix3::from_fn(|i, j| columns[(i, j)].abs() / columns.column(j).norm());
    let sum = |axes: &[usize; 3]| -> f64 { (0..3).map(|i| cosines[(i, axes[i])]).sum() };
    let mut best = [0, 1, 2];
    for axes in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        if sum(&axes) > sum(&best) {
            best = axes;
        }
    }
    best
}

/// The position of voxel i is columns · i + origin, in mm.
struct Affine {
    columns: Matrix3<f64>,
    origin: Vector3<f64>,
}

/// Offset of a field in the headers of NIfTI-1 and NIfTI-2.
type Offset = [usize; 2];

const DIM: Offset = [40, 16];
const DATATYPE: Offset = [70, 12];
const BITPIX: Offset = [72, 14];
const PIXDIM: Offset = [76, 104];
const VOX_OFFSET: Offset = [108, 168];
const SLOPE: Offset = [112, 176];
const INTERCEPT: Offset = [116, 184];
const UNITS: Offset = [123, 500];
const QFORM_CODE: Offset = [252, 344];
const SFORM_CODE: Offset = [254, 348];
const QUATERNION: Offset = [256, 352];
const SROW: Offset = [280, 400];
/// Behind the header and the four bytes that announce extensions.
const VALUES: Offset = [352, 544];

struct Header<'a> {
    fields: Fields<'a>,
    second: bool,
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let start = bytes.first_chunk::<4>().copied().unwrap_or_default();
        let big_endian = start[..2] == [0, 0];
        let size = if big_endian { i32::from_be_bytes(start) } else { i32::from_le_bytes(start) };
        let (second, magic_at) = match size {
            348 => (false, 344),
            540 => (true, 4),
            _ => {
                let expected = "a header of 348 (NIfTI-1) or 540 bytes (NIfTI-2)";
                return Err(Fault::new(Place::Byte(0), expected, size.to_string()));
            }
        };
        let header = Self { fields: Fields { bytes, big_endian }, second };
        if bytes.len() < size as usize {
            return fault(bytes.len(), format!("a header of {size} bytes"), &"the end");
        }
        let magic = if second { MAGIC_2 } else { MAGIC_1 };
        let found = &bytes[magic_at..magic_at + magic.len()];
        if found != magic {
            let pair =
                if found.starts_with(b"ni") { "; join the .hdr and .img in a .nii" } else { "" };
            let expected = format!("\"{}\", header and values in one file", magic.escape_ascii());
            return fault(magic_at, expected, &format!("\"{}\"{pair}", found.escape_ascii()));
        }
        Ok(header)
    }

    fn at(&self, offset: Offset) -> usize {
        offset[usize::from(self.second)]
    }

    /// The i-th number of an array of reals.
    fn real(&self, at: usize, i: usize) -> f64 {
        if self.second { self.fields.f64(at + 8 * i) } else { self.fields.f32(at + 4 * i) }
    }

    fn finite<const N: usize>(&self, at: usize, first: usize) -> Result<[f64; N], Fault> {
        let numbers = std::array::from_fn(|i| self.real(at, first + i));
        match numbers.iter().position(|x| !x.is_finite()) {
            None => Ok(numbers),
            Some(i) => {
                let size = if self.second { 8 } else { 4 };
                fault(at + size * (first + i), "a finite number", &numbers[i])
            }
        }
    }

    /// Lengths of the seven dimensions, 1 for those that are not used.
    fn lens(&self) -> Result<[usize; 7], Fault> {
        let size = if self.second { 8 } else { 2 };
        let dim = |i: usize| {
            let at = self.at(DIM) + size * i;
            if self.second { self.fields.i64(at) } else { self.fields.i16(at).into() }
        };
        let used = dim(0);
        if !(1..=7).contains(&used) {
            return fault(self.at(DIM), "1 to 7 dimensions", &used);
        }
        let mut lens = [1; 7];
        for i in 0..used as usize {
            let len = dim(i + 1);
            lens[i] = match usize::try_from(len) {
                Ok(len) if len > 0 => len,
                _ => {
                    return fault(self.at(DIM) + size * (i + 1), "a length of at least 1", &len);
                }
            };
        }
        Ok(lens)
    }

    /// Type of the stored values and how many make one voxel.
    fn element(&self) -> Result<(Element, usize), Fault> {
        let code = self.fields.i16(self.at(DATATYPE));
        let (element, colours) = match code {
            2 => (Element::U8, 1),
            4 => (Element::I16, 1),
            8 => (Element::I32, 1),
            16 => (Element::F32, 1),
            64 => (Element::F64, 1),
            128 => (Element::U8, 3),
            256 => (Element::I8, 1),
            512 => (Element::U16, 1),
            768 => (Element::U32, 1),
            1024 => (Element::I64, 1),
            1280 => (Element::U64, 1),
            2304 => (Element::U8, 4),
            _ => {
                let kind = match code {
                    1 => " (bits)",
                    32 | 1792 | 2048 => " (complex numbers)",
                    1536 => " (reals of 128 bits)",
                    _ => "",
                };
                let expected = "an integer or real type of 8 to 64 bits, RGB24 or RGBA32";
                return fault(self.at(DATATYPE), expected, &format!("type {code}{kind}"));
            }
        };
        let (bits, found) = (8 * element.size() * colours, self.fields.i16(self.at(BITPIX)));
        if usize::try_from(found) != Ok(bits) {
            return fault(self.at(BITPIX), format!("{bits} bits, as the type has"), &found);
        }
        Ok((element, colours))
    }

    /// Where the values begin.
    fn values_at(&self) -> Result<usize, Fault> {
        let at = self.at(VOX_OFFSET);
        let offset = if self.second { self.fields.i64(at) as f64 } else { self.fields.f32(at) };
        if offset.fract() != 0.0 || offset < self.at(VALUES) as f64 {
            let expected = format!("an offset of at least {} bytes", self.at(VALUES));
            return fault(at, expected, &offset);
        }
        Ok(offset as usize)
    }

    /// Slope and intercept.
    fn scaling(&self) -> Result<(f64, f64), Fault> {
        let slope = self.real(self.at(SLOPE), 0);
        if slope == 0.0 || !slope.is_finite() {
            return Ok((1.0, 0.0));
        }
        let [intercept] = self.finite(self.at(INTERCEPT), 0)?;
        Ok((slope, intercept))
    }

    fn affine(&self) -> Result<Affine, Fault> {
        let scale = self.millimetres()?;
        let code = |at: usize| {
            if self.second { self.fields.i32(at) } else { self.fields.i16(at).into() }
        };
        let (affine, at) = if code(self.at(SFORM_CODE)) > 0 {
            (self.sform()?, self.at(SROW))
        } else if code(self.at(QFORM_CODE)) > 0 {
            (self.qform()?, self.at(QUATERNION))
        } else {
            let columns = Matrix3::from_diagonal(&self.voxel_size()?);
            (Affine { columns, origin: Vector3::zeros() }, self.at(PIXDIM))
        };
        let columns = affine.columns * scale;
        let volume: f64 = columns.column_iter().map(|column| column.norm()).product();
        // Neither 0 nor NaN.
        if columns.determinant().abs() > 1e-6 * volume {
            return Ok(Affine { columns, origin: affine.origin * scale });
        }
        fault(at, "an affine with an inverse", &"one without")
    }

    /// Length of the unit of space; mm where it is not given.
    fn millimetres(&self) -> Result<f64, Fault> {
        let at = self.at(UNITS);
        let units = if self.second { self.fields.i32(at) } else { self.fields.bytes[at].into() };
        match units & 7 {
            0 | 2 => Ok(1.0),
            1 => Ok(1e3),
            3 => Ok(1e-3),
            unit => fault(at, "a unit of space: 0, 1 (m), 2 (mm) or 3 (µm)", &unit),
        }
    }

    fn voxel_size(&self) -> Result<Vector3<f64>, Fault> {
        let size: [f64; 3] = self.finite(self.at(PIXDIM), 1)?;
        // Some programs leave the sizes of unused dimensions 0; signs mean nothing.
        Ok(Vector3::from(size).map(|size| if size == 0.0 { 1.0 } else { size.abs() }))
    }

    fn sform(&self) -> Result<Affine, Fault> {
        let rows: [f64; 12] = self.finite(self.at(SROW), 0)?;
        let columns = Matrix3::from_fn(|i, j| rows[4 * i + j]);
        Ok(Affine { columns, origin: Vector3::from_fn(|i, _| rows[4 * i + 3]) })
    }

    fn qform(&self) -> Result<Affine, Fault> {
        let [b, c, d, x, y, z] = self.finite(self.at(QUATERNION), 0)?;
        let squares = b * b + c * c + d * d;
        // Half a turn in f32.
        if squares > 1.0 + 1e-5 {
            let expected = "b, c, d of a unit quaternion";
            return fault(self.at(QUATERNION), expected, &format!("{b}, {c}, {d}"));
        }
        let a = (1.0 - squares).max(0.0).sqrt();
        let turn = UnitQuaternion::from_quaternion(Quaternion::new(a, b, c, d));
        let mut size = self.voxel_size()?;
        if self.real(self.at(PIXDIM), 0) < 0.0 {
            size.z = -size.z;
        }
        let columns = turn.to_rotation_matrix().matrix() * Matrix3::from_diagonal(&size);
        Ok(Affine { columns, origin: Vector3::new(x, y, z) })
    }
}

/// The other file of a pair of .hdr and .img, where there is one.
pub fn companion(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let bare = [".gz", ".bz2"].iter().find_map(|packed| name.strip_suffix(packed));
    let (stem, extension) = bare.unwrap_or(name).rsplit_once('.')?;
    let other = match extension {
        "hdr" => "img",
        "img" => "hdr",
        "HDR" => "IMG",
        "IMG" => "HDR",
        _ => return None,
    };
    let named = |packed: &str| path.with_file_name(format!("{stem}.{other}{packed}"));
    ["", ".gz", ".bz2"].into_iter().map(named).find(|path| path.is_file())
}

/// Writes a NIfTI-1 image of f32, little-endian, with x, y, z as right, anterior, superior and the
/// volume's voxel size and origin as mm, in sform and qform. Channels are dimension 4. The file at
/// `path` is replaced only when the new one is on disk.
///
/// # Errors
/// If there are more than 32,767 voxels along an axis, or channels, or the file cannot be written.
pub fn write(path: &Path, volume: &Volume) -> Result<(), FormatError> {
    let [d, h, w] = volume.dims();
    let (lens, size, origin) = ([w, h, d, volume.channels()], volume.voxel_size(), volume.origin());
    let mut dim = [1i16; 8];
    dim[0] = if lens[3] == 1 { 3 } else { 4 };
    for (i, len) in lens.into_iter().enumerate() {
        dim[i + 1] = i16::try_from(len).map_err(|_| FormatError::Export {
            path: path.to_owned(),
            format: FORMAT.name,
            source: VolumeError::Parameter {
                field: "length of an axis",
                expected: "at most 32767",
                found: len.to_string(),
            },
        })?;
    }
    let mut header = vec![0; VALUES[0]];
    let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
    let real = |value: f64| (value as f32).to_le_bytes();
    put(0, &348i32.to_le_bytes());
    for (i, len) in dim.into_iter().enumerate() {
        put(DIM[0] + 2 * i, &len.to_le_bytes());
        put(PIXDIM[0] + 4 * i, &real(1.0));
    }
    put(DATATYPE[0], &16i16.to_le_bytes());
    put(BITPIX[0], &32i16.to_le_bytes());
    put(VOX_OFFSET[0], &real(VALUES[0] as f64));
    put(SLOPE[0], &real(1.0));
    put(UNITS[0], &[2]);
    put(QFORM_CODE[0], &1i16.to_le_bytes());
    put(SFORM_CODE[0], &1i16.to_le_bytes());
    for i in 0..3 {
        put(PIXDIM[0] + 4 * (i + 1), &real(size[i]));
        put(QUATERNION[0] + 4 * (i + 3), &real(origin[i]));
        put(SROW[0] + 20 * i, &real(size[i]));
        put(SROW[0] + 16 * i + 12, &real(origin[i]));
    }
    put(344, MAGIC_1);
    bytes::write(path, &header, volume.data())
}
