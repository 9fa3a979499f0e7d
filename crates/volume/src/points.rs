//! Point clouds and their Gaussian densities on a grid.

use std::f64::consts::FRAC_1_SQRT_2;

use nalgebra::{Matrix3, Vector3};
use serde::{Deserialize, Serialize};
use steer3d_so3::Rotation;

use crate::molecule::Cell;
use crate::volume::{Grid, MAX_LENGTH, Volume, VolumeError, check_coordinates, checked_len};

/// What a point carries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PointValue {
    /// A weight: the point adds to one channel.
    Scalar(f64),
    /// A vector x, y, z, which rotates with the points: the point adds to three channels, a field
    /// of l = 1.
    Vector([f64; 3]),
}

impl PointValue {
    /// The weight, or the three components of the vector: one for each channel.
    pub fn components(&self) -> &[f64] {
        match self {
            Self::Scalar(weight) => std::slice::from_ref(weight),
            Self::Vector(vector) => vector,
        }
    }

    fn rotated(self, rotation: &Rotation) -> Self {
        match self {
            Self::Scalar(_) => self,
            Self::Vector(vector) => Self::Vector((rotation * Vector3::from(vector)).into()),
        }
    }
}

/// Points with a channel each, for example the atoms of a molecule with their type, and values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PointCloud {
    positions: Vec<[f64; 3]>,
    channels: Vec<u16>,
    /// Empty if every value is the scalar 1.
    values: Vec<PointValue>,
}

impl PointCloud {
    /// Points of the scalar 1 at `positions` = x, y, z about the centre of rotation, in physical
    /// units.
    ///
    /// # Errors
    /// If there is not one channel for each position, or a coordinate is not a number or larger than
    /// [`MAX_LENGTH`] in magnitude.
    pub fn new(positions: Vec<[f64; 3]>, channels: Vec<u16>) -> Result<Self, VolumeError> {
        if positions.len() != channels.len() {
            return Err(VolumeError::Length {
                what: "channels of points",
                expected: positions.len(),
                found: channels.len(),
            });
        }
        check_coordinates("positions", &positions)?;
        Ok(Self { positions, channels, values: Vec::new() })
    }

    /// The same points with `values`; a vector takes the point's channel and the next two.
    ///
    /// # Errors
    /// If there is not one value for each point or a value is not finite.
    pub fn with_values(mut self, values: Vec<PointValue>) -> Result<Self, VolumeError> {
        let expected = self.len();
        if values.len() != expected {
            let found = values.len();
            return Err(VolumeError::Length { what: "values of points", expected, found });
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(&value) = value.components().iter().find(|x| !x.is_finite()) {
                return Err(VolumeError::NotFinite { what: "values of points", index, value });
            }
        }
        let plain = values.iter().all(|&value| value == PointValue::Scalar(1.0));
        self.values = if plain { Vec::new() } else { values };
        Ok(self)
    }

    /// The same points moved so that their mean is at the origin.
    pub fn centred(self) -> Self {
        let count = self.positions.len().max(1) as f64;
        let mean =
            [0, 1, 2].map(|axis| self.positions.iter().map(|p| p[axis]).sum::<f64>() / count);
        self.translated(mean.map(|x| -x))
    }

    /// The same points moved by `shift` = x, y, z.
    pub fn translated(mut self, shift: [f64; 3]) -> Self {
        for position in &mut self.positions {
            *position = [0, 1, 2].map(|axis| position[axis] + shift[axis]);
        }
        self
    }

    /// The same points, and their vectors, after `rotation` about the origin.
    pub fn rotated(&self, rotation: &Rotation) -> Self {
        let turn = |&position| (rotation * Vector3::from(position)).into();
        let positions = self.positions.iter().map(turn).collect();
        let values = self.values.iter().map(|value| value.rotated(rotation)).collect();
        Self { positions, channels: self.channels.clone(), values }
    }

    /// Positions x, y, z.
    pub fn positions(&self) -> &[[f64; 3]] {
        &self.positions
    }

    /// Channel of each point: the first of three if the point has a vector.
    pub fn channels(&self) -> &[u16] {
        &self.channels
    }

    /// Value of each point, or `None` if every one is the scalar 1.
    pub fn values(&self) -> Option<&[PointValue]> {
        (!self.values.is_empty()).then_some(self.values.as_slice())
    }

