//! Separable steerable convolution as a differentiable operation.

mod cpu;
mod geometry;
mod inner;
#[cfg(any(test, feature = "cuda"))]
mod on_gpu;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use steer3d_kernels::SeparablePlan;

use self::cpu::{Map, Work, exchanged};
use self::geometry::Geometry;
use crate::check::{expect_argument, invalid, volume_dims};
use crate::conv::BiasGradient;
use crate::float::cuda_fwd;
use crate::float::{dispatch, elements, storage, widened};

const OP: &str = "separable_conv3d";

/// What lies beyond the border of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Boundary {
    /// Zeros.
    #[default]
    Zero,
    /// The volume again, as in a crystal.
    Circular,
}

/// A [`SeparablePlan`] and its adjoint, ready for [`separable_conv3d`].
#[derive(Clone, Debug)]
pub struct Separable(Arc<Plans>);

#[derive(Debug)]
struct Plans {
    forward: SeparablePlan,
    adjoint: SeparablePlan,
    #[cfg(any(test, feature = "cuda"))]
    kernels: on_gpu::Written,
}

impl Separable {
    /// Largest kernel size k.
    pub const MAX_SIZE: usize = 2 * inner::MAX_HALF + 1;

    /// Prepares a plan.
    ///
    /// # Errors
    /// If its kernels are larger than [`MAX_SIZE`](Self::MAX_SIZE).
    pub fn new(plan: SeparablePlan) -> Result<Self> {
        if plan.size > Self::MAX_SIZE {
            let max = Self::MAX_SIZE;
            return Err(invalid(
                OP,
                format_args!("expected a kernel size of at most {max}, got {}", plan.size),
            ));
        }
        let adjoint = plan.adjoint();
        Ok(Self(Arc::new(Plans {
            forward: plan,
            adjoint,
            #[cfg(any(test, feature = "cuda"))]
            kernels: on_gpu::Written::default(),
        })))
    }

    /// The plan.
    pub fn plan(&self) -> &SeparablePlan {
        &self.0.forward
    }
}

/// Convolution with a steerable kernel of Gaussian jets, without its dense filter: equal to
/// [`conv3d`](crate::conv3d) with the filter that the kernel basis expands `w` to and padding k/2,
/// and differentiable in all three tensors.
///
/// `x` is N,C_in,D,H,W, `w` has the weights of the basis, and `bias` is C_out, all f32 or all f64. The
/// result is N,C_out,D',H',W' with D' = (D − 1) / stride + 1, rounded down.
///
/// Beyond its arguments, its result and their gradients it takes memory for one tile on each thread,
/// and in the backward pass at most 32 copies of `w`.
///
/// The method: 1-D filters along z, y and x give all derivatives ("jets") of the smoothed input; a
/// constant sparse matrix takes them to features; the weights mix these
/// ([`SeparablePlan`] has the formulas). The gradient of `x` is such a convolution too, whose
/// features also give the gradient of `w`. With a stride of s the backward pass takes as long as with
/// a stride of 1, since it works on the grid of `x`.
///
/// # Errors
/// If shapes or element types do not agree with the plan, or the stride is 0.
pub fn separable_conv3d(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    kernel: &Separable,
    stride: usize,
    boundary: Boundary,
) -> Result<Tensor> {
    let plan = kernel.plan();
    let [batch, channels, d, h, width] = volume_dims(OP, x)?;
    let (c_in, c_out) = (plan.channels_in(), plan.channels_out());
    if channels != c_in {
        return Err(invalid(OP, format_args!("expected {c_in} channels, got {channels}")));
    }
    expect_argument(OP, "w", w, &[plan.num_weights], x)?;
    if let Some(bias) = bias {
        expect_argument(OP, "bias", bias, &[c_out], x)?;
    }
    if stride == 0 {
        return Err(invalid(OP, "expected a stride of at least 1, got 0"));
    }
    let geometry = Geometry::forward(batch, [d, h, width], plan.size / 2, stride, boundary);
    let op = Convolution { kernel: kernel.clone(), geometry, c_out };
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&w, &bias.contiguous()?, op),
        None => x.apply_op2(&w, op),
    }
}

