use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use steer3d_nn::{Mode, Network, SteerableConfig};
use steer3d_so3::Stream;

use super::{BumpField, LayerSpec};
use crate::EvalError;

/// How far outputs move with the voxels of a volume: relative differences (root mean squares) from those on cubic
/// voxels of edge 1, for which the kernels are made, or finer ones, at the same places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpacingRow {
    /// The family.
    pub family: String,
    /// Taps along each axis.
    pub size: usize,
    /// Edges of the voxels (x, y, z).
    pub spacing: [f64; 3],
    /// Of a convolution, in closed form ([`spacing_error`](steer3d_kernels::equivariance::spacing_error)), for each width of the fields.
    pub layer: Vec<f64>,
    /// Of a U-Net on three grids at initialisation, measured ([`unet_difference`]), for each width of the fields, in
    /// the mean over the seeds.
    pub unet: Vec<f64>,
}

/// The relative difference between what a U-Net gives for a field on voxels of edges `spacing` (x, y, z), and on voxels
/// of edge 1 or the next below that have a voxel in each of these places, in the ball |p| <= 0.35 `size`.
///
/// The network is [`SteerableConfig::unet`] with the kernels of `layer`, made for cubes of edge 1, with weights drawn
/// from `seed` and statistics of the field, and keeps empty space at zero. The field has `count` bumps of standard
/// deviation `width`, uniform in the ball of radius `size`/4, on a grid of `size` in units of length.
///
/// # Errors
/// If the kernels cannot be made, or cannot have such voxels.
pub fn unet_difference(
    layer: &LayerSpec,
    spacing: [f64; 3],
    size: usize,
    count: usize,
    width: f64,
    seed: u64,
) -> Result<f64, EvalError> {
    let mut config = SteerableConfig::unet(1, 2)?;
    config.kernel = layer.family.clone();
    config.keep_zero = true;
    config.blocks.iter_mut().chain(&mut config.decoder).for_each(|block| block.size = layer.size);
    let input = config.input.clone();
    let network = Network::new(&config.into(), seed, DType::F32, &Device::Cpu)?;
    let mut stream = Stream::new(seed, "spacing field", &[]);
    let field = BumpField::random(&input, count, 0.25 * size as f64, width, &mut stream);
    // Voxels on each side of the central one, and how many of the fine ones there are for each.
    let half = spacing.map(|edge| ((size - 1) as f64 / (2.0 * edge)).floor() as usize);
    let parts = spacing.map(|edge| (edge.ceil() as usize).max(1));
    let sample = |parts: [usize; 3]| {
        let count = [2, 1, 0].map(|axis| 2 * half[axis] * parts[axis] + 1);
        let edges = [0, 1, 2].map(|axis| spacing[axis] / parts[axis] as f64);
        Ok::<_, EvalError>((field.sample_on(count, edges)?, edges))
    };
    let (fine, edges) = sample(parts)?;
    let (coarse, _) = sample([1; 3])?;
    let reference = network.at_spacing(edges)?;
    reference.forward(&fine, Mode::Calibrate { batch: 0 })?;
    let mut expected = reference.forward(&fine, Mode::Evaluate)?;
    let found = network.at_spacing(spacing)?.forward(&coarse, Mode::Evaluate)?;
    for (axis, parts) in parts.into_iter().rev().enumerate() {
        let places = (0..found.dim(axis + 2)?).map(|i| (i * parts) as u32);
        let places = Tensor::from_iter(places, &Device::Cpu)?;
        expected = expected.contiguous()?.index_select(&places, axis + 2)?;
    }
    let inside = ball(half, spacing, 0.35 * size as f64);
    let [found, expected] = [found, expected].map(|t| t.flatten_all()?.to_vec1::<f32>());
    let (found, expected) = (found?, expected?);
    let (mut difference, mut norm) = (0.0, 0.0);
    for ((found, expected), _) in
        found.iter().zip(&expected).zip(inside.iter().cycle()).filter(|(_, inside)| **inside)
    {
        difference += f64::from(found - expected).powi(2);
        norm += f64::from(*expected).powi(2);
    }
    Ok((difference / norm).sqrt())
}

/// Which voxels D, H, W with edges (x, y, z), so many on each side of the central one, lie in a ball.
fn ball(half: [usize; 3], edges: [f64; 3], radius: f64) -> Vec<bool> {
    let line = |axis: usize| -> Vec<f64> {
        let half = half[axis] as i64;
        (-half..=half).map(|i| (i as f64 * edges[axis]).powi(2)).collect()
    };
    let [x, y, z] = [0, 1, 2].map(line);
    let plane: Vec<f64> = y.iter().flat_map(|y| x.iter().map(move |x| x + y)).collect();
    z.iter().flat_map(|z| plane.iter().map(move |p| p + z <= radius * radius)).collect()
}
