//! Rotation, translation and resampling of sampled fields.
//!
//! The value at a voxel of the result is interpolated in the source, which is zero outside its
//! grid. Maps that send voxels to voxels (the 24 rotations of the cube where the grid allows them,
//! shifts by whole voxels) are exact permutations under every interpolation.
//!
//! `docs/src/guide/resampling.md` has the loss of each interpolation.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use nalgebra::{Affine3, DMatrix, Matrix3, Point3, Vector3};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use steer3d_files::memory;
use steer3d_so3::{Block, Irrep, Irreps, Parity, Rotation};

use crate::bend::Bend;
use crate::filter::{LOBES, lanczos, low_pass};
use crate::spline;
use crate::volume::{Grid, Volume, VolumeError, check_finite, checked_len, parameter};

/// How values between voxels are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The value of the nearest voxel.
    Nearest,
    /// Linear along x, y and z.
    #[default]
    Trilinear,
    /// Cubic B-spline through the values (Unser, Aldroubi and Eden 1993).
    Cubic,
    /// Windowed sinc of three lobes (Lanczos) along x, y and z, with weights that sum to 1.
    Sinc,
}

impl Interpolation {
    const NAMES: [(Self, &str); 4] = [
        (Self::Nearest, "nearest"),
        (Self::Trilinear, "trilinear"),
        (Self::Cubic, "cubic"),
        (Self::Sinc, "sinc"),
    ];
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.into_iter().find(|(interpolation, _)| interpolation == self);
        f.write_str(named.map_or("", |(_, name)| name))
    }
}

impl FromStr for Interpolation {
    type Err = VolumeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::NAMES.into_iter().find(|(_, name)| *name == text);
        let expected = "nearest, trilinear, cubic or sinc";
        let wrong = || parameter("interpolation", expected, format!("`{text}`"));
        named.map_or_else(wrong, |(interpolation, _)| Ok(interpolation))
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
    check_irreps(irreps, channels)?;
    turn(&Samples::new(source), grid, irreps, rotation, interpolation, target)
}

/// A field that is rotated many times: what does not depend on the rotation, the coefficients of cubic
/// splines, is computed once. The values are those of [`rotate_into`], bit for bit.
///
/// ```
/// use steer3d_volume::{Grid, Interpolation, Rotator};
/// let grid = Grid::new([1, 2, 2], [1.0; 3])?;
/// let field = Rotator::new(vec![1.0, 2.0, 3.0, 4.0], grid, "1x0".parse().unwrap(), Interpolation::Cubic)?;
/// let mut turned = [0.0; 4];
/// field.rotate_into(&steer3d_so3::Rotation::identity(), &mut turned)?;
/// assert_eq!(turned, [1.0, 2.0, 3.0, 4.0]);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rotator {
    source: Vec<f32>,
    /// Of cubic splines.
    coefficients: Option<Vec<f32>>,
    grid: Grid,
    irreps: Irreps,
    interpolation: Interpolation,
}

impl Rotator {
    /// From `irreps.dim()` × D × H × W values.
    ///
    /// # Errors
    /// If there are more or fewer values, or one is not finite.
    pub fn new(
        source: Vec<f32>,
        grid: Grid,
        irreps: Irreps,
        interpolation: Interpolation,
    ) -> Result<Self, VolumeError> {
        let channels = check_slices(&source, &grid, &source)?;
        check_irreps(&irreps, channels)?;
        let coefficients = (interpolation == Interpolation::Cubic)
            .then(|| spline::coefficients(&source, grid.dims()));
        Ok(Self { source, coefficients, grid, irreps, interpolation })
    }

    /// How values between voxels are found.
    pub fn interpolation(&self) -> Interpolation {
        self.interpolation
    }

