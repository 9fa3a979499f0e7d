//! The norm nonlinearity.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use steer3d_so3::Irreps;

use crate::check::expect_argument;
use crate::fields::{Span, field_dims, spans, split};
use crate::float::cuda_fwd;
use crate::float::{Float, dispatch, elements, storage};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Call, Element, Limits, OnGpu, Routine, args, fields as source, sum_over_fields};

const OP: &str = "norm_relu";

/// Added to the norm in the denominator.
const EPSILON: f64 = 1e-6;

/// Voxels handled together.
const CHUNK: usize = 256;

/// Norm nonlinearity (Worrall et al. 2017, eq. 9): every field f becomes
/// `f relu(|f| + b) / (|f| + 1e-6)`, scalars included.
///
/// `x` is N,C,D,H,W of type `irreps`, `bias` has one b for each field (shape `num_fields`). f32 or
/// f64; differentiable in both. Where f = 0 the gradient of the norm is taken as 0.
///
/// # Errors
/// If shapes or element types do not agree.
pub fn norm_relu(x: &Tensor, irreps: &Irreps, bias: &Tensor) -> Result<Tensor> {
    let dims = field_dims(OP, x, irreps)?;
    expect_argument(OP, "bias", bias, &[irreps.num_fields()], x)?;
    let op = NormRelu { dims, fields: spans(irreps) };
    x.contiguous()?.apply_op2(&bias.contiguous()?, op)
}

#[derive(Clone)]
struct NormRelu {
    dims: [usize; 5],
    fields: Vec<Span>,
}

/// x, bias and output gradient to the gradient of x.
struct InputGradient(NormRelu);

/// x, bias and output gradient to the gradient of the bias.
struct BiasGradient(NormRelu);

/// The norms of a field at the voxels `start..start + norms.len()`.
fn norms<T: Float>(field: &[T], voxels: usize, start: usize, norms: &mut [T]) {
    norms.fill(T::zero());
    for component in field.chunks_exact(voxels) {
        norms.iter_mut().zip(&component[start..]).for_each(|(n, &x)| *n += x * x);
    }
    norms.iter_mut().for_each(|n| *n = n.sqrt());
}

/// The products of a field with its output gradient, summed over components.
fn products<T: Float>(field: &[T], grad: &[T], voxels: usize, start: usize, dots: &mut [T]) {
    dots.fill(T::zero());
    for (x, grad) in field.chunks_exact(voxels).zip(grad.chunks_exact(voxels)) {
        let pairs = x[start..].iter().zip(&grad[start..]);
        dots.iter_mut().zip(pairs).for_each(|(dot, (&x, &g))| *dot += x * g);
    }
}

fn relu<T: Float>(x: T) -> T {
    if x < T::zero() { T::zero() } else { x }
}

impl NormRelu {
    fn voxels(&self) -> usize {
        self.dims[2..].iter().product()
    }

    fn shape(&self) -> Shape {
        Shape::from(&self.dims[..])
    }

    /// Calls `each(element offset, index of field, out)` for every field of every sample.
    fn for_fields<T: Float>(&self, out: &mut [T], each: impl Fn(usize, usize, &mut [T]) + Sync) {
        let voxels = self.voxels();
        let lengths = (0..self.dims[0]).flat_map(|_| self.fields.iter().map(|f| f.dim * voxels));
        let parts = split(out, lengths);
        parts.into_par_iter().enumerate().for_each(|(i, out)| {
            let (sample, field) = (i / self.fields.len(), i % self.fields.len());
            each(self.offset(sample, field), field, out);
        });
    }

    fn offset(&self, sample: usize, field: usize) -> usize {
        (sample * self.dims[1] + self.fields[field].offset) * self.voxels()
    }

