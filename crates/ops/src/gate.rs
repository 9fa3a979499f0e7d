//! The gated nonlinearity.

use std::ops::Range;

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;
use steer3d_so3::Irreps;

use crate::check::{Volume, invalid};
use crate::fields::{Span, spans, split};
use crate::float::Float;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Arg, Routine, Slot, args, fields};
use crate::op::{Op, apply, apply_constant};
use crate::simd::Lanes;

const OP: &str = "gate";

/// Voxels that share one buffer of sigmoids.
const CHUNK: usize = 512;

/// Gated nonlinearity (Weiler et al. 2018, section 4.3): ReLU of the scalars, and each other field
/// times the sigmoid of a gate scalar of its own.
///
/// `x` is N,C,D,H,W with channels `[scalars | one gate for each gated field | gated fields]`; the
/// result is N,C',D,H,W with channels `[relu(scalars) | sigmoid(gate_i) field_i]`, so that
/// C = C' + number of fields of `gated`. f32 or f64; differentiable.
///
/// # Errors
/// If `x` is no volume tensor or has another number of channels.
pub fn gate(x: &Tensor, scalars: usize, gated: &Irreps) -> Result<Tensor> {
    apply(Gate::new(x, scalars, Some(gated))?, [x])
}

#[derive(Clone)]
pub(crate) struct Gate {
    /// Sizes of the input.
    volume: Volume,
    scalars: usize,
    fields: Vec<Span>,
    gated_dim: usize,
}

pub(crate) struct GateGradient(Gate);

/// What an input channel goes through first: (x - mean) factor + bias.
#[derive(Clone, Copy)]
pub(crate) struct Affine<T> {
    pub(crate) mean: T,
    pub(crate) factor: T,
    pub(crate) bias: T,
}

impl<T: Float> Affine<T> {
    fn identity() -> Self {
        Self { mean: T::zero(), factor: T::one(), bias: T::zero() }
    }

    pub(crate) fn of(self, x: T) -> T {
        (x - self.mean) * self.factor + self.bias
    }
}

fn sigmoid<T: Float>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

impl Gate {
    pub(crate) fn new(x: &Tensor, scalars: usize, gated: Option<&Irreps>) -> Result<Self> {
        Self::of_volume(Volume::of(OP, x)?, scalars, gated)
    }

    pub(crate) fn of_volume(
        volume: Volume,
        scalars: usize,
        gated: Option<&Irreps>,
    ) -> Result<Self> {
        let (fields, gated_dim) = gated.map_or((vec![], 0), |g| (spans(g), g.dim()));
        let (gates, channels) = (fields.len(), volume.channels);
        let expected = scalars + gates + gated_dim;
        if channels != expected {
            let of = gated.map_or_else(String::new, |gated| format!(" of {gated}"));
            let problem = format!(
                "expected {expected} channels ({scalars} scalars, {gates} gates, {gated_dim}{of}), \
                 got {channels}"
            );
            return Err(invalid(OP, problem));
        }
        Ok(Self { volume, scalars, fields, gated_dim })
    }

    pub(crate) fn of_gradient(&self) -> GateGradient {
        GateGradient(self.clone())
    }

    fn out_channels(&self) -> usize {
        self.scalars + self.gated_dim
    }

    pub(crate) fn out_shape(&self) -> Shape {
        self.volume.with_channels(self.out_channels()).shape()
    }

