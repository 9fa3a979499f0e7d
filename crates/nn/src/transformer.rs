//! A spatial transformer in front of a network.

use std::sync::Arc;

use candle_core::Tensor;
use steer3d_ops::affine_resample3d;

use crate::fused::FusedBlock;
use crate::layers::{Linear, widened};
use crate::plain::{Block, Seen, stack, through};
use crate::{Field, Mode, NnError, Params, PlainConfig, Symmetry, TransformerConfig};

/// Six numbers of the rotation, three of the shift.
pub(crate) const POSE: usize = 9;

/// Pose for an output of 1 of the head: with 1, the first steps of Adam would throw volumes about.
const POSE_STEP: f64 = 0.1;

/// Largest shift as a part of the grid.
const REACH: f64 = 0.25;

/// Resamples each volume in a pose that a localisation network reads off it.
#[derive(Debug)]
pub(crate) struct Transformer {
    blocks: Vec<Arc<Block>>,
    head: PoseHead,
}

#[derive(Debug)]
pub(crate) struct FusedTransformer {
    blocks: Vec<FusedBlock>,
    head: PoseHead,
}

/// From the last field of the localisation network to the resampled volume.
#[derive(Debug)]
struct PoseHead {
    cells: usize,
    linear: Linear,
}

impl Transformer {
    pub(crate) fn new(
        params: &mut Params,
        config: &TransformerConfig,
        classifier: &PlainConfig,
    ) -> Result<Self, NnError> {
        if !(1..=8).contains(&config.cells) {
            return Err(NnError::Config {
                field: "transformer.cells".into(),
                problem: format!("expected 1 to 8, found {}", config.cells),
            });
        }
        let plain = PlainConfig { symmetry: Symmetry::None, dropout: 0.0, ..classifier.clone() };
        let blocks =
            stack(params, ["transformer.blocks", "transformer block"], &config.blocks, &plain)?;
        let channels = blocks.last().map_or(plain.channels, |last| last.channels());
        let inputs = channels * config.cells.pow(3);
        let linear = Linear::zeros(params, "transformer.head", inputs, POSE)?;
        Ok(Self { blocks, head: PoseHead { cells: config.cells, linear } })
    }

    pub(crate) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    pub(crate) fn forward(
        &self,
        field: &Field,
        mode: Mode,
        recompute: bool,
        seen: &mut Seen<'_>,
    ) -> Result<Field, NnError> {
        let features = through(&self.blocks, field, mode, recompute, seen)?;
        let field = self.head.forward(field, &features)?;
        seen("transformer".into(), &field, 1);
        Ok(field)
    }

    pub(crate) fn fused(&self) -> Result<FusedTransformer, NnError> {
        let blocks = self.blocks.iter().map(|b| b.fused()).collect::<Result<_, _>>()?;
        let head = PoseHead { cells: self.head.cells, linear: self.head.linear.fused(None)? };
        Ok(FusedTransformer { blocks, head })
    }
}

impl FusedTransformer {
    pub(crate) fn forward(&self, field: &Field) -> Result<Field, NnError> {
        let mut features = field.clone();
        for block in &self.blocks {
            features = block.forward(&features)?;
        }
        self.head.forward(field, &features)
    }
}

impl PoseHead {
    /// The volume f(R p + t) of a volume f(p), both in voxels about the centre.
    fn forward(&self, field: &Field, features: &Field) -> Result<Field, NnError> {
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
        Field::new(field.irreps().clone(), turned.to_dtype(x.dtype())?)
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
    use candle_core::{DType, Device, Tensor};
    use candle_nn::{AdamW, Optimizer, ParamsAdamW};
    use steer3d_so3::Stream;

    use super::{Transformer, gram_schmidt};
    use crate::field::scalars;
    use crate::{Field, Mode, Params, PlainConfig, SteerableConfig, TransformerConfig};

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

    const N: usize = 15;

    /// A rod along x, turned by `angle` about z.
    fn rod(angle: f64) -> Vec<f32> {
        let (sin, cos) = angle.sin_cos();
        let at = |i: usize| i as f64 - (N - 1) as f64 / 2.0;
        let value = |i: usize| {
            let (x, y, z) = (at(i % N), at(i / N % N), at(i / N / N));
            let (along, across) = (cos * x + sin * y, cos * y - sin * x);
            (-along.powi(2) / 18.0 - (across.powi(2) + z.powi(2)) / 2.0).exp() as f32
        };
        (0..N.pow(3)).map(value).collect()
    }

    fn rods(angles: &[f64]) -> Field {
        let values = angles.iter().flat_map(|&a| rod(a)).collect();
        let values = Tensor::from_vec(values, (angles.len(), 1, N, N, N), &Device::Cpu).unwrap();
        Field::new(scalars(1).unwrap(), values).unwrap()
    }

    #[test]
    fn it_learns_to_turn_an_object_upright() {
        let classifier = PlainConfig::like(&SteerableConfig::small(1, 2).unwrap());
        let mut params = Params::new(0, DType::F32, &Device::Cpu);
        let transformer =
            Transformer::new(&mut params, &TransformerConfig::small(), &classifier).unwrap();
        let vars = params.trainable().iter().map(|p| p.var.clone()).collect();
        let settings = ParamsAdamW { lr: 1e-2, weight_decay: 0.0, ..Default::default() };
        let mut adam = AdamW::new(vars, settings).unwrap();
        let mut stream = Stream::new(2, "angles", &[]);
        let upright = rods(&[0.0; 8]);
        let loss = |turned: &Field, mode| {
            let out = transformer.forward(turned, mode, false, &mut |_, _, _| ()).unwrap();
            (out.values() - upright.values()).unwrap().sqr().unwrap().mean_all().unwrap()
        };
        let mut losses = vec![];
        for step in 0..80 {
            let angles = [0; 8].map(|_| 1.5 * (stream.uniform() - 0.5));
            let loss = loss(&rods(&angles), Mode::Train { seed: 0, step });
            adam.backward_step(&loss).unwrap();
            losses.push(loss.to_scalar::<f32>().unwrap());
        }
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (first, last) = (mean(&losses[..10]), mean(&losses[70..]));
        assert!(last < 0.3 * first, "{first} to {last}");
    }
}