#[derive(Clone)]
struct Convolution {
    kernel: Separable,
    geometry: Geometry,
    c_out: usize,
}

/// Weights, output gradient and input to the gradient of the input, followed by that of the weights.
struct Gradients(Convolution);

/// Input and output gradient to the gradient of the weights.
struct WeightGradient(Convolution);

impl Convolution {
    fn forward(
        &self,
        x: (&CpuStorage, &Layout),
        w: (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let g = &self.geometry;
        let shape = (g.batch, self.c_out, g.out[0], g.out[1], g.out[2]).into();
        let ((x, x_layout), (w, w_layout)) = (x, w);
        let bias = bias.map(|(bias, layout)| (widened(bias), layout));
        dispatch!((x, w), OP, T => {
            let bias = bias.as_ref();
            let bias = bias.map(|(bias, layout)| elements::<T>(bias, layout, OP)).transpose()?;
            let mix = Some(elements::<T>(w, w_layout, OP)?);
            let work = Work { mix, bias, contract: None };
            let map = Map::new(self.kernel.plan());
            let out = cpu::run(&map, g, elements::<T>(x, x_layout, OP)?, &work);
            Ok((storage(out), shape))
        })
    }

    fn backward(
        &self,
        x: &Tensor,
        w: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        if !x.track_op() {
            let of_w =
                w.track_op().then(|| x.apply_op2_no_bwd(&grad, &WeightGradient(self.clone())));
            return Ok((None, of_w.transpose()?));
        }
        let both = w.apply_op3_no_bwd(&grad, x, &Gradients(self.clone()))?;
        let of_x = both.narrow(0, 0, x.elem_count())?.reshape(x.shape())?;
        let of_w = both.narrow(0, x.elem_count(), w.elem_count())?;
        Ok((Some(of_x), Some(of_w)))
    }
}

impl CustomOp2 for Convolution {
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
        self.forward((x, x_layout), (w, w_layout), None)
    }

    cuda_fwd!(2);

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        self.backward(x, w, grad)
    }
}

impl CustomOp3 for Convolution {
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
        self.forward((x, x_layout), (w, w_layout), Some((bias, bias_layout)))
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
        let (of_x, of_w) = self.backward(x, w, grad)?;
        let of_bias = bias.track_op().then(|| grad.contiguous()?.apply_op1_no_bwd(&BiasGradient));
        Ok((of_x, of_w, of_bias.transpose()?))
    }
}

impl CustomOp3 for Gradients {
    fn name(&self) -> &'static str {
        "separable_conv3d gradients"
    }

    fn cpu_fwd(
        &self,
        w: &CpuStorage,
        w_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Convolution { kernel, geometry, .. } = &self.0;
        let Plans { forward, adjoint, .. } = &*kernel.0;
        dispatch!((grad, w, x), OP, T => {
            let w = exchanged(forward, elements::<T>(w, w_layout, OP)?);
            let contract = Some(elements::<T>(x, x_layout, OP)?);
            let work = Work { mix: Some(&w), bias: None, contract };
            let grad = elements::<T>(grad, grad_layout, OP)?;
            let mut both = cpu::run(&Map::new(adjoint), &geometry.adjoint(), grad, &work);
            let len = both.len();
            let of_w = &mut both[len - adjoint.num_weights..];
            of_w.copy_from_slice(&exchanged(adjoint, of_w));
            Ok((storage(both), len.into()))
        })
    }

    cuda_fwd!(3);
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "separable_conv3d weight gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let Convolution { kernel, geometry, .. } = &self.0;
        dispatch!((grad, x), OP, T => {
            let contract = Some(elements::<T>(grad, grad_layout, OP)?);
            let work = Work { mix: None, bias: None, contract };
            let x = elements::<T>(x, x_layout, OP)?;
            let of_w = cpu::run(&Map::new(kernel.plan()), geometry, x, &work);
            Ok((storage(of_w), kernel.plan().num_weights.into()))
        })
    }

    cuda_fwd!(2);
}