    /// What belongs to scalars, to gates and to fields of something with so many elements for each input channel.
    fn parts<'a, T>(&self, all: &'a [T], elements: usize) -> [&'a [T]; 3] {
        let (scalars, rest) = all.split_at(self.scalars * elements);
        let (gates, fields) = rest.split_at(self.fields.len() * elements);
        [scalars, gates, fields]
    }

    /// The parts of one sample of the input.
    fn sample<'a, T>(&self, x: &'a [T], sample: usize) -> [&'a [T]; 3] {
        let (voxels, len) = (self.volume.voxels(), self.volume.channels * self.volume.voxels());
        self.parts(&x[sample * len..][..len], voxels)
    }

    /// The gate of what the input channels are after `affine`.
    pub(crate) fn forward<T: Float>(&self, x: &[T], affine: &[Affine<T>]) -> Vec<T> {
        let voxels = self.volume.voxels();
        let [of_scalars, of_gates, of_fields] = self.parts(affine, 1);
        let mut out = vec![T::zero(); self.volume.batch * self.out_channels() * voxels];
        let samples = out.par_chunks_mut(self.out_channels() * voxels).enumerate();
        samples.for_each(|(sample, out)| {
            let [x_scalars, x_gates, x_fields] = self.sample(x, sample);
            let (scalars, fields) = out.split_at_mut(self.scalars * voxels);
            let channels = scalars.par_chunks_mut(voxels).zip(x_scalars.par_chunks(voxels));
            channels.zip(of_scalars).for_each(|((out, x), affine)| {
                out.iter_mut().zip(x).for_each(|(out, &x)| {
                    let x = affine.of(x);
                    *out = if x < T::zero() { T::zero() } else { x };
                });
            });
            let fields = split(fields, self.fields.iter().map(|f| f.dim * voxels));
            let gates = x_gates.par_chunks(voxels).zip(of_gates);
            fields.into_par_iter().zip(&self.fields).zip(gates).for_each(
                |((out, span), (gate, of_gate))| {
                    let field = &x_fields[span.offset * voxels..][..out.len()];
                    let field = Gated { field, affine: &of_fields[span.offset..], gate, of_gate };
                    field.forward(out);
                },
            );
        });
        out
    }

    /// The gradient of what the input channels are after `affine`.
    pub(crate) fn gradient<T: Float>(&self, x: &[T], affine: &[Affine<T>], grad: &[T]) -> Vec<T> {
        let voxels = self.volume.voxels();
        let [affine_scalars, affine_gates, affine_fields] = self.parts(affine, 1);
        let mut out = vec![T::zero(); x.len()];
        let samples = out
            .par_chunks_mut(self.volume.channels * voxels)
            .zip(grad.par_chunks(self.out_channels() * voxels))
            .enumerate();
        samples.for_each(|(sample, (out, grad))| {
            let [x_scalars, x_gates, x_fields] = self.sample(x, sample);
            let (of_scalars, rest) = out.split_at_mut(self.scalars * voxels);
            let (of_gates, of_fields) = rest.split_at_mut(self.fields.len() * voxels);
            let (grad_scalars, grad_fields) = grad.split_at(self.scalars * voxels);
            of_scalars
                .par_chunks_mut(voxels)
                .zip(grad_scalars.par_chunks(voxels))
                .zip(x_scalars.par_chunks(voxels))
                .zip(affine_scalars)
                .for_each(|(((out, grad), x), affine)| {
                    out.iter_mut().zip(grad).zip(x).for_each(|((out, &g), &x)| {
                        *out = if affine.of(x) > T::zero() { g } else { T::zero() };
                    });
                });
            let of_fields = split(of_fields, self.fields.iter().map(|f| f.dim * voxels));
            of_fields
                .into_par_iter()
                .zip(&self.fields)
                .zip(of_gates.par_chunks_mut(voxels))
                .zip(x_gates.par_chunks(voxels).zip(affine_gates))
                .for_each(|(((of_field, span), of_gate), (gate, affine_gate))| {
                    let start = span.offset * voxels;
                    let field = &x_fields[start..][..of_field.len()];
                    let grad = &grad_fields[start..][..of_field.len()];
                    let affine = &affine_fields[span.offset..];
                    let field = Gated { field, affine, gate, of_gate: affine_gate };
                    field.gradient(grad, of_field, of_gate);
                });
        });
        out
    }
}

/// All components of one field of a sample, and its gate.
struct Gated<'a, T> {
    field: &'a [T],
    /// Of each component.
    affine: &'a [Affine<T>],
    gate: &'a [T],
    of_gate: &'a Affine<T>,
}