    /// The grid.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Writes the rotated field, as many values, into `target`.
    ///
    /// # Errors
    /// If `rotation` is not a rotation matrix or `target` has another length.
    pub fn rotate_into(&self, rotation: &Rotation, target: &mut [f32]) -> Result<(), VolumeError> {
        let (expected, found) = (self.source.len(), target.len());
        if found != expected {
            return Err(VolumeError::Length { what: "target", expected, found });
        }
        let samples = Samples { values: &self.source, coefficients: self.coefficients.as_deref() };
        turn(&samples, &self.grid, &self.irreps, rotation, self.interpolation, target)
    }
}

fn turn(
    samples: &Samples<'_>,
    grid: &Grid,
    irreps: &Irreps,
    rotation: &Rotation,
    interpolation: Interpolation,
    target: &mut [f32],
) -> Result<(), VolumeError> {
    let rotation = snapped(rotation)?;
    let map = IndexMap::rotation(grid, &rotation);
    let dims = grid.dims();
    resample(samples, dims, &map, interpolation, &Mixer::of(irreps, &rotation), target, dims);
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
    let map = IndexMap::new(Matrix3::identity(), shift.map(|x| -x));
    let dims = grid.dims();
    let (samples, mixers) = (Samples::new(source), [Mixer::scalars(channels)]);
    resample(&samples, dims, &map, interpolation, &mixers, target, dims);
    Ok(())
}

/// Samples a field, moved by `map`, on another grid: (A f)(p) = ρ(R) f(A⁻¹ p), zero outside, where
/// A is the map of positions x, y, z in the unit of the voxel size and R the rotation in it
/// (A = R S with a symmetric S, which stretches and is left out of ρ). The result has `grid`, with
/// voxel (0, 0, 0) at `origin` = x, y, z.
///
/// Where the result's voxels are larger than those of the (moved) source, a Lanczos kernel of
/// three lobes, stretched to the larger voxel, first removes what they cannot hold; not so for
/// [`Interpolation::Nearest`], which is for labels.
///
/// # Errors
/// If `irreps` do not have the dimension of the channels, the result would be larger than
/// [`MAX_VALUES`](crate::MAX_VALUES) or have voxels more than 1,024 times as large as the source's,
/// the origin is not finite, or the map is not finite, has no inverse or mirrors.
///
/// ```
/// use nalgebra::{Affine3, Scale3};
/// use steer3d_volume::{Grid, Interpolation, Volume, resample_to};
/// let volume = Volume::new(vec![1.0, 2.0, 3.0], 1, Grid::new([1, 1, 3], [1.0; 3])?, [0.0; 3])?;
/// let twice_as_large: Affine3<f64> = nalgebra::convert(Scale3::new(2.0, 1.0, 1.0));
/// let stretched = resample_to(&volume, &"1x0".parse().unwrap(), Grid::new([1, 1, 5], [1.0; 3])?,
///     [0.0; 3], &twice_as_large, Interpolation::Trilinear)?;
/// assert_eq!(stretched.data(), [1.0, 1.5, 2.0, 2.5, 3.0]);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
pub fn resample_to(
    volume: &Volume,
    irreps: &Irreps,
    grid: Grid,
    origin: [f64; 3],
    map: &Affine3<f64>,
    interpolation: Interpolation,
) -> Result<Volume, VolumeError> {
    check_irreps(irreps, volume.channels())?;
    let mixers = Mixer::of(irreps, &snapped(&rotation_in(map)?)?);
    let map = IndexMap::between(volume, &grid, origin, map)?;
    filter_and_warp(volume, grid, origin, &map, interpolation, &mixers)
}

/// A change of the shape of a volume about the centre of its grid: (M f)(p) = ρ(S) f(S p / s + u(p)) with the mirror
/// S, the factor s and the bend u.
#[derive(Clone, Debug, PartialEq)]
pub struct Deformation {
    /// Whether x, y and z are reversed.
    pub mirror: [bool; 3],
    /// How many times as large everything becomes.
    pub scale: f64,
    /// Where the source lies for each voxel, beside that.
    pub bend: Option<Bend>,
}

