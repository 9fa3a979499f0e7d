//! 3-D convolution as a differentiable operation.

mod cpu;
mod geometry;
mod microkernel;

#[cfg(feature = "cudnn")]
use candle_core::{CudaStorage, Layout};
use candle_core::{Result, Shape, Tensor};
use pulp::Arch;

use self::geometry::Geometry;
use crate::check::{Volume, expect_argument, invalid};
#[cfg(feature = "cudnn")]
use crate::gpu::Argument;
#[cfg(any(test, feature = "cudnn"))]
use crate::gpu::cudnn::Pass;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Element, Routine, Slot, args, dense, shares};
#[cfg(feature = "cudnn")]
use crate::op::on_gpu;
use crate::op::{Op, apply, apply_constant, if_tracked};
use crate::simd::Lanes;

const OP: &str = "conv3d";

/// Largest padding, in voxels.
const PADDING_MAX: usize = 1 << 16;

/// Stride and zero padding of a [`conv3d`], in voxels along D,H,W.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv3dConfig {
    /// Distance of neighbouring output voxels in the input.
    pub stride: [usize; 3],
    /// Zeros added on both sides of each axis.
    pub padding: [usize; 3],
}

impl Conv3dConfig {
    /// The same stride and padding along all axes.
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 3], padding: [padding; 3] }
    }

    /// Stride 1 and padding k/2: an odd kernel size `k` keeps the size of the volume.
    pub fn same(k: usize) -> Self {
        Self::new(1, k / 2)
    }
}

impl Default for Conv3dConfig {
    /// Stride 1, no padding.
    fn default() -> Self {
        Self::new(1, 0)
    }
}

/// 3-D cross-correlation with zero padding, differentiable in all three tensors.
///
/// `x` is N,C_in,D,H,W, `w` is C_out,C_in,kd,kh,kw and `bias` is C_out, all f32 or all f64. The
/// result is N,C_out,D',H',W' with
///
/// ```text
/// out[n,o,z,y,x] = bias[o] + sum_{c,a,b,d} w[o,c,a,b,d] x[n, c, z s + a - p, y s + b - p, x s + d - p]
/// D' = (D + 2 p - kd) / s + 1        (rounded down; H' and W' alike)
/// ```
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use steer3d_ops::{Conv3dConfig, conv3d};
/// let x = Tensor::ones((1, 2, 8, 8, 8), DType::F32, &Device::Cpu)?;
/// let w = Tensor::ones((4, 2, 3, 3, 3), DType::F32, &Device::Cpu)?;
/// let out = conv3d(&x, &w, None, &Conv3dConfig::same(3))?;
/// assert_eq!(out.dims(), [1, 4, 8, 8, 8]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// If ranks, channels or element types do not agree, a size or stride is 0, the kernel is
/// larger than the padded input, or the padding is above 65536.
pub fn conv3d(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    config: &Conv3dConfig,
) -> Result<Tensor> {
    let op = Conv3d(geometry(x, w, bias, config)?);
    match bias {
        Some(bias) => apply(op, [x, w, bias]),
        None => apply(op, [x, w]),
    }
}

fn geometry(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    config: &Conv3dConfig,
) -> Result<Geometry> {
    let Volume { batch, channels: c_in, size } = Volume::of(OP, x)?;
    let filter = Volume::of(OP, w)?.with_channels(c_in);
    let (c_out, kernel) = (filter.batch, filter.size);
    expect_argument(OP, "w", w, &filter.dims(), x)?;
    if let Some(bias) = bias {
        expect_argument(OP, "bias", bias, &[c_out], x)?;
    }
    if config.stride.contains(&0) {
        let problem = format!("expected a stride of at least 1, got {:?}", config.stride);
        return Err(invalid(OP, problem));
    }
    let mut out = [0; 3];
    for axis in 0..3 {
        let padding = config.padding[axis];
        if padding > PADDING_MAX {
            let problem = format!("expected a padding of at most {PADDING_MAX}, got {padding}");
            return Err(invalid(OP, problem));
        }
        let padded = size[axis] + 2 * padding;
        if kernel[axis] > padded {
            let problem = format!(
                "kernel {kernel:?} is larger than the input {size:?} with padding {:?}; use a \
                 smaller kernel or more padding",
                config.padding
            );
            return Err(invalid(OP, problem));
        }
        out[axis] = (padded - kernel[axis]) / config.stride[axis] + 1;
    }
    Ok(Geometry {
        batch,
        c_in,
        c_out,
        size,
        kernel,
        stride: config.stride,
        padding: config.padding.map(|p| p as isize),
        out,
    })
}

