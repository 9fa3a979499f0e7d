//! What the readers of volumes share: fields at fixed offsets, values of any type, axes in any order.
//! Values go from a file to their places in a volume in one pass.

use std::fmt::Display;

use half::f16;
use rayon::prelude::*;
use steer3d_files::memory::{self, Room};

use crate::fault::{Fault, Place};
use crate::spec::Nan;
use steer3d_volume::volume::{Grid, MAX_VALUES, Volume, VolumeError};

/// The bytes of a file, or of its header, and their byte order.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) big_endian: bool,
}

impl Fields<'_> {
    /// N bytes in big-endian order from offset `at`, zeros beyond the end.
    fn at<const N: usize>(self, at: usize) -> [u8; N] {
        let mut field =
            self.bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N]);
        if !self.big_endian {
            field.reverse();
        }
        field
    }

    pub(crate) fn i16(self, at: usize) -> i16 {
        i16::from_be_bytes(self.at(at))
    }

    pub(crate) fn i32(self, at: usize) -> i32 {
        i32::from_be_bytes(self.at(at))
    }

    pub(crate) fn i64(self, at: usize) -> i64 {
        i64::from_be_bytes(self.at(at))
    }

    pub(crate) fn f32(self, at: usize) -> f64 {
        f64::from(f32::from_be_bytes(self.at(at)))
    }

    pub(crate) fn f64(self, at: usize) -> f64 {
        f64::from_be_bytes(self.at(at))
    }
}

/// The fault that byte `at` is wrong.
pub(crate) fn fault<T>(
    at: usize,
    expected: impl Into<String>,
    found: &dyn Display,
) -> Result<T, Fault> {
    Err(Fault::new(Place::Byte(at as u64), expected, found.to_string()))
}

/// Type of a stored value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
}

impl Element {
    /// Bytes of a value.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// The value of as many bytes as [`Element::size`] says, least significant first.
    pub(crate) fn value(self, bytes: [u8; 8]) -> f64 {
        let [a, b, c, d, ..] = bytes;
        match self {
            Self::U8 => f64::from(a),
            Self::I8 => f64::from(a.cast_signed()),
            Self::U16 => f64::from(u16::from_le_bytes([a, b])),
            Self::I16 => f64::from(i16::from_le_bytes([a, b])),
            Self::U32 => f64::from(u32::from_le_bytes([a, b, c, d])),
            Self::I32 => f64::from(i32::from_le_bytes([a, b, c, d])),
            Self::U64 => u64::from_le_bytes(bytes) as f64,
            Self::I64 => i64::from_le_bytes(bytes) as f64,
            Self::F16 => f16::from_le_bytes([a, b]).to_f64(),
            Self::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
            Self::F64 => f64::from_le_bytes(bytes),
        }
    }
}

/// An array that lies in a file.
pub(crate) struct Array<'a> {
    bytes: &'a [u8],
    start: usize,
    element: Element,
    big_endian: bool,
    complex: bool,
}

impl<'a> Array<'a> {
    /// The array that a header, at byte `header`, declares to have `shape` and to begin at byte
    /// `start`. Nothing is allocated, and the array is known to lie in the file.
    pub(crate) fn new(
        file: Fields<'a>,
        header: u64,
        shape: &[usize],
        start: usize,
        element: Element,
    ) -> Result<Self, Fault> {
        let len = checked_len(shape, Place::Byte(header))? * element.size();
        let rest = file.bytes.get(start..).unwrap_or_default();
        let Some(bytes) = rest.get(..len) else {
            let expected = format!("{len} bytes of values from byte {start} on");
            let place = Place::Byte(file.bytes.len() as u64);
            return Err(Fault::new(place, expected, format!("the end after {}", rest.len())));
        };
        let big_endian = file.big_endian;
        Ok(Self { bytes, start, element, big_endian, complex: false })
    }

    /// The array with every two of its numbers as the real and imaginary part of one value.
    pub(crate) fn of_pairs(self) -> Self {
        Self { complex: true, ..self }
    }

