//! Rotation and translation of sampled fields.
//!
//! The value at a voxel of the result is interpolated in the source, which is zero outside its
//! grid. Maps that send voxels to voxels (the 24 rotations of the cube where the grid allows them,
//! shifts by whole voxels) are exact permutations under every interpolation.

use std::fmt;
use std::str::FromStr;

use nalgebra::{DMatrix, Matrix3};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use steer3d_so3::{Irreps, Rotation};

use crate::spline;
use crate::volume::{Grid, Volume, VolumeError, check_finite, checked_len};

/// How values between voxels are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The value of the nearest voxel.
    Nearest,
    /// Linear along x, y and z.
    #[default]
    Trilinear,
    /// Cubic B-spline through the values (Unser, Aldroubi and Eden 1993).
    Cubic,
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Trilinear => "trilinear",
            Self::Cubic => "cubic",
        })
    }
}

impl FromStr for Interpolation {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "nearest" => Ok(Self::Nearest),
            "trilinear" => Ok(Self::Trilinear),
            "cubic" => Ok(Self::Cubic),
            _ => Err(VolumeError::Parameter {
                field: "interpolation",
                expected: "nearest, trilinear or cubic",
                found: format!("`{text}`"),
            }),
        }
    }
}

/// Rotates a field about the centre of its grid: (R f)(p) = ρ(R) f(R⁻¹ p), zero outside.
///
/// Exact when `rotation` is (to 1e-9) one of the 24 rotations of the cube and maps the lattice of
/// voxels onto itself.
///
/// # Errors
/// If `irreps` do not have the dimension of the channels or `rotation` is not a rotation matrix.
///
/// ```
/// use steer3d_volume::{Grid, Interpolation, Volume, rotate};
/// let grid = Grid::new([1, 2, 2], [1.0; 3])?;
/// let volume = Volume::centred(vec![1.0, 2.0, 3.0, 4.0], 1, grid)?;
/// let quarter_turn_about_z = steer3d_so3::Rotation::from_axis_angle(
///     &nalgebra::Vector3::z_axis(), std::f64::consts::FRAC_PI_2);
/// let turned = rotate(&volume, &"1x0".parse().unwrap(), &quarter_turn_about_z,
///     Interpolation::Trilinear)?;
/// assert_eq!(turned.data(), [3.0, 1.0, 4.0, 2.0]);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
pub fn rotate(
    volume: &Volume,
    irreps: &Irreps,
    rotation: &Rotation,
    interpolation: Interpolation,
) -> Result<Volume, VolumeError> {
    let mut target = vec![0.0; volume.data().len()];
    rotate_into(volume.data(), &volume.grid(), irreps, rotation, interpolation, &mut target)?;
    Ok(volume.with_data(target))
}

/// [`rotate`] from one slice into another, both of `irreps.dim()` × D × H × W values.
///
/// # Errors
/// As [`rotate`], and if a slice has another length or a source value is not finite.
pub fn rotate_into(
    source: &[f32],
    grid: &Grid,
    irreps: &Irreps,
    rotation: &Rotation,
    interpolation: Interpolation,
    target: &mut [f32],
) -> Result<(), VolumeError> {
    let channels = check_slices(source, grid, target)?;
    if irreps.dim() != channels {
        return Err(VolumeError::Irreps {
            irreps: irreps.to_string(),
            dim: irreps.dim(),
            channels,
        });
    }
    let rotation = snapped(rotation)?;
    let map = IndexMap::rotation(grid, &rotation);
    let mixers = irreps
        .blocks()
        .map(|block| {
            let matrix = Irreps::new([(1, block.irrep)]).map(|one| one.wigner_d(&rotation));
            matrix.map(|matrix| Mixer::new(block.mul, &matrix))
        })
        .collect::<Result<Vec<_>, _>>()
        .expect("an irrep of valid irreps is valid");
    resample(source, grid.dims(), &map, interpolation, &mixers, target);
    Ok(())
}

/// Moves a field by `shift` = x, y, z voxels: (T f)(p) = f(p - shift), zero outside; exact for
/// whole voxels.
///
/// # Errors
/// If the shift is not finite.
pub fn translate(
    volume: &Volume,
    shift: [f64; 3],
    interpolation: Interpolation,
) -> Result<Volume, VolumeError> {
    let mut target = vec![0.0; volume.data().len()];
    translate_into(volume.data(), &volume.grid(), shift, interpolation, &mut target)?;
    Ok(volume.with_data(target))
}

/// [`translate`] from one slice into another, both of C × D × H × W values.
///
/// # Errors
/// As [`translate`], and if the slices differ in length or are not whole channels of the grid, or
/// a source value is not finite.
pub fn translate_into(
    source: &[f32],
    grid: &Grid,
    shift: [f64; 3],
    interpolation: Interpolation,
    target: &mut [f32],
) -> Result<(), VolumeError> {
    let channels = check_slices(source, grid, target)?;
    if let Some(index) = shift.iter().position(|x| !x.is_finite()) {
        return Err(VolumeError::NotFinite { what: "shift", index, value: shift[index] });
    }
    let map = IndexMap { matrix: Matrix3::identity(), offset: shift.map(|x| -x) };
    let mixers = [Mixer { mul: channels, rows: Vec::new(), dim: 1 }];
    resample(source, grid.dims(), &map, interpolation, &mixers, target);
    Ok(())
}