/// Input, weights and (three arguments) bias to output.
struct Conv3d(Geometry);

/// Weights and output gradient to input gradient.
struct InputGradient(Geometry);

/// Input and output gradient to weight gradient.
struct WeightGradient(Geometry);

/// Output gradient N,C,D,H,W to the gradient of a bias of each channel.
pub(crate) struct BiasGradient(Volume);

/// N,C,D,H,W and a bias for each channel to their sum.
#[cfg(any(test, feature = "cudnn"))]
struct AddBias(Volume);

/// The gradient of a bias of each channel, from that of the result of a convolution.
pub(crate) fn bias_gradient(grad: &Tensor) -> Result<Tensor> {
    apply_constant(BiasGradient(Volume::of("bias gradient", grad)?), [grad])
}

/// Rows, columns and depth of a block's tile of a product, as in `dense.cu`.
#[cfg(any(test, feature = "cuda"))]
const TILE: [usize; 3] = [64, 128, 16];

#[cfg(any(test, feature = "cuda"))]
fn shared_bytes(element: Element) -> usize {
    TILE[2] * (TILE[0] + TILE[1]) * element.real_bytes()
}

#[cfg(feature = "cudnn")]
impl Geometry {
    /// What cuDNN gives for a pass, where it computes it.
    fn by_cudnn(&self, pass: Pass, inputs: &[Argument<'_>]) -> Option<CudaStorage> {
        if !crate::cudnn::uses_cudnn() {
            return None;
        }
        let tf32 = crate::tf32::tf32_is_permitted();
        crate::gpu::cudnn::convolve(&self.convolution(pass)?, tf32, inputs)
    }
}

/// With or without a bias.
impl<const N: usize> Op<N> for Conv3d {
    const NAME: &'static str = OP;

    fn shape(&self, _: [&Shape; N]) -> Shape {
        self.0.output().shape()
    }

    fn cpu<T: Lanes>(&self, inputs: [&[T]; N]) -> Vec<T> {
        cpu::forward(Arch::new(), &self.0, inputs[0], inputs[1], inputs.get(2).copied())
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, inputs: [Slot; N], out: Slot) -> Result<()> {
        let (g, bytes) = (&self.0, shared_bytes(routine.element));
        let columns = g.batch * g.out_voxels();
        let args = args![inputs[0], inputs[1], inputs.get(2).copied(), out, g.ints()];
        let call = routine.call(dense, "dense_forward", args).block(256, bytes);
        call.grid(columns.div_ceil(TILE[1]), g.c_out.div_ceil(TILE[0]));
        Ok(())
    }

