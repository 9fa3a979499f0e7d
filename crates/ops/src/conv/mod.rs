//! 3-D convolution as a differentiable operation.

mod cpu;
mod geometry;
mod product;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::Arch;

use self::geometry::Geometry;
use crate::check::{expect_argument, invalid, volume_dims};
use crate::float::cuda_fwd;
use crate::float::{dispatch, elements, storage};
#[cfg(any(test, feature = "cudnn"))]
use crate::gpu::cudnn::{Convolution, Pass};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, args, dense, shares, sum_over_fields};

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

/// N,C,D,H,W and a bias for each channel to their sum.
#[cfg(any(test, feature = "cudnn"))]
pub(crate) struct AddBias;

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
        dispatch!((x, w), OP, T => {
            let (x, w) = (elements::<T>(x, x_layout, OP)?, elements(w, w_layout, OP)?);
            Ok((storage(cpu::forward(Arch::new(), &self.0, x, w, None)), self.out_shape()))
        })
    }

    cuda_fwd!(2);

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
        dispatch!((x, w, bias), OP, T => {
            let (x, w) = (elements::<T>(x, x_layout, OP)?, elements(w, w_layout, OP)?);
            let bias = elements(bias, bias_layout, OP)?;
            Ok((storage(cpu::forward(Arch::new(), &self.0, x, w, Some(bias))), self.out_shape()))
        })
    }

    cuda_fwd!(3);

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
        dispatch!((grad, w), OP, T => {
            let (w, grad) = (elements::<T>(w, w_layout, OP)?, elements(grad, grad_layout, OP)?);
            Ok((storage(cpu::input_gradient(Arch::new(), g, w, grad)), shape))
        })
    }

    cuda_fwd!(2);
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
        dispatch!((grad, x), OP, T => {
            let (x, grad) = (elements::<T>(x, x_layout, OP)?, elements(grad, grad_layout, OP)?);
            Ok((storage(cpu::weight_gradient(Arch::new(), g, x, grad)), shape))
        })
    }

    cuda_fwd!(2);
}

impl CustomOp1 for BiasGradient {
    fn name(&self) -> &'static str {
        "bias gradient"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!((grad), OP, T => {
            let (batch, channels, ..) = layout.shape().dims5()?;
            let grad = elements::<T>(grad, layout, OP)?;
            Ok((storage(cpu::bias_gradient(batch, channels, grad)), channels.into()))
        })
    }

    cuda_fwd!(1);
}

#[cfg(any(test, feature = "cuda"))]
mod on_gpu {
    use super::*;

    /// Rows, columns and depth of a block's tile of a product, as in `dense.cu`.
    const TILE: [usize; 3] = [64, 128, 16];

    fn shared_bytes(element: Element) -> usize {
        TILE[2] * (TILE[0] + TILE[1]) * element.real_bytes()
    }

    impl Geometry {
        /// The struct `Dense` of the kernels.
        fn ints(&self) -> Vec<i32> {
            let Self { batch, c_in, c_out, size, kernel, stride, padding, out } = *self;
            let counts = [batch, c_in, c_out].into_iter().chain(size).chain(kernel).chain(stride);
            let mut ints: Vec<i32> = counts.map(|n| n as i32).collect();
            ints.extend(padding.map(|p| p as i32));
            ints.extend(out.map(|n| n as i32));
            ints
        }
    }

    #[cfg(any(test, feature = "cudnn"))]
    impl Geometry {
        fn convolution(&self, pass: Pass) -> Option<Convolution> {
            let Self { batch, c_in, c_out, size, kernel, stride, padding, out } = *self;
            let volume = |channels, [d, h, w]: [usize; 3]| [batch, channels, d, h, w];
            let padding = padding.map(usize::try_from);
            Some(Convolution {
                pass,
                input: volume(c_in, size),
                filter: [c_out, c_in, kernel[0], kernel[1], kernel[2]],
                output: volume(c_out, out),
                padding: [padding[0].ok()?, padding[1].ok()?, padding[2].ok()?],
                stride,
            })
        }
    }

    impl OnGpu for Conv3d {
        const OP: &'static str = OP;

        #[cfg(any(test, feature = "cudnn"))]
        fn convolution(&self) -> Option<Convolution> {
            self.0.convolution(Pass::Forward)
        }

        fn routine(
            &self,
            shapes: &[&Shape],
            element: Element,
            _limits: Limits,
        ) -> Result<(Routine, Shape)> {
            let g = &self.0;
            let (mut routine, inputs) = Routine::new(element, shapes.len());
            let out = routine.output(self.out_shape().elem_count());
            let columns = g.batch * g.out_voxels();
            let args = args![inputs[0], inputs[1], inputs.get(2).copied(), out, g.ints()];
            let call = Call::new(dense(element), "dense_forward", args);
            let call = call.grid(columns.div_ceil(TILE[1]), g.c_out.div_ceil(TILE[0]));
            routine.call(call.block(256, shared_bytes(element)));
            Ok((routine, self.out_shape()))
        }
    }

    impl OnGpu for InputGradient {
        const OP: &'static str = "conv3d input gradient";