/// The number of channels of two equally long slices on `grid`.
fn check_slices(source: &[f32], grid: &Grid, target: &[f32]) -> Result<usize, VolumeError> {
    let channels = (source.len() / grid.voxels()).max(1);
    let expected = checked_len(channels, grid.dims())?;
    for (what, found) in [("source", source.len()), ("target", target.len())] {
        if found != expected {
            return Err(VolumeError::Length { what, expected, found });
        }
    }
    check_finite("source", source)?;
    Ok(channels)
}

/// The rotation itself, or the exact rotation of the cube if it is one to 1e-9.
fn snapped(rotation: &Rotation) -> Result<Rotation, VolumeError> {
    let matrix = rotation.matrix();
    let error = (matrix * matrix.transpose() - Matrix3::identity()).amax();
    if !(error < 1e-6 && matrix.determinant() > 0.0) {
        return Err(VolumeError::NotARotation);
    }
    // Adding zero turns -0 into 0.
    let rounded = matrix.map(|x| x.round() + 0.0);
    let exact = (matrix - rounded).amax() < 1e-9;
    Ok(if exact { Rotation::from_matrix_unchecked(rounded) } else { *rotation })
}

/// Source index = matrix · target index + offset, all in x, y, z.
struct IndexMap {
    matrix: Matrix3<f64>,
    offset: [f64; 3],
}

impl IndexMap {
    fn rotation(grid: &Grid, rotation: &Rotation) -> Self {
        let (size, centre) = (grid.voxel_size(), grid.centre());
        let matrix = Matrix3::from_fn(|i, j| rotation[(j, i)] * (size[j] / size[i]));
        let offset =
            [0, 1, 2].map(|i| centre[i] - (0..3).map(|j| matrix[(i, j)] * centre[j]).sum::<f64>());
        Self { matrix, offset }
    }

    /// Does every voxel map to a voxel (inside the grid or outside)?
    fn permutes(&self) -> bool {
        self.matrix.iter().chain(&self.offset).all(|x| x.fract() == 0.0)
    }
}

/// `mul` fields of `dim` components each, mixed by a matrix; no matrix for scalars.
struct Mixer {
    mul: usize,
    dim: usize,
    /// Rows of the matrix.
    rows: Vec<Vec<f32>>,
}

impl Mixer {
    fn new(mul: usize, matrix: &DMatrix<f64>) -> Self {
        let dim = matrix.nrows();
        if dim == 1 {
            return Self { mul, dim, rows: Vec::new() };
        }
        let rows = matrix.row_iter().map(|row| row.iter().map(|&x| x as f32).collect());
        Self { mul, dim, rows: rows.collect() }
    }
}

/// Writes every voxel of `target` (channels of `dims`) from `source` (the same shape).
fn resample(
    source: &[f32],
    dims: [usize; 3],
    map: &IndexMap,
    interpolation: Interpolation,
    mixers: &[Mixer],
    target: &mut [f32],
) {
    let interpolation = if map.permutes() { Interpolation::Nearest } else { interpolation };
    match interpolation {
        Interpolation::Nearest => {
            Sampler { source, dims, map, weigh: nearest, decay: 0.0 }.run(mixers, target);
        }
        Interpolation::Trilinear => {
            Sampler { source, dims, map, weigh: linear, decay: 0.0 }.run(mixers, target);
        }
        Interpolation::Cubic => {
            let source = &spline::coefficients(source, dims);
            Sampler { source, dims, map, weigh: cubic, decay: spline::POLE }.run(mixers, target);
        }
    }
}

/// The whole number at or below `x`, and the rest; without the library call of `f64::floor`.
fn split(x: f64) -> (isize, f64) {
    let towards_zero = x as isize;
    let below = towards_zero - isize::from(x < towards_zero as f64);
    (below, x - below as f64)
}

fn nearest(x: f64) -> (isize, [f32; 1]) {
    (split(x + 0.5).0, [1.0])
}

fn linear(x: f64) -> (isize, [f32; 2]) {
    let (below, t) = split(x);
    (below, [1.0 - t as f32, t as f32])
}

fn cubic(x: f64) -> (isize, [f32; 4]) {
    let (below, t) = split(x);
    let u = 1.0 - t;
    let inner = |s: f64| (4.0 - 6.0 * s * s + 3.0 * s * s * s) / 6.0;
    let weights = [u * u * u / 6.0, inner(t), inner(u), t * t * t / 6.0];
    (below - 1, weights.map(|w| w as f32))
}

/// Decay below which a position is outside: that of the spline 16 voxels from the grid.
const NEGLIGIBLE: f64 = 1e-9;

/// A distance in voxels at which every position is outside.
const FAR: f64 = 32.0;

