//! Separable steerable convolution as a differentiable operation.

#[cfg(any(test, feature = "cuda"))]
mod codegen;
mod cpu;
mod geometry;
mod inner;
mod plans;

use candle_core::{Result, Shape, Tensor};

use self::cpu::{Map, Work, exchanged};
use self::geometry::Geometry;
use self::plans::{OP, Plans};
use crate::check::{Volume, expect_argument, invalid};
use crate::conv::bias_gradient;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot};
use crate::op::{Op, apply, apply_constant, if_tracked};
use crate::simd::Lanes;

pub use self::geometry::Boundary;
pub use self::plans::Separable;

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
/// ([`SeparablePlan`](steer3d_kernels::SeparablePlan) has the formulas). The gradient of `x` is such a convolution too, whose
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
    let op = Convolution::new(kernel, Volume::of(OP, x)?, stride, boundary)?;
    check(x, w, bias, kernel)?;
    match bias {
        Some(bias) => apply(op, [x, w, bias]),
        None => apply(op, [x, w]),
    }
}

/// The planes of [`separable_conv3d`], with a stride of 1, of which all that they depend on along D is in `x`: D − 2 ⌊k/2⌋
/// of its D planes. Not differentiable.
///
/// # Errors
/// As [`separable_conv3d`], and if there is no such plane.
pub fn separable_conv3d_planes(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    kernel: &Separable,
) -> Result<Tensor> {
    let volume = Volume::of(OP, x)?;
    let (half, depth) = (kernel.plan().size / 2, volume.size[0]);
    if depth <= 2 * half {
        let problem = format!("expected more than {} planes, got {depth}", 2 * half);
        return Err(invalid(OP, problem));
    }
    if !x.device().is_cpu() {
        let whole = separable_conv3d(x, w, bias, kernel, 1, Boundary::Zero)?;
        return whole.narrow(2, half, depth - 2 * half);
    }
    let whole = Convolution::new(kernel, volume, 1, Boundary::Zero)?;
    check(x, w, bias, kernel)?;
    let geometry = Geometry::planes(volume.batch, volume.size, half);
    let op = Convolution { geometry, ..whole };
    match bias {
        Some(bias) => apply_constant(op, [x, w, bias]),
        None => apply_constant(op, [x, w]),
    }
}

/// Whether weights and bias are those of a kernel.
fn check(x: &Tensor, w: &Tensor, bias: Option<&Tensor>, kernel: &Separable) -> Result<()> {
    let plan = kernel.plan();
    expect_argument(OP, "w", w, &[plan.num_weights], x)?;
    bias.map_or(Ok(()), |bias| expect_argument(OP, "bias", bias, &[plan.channels_out()], x))
}

/// Input, weights and (three arguments) bias to output.
#[derive(Clone)]
pub(crate) struct Convolution {
    kernel: Separable,
    geometry: Geometry,
}

impl Convolution {
    pub(crate) fn new(
        kernel: &Separable,
        volume: Volume,
        stride: usize,
        boundary: Boundary,
    ) -> Result<Self> {
        let plan = kernel.plan();
        let (expected, found) = (plan.channels_in(), volume.channels);
        if found != expected {
            return Err(invalid(OP, format!("expected {expected} channels, got {found}")));
        }
        if stride == 0 {
            return Err(invalid(OP, "expected a stride of at least 1, got 0"));
        }
        let half = plan.size / 2;
        let geometry = Geometry::forward(volume.batch, volume.size, half, stride, boundary);
        Ok(Self { kernel: kernel.clone(), geometry })
    }

    /// The sizes of the result.
    pub(crate) fn result(&self) -> Volume {
        let Geometry { batch, out, .. } = self.geometry;
        Volume { batch, channels: self.kernel.plan().channels_out(), size: out }
    }

    pub(crate) fn gradients(&self) -> Gradients {
        Gradients(self.clone())
    }

    pub(crate) fn weight_gradient(&self) -> WeightGradient {
        WeightGradient(self.clone())
    }
}

/// Weights, output gradient and input to the gradient of the input, followed by that of the weights.
pub(crate) struct Gradients(Convolution);

/// Input and output gradient to the gradient of the weights.
pub(crate) struct WeightGradient(Convolution);

/// With or without a bias.
impl<const N: usize> Op<N> for Convolution {
    const NAME: &'static str = OP;