impl Default for Deformation {
    /// None at all.
    fn default() -> Self {
        Self { mirror: [false; 3], scale: 1.0, bend: None }
    }
}

impl Deformation {
    /// The mirror as a diagonal matrix.
    pub fn reflection(&self) -> Matrix3<f64> {
        let sign = |mirrored| if mirrored { -1.0 } else { 1.0 };
        Matrix3::from_diagonal(&self.mirror.map(sign).into())
    }
}

/// The irreps by which a field of type `irreps` is reflected: those of O(3) that they are, or even ones of scalars whose
/// parity is not given.
///
/// # Errors
/// [`VolumeError::Parameter`] for vectors and tensors whose parity is not given.
pub fn reflected_as(irreps: &Irreps) -> Result<Irreps, VolumeError> {
    if irreps.has_parity() {
        return Ok(irreps.clone());
    }
    if irreps.blocks().any(|block| block.irrep.l > 0) {
        let expected = "irreps with parities (1o of vectors, 1e of pseudovectors), which say what a mirror makes of them";
        return parameter("mirror", expected, irreps.to_string());
    }
    let even = Irreps::new([(irreps.dim(), Irrep::o3(0, Parity::Even))]);
    Ok(even.expect("as many scalars are irreps"))
}

/// Deforms a field of `irreps.dim()` × D × H × W values, zero outside its grid. A scale has no influence on the
/// components of vectors and tensors. Mirrors alone are exact.
///
/// # Errors
/// If the slices have other lengths, a source value is not finite, the scale is not a positive number, a mirrored
/// field has vectors or tensors without parity, or a bent one any at all.
///
/// ```
/// use steer3d_volume::{Deformation, Grid, Interpolation, deform_into};
/// let mirrored = Deformation { mirror: [true, false, false], ..Deformation::default() };
/// let mut target = [0.0; 3];
/// let grid = Grid::new([1, 1, 3], [1.0; 3])?;
/// deform_into(&[1.0, 2.0, 3.0], &grid, &"1x0".parse().unwrap(), &mirrored, Interpolation::Cubic, &mut target)?;
/// assert_eq!(target, [3.0, 2.0, 1.0]);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
pub fn deform_into(
    source: &[f32],
    grid: &Grid,
    irreps: &Irreps,
    deformation: &Deformation,
    interpolation: Interpolation,
    target: &mut [f32],
) -> Result<(), VolumeError> {
    let channels = check_slices(source, grid, target)?;
    check_irreps(irreps, channels)?;
    let Deformation { mirror, scale, bend } = deformation;
    if !(*scale > 0.0 && scale.is_finite()) {
        return parameter("scale", "a positive number", scale.to_string());
    }
    if bend.is_some() && irreps.blocks().any(|block| block.irrep.l > 0) {
        return parameter("bend", "a field of scalars", irreps.to_string());
    }
    let reflection = deformation.reflection();
    let mixers = match mirror.contains(&true) {
        true => Mixer::of_matrix(&reflected_as(irreps)?, &reflection)?,
        false => Mixer::of(irreps, &Rotation::identity()),
    };
    let (matrix, centre) = (reflection / *scale, grid.centre());
    let offset = [0, 1, 2].map(|i| centre[i] - matrix[(i, i)] * centre[i]);
    let map = IndexMap { bend: bend.clone(), ..IndexMap::new(matrix, offset) };
    let dims = grid.dims();
    resample(&Samples::new(source), dims, &map, interpolation, &mixers, target, dims);
    Ok(())
}

