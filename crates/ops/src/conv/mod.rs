//! 3-D convolution as a differentiable operation.

mod cpu;
mod geometry;
mod product;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::Arch;

use self::geometry::Geometry;
use crate::check::{expect_argument, invalid, volume_dims};
use crate::float::{dispatch, elements, storage};

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
    let geometry = geometry(x, w, bias, config)?;
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    let op = Conv3d(geometry);
    match bias {
        Some(bias) => x.apply_op3(&w, &bias.contiguous()?, op),
        None => x.apply_op2(&w, op),
    }
}

fn geometry(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    config: &Conv3dConfig,
) -> Result<Geometry> {
    let [batch, c_in, d, h, width] = volume_dims(OP, x)?;
    let [c_out, _, kd, kh, kw] = volume_dims(OP, w)?;
    expect_argument(OP, "w", w, &[c_out, c_in, kd, kh, kw], x)?;
    if let Some(bias) = bias {
        expect_argument(OP, "bias", bias, &[c_out], x)?;
    }
    if config.stride.contains(&0) {
        return Err(invalid(
            OP,
            format_args!("expected a stride of at least 1, got {:?}", config.stride),
        ));
    }
    let (size, kernel) = ([d, h, width], [kd, kh, kw]);
    let mut out = [0; 3];
    for axis in 0..3 {
        let padding = config.padding[axis];
        if padding > PADDING_MAX {
            return Err(invalid(
                OP,
                format_args!("expected a padding of at most {PADDING_MAX}, got {padding}"),
            ));
        }
        let padded = size[axis] + 2 * padding;
        if kernel[axis] > padded {
            return Err(invalid(
                OP,
                format_args!(
                    "kernel {kernel:?} is larger than the input {size:?} with padding {:?}; \
                     use a smaller kernel or more padding",
                    config.padding
                ),
            ));
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
pub(crate) struct BiasGradient;

impl Conv3d {
    fn out_shape(&self) -> Shape {
        let g = &self.0;
        (g.batch, g.c_out, g.out[0], g.out[1], g.out[2]).into()
    }

    /// The gradients of x and w, `None` where not needed.
    fn gradients(
        &self,
        x: &Tensor,
        w: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_x = x.track_op().then(|| w.apply_op2_no_bwd(grad, &InputGradient(self.0)));
        let of_w = w.track_op().then(|| x.apply_op2_no_bwd(grad, &WeightGradient(self.0)));
        Ok((of_x.transpose()?, of_w.transpose()?))
    }
}

impl CustomOp2 for Conv3d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!(x, OP, T => {
            let (x, w) = (elements::<T>(x, x_layout, OP)?, elements(w, w_layout, OP)?);
            Ok((storage(cpu::forward(Arch::new(), &self.0, x, w, None)), self.out_shape()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.gradients(x, w, &grad.contiguous()?)
    }
}

impl CustomOp3 for Conv3d {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!(x, OP, T => {
            let (x, w) = (elements::<T>(x, x_layout, OP)?, elements(w, w_layout, OP)?);
            let bias = elements(bias, bias_layout, OP)?;
            Ok((storage(cpu::forward(Arch::new(), &self.0, x, w, Some(bias))), self.out_shape()))
        })
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (of_x, of_w) = self.gradients(x, w, &grad)?;
        let of_bias = bias.track_op().then(|| grad.apply_op1_no_bwd(&BiasGradient));
        Ok((of_x, of_w, of_bias.transpose()?))
    }
}

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "conv3d input gradient"
    }

    fn cpu_fwd(
        &self,
        w: &CpuStorage,
        w_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = &self.0;
        let shape = (g.batch, g.c_in, g.size[0], g.size[1], g.size[2]).into();
        dispatch!(grad, OP, T => {
            let (w, grad) = (elements::<T>(w, w_layout, OP)?, elements(grad, grad_layout, OP)?);
            Ok((storage(cpu::input_gradient(Arch::new(), g, w, grad)), shape))
        })
    }
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "conv3d weight gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = &self.0;
        let shape = (g.c_out, g.c_in, g.kernel[0], g.kernel[1], g.kernel[2]).into();
        dispatch!(grad, OP, T => {
            let (x, grad) = (elements::<T>(x, x_layout, OP)?, elements(grad, grad_layout, OP)?);
            Ok((storage(cpu::weight_gradient(Arch::new(), g, x, grad)), shape))
        })
    }
}

impl CustomOp1 for BiasGradient {
    fn name(&self) -> &'static str {
        "bias gradient"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!(grad, OP, T => {
            let (batch, channels, ..) = layout.shape().dims5()?;
            let grad = elements::<T>(grad, layout, OP)?;
            Ok((storage(cpu::bias_gradient(batch, channels, grad)), channels.into()))
        })
    }
}
