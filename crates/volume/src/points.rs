//! Point clouds and their Gaussian densities on a grid.

use serde::{Deserialize, Serialize};
use steer3d_so3::Rotation;

use crate::volume::{Grid, Volume, VolumeError, checked_len};

/// Points with a channel each, for example the atoms of a molecule with their type.
#[derive(Clone, Debug, PartialEq)]
pub struct PointCloud {
    positions: Vec<[f64; 3]>,
    channels: Vec<u16>,
}

impl PointCloud {
    /// Points at `positions` = x, y, z about the centre of rotation, in physical units.
    ///
    /// # Errors
    /// If there is not one channel for each position or a coordinate is not finite.
    pub fn new(positions: Vec<[f64; 3]>, channels: Vec<u16>) -> Result<Self, VolumeError> {
        if positions.len() != channels.len() {
            return Err(VolumeError::Length {
                what: "channels of points",
                expected: positions.len(),
                found: channels.len(),
            });
        }
        let mut coordinates = positions.iter().flatten();
        if let Some(index) = coordinates.position(|x| !x.is_finite()) {
            return Err(VolumeError::NotFinite {
                what: "positions",
                index,
                value: positions[index / 3][index % 3],
            });
        }
        Ok(Self { positions, channels })
    }

    /// The same points moved so that their mean is at the origin.
    pub fn centred(mut self) -> Self {
        let count = self.positions.len().max(1) as f64;
        for axis in 0..3 {
            let mean = self.positions.iter().map(|p| p[axis]).sum::<f64>() / count;
            for position in &mut self.positions {
                position[axis] -= mean;
            }
        }
        self
    }

    /// The same points after `rotation` about the origin.
    pub fn rotated(&self, rotation: &Rotation) -> Self {
        let turn = |&position| (rotation * nalgebra::Vector3::from(position)).into();
        let positions = self.positions.iter().map(turn).collect();
        Self { positions, channels: self.channels.clone() }
    }

    /// Positions x, y, z.
    pub fn positions(&self) -> &[[f64; 3]] {
        &self.positions
    }

    /// Channel of each point.
    pub fn channels(&self) -> &[u16] {
        &self.channels
    }

    /// Number of points.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Are there no points?
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }
}

/// Turns a point cloud into densities on a cubic grid centred on the origin.
///
/// Each point adds exp(-r² / 2σ²), sampled at the voxel centres and scaled to sum to 1, to its
/// channel: the scheme of the CATH experiment of Weiler et al. 2018
/// (<https://arxiv.org/abs/1807.02547>, section 5.4), whose code also scales by the sum over the
/// voxels of the grid, so that points near a face count in full. The Gaussian is cut off where a
/// coordinate differs by more than `cutoff` σ; points farther than that from every voxel centre
/// add nothing.
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
}

impl Voxeliser {
    /// One channel of `size`³ voxels, σ half a voxel and a cut-off of 5 σ, as Weiler et al. 2018
    /// use for CATH (there 50³ voxels of 2 Å).
    pub fn paper(size: usize, voxel_size: f64) -> Self {
        Self { size, voxel_size, sigma: 0.5 * voxel_size, channels: 1, cutoff: 5.0 }
    }

    /// The grid of the volumes.
    ///
    /// # Errors
    /// If the size, voxel size, σ, cut-off or number of channels is outside its range.
    pub fn grid(&self) -> Result<Grid, VolumeError> {
        let grid = Grid::new([self.size; 3], [self.voxel_size; 3])?;
        checked_len(self.channels, grid.dims())?;
        for (field, value) in [("sigma", self.sigma), ("cutoff", self.cutoff)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(VolumeError::Parameter {
                    field,
                    expected: "a positive finite number",
                    found: value.to_string(),
                });
            }
        }
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
        let voxels = self.grid()?.voxels();
        let expected = self.channels * voxels;
        if target.len() != expected {
            return Err(VolumeError::Length { what: "target", expected, found: target.len() });
        }
        target.fill(0.0);
        for (&position, &channel) in cloud.positions.iter().zip(&cloud.channels) {
            let channel = usize::from(channel);
            if channel >= self.channels {
                return Err(VolumeError::Parameter {
                    field: "channel of a point",
                    expected: "a number below the voxeliser's channels",
                    found: format!("{channel}, with {} channels", self.channels),
                });
            }
            let turned = rotation * nalgebra::Vector3::from(position);
            self.add(turned.into(), &mut target[channel * voxels..(channel + 1) * voxels]);
        }
        Ok(())
    }

    /// Adds one point to one channel.
    fn add(&self, position: [f64; 3], target: &mut [f32]) {
        let [x, y, z] = position.map(|coordinate| self.profile(coordinate));
        for (k, wz) in z.1.iter().enumerate() {
            for (j, wy) in y.1.iter().enumerate() {
                let start = ((z.0 + k) * self.size + y.0 + j) * self.size + x.0;
                let weight = wz * wy;
                for (value, wx) in target[start..].iter_mut().zip(&x.1) {
                    *value += (weight * wx) as f32;
                }
            }
        }
    }

    /// First voxel and weights, which sum to 1, of the Gaussian along one axis.
    fn profile(&self, coordinate: f64) -> (usize, Vec<f64>) {
        let centre = (self.size - 1) as f64 / 2.0;
        let reach = self.cutoff * self.sigma;
        let index = |x: f64| (x / self.voxel_size + centre).clamp(-1.0, self.size as f64);
        let first = index(coordinate - reach).ceil().max(0.0) as usize;
        let end = (index(coordinate + reach).floor() + 1.0).clamp(0.0, self.size as f64) as usize;
        // Subtracting the smallest exponent keeps a far tail from underflowing to 0 / 0.
        let exponents: Vec<f64> = (first..end)
            .map(|i| {
                let distance = (i as f64 - centre) * self.voxel_size - coordinate;
                distance * distance / (2.0 * self.sigma * self.sigma)
            })
            .collect();
        let smallest = exponents.iter().copied().fold(f64::INFINITY, f64::min);
        let mut weights: Vec<f64> = exponents.iter().map(|e| (smallest - e).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
        (first, weights)
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
        for far in [7.0, 1e300, -7.0, -1e300] {
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
}