/// The part of a volume whose first voxel is `first` = x, y, z and which has `dims` = D, H, W
/// voxels, with zeros where it reaches beyond the volume. Positions stay.
///
/// # Errors
/// If the result would be empty or larger than [`MAX_VALUES`](crate::MAX_VALUES).
///
/// ```
/// use steer3d_volume::{Grid, Volume, crop};
/// let volume = Volume::new(vec![1.0, 2.0, 3.0], 1, Grid::new([1, 1, 3], [1.0; 3])?, [0.0; 3])?;
/// let part = crop(&volume, [1, 0, 0], [1, 1, 4])?;
/// assert_eq!(part.data(), [2.0, 3.0, 0.0, 0.0]);
/// assert_eq!(part.origin(), [1.0, 0.0, 0.0]);
/// # Ok::<(), steer3d_volume::VolumeError>(())
/// ```
pub fn crop(volume: &Volume, first: [i32; 3], dims: [usize; 3]) -> Result<Volume, VolumeError> {
    let (first, size) = (first.map(f64::from), volume.voxel_size());
    let grid = Grid::new(dims, size)?;
    let origin = [0, 1, 2].map(|i| volume.origin()[i] + first[i] * size[i]);
    let map = IndexMap::new(Matrix3::identity(), first);
    let mixers = [Mixer::scalars(volume.channels())];
    warp(volume, grid, origin, &map, Interpolation::Nearest, &mixers)
}

/// The volume with voxels of another size (x, y, z), as many as cover it, about the same centre;
/// larger voxels are filtered as [`resample_to`] says.
///
/// # Errors
/// If the size is not positive and finite or the result would be larger than
/// [`MAX_VALUES`](crate::MAX_VALUES).
pub fn change_voxel_size(
    volume: &Volume,
    size: [f64; 3],
    interpolation: Interpolation,
) -> Result<Volume, VolumeError> {
    let (old, centre, [d, h, w]) = (volume.voxel_size(), volume.grid().centre(), volume.dims());
    Grid::new(volume.dims(), size)?;
    let count = |n: usize, i: usize| ((n as f64 * old[i] / size[i] - SNAP).ceil() as usize).max(1);
    let grid = Grid::new([count(d, 2), count(h, 1), count(w, 0)], size)?;
    let new_centre = grid.centre();
    let origin =
        [0, 1, 2].map(|i| volume.origin()[i] + centre[i] * old[i] - new_centre[i] * size[i]);
    let map = IndexMap::between(volume, &grid, origin, &Affine3::identity())?;
    let mixers = [Mixer::scalars(volume.channels())];
    filter_and_warp(volume, grid, origin, &map, interpolation, &mixers)
}

/// Channels of `dims` voxels on a grid whose voxel (x, y, z) lies at `steps` · (x, y, z) of theirs.
pub(crate) fn rescaled(
    source: &[f32],
    dims: [usize; 3],
    steps: &Matrix3<f64>,
    new_dims: [usize; 3],
    interpolation: Interpolation,
) -> Vec<f32> {
    let channels = source.len() / dims.iter().product::<usize>();
    let mut target = vec![0.0; channels * new_dims.iter().product::<usize>()];
    let map = IndexMap::new(*steps, [0.0; 3]);
    let mixers = [Mixer::scalars(channels)];
    resample(&Samples::new(source), dims, &map, interpolation, &mixers, &mut target, new_dims);
    target
}

/// How many times as large as those of the source voxels may be: the filter reaches three as far.
const MAX_STEP: f64 = 1024.0;

/// How many times the voxels of a skewed lattice its upright grid may have.
const MAX_GROWTH: usize = 64;