        #[cfg(any(test, feature = "cudnn"))]
        fn convolution(&self) -> Option<Convolution> {
            self.0.convolution(Pass::InputGradient)
        }

        fn routine(
            &self,
            _shapes: &[&Shape],
            element: Element,
            _limits: Limits,
        ) -> Result<(Routine, Shape)> {
            let g = &self.0;
            let (mut routine, inputs) = Routine::new(element, 2);
            let columns = g.batch * g.in_voxels();
            let out = routine.output(columns * g.c_in);
            let args = args![inputs[0], inputs[1], out, g.ints()];
            let call = Call::new(dense(element), "dense_input_gradient", args);
            let call = call.grid(columns.div_ceil(TILE[1]), g.c_in.div_ceil(TILE[0]));
            routine.call(call.block(256, shared_bytes(element)));
            Ok((routine, (g.batch, g.c_in, g.size[0], g.size[1], g.size[2]).into()))
        }
    }

    impl OnGpu for WeightGradient {
        const OP: &'static str = "conv3d weight gradient";

        #[cfg(any(test, feature = "cudnn"))]
        fn convolution(&self) -> Option<Convolution> {
            self.0.convolution(Pass::WeightGradient)
        }

        fn routine(
            &self,
            _shapes: &[&Shape],
            element: Element,
            limits: Limits,
        ) -> Result<(Routine, Shape)> {
            let g = &self.0;
            let (mut routine, inputs) = Routine::new(element, 2);
            let len = g.c_out * g.rows();
            let (rows, columns) = (g.c_out.div_ceil(TILE[0]), g.rows().div_ceil(TILE[1]));
            // Enough blocks for all multiprocessors, each with some work.
            let wanted = (4 * limits.multiprocessors).div_ceil(rows * columns);
            let count = wanted.clamp(1, (g.batch * g.out_voxels()).div_ceil(64 * TILE[2]));
            let (parts, out) = (routine.scratch(count * len), routine.output(len));
            let args = args![inputs[0], inputs[1], parts, g.ints()];
            let call = Call::new(dense(element), "dense_weight_gradient", args);
            let mut call = call.grid(columns, rows).block(256, shared_bytes(element));
            call.grid[2] = count as u32;
            routine.call(call);
            let args = args![parts, out, count, len, 0i64];
            routine.call(Call::new(shares(element), "sum_shares", args).over(len));
            Ok((routine, (g.c_out, g.c_in, g.kernel[0], g.kernel[1], g.kernel[2]).into()))
        }
    }

    #[cfg(any(test, feature = "cudnn"))]
    impl OnGpu for AddBias {
        const OP: &'static str = "conv3d bias";

        fn routine(
            &self,
            shapes: &[&Shape],
            element: Element,
            _limits: Limits,
        ) -> Result<(Routine, Shape)> {
            let (_, channels, d, h, w) = shapes[0].dims5()?;
            let count = shapes[0].elem_count();
            let (mut routine, inputs) = Routine::new(element, 2);
            let out = routine.output(count);
            let args = args![inputs[0], inputs[1], out, channels, d * h * w, count as i64];
            routine.call(Call::new(dense(element), "add_bias", args).over(count));
            Ok((routine, shapes[0].clone()))
        }
    }

    impl OnGpu for BiasGradient {
        const OP: &'static str = "bias gradient";

        fn routine(
            &self,
            shapes: &[&Shape],
            element: Element,
            limits: Limits,
        ) -> Result<(Routine, Shape)> {
            let (batch, channels, d, h, w) = shapes[0].dims5()?;
            let voxels = d * h * w;
            let (mut routine, inputs) = Routine::new(element, 1);
            let out = routine.output(channels);
            let spans = routine.ints((0..channels).flat_map(|c| [c, 1]));
            let mean = routine.doubles(vec![0.0]);
            let x = inputs[0];
            let sums = |sums| args![x, x, mean, spans, sums, 0usize, batch, channels, voxels];
            let totals = |sums, shares| args![sums, out, channels, shares];
            sum_over_fields(
                &mut routine,
                ("field_sums", &sums),
                ("first_totals", &totals),
                channels,
                batch * voxels,
                limits,
            );
            Ok((routine, channels.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::cudnn::host::check_calls;
    use crate::gpu::host::{ALL, check, check1, check2, check3, normal};

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
            check2(&Conv3d(geometry), &x, &w);
            check3(&Conv3d(geometry), &x, &w, &normal(4, c_out));
            check2(&InputGradient(geometry), &w, &grad);
            check2(&WeightGradient(geometry), &x, &grad);
            check1(&BiasGradient, &grad);
            let bias = normal(4, c_out);
            check(&AddBias, &ALL, &[&grad, &bias], |_| {
                let sum = grad.broadcast_add(&bias.reshape((1, c_out, 1, 1, 1))?)?;
                let values = sum.flatten_all()?.to_vec1::<f64>()?;
                Ok((CpuStorage::F64(values), sum.shape().clone()))
            });
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
            check_calls(&Conv3d(geometry), &x, &w);
            check_calls(&InputGradient(geometry), &w, &grad);
            check_calls(&WeightGradient(geometry), &x, &grad);
        }
    }
}