impl<T: Float> Gated<'_, T> {
    /// Calls `each` with some voxels and the sigmoids of the gate there, until all are done.
    #[inline(always)]
    fn for_chunks(&self, mut each: impl FnMut(Range<usize>, &[T])) {
        let mut open = [T::zero(); CHUNK];
        for start in (0..self.gate.len()).step_by(CHUNK) {
            let voxels = start..(start + CHUNK).min(self.gate.len());
            let open = &mut open[..voxels.len()];
            let gate = open.iter_mut().zip(&self.gate[voxels.clone()]);
            gate.for_each(|(s, &g)| *s = sigmoid(self.of_gate.of(g)));
            each(voxels, open);
        }
    }

    /// `out = sigmoid(gate) field`.
    fn forward(&self, out: &mut [T]) {
        let len = self.gate.len();
        self.for_chunks(|voxels, open| {
            let components = out.chunks_exact_mut(len).zip(self.field.chunks_exact(len));
            for ((out, x), affine) in components.zip(self.affine) {
                let pairs = out[voxels.clone()].iter_mut().zip(&x[voxels.clone()]);
                pairs.zip(open).for_each(|((out, &x), &s)| *out = s * affine.of(x));
            }
        });
    }

    /// The gradients of the field and, added to zeros, of the gate.
    fn gradient(&self, grad: &[T], of_field: &mut [T], of_gate: &mut [T]) {
        let len = self.gate.len();
        self.for_chunks(|voxels, open| {
            let of_gate = &mut of_gate[voxels.clone()];
            let components = of_field
                .chunks_exact_mut(len)
                .zip(self.field.chunks_exact(len))
                .zip(grad.chunks_exact(len));
            for (((out, x), grad), affine) in components.zip(self.affine) {
                let out = &mut out[voxels.clone()];
                let (x, grad) = (&x[voxels.clone()], &grad[voxels.clone()]);
                for i in 0..open.len() {
                    out[i] = open[i] * grad[i];
                    of_gate[i] += affine.of(x[i]) * grad[i];
                }
            }
            of_gate.iter_mut().zip(open).for_each(|(d, &s)| *d *= s * (T::one() - s));
        });
    }
}

impl Op<1> for Gate {
    const NAME: &'static str = OP;

    fn shape(&self, _: [&Shape; 1]) -> Shape {
        self.out_shape()
    }

    fn cpu<T: Lanes>(&self, [x]: [&[T]; 1]) -> Vec<T> {
        self.forward(x, &vec![Affine::identity(); self.volume.channels])
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x]: [Slot; 1], out: Slot) -> Result<()> {
        self.add(routine, "gate", args![x, Arg::Null], out);
        Ok(())
    }

    fn backward(&self, [x]: [&Tensor; 1], grad: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(apply_constant(self.of_gradient(), [x, grad])?)])
    }
}

impl Op<2> for GateGradient {
    const NAME: &'static str = "gate gradient";

    fn cpu<T: Lanes>(&self, [x, grad]: [&[T]; 2]) -> Vec<T> {
        self.0.gradient(x, &vec![Affine::identity(); self.0.volume.channels], grad)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, grad]: [Slot; 2], out: Slot) -> Result<()> {
        self.0.add(routine, "gate_gradient", args![x, grad, Arg::Null], out);
        Ok(())
    }
}

#[cfg(any(test, feature = "cuda"))]
impl Gate {
    /// Adds a kernel that computes `out` from arguments of its own to a routine. Among them is a table of mean,
    /// factor and bias of each input channel, or none.
    pub(crate) fn add(
        &self,
        routine: &mut Routine,
        function: &'static str,
        mut args: Vec<Arg>,
        out: Slot,
    ) {
        let spans = routine.spans(&self.fields);
        let (gates, voxels, batch) = (self.fields.len(), self.volume.voxels(), self.volume.batch);
        args.extend(args![spans, out, self.scalars, gates, self.gated_dim, voxels, batch]);
        let call = routine.call(fields, function, args);
        call.over_rows(batch * voxels, self.scalars + gates);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        for (scalars, gated) in [(2, "2x1+1x2"), (0, "1x1"), (3, "")] {
            let gated: Option<Irreps> = (!gated.is_empty()).then(|| gated.parse().unwrap());
            let (fields, dim) = gated.as_ref().map_or((0, 0), |g| (g.num_fields(), g.dim()));
            let x = normal(1, (2, scalars + fields + dim, 3, 4, 5));
            let gate = Gate::new(&x, scalars, gated.as_ref()).unwrap();
            check(&gate, [&x]);
            check(&GateGradient(gate), [&x, &normal(2, (2, scalars + dim, 3, 4, 5))]);
        }
    }
}