/// A volume on an upright grid whose voxel (x, y, z) is moved to `steps` · (x, y, z) + `origin`;
/// `steps` is upper triangular with a positive diagonal. The new grid covers all of it and shares
/// its planes of constant z and their rows.
///
/// # Errors
/// If the steps or the origin are outside their range, the lattice is so skewed that the grid would
/// have 64 times the voxels, or there is too little memory for it.
pub fn upright(
    values: Vec<f32>,
    channels: usize,
    dims: [usize; 3],
    steps: &Matrix3<f64>,
    origin: [f64; 3],
) -> Result<Volume, VolumeError> {
    let size = steps.diagonal();
    let volume = Volume::new(values, channels, Grid::new(dims, size.into())?, origin)?;
    // Index along the new axes of a voxel of the old ones.
    let matrix = Matrix3::from_fn(|i, j| steps[(i, j)] / size[i]);
    if matrix == Matrix3::identity() {
        return Ok(volume);
    }
    let [d, h, w] = dims.map(|n| (n - 1) as f64);
    let reach =
        Matrix3::from_columns(&[w * matrix.column(0), h * matrix.column(1), d * matrix.column(2)]);
    let low = Vector3::from_fn(|i, _| reach.row(i).map(|x| x.min(0.0)).sum().floor());
    let high = Vector3::from_fn(|i, _| (reach.row(i).map(|x| x.max(0.0)).sum() - SNAP).ceil());
    let [w, h, d]: [usize; 3] = (high - low).map(|n| (n + 1.0) as usize).into();
    let grid = Grid::new([d, h, w], size.into())?;
    let growth = grid.voxels() / volume.grid().voxels();
    // Extreme ratios of edges have no inverse in f64.
    let inverse = matrix.try_inverse().filter(|m| m.iter().all(|x| x.is_finite()));
    let Some(inverse) = inverse.filter(|_| growth <= MAX_GROWTH) else {
        return Err(VolumeError::Parameter {
            field: "cell",
            expected: "angles and edges for which an upright grid has at most 64 times the voxels",
            found: format!("{growth} times, steps {:?}", steps.transpose().data.0),
        });
    };
    // The coefficients of the spline, and the new values.
    let _room = memory::take(4 * (channels * (volume.grid().voxels() + grid.voxels())) as u64)?;
    let map = IndexMap::new(inverse, (inverse * low).into());
    let origin = Vector3::from(origin) + low.component_mul(&size);
    let mixers = [Mixer::scalars(channels)];
    warp(&volume, grid, origin.into(), &map, Interpolation::Cubic, &mixers)
}

/// [`warp`], after a filter that removes what the new grid cannot hold.
fn filter_and_warp(
    volume: &Volume,
    grid: Grid,
    origin: [f64; 3],
    map: &IndexMap,
    interpolation: Interpolation,
    mixers: &[Mixer],
) -> Result<Volume, VolumeError> {
    let step = [0, 1, 2].map(|i| map.matrix.row(i).norm());
    if interpolation == Interpolation::Nearest || step.iter().all(|&step| step <= 1.0 + SNAP) {
        return warp(volume, grid, origin, map, interpolation, mixers);
    }
    if let Some(step) = step.iter().find(|step| **step > MAX_STEP) {
        let expected = "at most 1024 times as large as those of the source";
        return parameter("voxels", expected, format!("{step:e} times"));
    }
    let mut filtered = volume.data().to_vec();
    low_pass(&mut filtered, volume.dims(), step);
    warp(&volume.with_data(filtered), grid, origin, map, interpolation, mixers)
}

/// The volume on another grid, of which `map` gives the source indices.
fn warp(
    volume: &Volume,
    grid: Grid,
    origin: [f64; 3],
    map: &IndexMap,
    interpolation: Interpolation,
    mixers: &[Mixer],
) -> Result<Volume, VolumeError> {
    let mut target = vec![0.0; checked_len(volume.channels(), grid.dims())?];
    let dims = volume.dims();
    let samples = Samples::new(volume.data());
    resample(&samples, dims, map, interpolation, mixers, &mut target, grid.dims());
    Volume::new(target, volume.channels(), grid, origin)
}

