//! The gated nonlinearity.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use steer3d_so3::Irreps;

use crate::check::{invalid, volume_dims};
use crate::fields::{Span, spans, split};
use crate::float::cuda_fwd;
use crate::float::{Float, dispatch, elements, storage};
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Arg, Call, Element, Limits, OnGpu, Routine, Slot, args, fields as source};

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
    x.contiguous()?.apply_op1(Gate::new(x, scalars, Some(gated))?)
}

#[derive(Clone)]
pub(crate) struct Gate {
    batch: usize,
    scalars: usize,
    fields: Vec<Span>,
    gated_dim: usize,
    size: [usize; 3],
}

struct GateGradient(Gate);

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

/// The channels of one sample of a tensor, in their three parts.
struct Parts<'a, T> {
    scalars: &'a [T],
    gates: &'a [T],
    fields: &'a [T],
}

fn sigmoid<T: Float>(x: T) -> T {
    T::one() / (T::one() + (-x).exp())
}

impl Gate {
    pub(crate) fn new(x: &Tensor, scalars: usize, gated: Option<&Irreps>) -> Result<Self> {
        let [batch, channels, d, h, w] = volume_dims(OP, x)?;
        let (fields, gated_dim) = gated.map_or((vec![], 0), |g| (spans(g), g.dim()));
        let gates = fields.len();
        let expected = scalars + gates + gated_dim;
        if channels != expected {
            let of = gated.map_or_else(String::new, |gated| format!(" of {gated}"));
            return Err(invalid(
                OP,
                format_args!(
                    "expected {expected} channels ({scalars} scalars, {gates} gates, \
                     {gated_dim}{of}), got {channels}"
                ),
            ));
        }
        Ok(Self { batch, scalars, fields, gated_dim, size: [d, h, w] })
    }

    fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    pub(crate) fn in_channels(&self) -> usize {
        self.scalars + self.fields.len() + self.gated_dim
    }

    pub(crate) fn out_channels(&self) -> usize {
        self.scalars + self.gated_dim
    }

    pub(crate) fn shape(&self, channels: usize) -> Shape {
        let [d, h, w] = self.size;
        (self.batch, channels, d, h, w).into()
    }

    fn parts<'a, T>(&self, x: &'a [T], sample: usize) -> Parts<'a, T> {
        let voxels = self.voxels();
        let x = &x[sample * self.in_channels() * voxels..][..self.in_channels() * voxels];
        let (scalars, rest) = x.split_at(self.scalars * voxels);
        let (gates, fields) = rest.split_at(self.fields.len() * voxels);
        Parts { scalars, gates, fields }
    }

    /// The gate of what the input channels are after `affine`.
    pub(crate) fn forward<T: Float>(&self, x: &[T], affine: &[Affine<T>]) -> Vec<T> {
        let voxels = self.voxels();
        let (of_scalars, rest) = affine.split_at(self.scalars);
        let (of_gates, of_fields) = rest.split_at(self.fields.len());
        let mut out = vec![T::zero(); self.batch * self.out_channels() * voxels];
        let samples = out.par_chunks_mut(self.out_channels() * voxels).enumerate();
        samples.for_each(|(sample, out)| {
            let x = self.parts(x, sample);
            let (scalars, fields) = out.split_at_mut(self.scalars * voxels);
            let channels = scalars.par_chunks_mut(voxels).zip(x.scalars.par_chunks(voxels));
            channels.zip(of_scalars).for_each(|((out, x), affine)| {
                out.iter_mut().zip(x).for_each(|(out, &x)| {
                    let x = affine.of(x);
                    *out = if x < T::zero() { T::zero() } else { x };
                });
            });
            let fields = split(fields, self.fields.iter().map(|f| f.dim * voxels));
            let gates = x.gates.par_chunks(voxels).zip(of_gates);
            fields.into_par_iter().zip(&self.fields).zip(gates).for_each(
                |((out, span), (gate, of_gate))| {
                    let field = &x.fields[span.offset * voxels..][..out.len()];
                    gate_field(out, field, &of_fields[span.offset..], gate, of_gate);
                },
            );
        });
        out
    }

    /// The gradient of what the input channels are after `affine`.
    pub(crate) fn gradient<T: Float>(&self, x: &[T], affine: &[Affine<T>], grad: &[T]) -> Vec<T> {
        let voxels = self.voxels();
        let (affine_scalars, rest) = affine.split_at(self.scalars);
        let (affine_gates, affine_fields) = rest.split_at(self.fields.len());
        let mut out = vec![T::zero(); x.len()];
        let samples = out
            .par_chunks_mut(self.in_channels() * voxels)
            .zip(grad.par_chunks(self.out_channels() * voxels))
            .enumerate();
        samples.for_each(|(sample, (out, grad))| {
            let x = self.parts(x, sample);
            let (of_scalars, rest) = out.split_at_mut(self.scalars * voxels);
            let (of_gates, of_fields) = rest.split_at_mut(self.fields.len() * voxels);
            let (grad_scalars, grad_fields) = grad.split_at(self.scalars * voxels);
            of_scalars
                .par_chunks_mut(voxels)
                .zip(grad_scalars.par_chunks(voxels))
                .zip(x.scalars.par_chunks(voxels))
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
                .zip(x.gates.par_chunks(voxels).zip(affine_gates))
                .for_each(|(((of_field, span), of_gate), (gate, affine_gate))| {
                    let start = span.offset * voxels;
                    let field = &x.fields[start..][..of_field.len()];
                    let grad = &grad_fields[start..][..of_field.len()];
                    let affine = &affine_fields[span.offset..];
                    gate_field_gradient(of_field, of_gate, field, affine, gate, affine_gate, grad);
                });
        });
        out
    }
}