    fn forward<T: Float>(&self, x: &[T], bias: &[T]) -> Vec<T> {
        let (voxels, epsilon) = (self.voxels(), T::from_f64(EPSILON));
        let mut out = vec![T::zero(); x.len()];
        self.for_fields(&mut out, |offset, field, out| {
            let (x, b) = (&x[offset..][..out.len()], bias[field]);
            let mut factors = [T::zero(); CHUNK];
            for start in (0..voxels).step_by(CHUNK) {
                let factors = &mut factors[..CHUNK.min(voxels - start)];
                norms(x, voxels, start, factors);
                factors.iter_mut().for_each(|f| *f = relu(*f + b) / (*f + epsilon));
                for (out, x) in out.chunks_exact_mut(voxels).zip(x.chunks_exact(voxels)) {
                    let pairs = out[start..].iter_mut().zip(&x[start..]);
                    pairs.zip(&*factors).for_each(|((out, &x), &f)| *out = f * x);
                }
            }
        });
        out
    }

    fn input_gradient<T: Float>(&self, x: &[T], bias: &[T], grad: &[T]) -> Vec<T> {
        let (voxels, epsilon) = (self.voxels(), T::from_f64(EPSILON));
        let mut out = vec![T::zero(); x.len()];
        self.for_fields(&mut out, |offset, field, out| {
            let (x, grad) = (&x[offset..][..out.len()], &grad[offset..][..out.len()]);
            let (b, alone) = (bias[field], x.len() == voxels);
            let (mut factors, mut radial) = ([T::zero(); CHUNK], [T::zero(); CHUNK]);
            for start in (0..voxels).step_by(CHUNK) {
                let n = CHUNK.min(voxels - start);
                let (factors, radial) = (&mut factors[..n], &mut radial[..n]);
                norms(x, voxels, start, factors);
                products(x, grad, voxels, start, radial);
                for (factor, radial) in factors.iter_mut().zip(&mut *radial) {
                    let norm = *factor;
                    let shifted = norm + epsilon;
                    if norm + b <= T::zero() {
                        (*factor, *radial) = (T::zero(), T::zero());
                    } else if alone {
                        // The sum of both parts, which have one direction, without its cancellation.
                        let small = (norm + norm + b) * epsilon;
                        (*factor, *radial) = ((norm * norm + small) / shifted / shifted, T::zero());
                    } else {
                        *factor = (norm + b) / shifted;
                        // The derivative of the factor, without its cancellation.
                        let slope = (epsilon - b) / shifted / shifted;
                        *radial *= if norm > T::zero() { slope / norm } else { T::zero() };
                    }
                }
                for m in 0..x.len() / voxels {
                    let at = m * voxels + start;
                    let (out, x, grad) = (&mut out[at..][..n], &x[at..][..n], &grad[at..][..n]);
                    for i in 0..n {
                        out[i] = factors[i] * grad[i] + radial[i] * x[i];
                    }
                }
            }
        });
        out
    }

    fn bias_gradient<T: Float>(&self, x: &[T], bias: &[T], grad: &[T]) -> Vec<T> {
        let (voxels, epsilon) = (self.voxels(), T::from_f64(EPSILON));
        let of_field = |(field, span): (usize, &Span)| {
            let b = bias[field];
            let (mut norm, mut dot) = ([T::zero(); CHUNK], [T::zero(); CHUNK]);
            let mut total = 0.0;
            for sample in 0..self.dims[0] {
                let range = self.offset(sample, field)..;
                let length = span.dim * voxels;
                let (x, grad) = (&x[range.clone()][..length], &grad[range][..length]);
                for start in (0..voxels).step_by(CHUNK) {
                    let n = CHUNK.min(voxels - start);
                    norms(x, voxels, start, &mut norm[..n]);
                    products(x, grad, voxels, start, &mut dot[..n]);
                    let active =
                        norm[..n].iter().zip(&dot[..n]).filter(|(r, _)| **r + b > T::zero());
                    total += active.map(|(&r, &d)| (d / (r + epsilon)).to_f64()).sum::<f64>();
                }
            }
            T::from_f64(total)
        };
        self.fields.par_iter().enumerate().map(of_field).collect()
    }
}

