//! The norm nonlinearity.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;
use steer3d_so3::Irreps;

use crate::check::{Volume, expect_argument};
use crate::fields::{Span, expect_type, spans, split};
use crate::float::Float;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Arg, Routine, Slot, args, fields};
use crate::op::{Op, apply, apply_constant, if_tracked};
use crate::simd::Lanes;

const OP: &str = "norm_relu";

/// What [`norm_relu`] adds to the norm in the denominator.
pub const NORM_EPSILON: f64 = 1e-6;

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
    let op = NormRelu::of_volume(Volume::of(OP, x)?, irreps)?;
    expect_argument(OP, "bias", bias, &[irreps.num_fields()], x)?;
    apply(op, [x, bias])
}

#[derive(Clone)]
pub(crate) struct NormRelu {
    volume: Volume,
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
    pub(crate) fn of_volume(volume: Volume, irreps: &Irreps) -> Result<Self> {
        expect_type(OP, &volume, irreps)?;
        Ok(Self { volume, fields: spans(irreps) })
    }

    /// The gradients of x and of the bias from x, bias and output gradient.
    pub(crate) fn gradients<T: Lanes>(&self, inputs: [&[T]; 3]) -> [Vec<T>; 2] {
        [InputGradient(self.clone()).cpu(inputs), BiasGradient(self.clone()).cpu(inputs)]
    }

    /// Calls `each(element offset, index of field, out)` for every field of every sample.
    fn for_fields<T: Float>(&self, out: &mut [T], each: impl Fn(usize, usize, &mut [T]) + Sync) {
        let voxels = self.volume.voxels();
        let lengths =
            (0..self.volume.batch).flat_map(|_| self.fields.iter().map(|f| f.dim * voxels));
        let parts = split(out, lengths);
        parts.into_par_iter().enumerate().for_each(|(i, out)| {
            let (sample, field) = (i / self.fields.len(), i % self.fields.len());
            each(self.offset(sample, field), field, out);
        });
    }

    fn offset(&self, sample: usize, field: usize) -> usize {
        (sample * self.volume.channels + self.fields[field].offset) * self.volume.voxels()
    }
}

impl Op<2> for NormRelu {
    const NAME: &'static str = OP;

    fn cpu<T: Lanes>(&self, [x, bias]: [&[T]; 2]) -> Vec<T> {
        let (voxels, epsilon) = (self.volume.voxels(), T::from_f64(NORM_EPSILON));
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

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, bias]: [Slot; 2], out: Slot) -> Result<()> {
        self.add(routine, "norm_relu", args![x, bias], out);
        Ok(())
    }

    fn backward(&self, [x, bias]: [&Tensor; 2], grad: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let of_x = || apply_constant(InputGradient(self.clone()), [x, bias, grad]);
        let of_bias = || apply_constant(BiasGradient(self.clone()), [x, bias, grad]);
        Ok([if_tracked(x, of_x)?, if_tracked(bias, of_bias)?])
    }
}

impl Op<3> for InputGradient {
    const NAME: &'static str = "norm_relu input gradient";

    fn cpu<T: Lanes>(&self, [x, bias, grad]: [&[T]; 3]) -> Vec<T> {
        let (voxels, epsilon) = (self.0.volume.voxels(), T::from_f64(NORM_EPSILON));
        let mut out = vec![T::zero(); x.len()];
        self.0.for_fields(&mut out, |offset, field, out| {
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

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, bias, grad]: [Slot; 3], out: Slot) -> Result<()> {
        self.0.add(routine, "norm_relu_gradient", args![x, bias, grad], out);
        Ok(())
    }
}

impl Op<3> for BiasGradient {
    const NAME: &'static str = "norm_relu bias gradient";

    fn shape(&self, [_, bias, _]: [&Shape; 3]) -> Shape {
        bias.clone()
    }

    fn cpu<T: Lanes>(&self, [x, bias, grad]: [&[T]; 3]) -> Vec<T> {
        let (voxels, epsilon) = (self.0.volume.voxels(), T::from_f64(NORM_EPSILON));
        let of_field = |(field, span): (usize, &Span)| {
            let b = bias[field];
            let (mut norm, mut dot) = ([T::zero(); CHUNK], [T::zero(); CHUNK]);
            let mut total = 0.0;
            for sample in 0..self.0.volume.batch {
                let range = self.0.offset(sample, field)..;
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
        self.0.fields.par_iter().enumerate().map(of_field).collect()
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, bias, grad]: [Slot; 3], out: Slot) -> Result<()> {
        let NormRelu { volume, fields } = &self.0;
        let (Volume { batch, channels, .. }, voxels) = (*volume, volume.voxels());
        let (spans, count) = (routine.spans(fields), fields.len());
        let sums = |sums| args![x, bias, grad, spans, sums, channels, voxels, batch];
        let totals = |(sums, shares)| args![sums, out, count, shares];
        routine.sum_over_fields(
            (count, batch * voxels),
            ("norm_relu_bias", &sums),
            ("first_totals", &totals),
        );
        Ok(())
    }
}

#[cfg(any(test, feature = "cuda"))]
impl NormRelu {
    /// Adds a kernel that computes `out` from arguments of its own to a routine.
    fn add(&self, routine: &mut Routine, function: &'static str, mut args: Vec<Arg>, out: Slot) {
        let spans = routine.spans(&self.fields);
        let (Volume { batch, channels, .. }, voxels) = (self.volume, self.volume.voxels());
        args.extend(args![spans, out, channels, voxels, batch]);
        routine.call(fields, function, args).over_rows(batch * voxels, self.fields.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let irreps: Irreps = "2x0+2x1+1x2".parse().unwrap();
        let volume = Volume { batch: 2, channels: 13, size: [3, 4, 5] };
        let op = NormRelu { volume, fields: spans(&irreps) };
        let (x, bias, grad) =
            (normal(1, (2, 13, 3, 4, 5)), normal(2, 5), normal(3, (2, 13, 3, 4, 5)));
        check(&op, [&x, &bias]);
        check(&InputGradient(op.clone()), [&x, &bias, &grad]);
        check(&BiasGradient(op), [&x, &bias, &grad]);
    }
}
