//! MRC2014 and CCP4 maps (Cheng et al. 2015, "MRC2014: Extensions to the MRC format header for
//! electron cryo-microscopy and tomography", <https://doi.org/10.1016/j.jsb.2015.04.002>;
//! <https://www.ccpem.ac.uk/mrc-format/mrc2014/>).
//!
//! - Modes 0 (i8), 1 (i16), 2 (f32), 6 (u16) and 12 (f16), in either byte order. Complex and packed
//!   modes are refused.
//! - Axes are put in x, y, z order, whatever MAPC, MAPR and MAPS say.
//! - Voxel size is cell edge / MX, MY, MZ in ångström; an edge of 0 (unknown) gives voxels of 1 Å.
//! - Voxel (0, 0, 0) lies at ORIGIN, or, where that is 0, at NSTART voxels from the cell's corner.
//! - Bytes behind the values, such as the padding of some programs, are passed over.
//! - A stack of volumes (space group 401 to 630, MZ sections each) has one channel for each.
//! - A map on a skewed lattice (a cell with angles other than 90°) is resampled, by a cubic spline
//!   with zeros outside, onto an upright grid with a along x, b in the x, y plane. Its sections and
//!   rows lie on those of the map, so that values move within them only.

use nalgebra::{Matrix3, Vector3};

use crate::fault::Fault;
use crate::samples::{Array, Axis, Element, Fields, fault, unusable};
use crate::spec::{FormatSpec, Nan, Read};
use crate::stored::{Frame, Stored};
use steer3d_volume::molecule::Cell;
use steer3d_volume::resample;
use steer3d_volume::volume::Volume;

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    magics: &[(208, b"MAP ")],
    ..FormatSpec::new("MRC/CCP4", &["mrc", "map", "ccp4", "msk", "rec", "st"], Read::Volume(read))
};

/// Length of the header, in bytes.
const HEADER: usize = 1024;

/// Space group of a stack of volumes.
const VOLUME_STACK: std::ops::RangeInclusive<i32> = 401..=630;

/// Reads a map.
///
/// # Errors
/// If the bytes are not a map, are cut short, or a value is not finite.
fn read(bytes: &[u8], nan: Nan) -> Result<Volume, Fault> {
    let header = header(bytes)?;
    let lens = counts(header, 0, 1)?.map(|n| n as usize);
    let sampling = counts(header, 28, 0)?;
    let element = element(header)?;
    let stored = stored_axes(header)?;
    let extended = header.i32(92);
    if extended < 0 {
        return fault(92, "the length of an extended header", &extended);
    }

    let depth = if VOLUME_STACK.contains(&header.i32(88)) { sampling[2] as usize } else { lens[2] };
    if depth == 0 || !lens[2].is_multiple_of(depth) {
        return fault(8, format!("sections in volumes of {depth}"), &lens[2]);
    }
    if depth != lens[2] && stored[2] != 2 {
        return fault(72, "a stack of volumes along z", &format!("{stored:?}"));
    }
    let array = Array::new(header, 0, &lens, HEADER + extended as usize, element)?;
    let axes = Axis::fastest_first([lens[0], lens[1], depth], 1);
    let channels: Vec<_> = (0..lens[2] / depth).map(|c| c * lens[0] * lens[1] * depth).collect();
    let lattice = Lattice::read(header, sampling, stored, axes.map(|axis| axis.len))?;
    let (values, _room) = array.values(&channels, stored.map(|i| axes[i]), nan, |x| x)?;
    lattice.volume(values, channels.len())
}

/// The file, its byte order and that it has a header.
fn header(bytes: &[u8]) -> Result<Fields<'_>, Fault> {
    if bytes.len() < HEADER {
        return fault(bytes.len(), format!("a header of {HEADER} bytes"), &"the end");
    }
    if &bytes[208..211] != b"MAP" {
        return fault(208, "\"MAP \"", &format!("\"{}\"", bytes[208..212].escape_ascii()));
    }
    // The machine stamp; where it says nothing, the order in which the mode is a small number.
    let big_endian = match bytes[212] {
        0x44 => false,
        0x11 => true,
        _ => bytes[12..14] == [0, 0],
    };
    Ok(Fields { bytes, big_endian })
}