/// The rotation R of a map's matrix R S with a symmetric S.
fn rotation_in(map: &Affine3<f64>) -> Result<Rotation, VolumeError> {
    let matrix: Matrix3<f64> = map.matrix().fixed_view::<3, 3>(0, 0).into();
    // Also false for NaN.
    if !(matrix.iter().all(|x| x.is_finite()) && matrix.determinant() > 0.0) {
        return Err(VolumeError::Parameter {
            field: "map",
            expected: "a finite matrix of positive determinant",
            found: format!("{:?}", matrix.transpose().data.0),
        });
    }
    let svd = matrix.svd(true, true);
    let (u, v) = (svd.u.expect("asked for"), svd.v_t.expect("asked for"));
    Ok(Rotation::from_matrix_unchecked(u * v))
}

fn check_irreps(irreps: &Irreps, channels: usize) -> Result<(), VolumeError> {
    if irreps.dim() == channels {
        return Ok(());
    }
    Err(VolumeError::Irreps { irreps: irreps.to_string(), dim: irreps.dim(), channels })
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

/// Distance below which an index is taken for the whole number beside it.
const SNAP: f64 = 1e-9;

fn snap(x: f64) -> f64 {
    if (x - x.round()).abs() < SNAP { x.round() } else { x }
}

/// Source index = matrix · target index + offset, all in x, y, z, and where there is a bend what that says.
struct IndexMap {
    matrix: Matrix3<f64>,
    offset: [f64; 3],
    bend: Option<Bend>,
}

impl IndexMap {
    fn new(matrix: Matrix3<f64>, offset: [f64; 3]) -> Self {
        Self { matrix, offset, bend: None }
    }

    fn rotation(grid: &Grid, rotation: &Rotation) -> Self {
        let (size, centre) = (grid.voxel_size(), grid.centre());
        let matrix = Matrix3::from_fn(|i, j| rotation[(j, i)] * (size[j] / size[i]));
        let offset =
            [0, 1, 2].map(|i| centre[i] - (0..3).map(|j| matrix[(i, j)] * centre[j]).sum::<f64>());
        Self::new(matrix, offset)
    }

    /// From the grid of the result to that of `volume`, which `map` moves.
    fn between(
        volume: &Volume,
        grid: &Grid,
        origin: [f64; 3],
        map: &Affine3<f64>,
    ) -> Result<Self, VolumeError> {
        let unusable = || VolumeError::Parameter {
            field: "map",
            expected: "a finite map with an inverse, and a finite origin",
            found: format!("{:?} and {origin:?}", map.matrix().transpose().data.0),
        };
        let back = map.try_inverse().ok_or_else(unusable)?;
        let (old, new) = (volume.voxel_size(), grid.voxel_size());
        let matrix = Matrix3::from_fn(|i, j| snap(back.matrix()[(i, j)] * new[j] / old[i]));
        let first = back * Point3::from(origin);
        let offset = [0, 1, 2].map(|i| snap((first[i] - volume.origin()[i]) / old[i]));
        let finite = matrix.iter().chain(&offset).all(|x| x.is_finite());
        if finite { Ok(Self::new(matrix, offset)) } else { Err(unusable()) }
    }

    /// Does every voxel map to a voxel (inside the grid or outside)?
    fn permutes(&self) -> bool {
        self.bend.is_none() && self.matrix.iter().chain(&self.offset).all(|x| x.fract() == 0.0)
    }
}

/// `mul` fields of `dim` components each, mixed by a matrix.
struct Mixer {
    mul: usize,
    dim: usize,
    /// Rows of the matrix; none for what stays as it is.
    rows: Vec<Vec<f32>>,
}

impl Mixer {
    fn scalars(channels: usize) -> Self {
        Self { mul: channels, rows: Vec::new(), dim: 1 }
    }

    /// What turns fields of types `irreps`.
    fn of(irreps: &Irreps, rotation: &Rotation) -> Vec<Self> {
        let mixer = |block: Block| {
            let one = Irreps::new([(1, block.irrep)]).expect("an irrep of valid irreps is valid");
            Self::new(block.mul, &one.wigner_d(rotation))
        };
        irreps.blocks().map(mixer).collect()
    }

    /// What turns or reflects fields of types `irreps`, which have parities.
    fn of_matrix(irreps: &Irreps, matrix: &Matrix3<f64>) -> Result<Vec<Self>, VolumeError> {
        let mixer = |block: Block| {
            let one = block.irrep.matrix(matrix);
            Ok(Self::new(block.mul, &one.map_err(|_| VolumeError::NotARotation)?))
        };
        irreps.blocks().map(mixer).collect()
    }

    fn new(mul: usize, matrix: &DMatrix<f64>) -> Self {
        let dim = matrix.nrows();
        if dim == 1 && matrix[0] == 1.0 {
            return Self { mul, dim, rows: Vec::new() };
        }
        let rows = matrix.row_iter().map(|row| row.iter().map(|&x| x as f32).collect());
        Self { mul, dim, rows: rows.collect() }
    }
}

/// The values of a field, and their spline's coefficients where they have been computed.
struct Samples<'a> {
    values: &'a [f32],
    coefficients: Option<&'a [f32]>,
}

