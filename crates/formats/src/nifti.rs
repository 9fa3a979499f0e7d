//! NIfTI-1 and NIfTI-2 images (<https://nifti.nimh.nih.gov/nifti-1>,
//! <https://nifti.nimh.nih.gov/nifti-2>), in one file or a pair of .hdr and .img, of which either is
//! named and both are read, packed or not. ANALYZE 7.5 pairs, which have no magic number, are refused.
//!
//! - All integer and real types up to 64 bits in either byte order; RGB24 and RGBA32 give 3 or 4
//!   channels. Of complex numbers (of 64 and 128 bits) the magnitude is taken, of the scaled parts.
//!   128-bit reals are refused.
//! - CIFTI matrices (intent codes 3000 to 3099), whose axes are vertices, parcels or series and not
//!   places, are refused.
//! - Values are scl_slope · stored + scl_inter, unless the slope is 0 or not finite.
//! - Times and vector components (dimensions 4 to 7) are channels, the first of them fastest.
//! - The affine is the sform if it has a code, else the qform, else the voxel sizes alone.
//! - Axes are permuted and flipped such that x, y, z are the axes nearest to right, anterior and
//!   superior. What the affine turns or shears beyond that is left out: voxel sizes are the lengths
//!   of its columns, and the origin is where it puts the first voxel, in mm.

use std::path::{Path, PathBuf};

use nalgebra::{Matrix3, Quaternion, UnitQuaternion, Vector3};

use crate::bytes::{self, extension};
use crate::error::FormatError;
use crate::fault::{Fault, Place};
use crate::samples::{Array, Axis, Element, Fields, checked_len, fault, volume};
use crate::spec::{FormatSpec, Nan, Read};
use crate::stored::{Frame, Stored, Voxels};
use steer3d_volume::volume::{Volume, VolumeError};

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    magics: &[(344, MAGIC_1), (4, MAGIC_2), (344, PAIR_1), (4, PAIR_2)],
    ..FormatSpec::new("NIfTI", &["nii", "hdr"], Read::Volume(read))
};

const MAGIC_1: &[u8] = b"n+1\0";
const MAGIC_2: &[u8] = b"n+2\0\r\n\x1a\n";

/// Of the header of a pair.
const PAIR_1: &[u8] = b"ni1\0";
const PAIR_2: &[u8] = b"ni2\0\r\n\x1a\n";

/// Reads an image in one file.
///
/// # Errors
/// If the bytes are not an image, are cut short, or a value is not finite.
fn read(bytes: &[u8], nan: Nan) -> Result<Volume, Fault> {
    let image = Image::read(bytes)?;
    if image.pair {
        let expected = "header and values in one file, or a file x.hdr beside its x.img";
        return Err(Fault::new(Place::Whole, expected, "the header of a pair alone"));
    }
    image.volume(bytes, nan)
}

/// The image of a pair, if the file at `path`, which holds `bytes`, is one of it.
pub(crate) fn read_pair(
    path: &Path,
    bytes: &[u8],
    nan: Nan,
) -> Option<Result<Volume, FormatError>> {
    match extension(path)?.as_str() {
        "hdr" if is_pair(bytes) => {
            let image = companion(path).unwrap_or(path.with_extension("img"));
            Some(bytes::read(&image).and_then(|values| join([path, &image], bytes, &values, nan)))
        }
        "img" => {
            let header = companion(path)?;
            match bytes::read(&header) {
                Ok(fields) if is_pair(&fields) => Some(join([&header, path], &fields, bytes, nan)),
                _ => None,
            }
        }
        _ => None,
    }
}

fn is_pair(bytes: &[u8]) -> bool {
    let has = |at: usize, magic| bytes.get(at..).is_some_and(|rest| rest.starts_with(magic));
    has(344, PAIR_1) || has(4, PAIR_2)
}

fn join(
    [header, image]: [&Path; 2],
    fields: &[u8],
    values: &[u8],
    nan: Nan,
) -> Result<Volume, FormatError> {
    let described = Image::read(fields).map_err(|fault| fault.of(header, FORMAT.name))?;
    described.volume(values, nan).map_err(|fault| fault.of(image, FORMAT.name))
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

/// What a header says of an image.
struct Image {
    pair: bool,
    big_endian: bool,
    element: Element,
    kind: Kind,
    /// x, y, z and, as channels, the others.
    lens: [usize; 4],
    dim_at: usize,
    values_at: usize,
    slope: f64,
    intercept: f64,
    affine: Affine,
}

/// What the numbers of a voxel are.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// One number.
    Real,
    /// Real and imaginary part.
    Complex,
    /// Three or four.
    Colours(usize),
}

impl Kind {
    /// How many numbers a voxel has.
    fn numbers(self) -> usize {
        match self {
            Self::Real => 1,
            Self::Complex => 2,
            Self::Colours(count) => count,
        }
    }
}

