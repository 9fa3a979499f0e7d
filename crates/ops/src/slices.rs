//! Operations on memory that others own, such as the arrays of Python: the numbers of the operations on tensors, on the
//! CPU, without a copy of what goes in. Arrays are whole and in the order of their sizes N,C,D,H,W.

use candle_core::Result;
use steer3d_so3::Irreps;

use crate::check::{Volume, invalid};
use crate::gate::Gate;
use crate::norm_relu::NormRelu;
use crate::op::Op;
use crate::separable::{Boundary, Convolution, Separable};
use crate::simd::Lanes;

/// f32 or f64.
#[allow(private_bounds)]
pub trait Element: Lanes {}

impl Element for f32 {}
impl Element for f64 {}

/// An array N,C,D,H,W, D,H,W being z,y,x.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a, T> {
    /// Its elements.
    pub values: &'a [T],
    /// Its sizes.
    pub sizes: [usize; 5],
}

impl<T> Array<'_, T> {
    fn volume(&self, op: &str) -> Result<Volume> {
        let [batch, channels, d, h, w] = self.sizes;
        if self.sizes.contains(&0) {
            let problem = format!("expected sizes of at least 1, got {:?}", self.sizes);
            return Err(invalid(op, problem));
        }
        expect_len(op, "x", self.values, self.sizes.iter().product())?;
        Ok(Volume { batch, channels, size: [d, h, w] })
    }
}

fn expect_len<T>(op: &str, name: &str, values: &[T], expected: usize) -> Result<()> {
    let found = values.len();
    if found == expected {
        return Ok(());
    }
    Err(invalid(op, format!("{name}: expected {expected} elements, got {found}")))
}

/// A separable convolution with zeros beyond the border ([`separable_conv3d`](crate::separable_conv3d)).
#[derive(Clone, Copy, Debug)]
pub struct SeparableConv<'a> {
    /// The kernel.
    pub kernel: &'a Separable,
    /// Every how many voxels there is an output.
    pub stride: usize,
}

impl SeparableConv<'_> {
    const OP: &'static str = "separable_conv3d";

    fn of<T>(&self, x: Array<'_, T>) -> Result<Convolution> {
        let volume = x.volume(Self::OP)?;
        Convolution::new(self.kernel, volume, self.stride, Boundary::Zero)
    }

    /// The sizes of the result for an input of these sizes.
    ///
    /// # Errors
    /// If the stride is 0 or the channels are not those of the kernel.
    pub fn sizes(&self, [batch, channels, d, h, w]: [usize; 5]) -> Result<[usize; 5]> {
        let volume = Volume { batch, channels, size: [d, h, w] };
        Ok(Convolution::new(self.kernel, volume, self.stride, Boundary::Zero)?.result().dims())
    }

    /// The convolution of `x` with `w`, the weights of the basis, plus `bias`, a number for each output channel.
    ///
    /// # Errors
    /// If sizes do not agree with the kernel, or the stride is 0.
    pub fn forward<T: Element>(
        &self,
        x: Array<'_, T>,
        w: &[T],
        bias: Option<&[T]>,
    ) -> Result<Vec<T>> {
        let (op, plan) = (self.of(x)?, self.kernel.plan());
        expect_len(Self::OP, "w", w, plan.num_weights)?;
        let Some(bias) = bias else { return Ok(op.cpu([x.values, w])) };
        expect_len(Self::OP, "bias", bias, plan.channels_out())?;
        Ok(op.cpu([x.values, w, bias]))
    }

    /// The gradient of `x`, then that of `w`, from that of the result.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn gradients<T: Element>(&self, x: Array<'_, T>, w: &[T], grad: &[T]) -> Result<Vec<T>> {
        let op = self.of(x)?;
        expect_len(Self::OP, "w", w, self.kernel.plan().num_weights)?;
        expect_len(Self::OP, "grad", grad, op.result().rows() * op.result().voxels())?;
        Ok(op.gradients().cpu([w, grad, x.values]))
    }

    /// The gradient of `w` alone.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn weight_gradient<T: Element>(&self, x: Array<'_, T>, grad: &[T]) -> Result<Vec<T>> {
        let op = self.of(x)?;
        expect_len(Self::OP, "grad", grad, op.result().rows() * op.result().voxels())?;
        Ok(op.weight_gradient().cpu([x.values, grad]))
    }
}

/// The gated nonlinearity ([`gate`](crate::gate())) with so many scalars before the gates.
///
/// # Errors
/// If `x` has another number of channels.
pub fn gate<T: Element>(x: Array<'_, T>, scalars: usize, gated: &Irreps) -> Result<Vec<T>> {
    let op = Gate::of_volume(x.volume("gate")?, scalars, Some(gated))?;
    Ok(op.cpu([x.values]))
}

/// The gradient of `x` from that of its [`gate`].
///
/// # Errors
/// If sizes do not agree.
pub fn gate_gradient<T: Element>(
    x: Array<'_, T>,
    scalars: usize,
    gated: &Irreps,
    grad: &[T],
) -> Result<Vec<T>> {
    let op = Gate::of_volume(x.volume("gate")?, scalars, Some(gated))?;
    expect_len("gate", "grad", grad, op.out_shape().elem_count())?;
    Ok(op.of_gradient().cpu([x.values, grad]))
}

/// The norm nonlinearity ([`norm_relu`](crate::norm_relu())) with one bias for each field.
///
/// # Errors
/// If sizes do not agree.
pub fn norm_relu<T: Element>(x: Array<'_, T>, irreps: &Irreps, bias: &[T]) -> Result<Vec<T>> {
    let op = NormRelu::of_volume(x.volume("norm_relu")?, irreps)?;
    expect_len("norm_relu", "bias", bias, irreps.num_fields())?;
    Ok(op.cpu([x.values, bias]))
}

/// The gradients of `x` and of the biases from that of [`norm_relu`].
///
/// # Errors
/// If sizes do not agree.
pub fn norm_relu_gradients<T: Element>(
    x: Array<'_, T>,
    irreps: &Irreps,
    bias: &[T],
    grad: &[T],
) -> Result<[Vec<T>; 2]> {
    let op = NormRelu::of_volume(x.volume("norm_relu")?, irreps)?;
    expect_len("norm_relu", "bias", bias, irreps.num_fields())?;
    expect_len("norm_relu", "grad", grad, x.values.len())?;
    Ok(op.gradients([x.values, bias, grad]))
}