    #[cfg(feature = "cudnn")]
    fn by_library(&self, inputs: [Argument<'_>; N]) -> Result<Option<CudaStorage>> {
        let out = self.0.by_cudnn(Pass::Forward, &inputs);
        let (Some(out), Some(&bias)) = (&out, inputs.get(2)) else { return Ok(out) };
        let (add, layout) = (AddBias(self.0.output()), Layout::contiguous(self.0.output().shape()));
        Ok(Some(on_gpu(&add, [(out, &layout), bias])?.0))
    }

    fn backward(&self, inputs: [&Tensor; N], grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        let (x, w) = (inputs[0], inputs[1]);
        let mut gradients = [const { None }; N];
        gradients[0] = if_tracked(x, || apply_constant(InputGradient(self.0), [w, grad]))?;
        gradients[1] = if_tracked(w, || apply_constant(WeightGradient(self.0), [x, grad]))?;
        if let Some(bias) = inputs.get(2) {
            gradients[2] = if_tracked(bias, || bias_gradient(grad))?;
        }
        Ok(gradients)
    }
}

impl Op<2> for InputGradient {
    const NAME: &'static str = "conv3d input gradient";

    fn shape(&self, _: [&Shape; 2]) -> Shape {
        self.0.input().shape()
    }

    fn cpu<T: Lanes>(&self, [w, grad]: [&[T]; 2]) -> Vec<T> {
        cpu::input_gradient(Arch::new(), &self.0, w, grad)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [w, grad]: [Slot; 2], out: Slot) -> Result<()> {
        let (g, bytes) = (&self.0, shared_bytes(routine.element));
        let columns = g.batch * g.in_voxels();
        let args = args![w, grad, out, g.ints()];
        let call = routine.call(dense, "dense_input_gradient", args).block(256, bytes);
        call.grid(columns.div_ceil(TILE[1]), g.c_in.div_ceil(TILE[0]));
        Ok(())
    }

    #[cfg(feature = "cudnn")]
    fn by_library(&self, inputs: [Argument<'_>; 2]) -> Result<Option<CudaStorage>> {
        Ok(self.0.by_cudnn(Pass::InputGradient, &inputs))
    }
}

impl Op<2> for WeightGradient {
    const NAME: &'static str = "conv3d weight gradient";

    fn shape(&self, _: [&Shape; 2]) -> Shape {
        self.0.filter().shape()
    }

    fn cpu<T: Lanes>(&self, [x, grad]: [&[T]; 2]) -> Vec<T> {
        cpu::weight_gradient(Arch::new(), &self.0, x, grad)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, grad]: [Slot; 2], out: Slot) -> Result<()> {
        let (g, bytes) = (&self.0, shared_bytes(routine.element));
        let len = g.c_out * g.rows();
        let (rows, columns) = (g.c_out.div_ceil(TILE[0]), g.rows().div_ceil(TILE[1]));
        // Enough blocks for all multiprocessors, each with some work.
        let wanted = (4 * routine.limits.multiprocessors).div_ceil(rows * columns);
        let count = wanted.clamp(1, (g.batch * g.out_voxels()).div_ceil(64 * TILE[2]));
        let parts = routine.scratch(count * len);
        let args = args![x, grad, parts, g.ints()];
        let call = routine.call(dense, "dense_weight_gradient", args).block(256, bytes);
        call.grid(columns, rows).grid[2] = count as u32;
        routine.call(shares, "sum_shares", args![parts, out, count, len, 0i64]).over(len);
        Ok(())
    }

    #[cfg(feature = "cudnn")]
    fn by_library(&self, inputs: [Argument<'_>; 2]) -> Result<Option<CudaStorage>> {
        Ok(self.0.by_cudnn(Pass::WeightGradient, &inputs))
    }
}

#[cfg(any(test, feature = "cudnn"))]
impl Op<2> for AddBias {
    const NAME: &'static str = "conv3d bias";

    fn cpu<T: Lanes>(&self, [x, bias]: [&[T]; 2]) -> Vec<T> {
        let rows = x.chunks_exact(self.0.voxels()).zip(bias.iter().cycle());
        rows.flat_map(|(row, &bias)| row.iter().map(move |&x| x + bias)).collect()
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, bias]: [Slot; 2], out: Slot) -> Result<()> {
        let (count, voxels) = (routine.len(out), self.0.voxels());
        let args = args![x, bias, out, self.0.channels, voxels, count as i64];
        routine.call(dense, "add_bias", args).over(count);
        Ok(())
    }
}

impl Op<1> for BiasGradient {
    const NAME: &'static str = "bias gradient";