/// Three numbers from byte `at` on, each at least `least`.
fn counts(header: Fields<'_>, at: usize, least: i32) -> Result<[i32; 3], Fault> {
    let counts = [0, 4, 8].map(|i| header.i32(at + i));
    match counts.iter().position(|&n| n < least) {
        None => Ok(counts),
        Some(i) => fault(at + 4 * i, format!("a number of voxels of at least {least}"), &counts[i]),
    }
}

fn element(header: Fields<'_>) -> Result<Element, Fault> {
    Ok(match header.i32(12) {
        0 => Element::I8,
        1 => Element::I16,
        2 => Element::F32,
        6 => Element::U16,
        12 => Element::F16,
        mode => {
            let kind = match mode {
                3 | 4 => " (complex numbers)",
                101 => " (packed in 4 bits)",
                _ => "",
            };
            return fault(12, "mode 0, 1, 2, 6 or 12", &format!("mode {mode}{kind}"));
        }
    })
}

/// Which stored axis (0 the fastest) is x, y and z.
fn stored_axes(header: Fields<'_>) -> Result<[usize; 3], Fault> {
    let map = [64, 68, 72].map(|at| header.i32(at));
    // Old programs leave all three 0.
    let map = if map == [0; 3] { [1, 2, 3] } else { map };
    let found = [1, 2, 3].map(|axis| map.iter().position(|&stored| stored == axis));
    match found {
        [Some(x), Some(y), Some(z)] => Ok([x, y, z]),
        _ => fault(64, "MAPC, MAPR and MAPS to be 1, 2 and 3 in some order", &format!("{map:?}")),
    }
}

/// Where the voxels are.
struct Lattice {
    /// Number of voxels along x, y, z.
    lens: [usize; 3],
    /// Steps to the next voxel along a, b, c as columns, upper triangular, in ångström.
    steps: Matrix3<f64>,
    origin: Vector3<f64>,
}

impl Lattice {
    fn read(
        header: Fields<'_>,
        sampling: [i32; 3],
        stored: [usize; 3],
        lens: [usize; 3],
    ) -> Result<Self, Fault> {
        let lens = stored.map(|i| lens[i]);
        let mut size = [1.0; 3];
        for i in 0..3 {
            let (at, edge) = (40 + 4 * i, header.f32(40 + 4 * i));
            if !(edge.is_finite() && edge >= 0.0) {
                return fault(at, "a cell edge in ångström", &edge);
            }
            if edge > 0.0 {
                size[i] =
                    edge / if sampling[i] > 0 { f64::from(sampling[i]) } else { lens[i] as f64 };
            }
        }
        let steps = cell_directions(header)? * Matrix3::from_diagonal(&Vector3::from(size));
        let origin = Vector3::from([196, 200, 204].map(|at| header.f32(at)));
        if !origin.iter().all(|x| x.is_finite()) {
            return fault(196, "an origin in ångström", &format!("{origin:?}"));
        }
        let start = stored.map(|i| f64::from(header.i32(16 + 4 * i)));
        let at_start = origin == Vector3::zeros();
        let origin = if at_start { steps * Vector3::from(start) } else { origin };
        Ok(Self { lens, steps, origin })
    }

    fn volume(&self, values: Vec<f32>, channels: usize) -> Result<Volume, Fault> {
        let [w, h, d] = self.lens;
        resample::upright(values, channels, [d, h, w], &self.steps, self.origin.into())
            .map_err(|error| unusable(&error))
    }
}

/// Directions of the cell's edges a, b, c as columns: a along x, b in the x, y plane.
fn cell_directions(header: Fields<'_>) -> Result<Matrix3<f64>, Fault> {
    let angles = [52, 56, 60].map(|at| header.f32(at));
    // Old programs leave all three 0.
    if angles == [0.0; 3] || angles.iter().all(|angle| (angle - 90.0).abs() < 1e-3) {
        return Ok(Matrix3::identity());
    }
    let cell = Cell::new([1.0; 3], angles).map(|cell| cell.matrix());
    // Below one tenth the cell is so flat that the upright grid would be huge.
    match cell.ok().filter(|directions| directions[(1, 1)] > 0.1 && directions[(2, 2)] > 0.1) {
        Some(directions) => Ok(directions),
        None => fault(52, "the angles of a cell that is not flat", &format!("{angles:?}")),
    }
}

