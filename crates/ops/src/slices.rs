//! Operations on memory that others own, such as the arrays of Python: the numbers of the operations on tensors, on the
//! CPU, without a copy of what goes in. Arrays are whole and in the order of their sizes N,C,D,H,W.

use candle_core::Result;
use steer3d_so3::Irreps;

use crate::batch_norm::{self, Normalize};
use crate::check::{Volume, invalid};
use crate::gate::Gate;
use crate::norm_relu::NormRelu;
use crate::op::Op;
use crate::pool::AxisFilters;
use crate::separable::{Boundary, Convolution, Separable};
use crate::simd::Lanes;

/// f32 or f64.
#[allow(private_bounds)]
pub trait Element: Compiled {}

impl Element for f32 {}
impl Element for f64 {}

/// The inner loops, compiled here for each element type: compiled in the crate that calls them they take 1.5 times as long.
trait Compiled: Lanes {
    fn conv(op: &Convolution, x: &[Self], w: &[Self], bias: Option<&[Self]>) -> Vec<Self>;
    fn conv_gradients(op: &Convolution, inputs: [&[Self]; 3]) -> Vec<Self>;
    fn conv_weight_gradient(op: &Convolution, inputs: [&[Self]; 2]) -> Vec<Self>;
    fn pool(op: &AxisFilters, x: &[Self]) -> Vec<Self>;
}

macro_rules! compiled {
    ($type:ty) => {
        impl Compiled for $type {
            fn conv(op: &Convolution, x: &[Self], w: &[Self], bias: Option<&[Self]>) -> Vec<Self> {
                match bias {
                    Some(bias) => op.cpu([x, w, bias]),
                    None => op.cpu([x, w]),
                }
            }

            fn conv_gradients(op: &Convolution, inputs: [&[Self]; 3]) -> Vec<Self> {
                op.gradients().cpu(inputs)
            }

            fn conv_weight_gradient(op: &Convolution, inputs: [&[Self]; 2]) -> Vec<Self> {
                op.weight_gradient().cpu(inputs)
            }

            fn pool(op: &AxisFilters, x: &[Self]) -> Vec<Self> {
                op.cpu([x])
            }
        }
    };
}

compiled!(f32);
compiled!(f64);

/// An array N,C,D,H,W, D,H,W being z,y,x.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a, T> {
    /// Its elements.
    pub values: &'a [T],
    /// Its sizes.
    pub sizes: [usize; 5],
}

impl<T: Copy> Array<'_, T> {
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

    fn of<T: Copy>(&self, x: Array<'_, T>) -> Result<Convolution> {
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
        if let Some(bias) = bias {
            expect_len(Self::OP, "bias", bias, plan.channels_out())?;
        }
        Ok(T::conv(&op, x.values, w, bias))
    }

    /// The gradient of `x`, then that of `w`, from that of the result.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn gradients<T: Element>(&self, x: Array<'_, T>, w: &[T], grad: &[T]) -> Result<Vec<T>> {
        let op = self.of(x)?;
        expect_len(Self::OP, "w", w, self.kernel.plan().num_weights)?;
        expect_len(Self::OP, "grad", grad, op.result().rows() * op.result().voxels())?;
        Ok(T::conv_gradients(&op, [w, grad, x.values]))
    }

    /// The gradient of `w` alone.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn weight_gradient<T: Element>(&self, x: Array<'_, T>, grad: &[T]) -> Result<Vec<T>> {
        let op = self.of(x)?;
        expect_len(Self::OP, "grad", grad, op.result().rows() * op.result().voxels())?;
        Ok(T::conv_weight_gradient(&op, [x.values, grad]))
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

/// A batch norm by means and variances ([`field_batch_norm`](crate::field_batch_norm())).
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a, T> {
    /// Type of the fields.
    pub irreps: &'a Irreps,
    /// The means of all fields, 0 of those that are not scalars, then their variances.
    pub statistics: &'a [T],
    /// What is added to the variances.
    pub epsilon: f64,
    /// Whether the statistics are those of the input, and so depend on it.
    pub from_batch: bool,
}

impl<T: Element> Norm<'_, T> {
    const OP: &'static str = "field_batch_norm";

    fn of(&self, x: Array<'_, T>) -> Result<Normalize> {
        let fields = self.irreps.num_fields();
        expect_len(Self::OP, "statistics", self.statistics, 2 * fields)?;
        let (mean, var) = self.statistics.split_at(fields);
        let volume = x.volume(Self::OP)?;
        Normalize::by(volume, self.irreps, [mean, var], self.epsilon, self.from_batch)
    }

    /// The normalised fields, by a weight for each field and a bias for each scalar.
    ///
    /// # Errors
    /// If sizes do not agree.
    pub fn forward(&self, x: Array<'_, T>, weight: &[T], bias: &[T]) -> Result<Vec<T>> {
        let op = self.of(x)?;
        expect_len(Self::OP, "weight", weight, op.num_fields())?;
        expect_len(Self::OP, "bias", bias, op.num_invariant())?;
        Ok(op.cpu([x.values, weight, bias]))
    }

    /// The gradients of `x`, and of weights and biases one after the other.
    ///
    /// # Errors
    /// If sizes do not agree.
    pub fn gradients(&self, x: Array<'_, T>, weight: &[T], grad: &[T]) -> Result<[Vec<T>; 2]> {
        let op = self.of(x)?;
        expect_len(Self::OP, "weight", weight, op.num_fields())?;
        expect_len(Self::OP, "grad", grad, x.values.len())?;
        Ok(op.gradients(x.values, weight, grad))
    }
}

/// The [statistics](Norm::statistics) of a batch.
///
/// # Errors
/// If sizes do not agree.
pub fn statistics<T: Element>(x: Array<'_, T>, irreps: &Irreps) -> Result<Vec<T>> {
    batch_norm::statistics(x.volume("field_batch_norm")?, irreps, x.values)
}

/// Antialiased subsampling ([`gaussian_pool3d`](crate::gaussian_pool3d())), and the sizes of the result.
///
/// # Errors
/// If the stride or the width of the Gaussian is out of range.
pub fn gaussian_pool<T: Element>(
    x: Array<'_, T>,
    stride: usize,
    sigma: f64,
) -> Result<(Vec<T>, [usize; 5])> {
    let op = AxisFilters::gaussian(x.volume("gaussian_pool3d")?, stride, sigma)?;
    Ok((T::pool(&op, x.values), op.sizes()[1].dims()))
}

/// The gradient of an input of these sizes from that of its [`gaussian_pool`].
///
/// # Errors
/// As [`gaussian_pool`], and if sizes do not agree.
pub fn gaussian_pool_gradient<T: Element>(
    [batch, channels, d, h, w]: [usize; 5],
    stride: usize,
    sigma: f64,
    grad: &[T],
) -> Result<Vec<T>> {
    let volume = Volume { batch, channels, size: [d, h, w] };
    let op = AxisFilters::gaussian(volume, stride, sigma)?;
    let expected = op.sizes()[1].rows() * op.sizes()[1].voxels();
    expect_len("gaussian_pool3d", "grad", grad, expected)?;
    Ok(T::pool(&op.transposed(), grad))
}