    fn shape(&self, _: [&Shape; 1]) -> Shape {
        self.0.channels.into()
    }

    fn cpu<T: Lanes>(&self, [grad]: [&[T]; 1]) -> Vec<T> {
        cpu::bias_gradient(self.0.batch, self.0.channels, grad)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x]: [Slot; 1], out: Slot) -> Result<()> {
        let (Volume { batch, channels, .. }, voxels) = (self.0, self.0.voxels());
        let spans = routine.ints((0..channels).flat_map(|c| [c, 1]));
        let mean = routine.doubles(vec![0.0]);
        let sums = |sums| args![x, x, mean, spans, sums, 0usize, batch, channels, voxels];
        let totals = |(sums, shares)| args![sums, out, channels, shares];
        routine.sum_over_fields(
            (channels, batch * voxels),
            ("field_sums", &sums),
            ("first_totals", &totals),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::cudnn::host::check_calls;
    use crate::testing::{check, computed, normal, values};

    /// Batch and channels, grid, kernel, stride, padding.
    const CASES: [[[usize; 3]; 5]; 3] = [
        [[2, 3, 5], [9, 6, 7], [3, 2, 1], [1, 2, 3], [1, 0, 2]],
        [[1, 70, 66], [3, 3, 4], [1; 3], [1; 3], [0; 3]],
        [[2, 2, 3], [8, 9, 10], [3; 3], [1; 3], [1; 3]],
    ];

    #[test]
    fn kernels_agree_with_the_cpu() {
        for [[batch, c_in, c_out], [d, h, width], [a, b, c], stride, padding] in CASES {
            let x = normal(1, (batch, c_in, d, h, width));
            let w = normal(2, (c_out, c_in, a, b, c));
            let config = Conv3dConfig { stride, padding };
            let geometry = geometry(&x, &w, None, &config).unwrap();
            let out = geometry.out;
            let grad = normal(3, (batch, c_out, out[0], out[1], out[2]));
            let bias = normal(4, c_out);
            check(&Conv3d(geometry), [&x, &w]);
            check(&Conv3d(geometry), [&x, &w, &bias]);
            check(&InputGradient(geometry), [&w, &grad]);
            check(&WeightGradient(geometry), [&x, &grad]);
            check(&BiasGradient(geometry.output()), [&grad]);
            check(&AddBias(geometry.output()), [&grad, &bias]);
            let sum = grad.broadcast_add(&bias.reshape((1, c_out, 1, 1, 1)).unwrap()).unwrap();
            let found = computed(&AddBias(geometry.output()), [&grad, &bias]);
            assert_eq!(found.dims(), sum.dims());
            assert_eq!(values(&found), values(&sum));
        }
    }

    #[test]
    fn what_cudnn_is_asked_for_agrees_with_the_cpu() {
        for [[batch, c_in, c_out], [d, h, width], [a, b, c], stride, padding] in CASES {
            let x = normal(1, (batch, c_in, d, h, width));
            let w = normal(2, (c_out, c_in, a, b, c));
            let geometry = geometry(&x, &w, None, &Conv3dConfig { stride, padding }).unwrap();
            let out = geometry.out;
            let grad = normal(3, (batch, c_out, out[0], out[1], out[2]));
            let asked = |pass| geometry.convolution(pass).unwrap();
            check_calls(&asked(Pass::Forward), [&x, &w], |x| computed(&Conv3d(geometry), x));
            check_calls(&asked(Pass::InputGradient), [&w, &grad], |x| {
                computed(&InputGradient(geometry), x)
            });
            check_calls(&asked(Pass::WeightGradient), [&x, &grad], |x| {
                computed(&WeightGradient(geometry), x)
            });
        }
    }
}