/// `out = sigmoid(gate) field` for all components of one field.
fn gate_field<T: Float>(
    out: &mut [T],
    field: &[T],
    affine: &[Affine<T>],
    gate: &[T],
    affine_gate: &Affine<T>,
) {
    let voxels = gate.len();
    let mut open = [T::zero(); CHUNK];
    for start in (0..voxels).step_by(CHUNK) {
        let end = (start + CHUNK).min(voxels);
        let open = &mut open[..end - start];
        open.iter_mut().zip(&gate[start..end]).for_each(|(s, &g)| *s = sigmoid(affine_gate.of(g)));
        let components = out.chunks_exact_mut(voxels).zip(field.chunks_exact(voxels));
        for ((out, x), affine) in components.zip(affine) {
            let pairs = out[start..end].iter_mut().zip(&x[start..end]);
            pairs.zip(&*open).for_each(|((out, &x), &s)| *out = s * affine.of(x));
        }
    }
}

fn gate_field_gradient<T: Float>(
    of_field: &mut [T],
    of_gate: &mut [T],
    field: &[T],
    affine: &[Affine<T>],
    gate: &[T],
    affine_gate: &Affine<T>,
    grad: &[T],
) {
    let voxels = gate.len();
    let mut open = [T::zero(); CHUNK];
    for start in (0..voxels).step_by(CHUNK) {
        let end = (start + CHUNK).min(voxels);
        let open = &mut open[..end - start];
        let of_gate = &mut of_gate[start..end];
        open.iter_mut().zip(&gate[start..end]).for_each(|(s, &g)| *s = sigmoid(affine_gate.of(g)));
        let components = of_field
            .chunks_exact_mut(voxels)
            .zip(field.chunks_exact(voxels))
            .zip(grad.chunks_exact(voxels));
        for (((out, x), grad), affine) in components.zip(affine) {
            let (out, x, grad) = (&mut out[start..end], &x[start..end], &grad[start..end]);
            for i in 0..open.len() {
                out[i] = open[i] * grad[i];
                of_gate[i] += affine.of(x[i]) * grad[i];
            }
        }
        of_gate.iter_mut().zip(&*open).for_each(|(d, &s)| *d *= s * (T::one() - s));
    }
}

impl CustomOp1 for Gate {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        dispatch!((x), OP, T => {
            let identity = vec![Affine::identity(); self.in_channels()];
            let out = self.forward(elements::<T>(x, layout, OP)?, &identity);
            Ok((storage(out), self.shape(self.out_channels())))
        })
    }

    cuda_fwd!(1);

    fn bwd(&self, x: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&grad.contiguous()?, &GateGradient(self.clone()))?))
    }
}

impl CustomOp2 for GateGradient {
    fn name(&self) -> &'static str {
        "gate gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, grad), OP, T => {
            let (x, grad) = (elements::<T>(x, x_layout, OP)?, elements(grad, grad_layout, OP)?);
            let identity = vec![Affine::identity(); self.0.in_channels()];
            let of_x = self.0.gradient(x, &identity, grad);
            Ok((storage(of_x), self.0.shape(self.0.in_channels())))
        })
    }

    cuda_fwd!(2);
}

#[cfg(any(test, feature = "cuda"))]
impl Gate {
    /// Adds the gate of what the channels of `x` are after the affine maps of `table`, which has mean, factor
    /// and bias of each, to a routine.
    pub(crate) fn add_forward(&self, routine: &mut Routine, x: Slot, table: Option<Slot>) {
        let out = routine.output(self.shape(self.out_channels()).elem_count());
        let args = args![x, table, routine.spans(&self.fields), out];
        self.add(routine, "gate", args);
    }

    /// Likewise the gradient.
    pub(crate) fn add_gradient(
        &self,
        routine: &mut Routine,
        x: Slot,
        grad: Slot,
        table: Option<Slot>,
    ) {
        let out = routine.output(self.shape(self.in_channels()).elem_count());
        let args = args![x, grad, table, routine.spans(&self.fields), out];
        self.add(routine, "gate_gradient", args);
    }

    fn add(&self, routine: &mut Routine, function: &'static str, mut args: Vec<Arg>) {
        let (gates, voxels) = (self.fields.len(), self.voxels());
        args.extend(args![self.scalars, gates, self.gated_dim, voxels, self.batch]);
        let call = Call::new(source(routine.element), function, args);
        routine.call(call.over_rows(self.batch * voxels, self.scalars + gates));
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for Gate {
    const OP: &'static str = OP;

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 1);
        self.add_forward(&mut routine, inputs[0], None);
        Ok((routine, self.shape(self.out_channels())))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for GateGradient {
    const OP: &'static str = "gate gradient";

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 2);
        self.0.add_gradient(&mut routine, inputs[0], inputs[1], None);
        Ok((routine, self.0.shape(self.0.in_channels())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check1, check2, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        for (scalars, gated) in [(2, "2x1+1x2"), (0, "1x1"), (3, "")] {
            let gated: Option<Irreps> = (!gated.is_empty()).then(|| gated.parse().unwrap());
            let (fields, dim) = gated.as_ref().map_or((0, 0), |g| (g.num_fields(), g.dim()));
            let x = normal(1, (2, scalars + fields + dim, 3, 4, 5));
            let gate = Gate::new(&x, scalars, gated.as_ref()).unwrap();
            check1(&gate, &x);
            check2(&GateGradient(gate), &x, &normal(2, (2, scalars + dim, 3, 4, 5)));
        }
    }
}