    /// Value of a point.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn value(&self, point: usize) -> PointValue {
        assert!(point < self.len(), "point {point} of {}", self.len());
        self.values.get(point).copied().unwrap_or(PointValue::Scalar(1.0))
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Are there no points?
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The first channel that a point needs and that is not below `channels`.
    pub fn channel_beyond(&self, channels: usize) -> Option<usize> {
        let last = |point: usize| {
            usize::from(self.channels[point]) + self.value(point).components().len() - 1
        };
        (0..self.len()).map(last).find(|&channel| channel >= channels)
    }
}

/// What the values of one point's Gaussian sum to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// Gaussian sampled at the voxel centres and scaled to sum to 1 over the voxels of the grid
    /// within the cut-off: a point near a face counts in full. The code of Weiler et al. 2018 does
    /// so.
    #[default]
    GridSum,
    /// Integral of the normalised Gaussian over each voxel: what lies beyond the grid is lost, and
    /// the rest sums to 1 but for the tails beyond the cut-off.
    Integral,
}

impl Normalisation {
    #[allow(clippy::trivially_copy_pass_by_ref)] // serde calls it with a reference
    fn is_grid_sum(&self) -> bool {
        *self == Self::GridSum
    }
}

/// A Gaussian that stands for a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gaussian {
    /// Width σ, in the unit of the points.
    pub sigma: f64,
    /// The Gaussian ends where a coordinate differs by more than this, in the unit of the points.
    pub cutoff: f64,
    /// What its values sum to.
    pub normalisation: Normalisation,
}

/// Largest number of points and their periodic images for one volume.
const MAX_IMAGES: f64 = (1u32 << 28) as f64;