    fn shape(&self, _: [&Shape; N]) -> Shape {
        self.result().shape()
    }

    fn cpu<T: Lanes>(&self, inputs: [&[T]; N]) -> Vec<T> {
        let work = Work { mix: Some(inputs[1]), bias: inputs.get(2).copied(), contract: None };
        cpu::run(&Map::new(self.kernel.plan()), &self.geometry, inputs[0], &work)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, inputs: [Slot; N], out: Slot) -> Result<()> {
        let (slots, bias) = ([inputs[0], inputs[1], out], inputs.get(2).copied());
        self.kernel.0.mix(routine, false, &self.geometry, slots, bias)
    }

    fn backward(&self, inputs: [&Tensor; N], grad: &Tensor) -> Result<[Option<Tensor>; N]> {
        let (x, w) = (inputs[0], inputs[1]);
        let mut gradients = [const { None }; N];
        if x.track_op() {
            let both = apply_constant(self.gradients(), [w, grad, x])?;
            gradients[0] = Some(both.narrow(0, 0, x.elem_count())?.reshape(x.shape())?);
            gradients[1] = Some(both.narrow(0, x.elem_count(), w.elem_count())?);
        } else {
            gradients[1] = if_tracked(w, || apply_constant(self.weight_gradient(), [x, grad]))?;
        }
        if let Some(bias) = inputs.get(2) {
            gradients[2] = if_tracked(bias, || bias_gradient(grad))?;
        }
        Ok(gradients)
    }
}

impl Op<3> for Gradients {
    const NAME: &'static str = "separable_conv3d gradients";

    fn shape(&self, [w, _, x]: [&Shape; 3]) -> Shape {
        (x.elem_count() + w.elem_count()).into()
    }

    fn cpu<T: Lanes>(&self, [w, grad, x]: [&[T]; 3]) -> Vec<T> {
        let Convolution { kernel, geometry } = &self.0;
        let Plans { forward, adjoint, .. } = &*kernel.0;
        let w = exchanged(forward, w);
        let work = Work { mix: Some(&w), bias: None, contract: Some(x) };
        let mut both = cpu::run(&Map::new(adjoint), &geometry.adjoint(), grad, &work);
        let len = both.len();
        let of_w = &mut both[len - adjoint.num_weights..];
        of_w.copy_from_slice(&exchanged(adjoint, of_w));
        both
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [w, grad, x]: [Slot; 3], out: Slot) -> Result<()> {
        let Convolution { kernel, geometry } = &self.0;
        let (adjoint, of_x) = (geometry.adjoint(), routine.len(x));
        kernel.0.mix(routine, true, &adjoint, [grad, w, out], None)?;
        kernel.0.contract(routine, true, &adjoint, [grad, x, out], of_x)
    }
}

impl Op<2> for WeightGradient {
    const NAME: &'static str = "separable_conv3d weight gradient";

    fn shape(&self, _: [&Shape; 2]) -> Shape {
        self.0.kernel.plan().num_weights.into()
    }

    fn cpu<T: Lanes>(&self, [x, grad]: [&[T]; 2]) -> Vec<T> {
        let Convolution { kernel, geometry } = &self.0;
        let work = Work { mix: None, bias: None, contract: Some(grad) };
        cpu::run(&Map::new(kernel.plan()), geometry, x, &work)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, grad]: [Slot; 2], out: Slot) -> Result<()> {
        let Convolution { kernel, geometry } = &self.0;
        kernel.0.contract(routine, false, geometry, [x, grad, out], 0)
    }
}

#[cfg(test)]
pub(crate) use codegen::{Use, Variant, kernels};

#[cfg(test)]
mod tests {
    use steer3d_kernels::{Family, KernelBasis, SeparablePlan};
    use steer3d_so3::Irreps;

    use super::*;
    use crate::gpu::host::{ALL, LIMITS};
    use crate::gpu::{Element, Limits};
    use crate::testing::{check_within, normal};