impl CustomOp2 for NormRelu {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, bias), OP, T => {
            let (x, bias) = (elements::<T>(x, x_layout, OP)?, elements(bias, bias_layout, OP)?);
            Ok((storage(self.forward(x, bias)), self.shape()))
        })
    }

    cuda_fwd!(2);

    fn bwd(
        &self,
        x: &Tensor,
        bias: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let of_x =
            x.track_op().then(|| x.apply_op3_no_bwd(bias, &grad, &InputGradient(self.clone())));
        let of_bias =
            bias.track_op().then(|| x.apply_op3_no_bwd(bias, &grad, &BiasGradient(self.clone())));
        Ok((of_x.transpose()?, of_bias.transpose()?))
    }
}

impl CustomOp3 for InputGradient {
    fn name(&self) -> &'static str {
        "norm_relu input gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, bias, grad), OP, T => {
            let (x, bias) = (elements::<T>(x, x_layout, OP)?, elements(bias, bias_layout, OP)?);
            let grad = elements(grad, grad_layout, OP)?;
            Ok((storage(self.0.input_gradient(x, bias, grad)), self.0.shape()))
        })
    }

    cuda_fwd!(3);
}

impl CustomOp3 for BiasGradient {
    fn name(&self) -> &'static str {
        "norm_relu bias gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, bias, grad), OP, T => {
            let (x, bias) = (elements::<T>(x, x_layout, OP)?, elements(bias, bias_layout, OP)?);
            let grad = elements(grad, grad_layout, OP)?;
            Ok((storage(self.0.bias_gradient(x, bias, grad)), self.0.fields.len().into()))
        })
    }

    cuda_fwd!(3);
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for NormRelu {
    const OP: &'static str = OP;

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 2);
        let out = routine.output(self.shape().elem_count());
        let fields = routine.spans(&self.fields);
        let ([batch, channels, ..], voxels) = (self.dims, self.voxels());
        let args = args![inputs[0], inputs[1], fields, out, channels, voxels, batch];
        let call = Call::new(source(element), "norm_relu", args);
        routine.call(call.over_rows(batch * voxels, self.fields.len()));
        Ok((routine, self.shape()))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for InputGradient {
    const OP: &'static str = "norm_relu input gradient";

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 3);
        let NormRelu { dims: [batch, channels, ..], fields } = &self.0;
        let out = routine.output(self.0.shape().elem_count());
        let spans = routine.spans(fields);
        let voxels = self.0.voxels();
        let args = args![inputs[0], inputs[1], inputs[2], spans, out, *channels, voxels, *batch];
        let call = Call::new(source(element), "norm_relu_gradient", args);
        routine.call(call.over_rows(batch * voxels, fields.len()));
        Ok((routine, self.0.shape()))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for BiasGradient {
    const OP: &'static str = "norm_relu bias gradient";

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 3);
        let NormRelu { dims: [batch, channels, ..], fields } = &self.0;
        let out = routine.output(fields.len());
        let spans = routine.spans(fields);
        let (voxels, count) = (self.0.voxels(), fields.len());
        let sums =
            |sums| args![inputs[0], inputs[1], inputs[2], spans, sums, *channels, voxels, *batch];
        let totals = |sums, shares| args![sums, out, count, shares];
        let values = batch * voxels;
        sum_over_fields(
            &mut routine,
            ("norm_relu_bias", &sums),
            ("first_totals", &totals),
            count,
            values,
            limits,
        );
        Ok((routine, count.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check2, check3, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let irreps: Irreps = "2x0+2x1+1x2".parse().unwrap();
        let op = NormRelu { dims: [2, 13, 3, 4, 5], fields: spans(&irreps) };
        let (x, bias, grad) =
            (normal(1, (2, 13, 3, 4, 5)), normal(2, 5), normal(3, (2, 13, 3, 4, 5)));
        check2(&op, &x, &bias);
        check3(&InputGradient(op.clone()), &x, &bias, &grad);
        check3(&BiasGradient(op), &x, &bias, &grad);
    }
}
