//! Volumes of noise.

use candle_core::{Device, Tensor};
use steer3d_so3::Stream;

/// Noise of shape 1,C,D,H,W.
pub(crate) fn volume(stream: &mut Stream, channels: usize, [d, h, w]: [usize; 3]) -> Tensor {
    let values: Vec<f32> = (0..channels * d * h * w).map(|_| stream.normal() as f32).collect();
    Tensor::from_vec(values, (1, channels, d, h, w), &Device::Cpu).unwrap()
}
