//! Binvox files (Patrick Min, <https://www.patrickmin.com/binvox/binvox.html>): occupied voxels,
//! run-length encoded.
//!
//! The text header may have comments from `#` on and `dim`, `translate` and `scale` in any order. In
//! the file y runs fastest, then z, then x. The longest side of the grid is `scale` long, and the
//! outer corner of its first voxel lies at `translate`. (So says the specification; trimesh takes
//! `scale` for the distance of the first voxel's centre from the last's.)

use steer3d_files::memory;

use crate::fault::{Fault, Place};
use crate::samples::{Array, Axis, Element, Fields, checked_len, volume};
use crate::spec::{FormatSpec, Nan, Read};
use steer3d_volume::volume::Volume;

pub(crate) const FORMAT: FormatSpec = FormatSpec {
    magics: &[(0, b"#binvox")],
    ..FormatSpec::new("binvox", &["binvox"], Read::Volume(read))
};

/// Longest header, in bytes.
const MAX_HEADER_BYTES: usize = 1 << 14;

/// Reads a file: 1 (in version 2, any number up to 255) where a voxel is occupied, else 0.
///
/// # Errors
/// If the header is not valid or the runs do not fill the grid exactly.
fn read(bytes: &[u8], nan: Nan) -> Result<Volume, Fault> {
    let (header, start) = header(bytes)?;
    let [x, z, y] = header.dim;
    let len = checked_len(&header.dim, Place::Line(header.dim_line))?;
    let axes = Axis::fastest_first([y, z, x], 1);
    let _room = memory::take(len as u64)?;
    let voxels = runs(&bytes[start..], start, len, header.largest)?;
    let voxels = Fields { bytes: &voxels, big_endian: false };
    let voxels = Array::new(voxels, 0, &[len], 0, Element::U8)?;
    let (values, _room) = voxels.values(&[0], [axes[2], axes[0], axes[1]], nan, |x| x)?;
    let size = header.scale / x.max(y).max(z) as f64;
    let origin = header.translate.map(|corner| corner + size / 2.0);
    volume(values, 1, [x, y, z], [size; 3], origin)
}

struct Header {
    /// Length along x, z, y.
    dim: [usize; 3],
    dim_line: usize,
    translate: [f64; 3],
    scale: f64,
    /// Largest value of a voxel.
    largest: u8,
}

/// The header and the offset of the first run.
fn header(bytes: &[u8]) -> Result<(Header, usize), Fault> {
    let (mut largest, mut dim, mut translate, mut scale) = (1, None, None, None);
    let mut start = 0;
    let head = &bytes[..bytes.len().min(MAX_HEADER_BYTES)];
    for (i, raw) in head.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let number = i + 1;
        start += raw.len();
        let line = String::from_utf8_lossy(raw);
        let fault = |expected: &str| {
            Err(Fault::new(Place::Line(number), expected, format!("{:?}", line.trim())))
        };
        if i == 0 {
            largest = match line.trim().strip_prefix("#binvox").map(str::trim) {
                Some("1") => 1,
                Some("2") => u8::MAX,
                _ => return fault("\"#binvox 1\" or \"#binvox 2\""),
            };
        }
        let text = line.split('#').next().unwrap_or_default();
        let mut words = text.split_whitespace();
        let (key, rest): (_, Vec<_>) = (words.next(), words.collect());
        match key {
            None => {}
            Some("dim") => match numbers(&rest) {
                Some(n) => dim = Some((n, number)),
                None => return fault("dim and three numbers of voxels"),
            },
            Some("translate") => match numbers::<f64, 3>(&rest) {
                Some(n) if n.iter().all(|x| x.is_finite()) => translate = Some(n),
                _ => return fault("translate and three finite numbers"),
            },
            Some("scale") => match numbers::<f64, 1>(&rest) {
                Some([n]) if n.is_finite() && n > 0.0 => scale = Some(n),
                _ => return fault("scale and a positive finite number"),
            },
            Some("data") if raw.ends_with(b"\n") && rest.is_empty() => {
                let Some((dim, dim_line)) = dim else { return fault("dim before data") };
                let translate = translate.unwrap_or_default();
                // Without a scale, voxels have edge 1.
                let longest = dim.iter().copied().max().unwrap_or(1) as f64;
                let scale = scale.unwrap_or(longest);
                return Ok((Header { dim, dim_line, translate, scale, largest }, start));
            }
            Some(_) => return fault("dim, translate, scale or data"),
        }
    }
    let place = Place::Byte(head.len() as u64);
    Err(Fault::new(place, "a header that ends with a line \"data\"", "none"))
}

/// N numbers and no more.
fn numbers<T: std::str::FromStr, const N: usize>(words: &[&str]) -> Option<[T; N]> {
    let numbers: Vec<T> = words.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    numbers.try_into().ok()
}

/// `len` values from pairs of a value and how often it comes; the first lies at byte `start`.
fn runs(bytes: &[u8], start: usize, len: usize, largest: u8) -> Result<Vec<u8>, Fault> {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let total: usize = pairs.iter().map(|&[_, count]| usize::from(count)).sum();
    if total != len || !odd.is_empty() {
        let place = Place::Byte((start + bytes.len()) as u64);
        let found = format!("{total} in {} bytes", bytes.len());
        return Err(Fault::new(place, format!("runs of {len} voxels in all"), found));
    }
    let mut values = Vec::with_capacity(len);
    for (i, &[value, count]) in pairs.iter().enumerate() {
        if value > largest {
            let place = Place::Byte((start + 2 * i) as u64);
            return Err(Fault::new(
                place,
                format!("a value of at most {largest}"),
                value.to_string(),
            ));
        }
        values.resize(values.len() + usize::from(count), value);
    }
    Ok(values)
}