    fn compare(
        limits: Limits,
        elements: &[(Element, f64)],
        irreps: [&str; 2],
        (size, order): (usize, usize),
        dims: [usize; 3],
        stride: usize,
        boundary: Boundary,
    ) {
        let [i, o] = irreps.map(|text| text.parse::<Irreps>().unwrap());
        let family = Family::jets(order);
        let basis = KernelBasis::new(&i, &o, size, &family, [1.0; 3]).unwrap();
        let plan = SeparablePlan::new(&basis, &family).unwrap().unwrap();
        let kernel = Separable::new(plan).unwrap();
        let geometry = Geometry::forward(2, dims, size / 2, stride, boundary);
        let [d, h, w] = dims;
        let x = normal(1, (2, i.dim(), d, h, w));
        let weights = normal(2, basis.num_weights());
        let [d, h, w] = geometry.out;
        let grad = normal(3, (2, o.dim(), d, h, w));
        let op = Convolution { kernel, geometry };
        check_within(limits, &op, elements, [&x, &weights, &normal(4, o.dim())]);
        check_within(limits, &Gradients(op.clone()), elements, [&weights, &grad, &x]);
        check_within(limits, &WeightGradient(op), elements, [&x, &grad]);
    }

    #[test]
    fn kernels_agree_with_the_cpu() {
        let (zero, circular, single) = (Boundary::Zero, Boundary::Circular, &ALL[1..2]);
        compare(LIMITS, &ALL, ["2x0+1x1", "3x0+2x1+1x2"], (5, 3), [6, 5, 9], 1, zero);
        compare(LIMITS, single, ["1x1+1x0", "1x3+5x0"], (7, 4), [5, 9, 7], 2, zero);
        compare(LIMITS, single, ["1x0+1x2", "1x1"], (3, 2), [5, 6, 7], 3, circular);
        compare(LIMITS, single, ["1x0+1x1", "1x1"], (13, 2), [4, 5, 6], 1, zero);
    }

    #[test]
    fn planes_are_those_of_the_whole() {
        for (size, dims) in [(5, [9, 6, 7]), (3, [4, 5, 3]), (7, [7, 3, 9])] {
            let [i, o] = ["2x0+1x1", "3x0+2x1+1x2"].map(|text| text.parse::<Irreps>().unwrap());
            let family = Family::jets(2);
            let basis = KernelBasis::new(&i, &o, size, &family, [1.0; 3]).unwrap();
            let plan = SeparablePlan::new(&basis, &family).unwrap().unwrap();
            let kernel = Separable::new(plan).unwrap();
            let [d, h, w] = dims;
            let x = normal(1, (2, i.dim(), d, h, w));
            let (weights, bias) = (normal(2, basis.num_weights()), normal(3, o.dim()));
            let whole =
                separable_conv3d(&x, &weights, Some(&bias), &kernel, 1, Boundary::Zero).unwrap();
            let half = size / 2;
            let planes = separable_conv3d_planes(&x, &weights, Some(&bias), &kernel).unwrap();
            let expected = whole.narrow(2, half, d - 2 * half).unwrap();
            assert_eq!(planes.dims(), expected.dims());
            let gap = (planes - expected).unwrap().abs().unwrap().max_all().unwrap();
            assert!(gap.to_scalar::<f64>().unwrap() < 1e-12);
            let thin = x.narrow(2, 0, 2 * half).unwrap();
            assert!(separable_conv3d_planes(&thin, &weights, None, &kernel).is_err());
        }
    }

    #[test]
    fn tensor_cores_agree_to_the_rounding_of_tf32() {
        let limits = Limits { tf32: true, ..LIMITS };
        let rounded = [(Element::F32, 2e-3), (Element::Bf16, 2e-2)];
        let zero = Boundary::Zero;
        compare(limits, &rounded, ["2x0+1x1", "3x0+9x1+1x2"], (5, 3), [6, 5, 9], 1, zero);
        compare(limits, &rounded[..1], ["1x1+1x0", "1x3+17x0"], (7, 4), [5, 9, 7], 2, zero);
        compare(limits, &ALL[..1], ["1x0", "1x1"], (3, 1), [3, 3, 4], 1, zero);
    }

    #[test]
    fn channels_beyond_those_of_one_block_have_kernels_of_their_own() {
        let (wide, dims) = (["1x0+1x1", "90x0+40x1+43x2"], [3, 3, 4]);
        compare(LIMITS, &ALL[1..2], wide, (3, 2), dims, 1, Boundary::Zero);
        let limits = Limits { tf32: true, ..LIMITS };
        compare(limits, &[(Element::F32, 2e-3)], wide, (3, 2), dims, 1, Boundary::Zero);
    }
}