/// Source offsets and weights of one target voxel along x, y, z.
#[derive(Clone, Copy)]
struct Taps<const K: usize> {
    offsets: [[usize; K]; 3],
    weights: [[f32; K]; 3],
    outside: bool,
}

struct Sampler<'a, W> {
    source: &'a [f32],
    /// D, H, W of the source and of the target.
    dims: [usize; 3],
    map: &'a IndexMap,
    /// First source index and weights along one axis of a position.
    weigh: W,
    /// Beyond the grid, a value is the one at the face times this for each voxel of distance.
    decay: f64,
}

impl<W> Sampler<'_, W> {
    /// Fills `target`, one plane of constant z in each task.
    fn run<const K: usize>(&self, mixers: &[Mixer], target: &mut [f32])
    where
        W: Fn(f64) -> (isize, [f32; K]) + Sync,
    {
        let [d, h, w] = self.dims;
        let mut planes: Vec<Vec<&mut [f32]>> = (0..d).map(|_| Vec::new()).collect();
        for (k, plane) in target.chunks_mut(h * w).enumerate() {
            planes[k % d].push(plane);
        }
        planes.into_par_iter().enumerate().for_each(|(z, mut planes)| {
            let mut components = Vec::new();
            for y in 0..h {
                let taps: Vec<_> = (0..w).map(|x| self.taps_at([x, y, z])).collect();
                let mut channel = 0;
                for mixer in mixers {
                    for _ in 0..mixer.mul {
                        let rows = &mut planes[channel..channel + mixer.dim];
                        let rows = rows.iter_mut().map(|plane| &mut plane[y * w..(y + 1) * w]);
                        self.fill_field(channel, mixer, &taps, &mut components, rows);
                        channel += mixer.dim;
                    }
                }
            }
        });
    }

    /// Writes one row of all components of the field whose first channel is `channel`.
    fn fill_field<'t, const K: usize>(
        &self,
        channel: usize,
        mixer: &Mixer,
        taps: &[Taps<K>],
        components: &mut Vec<f32>,
        mut rows: impl Iterator<Item = &'t mut [f32]>,
    ) {
        if mixer.dim == 1 {
            for row in rows {
                self.sample_row(channel, taps, row);
            }
            return;
        }
        let width = taps.len();
        components.resize(mixer.dim * width, 0.0);
        for (m, row) in components.chunks_mut(width).enumerate() {
            self.sample_row(channel + m, taps, row);
        }
        for matrix_row in &mixer.rows {
            let row = rows.next().expect("one row for each component");
            row.fill(0.0);
            for (&factor, component) in matrix_row.iter().zip(components.chunks(width)) {
                for (value, x) in row.iter_mut().zip(component) {
                    *value += factor * x;
                }
            }
        }
    }

    fn sample_row<const K: usize>(&self, channel: usize, taps: &[Taps<K>], row: &mut [f32]) {
        let voxels: usize = self.dims.iter().product();
        let source = &self.source[channel * voxels..(channel + 1) * voxels];
        for (value, taps) in row.iter_mut().zip(taps) {
            *value = if taps.outside { 0.0 } else { sample(source, taps) };
        }
    }

    fn taps_at<const K: usize>(&self, index: [usize; 3]) -> Taps<K>
    where
        W: Fn(f64) -> (isize, [f32; K]),
    {
        let mut taps = Taps { offsets: [[0; K]; 3], weights: [[0.0; K]; 3], outside: false };
        let [d, h, w] = self.dims;
        for (axis, (len, stride)) in [(w, 1), (h, w), (d, h * w)].into_iter().enumerate() {
            let row = self.map.matrix.row(axis);
            let position = row[0] * index[0] as f64
                + row[1] * index[1] as f64
                + row[2] * index[2] as f64
                + self.map.offset[axis];
            // Far positions stay far outside, and near zero where indices cannot overflow.
            let (first, weights) = (self.weigh)(position.clamp(-FAR, len as f64 + FAR));
            let mut inside = false;
            for k in 0..K {
                let index = first + k as isize;
                let nearest = index.clamp(0, len as isize - 1);
                let distance = (index - nearest).unsigned_abs();
                let factor = if distance == 0 { 1.0 } else { self.decay.powi(distance as i32) };
                taps.offsets[axis][k] = nearest as usize * stride;
                taps.weights[axis][k] = weights[k] * factor as f32;
                inside |= factor.abs() > NEGLIGIBLE;
            }
            taps.outside |= !inside;
        }
        taps
    }
}

#[inline]
fn sample<const K: usize>(source: &[f32], taps: &Taps<K>) -> f32 {
    let ([ox, oy, oz], [wx, wy, wz]) = (&taps.offsets, &taps.weights);
    let mut sum = 0.0;
    for k in 0..K {
        for j in 0..K {
            let row = oz[k] + oy[j];
            let mut line = 0.0;
            for i in 0..K {
                line += wx[i] * source[row + ox[i]];
            }
            sum += wz[k] * wy[j] * line;
        }
    }
    sum
}