impl<'a> Samples<'a> {
    fn new(values: &'a [f32]) -> Self {
        Self { values, coefficients: None }
    }
}

/// Writes every voxel of `target` (channels of `new_dims`) from `samples` (channels of `dims`).
fn resample(
    samples: &Samples<'_>,
    dims: [usize; 3],
    map: &IndexMap,
    interpolation: Interpolation,
    mixers: &[Mixer],
    target: &mut [f32],
    new_dims: [usize; 3],
) {
    let interpolation = if map.permutes() { Interpolation::Nearest } else { interpolation };
    let source = samples.values;
    match interpolation {
        Interpolation::Nearest => {
            Sampler { source, dims, map, weigh: nearest, decay: 0.0 }.run(mixers, target, new_dims);
        }
        Interpolation::Trilinear => {
            Sampler { source, dims, map, weigh: linear, decay: 0.0 }.run(mixers, target, new_dims);
        }
        Interpolation::Cubic => {
            let source = &match samples.coefficients {
                Some(coefficients) => Cow::Borrowed(coefficients),
                None => Cow::Owned(spline::coefficients(source, dims)),
            };
            Sampler { source, dims, map, weigh: cubic, decay: spline::POLE }
                .run(mixers, target, new_dims);
        }
        Interpolation::Sinc => {
            Sampler { source, dims, map, weigh: sinc, decay: 0.0 }.run(mixers, target, new_dims);
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

fn sinc(x: f64) -> (isize, [f32; 2 * LOBES]) {
    let (below, t) = split(x);
    let weights = std::array::from_fn(|k| lanczos(t + LOBES as f64 - 1.0 - k as f64));
    let sum: f64 = weights.iter().sum();
    (below + 1 - LOBES as isize, weights.map(|w: f64| (w / sum) as f32))
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
    /// D, H, W of the source.
    dims: [usize; 3],
    map: &'a IndexMap,
    /// First source index and weights along one axis of a position.
    weigh: W,
    /// Beyond the grid, a value is the one at the face times this for each voxel of distance.
    decay: f64,
}

impl<W> Sampler<'_, W> {
    /// Fills `target`, channels of D, H, W voxels, one plane of constant z in each task.
    fn run<const K: usize>(&self, mixers: &[Mixer], target: &mut [f32], [d, h, w]: [usize; 3])
    where
        W: Fn(f64) -> (isize, [f32; K]) + Sync,
    {
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
        if mixer.rows.is_empty() {
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
        let bent = self.map.bend.as_ref().map_or([0.0; 3], |bend| bend.at(index));
        for (axis, (len, stride)) in [(w, 1), (h, w), (d, h * w)].into_iter().enumerate() {
            let row = self.map.matrix.row(axis);
            let position = row[0] * index[0] as f64
                + row[1] * index[1] as f64
                + row[2] * index[2] as f64
                + self.map.offset[axis]
                + bent[axis];
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