impl Image {
    fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let header = Header::read(bytes)?;
        let (element, kind) = header.element()?;
        let dim_at = header.at(DIM);
        let [x, y, z, more @ ..] = header.lens()?;
        let more = checked_len(&more, Place::Byte(dim_at as u64))?;
        let (slope, intercept) = header.scaling()?;
        Ok(Self {
            pair: header.pair,
            big_endian: header.fields.big_endian,
            element,
            kind,
            lens: [x, y, z, more],
            dim_at,
            values_at: header.values_at()?,
            slope,
            intercept,
            affine: header.affine()?,
        })
    }

    /// The stored axes of x, y, z, where a voxel has so many `numbers`.
    fn axes(&self, numbers: usize) -> [Axis; 3] {
        let [w, h, d, _] = self.lens;
        let axes = Axis::fastest_first([w, h, d], numbers);
        let columns = &self.affine.columns;
        let stored = nearest_axes(columns);
        [0, 1, 2].map(|i| Axis { flipped: columns[(i, stored[i])] < 0.0, ..axes[stored[i]] })
    }

    /// The image with the values of `bytes`.
    fn volume(&self, bytes: &[u8], nan: Nan) -> Result<Volume, Fault> {
        let [w, h, d, more] = self.lens;
        let numbers = self.kind.numbers();
        let fields = Fields { bytes, big_endian: self.big_endian };
        let shape = [numbers, w, h, d, more];
        let mut array =
            Array::new(fields, self.dim_at as u64, &shape, self.values_at, self.element)?;
        let colours = match self.kind {
            Kind::Real => 1,
            Kind::Colours(count) => count,
            Kind::Complex => {
                array = array.of_pairs();
                1
            }
        };
        let each = numbers * w * h * d;
        let channels: Vec<usize> =
            (0..more).flat_map(|i| (0..colours).map(move |k| i * each + k)).collect();

        let xyz = self.axes(numbers);
        let Affine { columns, mut origin } = self.affine;
        let stored = nearest_axes(&columns);
        for (axis, &at) in xyz.iter().zip(&stored).filter(|(axis, _)| axis.flipped) {
            origin += columns.column(at) * (axis.len - 1) as f64;
        }
        let size = stored.map(|i| columns.column(i).norm());
        let (slope, intercept) = (self.slope, self.intercept);
        let (values, _room) = match self.kind {
            Kind::Colours(_) => array.values(&channels, xyz, nan, |x| x)?,
            _ if (slope, intercept) == (1.0, 0.0) => array.values(&channels, xyz, nan, |x| x)?,
            _ => array.values(&channels, xyz, nan, |x| slope * x + intercept)?,
        };
        volume(values, channels.len(), xyz.map(|axis| axis.len), size, origin.into())
    }
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
#[derive(Clone, Copy)]
struct Affine {
    columns: Matrix3<f64>,
    origin: Vector3<f64>,
}

/// Offset of a field in the headers of NIfTI-1 and NIfTI-2.
type Offset = [usize; 2];

const DIM: Offset = [40, 16];
const INTENT: Offset = [68, 504];
const DATATYPE: Offset = [70, 12];
const BITPIX: Offset = [72, 14];
const PIXDIM: Offset = [76, 104];
const VOX_OFFSET: Offset = [108, 168];
const SLOPE: Offset = [112, 176];
const INTERCEPT: Offset = [116, 184];
const CAL_MAX: Offset = [124, 192];
const CAL_MIN: Offset = [128, 200];
const UNITS: Offset = [123, 500];
const QFORM_CODE: Offset = [252, 344];
const SFORM_CODE: Offset = [254, 348];
const QUATERNION: Offset = [256, 352];
const SROW: Offset = [280, 400];
/// Behind the header and the four bytes that announce extensions.
const VALUES: Offset = [352, 544];

/// Intent code of an image of labels.
const INTENT_LABEL: i32 = 1002;

