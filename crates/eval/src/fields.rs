//! The values of one layer for one volume, and how far two of them are from each other's rotation.

use candle_core::{DType, Tensor};
use nalgebra::Vector3;
use steer3d_so3::{Irreps, Parity, Rotation};
use steer3d_volume::{Grid, Interpolation, rotate_into};

use crate::error::EvalError;

/// Radius of the ball in which fields are compared, as a share of the grid's smallest side.
const BALL: f64 = 0.35;

/// Values of one volume, C,D,H,W, or C for values without a grid.
pub(crate) struct Values {
    pub(crate) irreps: Irreps,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f32>,
}

impl Values {
    /// Takes a tensor of shape 1,C,D,H,W or 1,C; `layer` says in an error where it came from.
    pub(crate) fn new(layer: &str, irreps: &Irreps, tensor: &Tensor) -> Result<Self, EvalError> {
        let (dims, channels) = (tensor.dims(), irreps.dim());
        if !matches!(dims.len(), 2 | 5) || dims[..2] != [1, channels] {
            let problem = format!(
                "has values of shape {dims:?}, expected (1, {channels}) or (1, {channels}, D, H, W) for irreps {irreps}"
            );
            return Err(EvalError::Layer { layer: layer.into(), problem });
        }
        let data = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        Ok(Self { irreps: irreps.clone(), shape: dims[1..].to_vec(), data })
    }

    /// D,H,W; one voxel for values without a grid.
    pub(crate) fn dims(&self) -> [usize; 3] {
        match self.shape[..] {
            [_, d, h, w] => [d, h, w],
            _ => [1; 3],
        }
    }

    /// The field turned by a rotation about the centre of the grid.
    pub(crate) fn rotated(
        &self,
        rotation: &Rotation,
        voxel_size: [f64; 3],
        interpolation: Interpolation,
    ) -> Result<Self, EvalError> {
        let mut data = vec![0.0; self.data.len()];
        let grid = Grid::new(self.dims(), voxel_size)?;
        rotate_into(&self.data, &grid, &self.irreps, rotation, interpolation, &mut data)?;
        Ok(Self { data, irreps: self.irreps.clone(), shape: self.shape.clone() })
    }

    /// The field turned by the inversion p → −p, under which fields of odd parity change sign.
    pub(crate) fn inverted(&self) -> Self {
        let voxels = self.dims().iter().product();
        let mut data = Vec::with_capacity(self.data.len());
        for block in self.irreps.blocks() {
            let sign = block.irrep.parity.map_or(1.0, Parity::sign) as f32;
            let start = block.offset * voxels;
            for channel in self.data[start..start + block.dim() * voxels].chunks_exact(voxels) {
                data.extend(channel.iter().rev().map(|v| v * sign));
            }
        }
        Self { data, irreps: self.irreps.clone(), shape: self.shape.clone() }
    }

    /// ‖M (found − self)‖ / ‖M self‖ with M the ball |p| <= 0.35 N about the centre, N the smallest
    /// side, or `None` when the denominator is 0.
    pub(crate) fn gap_in_ball(&self, found: &Self) -> Option<f64> {
        let dims = self.dims();
        let inside = ball(dims, BALL * dims.into_iter().min().unwrap_or(0) as f64);
        relative(self, found, |i| inside[i % inside.len()])
    }

    /// ‖found − self‖ / ‖self‖, or `None` when the denominator is 0.
    pub(crate) fn gap(&self, found: &Self) -> Option<f64> {
        relative(self, found, |_| true)
    }
}

fn relative(expected: &Values, found: &Values, compare: impl Fn(usize) -> bool) -> Option<f64> {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (i, (&expected, &found)) in expected.data.iter().zip(&found.data).enumerate() {
        if compare(i) {
            let (expected, found) = (f64::from(expected), f64::from(found));
            difference += (found - expected).powi(2);
            norm += expected * expected;
        }
    }
    (norm > 0.0).then(|| (difference / norm).sqrt())
}

/// Whether each voxel of a grid D,H,W lies in the ball |p| <= radius about the centre.
pub(crate) fn ball(dims: [usize; 3], radius: f64) -> Vec<bool> {
    each_voxel(dims, |p| p.x * p.x + p.y * p.y + p.z * p.z <= radius * radius)
}

/// Whether something holds for each voxel of a grid D,H,W, by its place x,y,z in voxels from the centre.
pub(crate) fn each_voxel(dims: [usize; 3], holds: impl Fn(Vector3<f64>) -> bool) -> Vec<bool> {
    let centred = |n: usize| (0..n).map(move |i| i as f64 - (n - 1) as f64 / 2.0);
    let [depth, height, width] = dims;
    let mut all = Vec::with_capacity(depth * height * width);
    for z in centred(depth) {
        for y in centred(height) {
            all.extend(centred(width).map(|x| holds(Vector3::new(x, y, z))));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ball_of_a_small_grid() {
        // The centre and its six neighbours.
        assert_eq!(ball([3; 3], 1.05).iter().filter(|&&inside| inside).count(), 7);
        // Nearest voxels at sqrt(0.75) = 0.87.
        assert!(!ball([2; 3], 0.7).contains(&true));
        assert_eq!(ball([1; 3], 0.35), [true]);
    }

    #[test]
    fn inversion_reverses_space_and_the_sign_of_odd_fields() {
        let values = Values {
            irreps: "1x0e+1x0o".parse().unwrap(),
            shape: vec![2, 1, 1, 3],
            data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        };
        assert_eq!(values.inverted().data, [3.0, 2.0, 1.0, -6.0, -5.0, -4.0]);
    }
}
