//! A spatial transformer in front of a network.

use candle_core::Tensor;
use steer3d_ops::affine_resample3d;

use crate::block::{self, Blocks, Layer, Observer};
use crate::field::widened;
use crate::layers::Linear;
use crate::{Field, NnError, Pass};

/// Six numbers of the rotation, three of the shift.
pub(crate) const POSE: usize = 9;

/// Pose for an output of 1 of the head: with 1, the first steps of Adam would throw volumes about.
const POSE_STEP: f64 = 0.1;

/// Largest shift as a part of the grid.
const REACH: f64 = 0.25;

/// Resamples each volume in a pose that a localisation network reads off it.
#[derive(Debug)]
pub(crate) struct Transformer {
    /// The localisation network.
    pub(crate) blocks: Blocks<Layer>,
    /// Cells along each axis over which its last field is averaged.
    pub(crate) cells: usize,
    /// From the means to the pose.
    pub(crate) linear: Linear,
}

impl Transformer {
    pub(crate) fn forward(
        &self,
        field: &Field,
        pass: Pass,
        recompute: bool,
        observe: &mut Observer<'_>,
    ) -> Result<Field, NnError> {
        let features = block::run(&self.blocks, field, pass, recompute, observe)?;
        let field = self.resampled(field, &features)?;
        observe("transformer", &field);
        Ok(field)
    }

    pub(crate) fn folded(&self) -> Result<Self, NnError> {
        let (blocks, linear) = (block::folded(&self.blocks)?, self.linear.folded(None)?);
        Ok(Self { blocks, cells: self.cells, linear })
    }

    /// The volume f(R p + t) of a volume f(p), both in voxels about the centre.
    fn resampled(&self, field: &Field, features: &Field) -> Result<Field, NnError> {
        let (n, _, d, h, w) = field.values().dims5()?;
        let pose = self.linear.forward(&cell_means(&widened(features.values())?, self.cells)?)?;
        let pose = (pose * POSE_STEP)?;
        let constant = |values: &[f64]| {
            Tensor::new(values, pose.device())?.to_dtype(pose.dtype())?.unsqueeze(0)
        };
        let upright = constant(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0])?;
        let rotation = gram_schmidt(&pose.narrow(1, 0, 6)?.broadcast_add(&upright)?)?;
        let reach = constant(&[w, h, d].map(|n| REACH * n as f64))?;
        let shift = pose.narrow(1, 6, 3)?.tanh()?.broadcast_mul(&reach)?.reshape((n, 3, 1))?;
        let theta = Tensor::cat(&[rotation, shift], 2)?;
        // bf16 places voxels to a few tenths only.
        let x = field.values();
        let turned = affine_resample3d(&x.to_dtype(theta.dtype())?, &theta)?;
        field.with(turned.to_dtype(x.dtype())?)
    }
}

/// The means of N,C,D,H,W over cells³ boxes, N,C·cells³; neighbouring boxes share a plane where the
/// grid cannot be divided evenly.
fn cell_means(x: &Tensor, cells: usize) -> Result<Tensor, NnError> {
    let mut x = x.clone();
    for axis in 2..5 {
        let n = x.dim(axis)?;
        let mean = |i: usize| {
            let (start, end) = (i * n / cells, ((i + 1) * n).div_ceil(cells));
            x.narrow(axis, start, end - start)?.mean_keepdim(axis)
        };
        let means = (0..cells).map(mean).collect::<Result<Vec<_>, _>>()?;
        x = Tensor::cat(&means, axis)?;
    }
    Ok(x.flatten_from(1)?)
}

/// Rotations N,3,3 of two rows each, N,6: the first made a unit vector, the second made orthogonal to
/// it, and their cross product.
fn gram_schmidt(rows: &Tensor) -> candle_core::Result<Tensor> {
    let unit = |v: &Tensor| v.broadcast_div(&(v.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?);
    let (first, second) = (unit(&rows.narrow(1, 0, 3)?)?, rows.narrow(1, 3, 3)?);
    let along = (&first * &second)?.sum_keepdim(1)?;
    let second = unit(&(&second - first.broadcast_mul(&along)?)?)?;
    // (x, y, z) to (y, z, x) and (z, x, y).
    let rolled = |v: &Tensor, by| Tensor::cat(&[v.narrow(1, by, 3 - by)?, v.narrow(1, 0, by)?], 1);
    let third = ((rolled(&first, 1)? * rolled(&second, 2)?)?
        - (rolled(&first, 2)? * rolled(&second, 1)?)?)?;
    Tensor::stack(&[first, second, third], 1)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use steer3d_so3::Stream;

    use super::gram_schmidt;

    #[test]
    fn any_six_numbers_give_a_rotation() {
        let mut stream = Stream::new(1, "test", &[]);
        let rows: Vec<f64> = (0..60).map(|_| stream.normal()).collect();
        let rows = Tensor::from_vec(rows, (10, 6), &Device::Cpu).unwrap();
        for matrix in gram_schmidt(&rows).unwrap().to_vec3::<f64>().unwrap() {
            let matrix = nalgebra::Matrix3::from_fn(|i, j| matrix[i][j]);
            let excess = (matrix * matrix.transpose() - nalgebra::Matrix3::identity()).norm();
            assert!(excess < 1e-9 && (matrix.determinant() - 1.0).abs() < 1e-9, "{matrix}");
        }
    }
}