/// A map with the voxel size and origin in ångström, little-endian. Several channels are a stack of volumes (space
/// group 401).
pub(crate) fn upright(frame: &Frame) -> Stored {
    let [d, h, w] = frame.grid.dims();
    let size = frame.grid.voxel_size();
    let mut header = vec![0; HEADER];
    let mut put = |at: usize, value: [u8; 4]| header[at..at + 4].copy_from_slice(&value);
    for (at, value) in [(28, w), (32, h), (36, d), (64, 1), (68, 2), (72, 3)] {
        // At most MAX_VALUES, which an i32 holds.
        put(at, (value as i32).to_le_bytes());
    }
    for (at, value) in [
        (40, w as f64 * size[0]),
        (44, h as f64 * size[1]),
        (48, d as f64 * size[2]),
        (52, 90.0),
        (56, 90.0),
        (60, 90.0),
        (196, frame.origin[0]),
        (200, frame.origin[1]),
        (204, frame.origin[2]),
    ] {
        put(at, (value as f32).to_le_bytes());
    }
    put(208, *b"MAP ");
    put(212, [0x44, 0x44, 0, 0]);
    stored(header, false, [0, 1, 2], frame)
}

/// A map whose voxels are those of the map of this header; none if they are others, such as the upright ones of a skewed
/// map.
pub(crate) fn like(bytes: &[u8], frame: &Frame) -> Option<Stored> {
    let fields = header(bytes).ok()?;
    let axes = stored_axes(fields).ok()?;
    let lens = counts(fields, 0, 1).ok()?;
    let sampling = counts(fields, 28, 0).ok()?;
    let stack = VOLUME_STACK.contains(&fields.i32(88));
    let lens = [lens[0], lens[1], if stack { sampling[2] } else { lens[2] }];
    let [d, h, w] = frame.grid.dims();
    let same = axes.map(|axis| usize::try_from(lens[axis]).ok()) == [w, h, d].map(Some);
    let alone = axes[2] == 2 || frame.channels == 1;
    let skewed = cell_directions(fields).ok()? != Matrix3::identity();
    if !same || skewed || !alone {
        return None;
    }
    Some(stored(bytes[..HEADER].to_vec(), fields.big_endian, axes, frame))
}

/// A map with a header that says where the voxels are; the other fields are filled in.
fn stored(mut header: Vec<u8>, big_endian: bool, axes: [usize; 3], frame: &Frame) -> Stored {
    let [d, h, w] = frame.grid.dims();
    let channels = frame.channels;
    let mut lens = [0; 3];
    axes.into_iter().zip([w, h, d]).for_each(|(axis, len)| lens[axis] = len);
    let element = frame.voxels.element((Element::I8, 128), Element::I16);
    let mode = match element {
        Element::I8 => 0,
        Element::I16 => 1,
        _ => 2,
    };
    let in_order = |mut bytes: [u8; 4]| {
        if big_endian {
            bytes.reverse();
        }
        bytes
    };
    let mut put = |at: usize, value: [u8; 4]| header[at..at + 4].copy_from_slice(&value);
    let symmetry = if channels == 1 { 1 } else { *VOLUME_STACK.start() };
    for (at, value) in [
        (0, lens[0] as i32),
        (4, lens[1] as i32),
        (8, (lens[2] * channels) as i32),
        (12, mode),
        (88, symmetry),
        (92, 0),
        (108, 20_141),
        (220, 1),
    ] {
        put(at, in_order(value.to_le_bytes()));
    }
    // No extended header, and the labels of no other program.
    header[104..108].fill(0);
    header[224..].fill(0);
    header[224..242].copy_from_slice(b"written by steer3d");
    let fastest = Axis::fastest_first(lens, 1);
    let axes = axes.map(|axis| fastest[axis]);
    Stored { header, axes, element, big_endian, statistics: true }
}