    /// The values in C, D, H, W order, each number sent through `scale`, and their room; of complex
    /// values the magnitudes. `channels` are the offsets at which channels begin, and `axes` those
    /// of x, y, z.
    pub(crate) fn values(
        &self,
        channels: &[usize],
        axes: [Axis; 3],
        nan: Nan,
        scale: impl Fn(f64) -> f64 + Sync,
    ) -> Result<(Vec<f32>, Room), Fault> {
        let len = channels.len() * axes.iter().map(|axis| axis.len).product::<usize>();
        let room = memory::take(4 * len as u64)?;
        let mut target = vec![0.0; len];
        match self.element.size() {
            1 => self.fill::<1>(&mut target, channels, axes, scale),
            2 => self.fill::<2>(&mut target, channels, axes, scale),
            4 => self.fill::<4>(&mut target, channels, axes, scale),
            _ => self.fill::<8>(&mut target, channels, axes, scale),
        }
        if nan == Nan::Zero {
            target.par_iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = 0.0);
        }
        match target.par_iter().position_first(|value| !value.is_finite()) {
            None => Ok((target, room)),
            Some(i) => {
                let row = row_offset(channels, axes, i / axes[0].len);
                let at = row + axes[0].offset(i % axes[0].len);
                let place = Place::Byte((self.start + at * self.element.size()) as u64);
                Err(Fault::new(place, "a finite number within f32", target[i].to_string()))
            }
        }
    }

    /// [`Array::values`] of numbers of N bytes.
    fn fill<const N: usize>(
        &self,
        target: &mut [f32],
        channels: &[usize],
        axes: [Axis; 3],
        scale: impl Fn(f64) -> f64 + Sync,
    ) {
        let (numbers, _) = self.bytes.as_chunks::<N>();
        let value = |i: usize| {
            let (mut bytes, mut word) = (numbers[i], [0; 8]);
            if self.big_endian {
                bytes.reverse();
            }
            word[..N].copy_from_slice(&bytes);
            scale(self.element.value(word))
        };
        target.par_chunks_mut(axes[0].len).enumerate().for_each(|(i, row)| {
            let offset = row_offset(channels, axes, i);
            for (x, target) in row.iter_mut().enumerate() {
                let at = offset + axes[0].offset(x);
                let number = if self.complex { value(at).hypot(value(at + 1)) } else { value(at) };
                *target = number as f32;
            }
        });
    }
}

/// Where row `i` of the values begins in the array.
fn row_offset(channels: &[usize], [_, y, z]: [Axis; 3], i: usize) -> usize {
    let (j, iy) = (i / y.len, i % y.len);
    channels[j / z.len] + z.offset(j % z.len) + y.offset(iy)
}

/// The number of values of a declared shape, at least one and at most [`MAX_VALUES`].
///
/// # Errors
/// A [`Fault`] at `place` with the shape.
pub fn checked_len(shape: &[usize], place: Place) -> Result<usize, Fault> {
    let len = shape.iter().try_fold(1usize, |len, &n| len.checked_mul(n));
    len.filter(|len| (1..=MAX_VALUES).contains(len)).ok_or_else(|| {
        Fault::new(place, format!("1 to {MAX_VALUES} values"), format!("shape {shape:?}"))
    })
}

/// An axis of an array: how far apart in memory its neighbours are, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) stride: usize,
    pub(crate) len: usize,
    /// Does the result run along it backwards?
    pub(crate) flipped: bool,
}

impl Axis {
    /// Axes of an array whose first axis runs fastest, `inner` values being one element.
    pub(crate) fn fastest_first<const N: usize>(shape: [usize; N], inner: usize) -> [Self; N] {
        let mut stride = inner;
        shape.map(|len| {
            let axis = Self { stride, len, flipped: false };
            stride *= len;
            axis
        })
    }

    pub(crate) fn offset(self, index: usize) -> usize {
        self.stride * if self.flipped { self.len - 1 - index } else { index }
    }
}

/// A volume of checked parts.
pub(crate) fn volume(
    values: Vec<f32>,
    channels: usize,
    [w, h, d]: [usize; 3],
    voxel_size: [f64; 3],
    origin: [f64; 3],
) -> Result<Volume, Fault> {
    Grid::new([d, h, w], voxel_size)
        .and_then(|grid| Volume::new(values, channels, grid, origin))
        .map_err(|error| unusable(&error))
}

/// The fault of values of which no [`Volume`] can be made.
pub fn unusable(error: &VolumeError) -> Fault {
    match error {
        VolumeError::NoRoom(no_room) => Fault::from(*no_room),
        _ => Fault::new(Place::Whole, "a volume that can be used", error.to_string()),
    }
}