impl Gaussian {
    /// Checks σ and the cut-off.
    ///
    /// # Errors
    /// If one of them is not a positive number of at most [`MAX_LENGTH`].
    pub fn check(&self) -> Result<(), VolumeError> {
        for (field, value) in [("sigma", self.sigma), ("cutoff", self.cutoff)] {
            if !(value > 0.0 && value <= MAX_LENGTH) {
                return Err(VolumeError::Parameter {
                    field,
                    expected: "a positive number of at most 1e30",
                    found: value.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The densities of `cloud` after `rotation` about the centre of `grid`, into `target` of
    /// channels × D × H × W values, which it overwrites. With a `cell`, every point is repeated by
    /// the edges of the cell, which rotate with it; this needs [`Normalisation::Integral`], since
    /// a Gaussian cut by a face goes on at another one.
    ///
    /// # Errors
    /// If σ or the cut-off is outside its range, `target` is not of a number of channels of the
    /// grid, a point has a channel beyond it, or the cell is so small that it would be repeated
    /// more than 2²⁸ times.
    pub fn density_into(
        &self,
        cloud: &PointCloud,
        rotation: &Rotation,
        cell: Option<&Cell>,
        grid: &Grid,
        target: &mut [f32],
    ) -> Result<(), VolumeError> {
        self.check()?;
        let (voxels, found) = (grid.voxels(), target.len());
        if !found.is_multiple_of(voxels) {
            let expected = found.div_ceil(voxels) * voxels;
            return Err(VolumeError::Length { what: "target", expected, found });
        }
        let channels = found / voxels;
        if let Some(channel) = cloud.channel_beyond(channels) {
            return Err(VolumeError::Parameter {
                field: "channel of a point",
                expected: "a number below the voxeliser's channels",
                found: format!("{channel}, with {channels} channels"),
            });
        }
        let images = match cell {
            None => None,
            Some(cell) => Some(self.images(cloud.len(), &cell.rotated(rotation), grid)?),
        };
        target.fill(0.0);
        let mut splat = Splat { gaussian: *self, grid: *grid, profiles: Default::default() };
        for (point, &position) in cloud.positions.iter().enumerate() {
            let position: [f64; 3] = (rotation * Vector3::from(position)).into();
            let value = cloud.value(point).rotated(rotation);
            let target = &mut target[usize::from(cloud.channels[point]) * voxels..];
            match &images {
                None => splat.add(position, value, target),
                Some(images) => images.each(position, |image| splat.add(image, value, target)),
            }
        }
        Ok(())
    }

    /// The periodic images that reach into the grid, which is centred on the origin.
    fn images(&self, points: usize, cell: &Cell, grid: &Grid) -> Result<Images, VolumeError> {
        if self.normalisation != Normalisation::Integral {
            return Err(VolumeError::Parameter {
                field: "normalisation",
                expected: "the integral, with a periodic cell",
                found: "the sum over the grid".to_owned(),
            });
        }
        let vectors = cell.matrix();
        let Some(inverse) = vectors.try_inverse() else {
            return Err(VolumeError::Parameter {
                field: "cell",
                expected: "edges that do not lie in a plane",
                found: format!("{:?}", cell.vectors()),
            });
        };
        let (centre, size) = (grid.centre(), grid.voxel_size());
        let half = Vector3::from_fn(|axis, _| (centre[axis] + 0.5) * size[axis] + self.cutoff);
        let reach = inverse.abs() * half;
        let count = points as f64 * reach.iter().map(|r| 2.0 * r + 1.0).product::<f64>();
        if count.is_finite() && count <= MAX_IMAGES {
            return Ok(Images { vectors, inverse, reach });
        }
        Err(VolumeError::Parameter {
            field: "cell",
            expected: "at most 2^28 periodic images of all points within the grid and the cut-off",
            found: format!("{count:.0}"),
        })
    }
}

/// Periodic images near a grid.
struct Images {
    vectors: Matrix3<f64>,
    inverse: Matrix3<f64>,
    /// Half the extent of the grid and cut-off, in fractional coordinates.
    reach: Vector3<f64>,
}

impl Images {
    fn each(&self, position: [f64; 3], mut visit: impl FnMut([f64; 3])) {
        let fractional = (self.inverse * Vector3::from(position)).map(|f| f - f.floor());
        let range = |axis: usize| {
            let (f, reach) = (fractional[axis], self.reach[axis]);
            (-reach - f).ceil() as i64..=(reach - f).floor() as i64
        };
        for c in range(2) {
            for b in range(1) {
                for a in range(0) {
                    let shift = Vector3::new(a as f64, b as f64, c as f64);
                    visit((self.vectors * (fractional + shift)).into());
                }
            }
        }
    }
}

/// Adds points to channels of a grid.
struct Splat {
    gaussian: Gaussian,
    grid: Grid,
    /// Along x, y, z; kept to save allocations.
    profiles: [Profile; 3],
}

/// First voxel and weights of a Gaussian along one axis.
#[derive(Default)]
struct Profile {
    first: usize,
    weights: Vec<f64>,
}

impl Splat {
    /// Adds a point to the channels that `target` begins with.
    fn add(&mut self, position: [f64; 3], value: PointValue, target: &mut [f32]) {
        let ([d, h, w], size) = (self.grid.dims(), self.grid.voxel_size());
        for (axis, n) in [w, h, d].into_iter().enumerate() {
            self.profiles[axis].fill(&self.gaussian, position[axis], n, size[axis]);
        }
        for (&weight, channel) in value.components().iter().zip(target.chunks_mut(d * h * w)) {
            self.add_scalar(weight, channel);
        }
    }

    fn add_scalar(&self, weight: f64, target: &mut [f32]) {
        let [_, h, w] = self.grid.dims();
        let [x, y, z] = &self.profiles;
        for (k, wz) in z.weights.iter().enumerate() {
            for (j, wy) in y.weights.iter().enumerate() {
                let start = ((z.first + k) * h + y.first + j) * w + x.first;
                let weight = weight * wz * wy;
                for (value, wx) in target[start..].iter_mut().zip(&x.weights) {
                    *value += (weight * wx) as f32;
                }
            }
        }
    }
}

impl Profile {
    /// The Gaussian at `coordinate` on `n` voxels of `size` about the origin.
    fn fill(&mut self, gaussian: &Gaussian, coordinate: f64, n: usize, size: f64) {
        let centre = (n - 1) as f64 / 2.0;
        // A sampled Gaussian reaches voxel centres, an integrated one voxels.
        let margin = match gaussian.normalisation {
            Normalisation::GridSum => 0.0,
            Normalisation::Integral => 0.5,
        };
        let index = |x: f64| (x / size + centre).clamp(-2.0, n as f64 + 1.0);
        let first = (index(coordinate - gaussian.cutoff) - margin).ceil();
        let end = (index(coordinate + gaussian.cutoff) + margin).floor() + 1.0;
        self.first = first.clamp(0.0, n as f64) as usize;
        let range = self.first..end.clamp(0.0, n as f64) as usize;
        let distance = |i: usize| (i as f64 - centre) * size - coordinate;
        self.weights.clear();
        match gaussian.normalisation {
            Normalisation::GridSum => self.sample(gaussian.sigma, range.map(distance)),
            Normalisation::Integral => {
                let below = |x: f64| 0.5 * libm::erf(x / gaussian.sigma * FRAC_1_SQRT_2);
                let integral = |x: f64| below(x + 0.5 * size) - below(x - 0.5 * size);
                self.weights.extend(range.map(distance).map(integral));
            }
        }
    }

    /// The Gaussian at `distances`, scaled to sum to 1.
    fn sample(&mut self, sigma: f64, distances: impl Iterator<Item = f64>) {
        self.weights.extend(distances.map(|x| x * x / (2.0 * sigma * sigma)));
        // Subtracting the smallest exponent keeps a far tail from underflowing to 0 / 0.
        let smallest = self.weights.iter().copied().fold(f64::INFINITY, f64::min);
        self.weights.iter_mut().for_each(|exponent| *exponent = (smallest - *exponent).exp());
        let sum: f64 = self.weights.iter().sum();
        self.weights.iter_mut().for_each(|weight| *weight /= sum);
    }
}

/// Turns a point cloud into densities on a cubic grid centred on the origin.
///
/// Each point adds its value times a Gaussian exp(-r² / 2σ²), normalised as
/// [`Normalisation`] says, to its channel: with the sum over the grid, the scheme of the CATH
/// experiment of Weiler et al. 2018 (<https://arxiv.org/abs/1807.02547>, section 5.4). The Gaussian
/// is cut off where a coordinate differs by more than `cutoff` σ; points farther than that from
/// every voxel centre add nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voxeliser {
    /// Voxels along each edge of the grid.
    pub size: usize,
    /// Edge of a voxel, in the unit of the points.
    pub voxel_size: f64,
    /// Width σ of the Gaussian, in the unit of the points.
    pub sigma: f64,
    /// Number of channels.
    pub channels: usize,
    /// Cut-off of the Gaussian in units of σ.
    pub cutoff: f64,
    /// What the values of one point's Gaussian sum to.
    #[serde(default, skip_serializing_if = "Normalisation::is_grid_sum")]
    pub normalisation: Normalisation,
}

impl Voxeliser {
    /// One channel of `size`³ voxels, σ half a voxel and a cut-off of 5 σ, as Weiler et al. 2018
    /// use for CATH (there 50³ voxels of 2 Å).
    pub fn paper(size: usize, voxel_size: f64) -> Self {
        let (sigma, normalisation) = (0.5 * voxel_size, Normalisation::GridSum);
        Self { size, voxel_size, sigma, channels: 1, cutoff: 5.0, normalisation }
    }

    /// The Gaussian of each point.
    pub fn gaussian(&self) -> Gaussian {
        let Self { sigma, normalisation, .. } = *self;
        Gaussian { sigma, cutoff: self.cutoff * sigma, normalisation }
    }

    /// The grid of the volumes.
    ///
    /// # Errors
    /// If the size, voxel size, σ, cut-off or number of channels is outside its range.
    pub fn grid(&self) -> Result<Grid, VolumeError> {
        let grid = Grid::new([self.size; 3], [self.voxel_size; 3])?;
        checked_len(self.channels, grid.dims())?;
        self.gaussian().check()?;
        Ok(grid)
    }

    /// The density of `cloud` after `rotation` of its points, as `channels` × size³ values.
    ///
    /// # Errors
    /// As [`Voxeliser::grid`], and if a point has a channel that the voxeliser lacks.
    ///
    /// ```
    /// use steer3d_so3::Rotation;
    /// use steer3d_volume::{PointCloud, Voxeliser};
    /// let cloud = PointCloud::new(vec![[0.0, 1.0, 2.0], [0.5, 0.0, 0.0]], vec![0, 0])?;
    /// let volume = Voxeliser::paper(24, 2.0).voxelise(&cloud, &Rotation::identity())?;
    /// assert!((volume.data().iter().sum::<f32>() - 2.0).abs() < 1e-5);
    /// # Ok::<(), steer3d_volume::VolumeError>(())
    /// ```
    pub fn voxelise(&self, cloud: &PointCloud, rotation: &Rotation) -> Result<Volume, VolumeError> {
        let grid = self.grid()?;
        let mut data = vec![0.0; self.channels * grid.voxels()];
        self.voxelise_into(cloud, rotation, &mut data)?;
        Volume::centred(data, self.channels, grid)
    }

    /// [`Voxeliser::voxelise`] into a slice of `channels` × size³ values, which it overwrites.
    ///
    /// # Errors
    /// As [`Voxeliser::voxelise`], and if the slice has another length.
    pub fn voxelise_into(
        &self,
        cloud: &PointCloud,
        rotation: &Rotation,
        target: &mut [f32],
    ) -> Result<(), VolumeError> {
        let grid = self.grid()?;
        let expected = self.channels * grid.voxels();
        if target.len() != expected {
            return Err(VolumeError::Length { what: "target", expected, found: target.len() });
        }
        self.gaussian().density_into(cloud, rotation, None, &grid, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steer3d_so3::random_rotations;

    fn cloud(positions: &[[f64; 3]]) -> PointCloud {
        PointCloud::new(positions.to_vec(), vec![0; positions.len()]).unwrap()
    }

    #[test]
    fn each_point_sums_to_one_in_its_channel() {
        let points =
            PointCloud::new(vec![[0.3, -1.0, 2.0], [1.0; 3], [-11.4, 0.0, 0.0]], vec![0, 1, 1]);
        let voxeliser = Voxeliser { channels: 2, ..Voxeliser::paper(12, 2.0) };
        for rotation in random_rotations(1, 8) {
            let volume = voxeliser.voxelise(points.as_ref().unwrap(), &rotation).unwrap();
            for (channel, expected) in volume.data().chunks(12 * 12 * 12).zip([1.0, 2.0]) {
                let sum: f64 = channel.iter().map(|&v| f64::from(v)).sum();
                assert!((sum - expected).abs() < 1e-5, "{sum}");
            }
        }
    }

    #[test]
    fn points_beyond_the_cutoff_add_nothing() {
        let voxeliser = Voxeliser::paper(8, 1.0);
        for far in [7.0, 1e30, -7.0, -1e30] {
            let volume = voxeliser.voxelise(&cloud(&[[0.0, far, 0.0]]), &Rotation::identity());
            assert!(volume.unwrap().data().iter().all(|&v| v == 0.0), "{far}");
        }
    }

    #[test]
    fn a_density_matches_the_direct_formula() {
        let voxeliser = Voxeliser { cutoff: 40.0, ..Voxeliser::paper(6, 1.5) };
        let position = [0.4, -2.0, 1.1];
        let volume = voxeliser.voxelise(&cloud(&[position]), &Rotation::identity()).unwrap();
        let mut direct = Vec::new();
        for z in 0..6 {
            for y in 0..6 {
                for x in 0..6 {
                    let at = [x, y, z].map(|i| (f64::from(i) - 2.5) * 1.5);
                    let r2: f64 = at.iter().zip(position).map(|(a, b)| (a - b).powi(2)).sum();
                    direct.push((-r2 / (2.0 * 0.75 * 0.75)).exp());
                }
            }
        }
        let sum: f64 = direct.iter().sum();
        for (found, expected) in volume.data().iter().zip(direct) {
            // Rounding to f32 alone.
            assert!((f64::from(*found) - expected / sum).abs() < 1e-7);
        }
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let good = Voxeliser::paper(8, 1.0);
        let one = cloud(&[[0.0; 3]]);
        for bad in [
            Voxeliser { size: 0, ..good },
            Voxeliser { size: 1 << 20, ..good },
            Voxeliser { voxel_size: 0.0, ..good },
            Voxeliser { sigma: f64::NAN, ..good },
            Voxeliser { cutoff: -1.0, ..good },
            Voxeliser { channels: 0, ..good },
        ] {
            assert!(bad.voxelise(&one, &Rotation::identity()).is_err(), "{bad:?}");
        }
        assert!(PointCloud::new(vec![[f64::NAN; 3]], vec![0]).is_err());
        assert!(PointCloud::new(vec![[0.0; 3]], vec![]).is_err());
        let channel_one = PointCloud::new(vec![[0.0; 3]], vec![1]).unwrap();
        assert!(good.voxelise(&channel_one, &Rotation::identity()).is_err());
    }

    fn integral(sigma: f64) -> Gaussian {
        Gaussian { sigma, cutoff: 5.0 * sigma, normalisation: Normalisation::Integral }
    }

    fn density(
        gaussian: Gaussian,
        cloud: &PointCloud,
        rotation: &Rotation,
        cell: Option<&Cell>,
        grid: Grid,
        channels: usize,
    ) -> Vec<f32> {
        let mut target = vec![f32::NAN; channels * grid.voxels()];
        gaussian.density_into(cloud, rotation, cell, &grid, &mut target).unwrap();
        target
    }

    fn sum(values: &[f32]) -> f64 {
        values.iter().map(|&value| f64::from(value)).sum()
    }

    #[test]
    fn integrals_keep_the_mass_of_any_width_and_place() {
        let grid = Grid::new([9, 12, 10], [1.0, 0.8, 1.5]).unwrap();
        for (width, position) in
            [(0.05, [0.3, -0.2, 0.1]), (0.4, [0.5, 0.0, -1.0]), (0.5, [1.37, 1.0, 0.75])]
        {
            let found = sum(&density(
                integral(width),
                &cloud(&[position]),
                &Rotation::identity(),
                None,
                grid,
                1,
            ));
            // The tails beyond 5 sigma of three axes are 2e-6; voxels are rounded to f32.
            assert!((found - 1.0).abs() < 1e-5, "{width} {found}");
        }
        // Half of a point on a face, a quarter of one on an edge.
        let edge = [4.5 * 1.0 + 0.5, 0.0, 0.0];
        let corner = [edge[0], 6.0 * 0.8, 0.0];
        let grid = Grid::new([9, 12, 10], [1.0, 0.8, 1.5]).unwrap();
        for (position, expected) in [(edge, 0.5), (corner, 0.25)] {
            let found = sum(&density(
                integral(0.3),
                &cloud(&[position]),
                &Rotation::identity(),
                None,
                grid,
                1,
            ));
            assert!((found - expected).abs() < 1e-5, "{found}");
        }
    }

    #[test]
    fn an_integral_is_that_of_the_gaussian_over_the_voxel() {
        let grid = Grid::new([3; 3], [1.0; 3]).unwrap();
        let wide = Gaussian { cutoff: 50.0, ..integral(0.7) };
        let position = [0.2, -0.1, 0.4];
        let found = density(wide, &cloud(&[position]), &Rotation::identity(), None, grid, 1);
        // Midpoint rule along each axis.
        let cells = 2000;
        let along = |index: i32, axis: usize| {
            let middle = |k: i32| f64::from(index) - 0.5 + (f64::from(k) + 0.5) / f64::from(cells);
            let value = |k| (-(middle(k) - position[axis]).powi(2) / (2.0 * 0.49)).exp();
            let scale = f64::from(cells) * 0.7 * (2.0 * std::f64::consts::PI).sqrt();
            (0..cells).map(value).sum::<f64>() / scale
        };
        for (i, &value) in found.iter().enumerate() {
            let i = i as i32;
            let expected = along(i % 3 - 1, 0) * along(i / 3 % 3 - 1, 1) * along(i / 9 - 1, 2);
            assert!((f64::from(value) - expected).abs() < 1e-7, "{value} {expected}");
        }
    }

    #[test]
    fn values_weigh_points_and_vectors_turn_with_them() {
        let positions = vec![[0.5, 1.0, -0.5], [-1.0, 0.2, 0.3]];
        let vector = [1.0, -2.0, 0.5];
        let values = vec![PointValue::Scalar(-0.25), PointValue::Vector(vector)];
        let points = PointCloud::new(positions, vec![3, 0]).unwrap().with_values(values).unwrap();
        let grid = Grid::new([16; 3], [0.7; 3]).unwrap();
        for rotation in random_rotations(5, 4) {
            let found = density(integral(0.5), &points, &rotation, None, grid, 4);
            let turned = rotation * Vector3::from(vector);
            let expected = [turned[0], turned[1], turned[2], -0.25];
            for (channel, expected) in found.chunks(grid.voxels()).zip(expected) {
                assert!((sum(channel) - expected).abs() < 1e-4);
            }
            // Rotating the source first is the same.
            let source = points.rotated(&rotation);
            let again = density(integral(0.5), &source, &Rotation::identity(), None, grid, 4);
            assert_eq!(found, again);
        }
        let short = Voxeliser { channels: 2, ..Voxeliser::paper(8, 1.0) };
        assert!(short.voxelise(&points, &Rotation::identity()).is_err());
        let one = cloud(&[[0.0; 3]]);
        assert!(one.clone().with_values(Vec::new()).is_err());
        assert!(one.with_values(vec![PointValue::Vector([0.0, f64::NAN, 0.0])]).is_err());
    }

    #[test]
    fn the_quarter_turns_of_the_source_permute_the_voxels_of_a_vector_field() {
        let positions = vec![[0.5, 1.0, -0.5], [-1.0, 0.2, 0.3]];
        let values =
            vec![PointValue::Vector([1.0, -2.0, 0.5]), PointValue::Vector([0.3, 0.1, 2.0])];
        let points = PointCloud::new(positions, vec![0, 0]).unwrap().with_values(values).unwrap();
        let grid = Grid::new([10; 3], [0.6; 3]).unwrap();
        let irreps = "1x1".parse().unwrap();
        let still = density(integral(0.5), &points, &Rotation::identity(), None, grid, 3);
        for element in steer3d_so3::cube_group() {
            let found = density(integral(0.5), &points, &element, None, grid, 3);
            let mut expected = vec![0.0; still.len()];
            let cubic = crate::Interpolation::Nearest;
            crate::rotate_into(&still, &grid, &irreps, &element, cubic, &mut expected).unwrap();
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn periodic_images_fill_a_grid_as_many_times_as_the_cell_fits() {
        let points = cloud(&[[0.1, 0.2, 0.3], [1.9, -7.0, 40.0], [2.5, 0.0, 0.0]]);
        let grid = Grid::new([6, 8, 10], [1.0, 0.5, 0.5]).unwrap();
        // The grid is 10 x 4 x 3: one cell, whatever its shear.
        let slanted = [[10.0, 0.0, 0.0], [3.0, 4.0, 0.0], [-2.0, 1.5, 3.0]];
        for vectors in [[[10.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 3.0]], slanted] {
            let cell = Cell::from_vectors(vectors).unwrap();
            let found =
                density(integral(0.6), &points, &Rotation::identity(), Some(&cell), grid, 1);
            assert!((sum(&found) - 3.0).abs() < 1e-4, "{}", sum(&found));
        }
    }

    #[test]
    fn periodic_images_are_those_put_there_by_hand() {
        let grid = Grid::new([6; 3], [1.0; 3]).unwrap();
        let vectors = [[4.0, 0.0, 0.0], [1.0, 5.0, 0.0], [0.5, -1.0, 4.5]];
        let cell = Cell::from_vectors(vectors).unwrap();
        let position = [0.3, 0.1, -0.4];
        let mut images = Vec::new();
        for index in 0..9 * 9 * 9 {
            let n = [index % 9 - 4, index / 9 % 9 - 4, index / 81 - 4].map(f64::from);
            let shifted =
                |axis: usize| position[axis] + (0..3).map(|k| n[k] * vectors[k][axis]).sum::<f64>();
            images.push([0, 1, 2].map(shifted));
        }
        for rotation in random_rotations(9, 3) {
            let found =
                density(integral(0.5), &cloud(&[position]), &rotation, Some(&cell), grid, 1);
            let expected = density(integral(0.5), &cloud(&images), &rotation, None, grid, 1);
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-6);
            }
        }
        let tiny =
            Cell::from_vectors([[1e-4, 0.0, 0.0], [0.0, 1e-4, 0.0], [0.0, 0.0, 1e-4]]).unwrap();
        let mut target = vec![0.0; grid.voxels()];
        let one = cloud(&[position]);
        let identity = Rotation::identity();
        let result = integral(0.5).density_into(&one, &identity, Some(&tiny), &grid, &mut target);
        assert!(result.unwrap_err().to_string().contains("periodic images"));
        let sampled = Voxeliser::paper(6, 1.0).gaussian();
        assert!(sampled.density_into(&one, &identity, Some(&cell), &grid, &mut target).is_err());
    }

    #[test]
    fn the_normalisation_is_written_only_where_it_is_not_the_sum() {
        let sum = Voxeliser::paper(8, 1.0);
        let json = serde_json::to_string(&sum).unwrap();
        assert!(!json.contains("normalisation"), "{json}");
        assert_eq!(serde_json::from_str::<Voxeliser>(&json).unwrap(), sum);
        let integral = Voxeliser { normalisation: Normalisation::Integral, ..sum };
        let json = serde_json::to_string(&integral).unwrap();
        assert_eq!(serde_json::from_str::<Voxeliser>(&json).unwrap(), integral);
    }
}