struct Header<'a> {
    fields: Fields<'a>,
    second: bool,
    pair: bool,
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
        if bytes.len() < size as usize {
            return fault(bytes.len(), format!("a header of {size} bytes"), &"the end");
        }
        let (single, paired) = if second { (MAGIC_2, PAIR_2) } else { (MAGIC_1, PAIR_1) };
        let found = &bytes[magic_at..magic_at + single.len()];
        let pair = found == paired;
        if !pair && found != single {
            let expected =
                format!("\"{}\" or \"{}\"", single.escape_ascii(), paired.escape_ascii());
            return fault(magic_at, expected, &format!("\"{}\"", found.escape_ascii()));
        }
        let header = Self { fields: Fields { bytes, big_endian }, second, pair };
        let intent = header.code(INTENT);
        if (3000..3100).contains(&intent) {
            let found = format!("intent code {intent}, a CIFTI matrix");
            return fault(header.at(INTENT), "an image, whose axes are places", &found);
        }
        Ok(header)
    }

    /// A code, of 2 bytes in NIfTI-1 and 4 in NIfTI-2.
    fn code(&self, offset: Offset) -> i32 {
        let at = self.at(offset);
        if self.second { self.fields.i32(at) } else { self.fields.i16(at).into() }
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

    /// Type of the stored numbers and what those of a voxel are.
    fn element(&self) -> Result<(Element, Kind), Fault> {
        let code = self.fields.i16(self.at(DATATYPE));
        let (element, kind) = match code {
            2 => (Element::U8, Kind::Real),
            4 => (Element::I16, Kind::Real),
            8 => (Element::I32, Kind::Real),
            16 => (Element::F32, Kind::Real),
            32 => (Element::F32, Kind::Complex),
            64 => (Element::F64, Kind::Real),
            128 => (Element::U8, Kind::Colours(3)),
            256 => (Element::I8, Kind::Real),
            512 => (Element::U16, Kind::Real),
            768 => (Element::U32, Kind::Real),
            1024 => (Element::I64, Kind::Real),
            1280 => (Element::U64, Kind::Real),
            1792 => (Element::F64, Kind::Complex),
            2304 => (Element::U8, Kind::Colours(4)),
            _ => {
                let kind = match code {
                    1 => " (bits)",
                    1536 => " (reals of 128 bits)",
                    2048 => " (complex numbers of 256 bits)",
                    _ => "",
                };
                let expected =
                    "an integer, real or complex type of up to 64 bits a number, RGB24 or RGBA32";
                return fault(self.at(DATATYPE), expected, &format!("type {code}{kind}"));
            }
        };
        let bits = 8 * element.size() * kind.numbers();
        let found = self.fields.i16(self.at(BITPIX));
        if usize::try_from(found) != Ok(bits) {
            return fault(self.at(BITPIX), format!("{bits} bits, as the type has"), &found);
        }
        Ok((element, kind))
    }

    /// Where the values begin.
    fn values_at(&self) -> Result<usize, Fault> {
        let at = self.at(VOX_OFFSET);
        let offset = if self.second { self.fields.i64(at) as f64 } else { self.fields.f32(at) };
        let least = if self.pair { 0 } else { self.at(VALUES) };
        if offset.fract() != 0.0 || offset < least as f64 {
            let expected = format!("an offset of at least {least} bytes");
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
        let (affine, at) = if self.code(SFORM_CODE) > 0 {
            (self.sform()?, self.at(SROW))
        } else if self.code(QFORM_CODE) > 0 {
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
        let lens = self.lens()?;
        if let Some(axis) = (0..3).find(|&axis| size[axis] == 0.0 && lens[axis] > 1) {
            let bytes = if self.second { 8 } else { 4 };
            let expected = "a voxel size above 0 along an axis of several voxels";
            return fault(self.at(PIXDIM) + bytes * (axis + 1), expected, &0);
        }
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

/// A NIfTI-1 image, little-endian, with x, y, z along the directions of the frame and its voxel size and origin as mm,
/// in sform and qform. Channels are dimension 4.
///
/// # Errors
/// If there are more than 32,767 voxels along an axis, or channels.
pub(crate) fn upright(path: &Path, frame: &Frame) -> Result<Stored, FormatError> {
    let [d, h, w] = frame.grid.dims();
    let (size, origin) = (frame.grid.voxel_size(), frame.origin);
    let mut header = vec![0; VALUES[0]];
    let mut put = |at: usize, value: &[u8]| header[at..at + value.len()].copy_from_slice(value);
    let real = |value: f64| (value as f32).to_le_bytes();
    put(0, &348i32.to_le_bytes());
    for i in 0..8 {
        put(PIXDIM[0] + 4 * i, &real(1.0));
    }
    put(UNITS[0], &[2]);
    put(QFORM_CODE[0], &1i16.to_le_bytes());
    put(SFORM_CODE[0], &1i16.to_le_bytes());
    // The quaternion is of a rotation, with z reversed where the axes are left-handed.
    let hand = frame.direction.determinant().signum();
    let proper = frame.direction * Matrix3::from_diagonal(&Vector3::new(1.0, 1.0, hand));
    let turn = UnitQuaternion::from_matrix(&proper);
    let sign = if turn.w < 0.0 { -1.0 } else { 1.0 };
    put(PIXDIM[0], &real(hand));
    for i in 0..3 {
        put(PIXDIM[0] + 4 * (i + 1), &real(size[i]));
        put(QUATERNION[0] + 4 * i, &real(sign * turn.imag()[i]));
        put(QUATERNION[0] + 4 * (i + 3), &real(origin[i]));
        for j in 0..3 {
            put(SROW[0] + 16 * i + 4 * j, &real(frame.direction[(i, j)] * size[j]));
        }
        put(SROW[0] + 16 * i + 12, &real(origin[i]));
    }
    put(344, MAGIC_1);
    let axes = Axis::fastest_first([w, h, d], 1);
    stored(header, false, false, axes, frame).map_err(|len| FormatError::Export {
        path: path.to_owned(),
        format: FORMAT.name,
        source: VolumeError::Parameter {
            field: "length of an axis",
            expected: "at most 32767",
            found: len.to_string(),
        },
    })
}

/// The directions of the axes x, y, z of the volume of an image with this header: the nearest orthogonal matrix.
pub(crate) fn direction(bytes: &[u8]) -> Option<Matrix3<f64>> {
    /// Headers hold 32-bit floats.
    const ROUNDING: f64 = 1e-6;
    let image = Image::read(bytes).ok()?;
    let (columns, axes) = (image.affine.columns, image.axes(1));
    let stored = nearest_axes(&columns);
    let column = |i: usize| {
        let along = columns.column(stored[i]).normalize();
        if axes[i].flipped { -along } else { along }
    };
    let svd = Matrix3::from_columns(&[column(0), column(1), column(2)]).svd(true, true);
    let nearest = svd.u? * svd.v_t?;
    let snapped = nearest.map(f64::round);
    Some(if (nearest - snapped).amax() < ROUNDING { snapped } else { nearest })
}

/// An image whose voxels are those of the image with this header; none if they are others.
pub(crate) fn like(bytes: &[u8], frame: &Frame) -> Option<Stored> {
    let image = Image::read(bytes).ok()?;
    let second = Header::read(bytes).ok()?.second;
    let axes = image.axes(1);
    let [d, h, w] = frame.grid.dims();
    if axes.map(|axis| axis.len) != [w, h, d] {
        return None;
    }
    let mut header = bytes[..if second { 540 } else { 348 }].to_vec();
    // No extension.
    header.resize(VALUES[usize::from(second)], 0);
    let magic_at = if second { 4 } else { 344 };
    let magic = if second { MAGIC_2 } else { MAGIC_1 };
    header[magic_at..magic_at + magic.len()].copy_from_slice(magic);
    stored(header, second, image.big_endian, axes, frame).ok()
}

/// An image with a header that says where the voxels are; the other fields are filled in.
///
/// # Errors
/// The length of an axis that the header cannot hold.
fn stored(
    mut header: Vec<u8>,
    second: bool,
    big_endian: bool,
    axes: [Axis; 3],
    frame: &Frame,
) -> Result<Stored, usize> {
    let element = frame.voxels.element((Element::U8, 256), Element::U16);
    let code: i16 = match element {
        Element::U8 => 2,
        Element::U16 => 512,
        _ => 16,
    };
    let mut put = |offset: Offset, skip: usize, mut value: Vec<u8>| {
        if big_endian {
            value.reverse();
        }
        let at = offset[usize::from(second)] + skip * value.len();
        header[at..at + value.len()].copy_from_slice(&value);
    };
    let real = |value: f64| {
        if second { value.to_le_bytes().to_vec() } else { (value as f32).to_le_bytes().to_vec() }
    };
    let mut by_stride = axes;
    by_stride.sort_by_key(|axis| axis.stride);
    let lens = by_stride.map(|axis| axis.len);
    let dims = if frame.channels == 1 { 3 } else { 4 };
    for (i, len) in
        [dims, lens[0], lens[1], lens[2], frame.channels, 1, 1, 1].into_iter().enumerate()
    {
        let value = if second {
            (len as i64).to_le_bytes().to_vec()
        } else {
            i16::try_from(len).map_err(|_| len)?.to_le_bytes().to_vec()
        };
        put(DIM, i, value);
    }
    put(DATATYPE, 0, code.to_le_bytes().to_vec());
    put(BITPIX, 0, (8 * element.size() as i16).to_le_bytes().to_vec());
    let start = VALUES[usize::from(second)];
    let start = if second {
        (start as i64).to_le_bytes().to_vec()
    } else {
        (start as f32).to_le_bytes().to_vec()
    };
    put(VOX_OFFSET, 0, start);
    put(SLOPE, 0, real(1.0));
    put(INTERCEPT, 0, real(0.0));
    // The range for display is that of the other file.
    put(CAL_MAX, 0, real(0.0));
    put(CAL_MIN, 0, real(0.0));
    let intent = if frame.voxels == Voxels::Values { 0 } else { INTENT_LABEL };
    let intent =
        if second { intent.to_le_bytes().to_vec() } else { (intent as i16).to_le_bytes().to_vec() };
    put(INTENT, 0, intent);
    Ok(Stored { header, axes, element, big_endian, statistics: false })
}
