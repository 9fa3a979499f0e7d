//! Batch normalisation and gate in one operation.

use candle_core::{Result, Shape, Tensor};
use steer3d_so3::Irreps;

use crate::batch_norm::{Normalize, batch_normalize, present};
use crate::gate::Gate;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Routine, Slot, args};
use crate::op::{Op, apply, apply_constant};
use crate::simd::Lanes;

const OP: &str = "field_batch_norm_gate";

/// [`field_batch_norm`](crate::field_batch_norm) and then [`gate`](crate::gate), without the field
/// between them in memory: the backward pass normalises again.
///
/// `x` is N,C,D,H,W of type `irreps`, with channels `[scalars | one gate for each gated field | gated
/// fields]`; without `gated` all are scalars. Returns the result of the gate and, as `field_batch_norm`,
/// the means of the scalar fields and the variances of all fields.
///
/// # Errors
/// As those two.
pub fn field_batch_norm_gate(
    x: &Tensor,
    irreps: &Irreps,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    scalars: usize,
    gated: Option<&Irreps>,
) -> Result<(Tensor, Tensor, Tensor)> {
    let gate = Gate::new(x, scalars, gated)?;
    let (norm, mean, var) = batch_normalize(x, irreps, weight, bias, eps)?;
    let out = apply(NormGate { norm, gate }, [x, weight, &present(bias, weight)?])?;
    Ok((out, mean, var))
}

#[derive(Clone)]
struct NormGate {
    norm: Normalize,
    gate: Gate,
}

/// Input, norm (weights and then biases) and output gradient to the gradient of the normalised input.
struct GateGradient(NormGate);

impl Op<3> for NormGate {
    const NAME: &'static str = OP;

    fn shape(&self, _: [&Shape; 3]) -> Shape {
        self.gate.out_shape()
    }

    fn cpu<T: Lanes>(&self, [x, weight, bias]: [&[T]; 3]) -> Vec<T> {
        self.gate.forward(x, &self.norm.affine(weight, bias))
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, weight, bias]: [Slot; 3], out: Slot) -> Result<()> {
        let table = self.norm.add_table(routine, weight, (bias, 0));
        self.gate.add(routine, "gate", args![x, table], out);
        Ok(())
    }

    fn backward(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let norm = Tensor::cat(&[weight, bias], 0)?;
        let of_normalised = apply_constant(GateGradient(self.clone()), [x, &norm, grad])?;
        self.norm.backward([x, weight, bias], &of_normalised)
    }
}

impl Op<3> for GateGradient {
    const NAME: &'static str = "field_batch_norm_gate gradient";

    fn cpu<T: Lanes>(&self, [x, norm, grad]: [&[T]; 3]) -> Vec<T> {
        let NormGate { norm: normalize, gate } = &self.0;
        let (weight, bias) = norm.split_at(normalize.num_fields());
        gate.gradient(x, &normalize.affine(weight, bias), grad)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn gpu(&self, routine: &mut Routine, [x, both, grad]: [Slot; 3], out: Slot) -> Result<()> {
        let NormGate { norm, gate } = &self.0;
        let table = norm.add_table(routine, both, (both, norm.num_fields()));
        gate.add(routine, "gate_gradient", args![x, grad, table], out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let irreps: Irreps = "5x0+2x1+1x2".parse().unwrap();
        let gated: Irreps = "2x1+1x2".parse().unwrap();
        let x = normal(1, (2, 16, 3, 4, 5));
        let (weight, bias) = (normal(2, 8), normal(3, 5));
        let gate = Gate::new(&x, 2, Some(&gated)).unwrap();
        let (norm, ..) = batch_normalize(&x, &irreps, &weight, &bias, 1e-5).unwrap();
        let op = NormGate { norm, gate };
        check(&op, [&x, &weight, &bias]);
        let both = Tensor::cat(&[&weight, &bias], 0).unwrap();
        check(&GateGradient(op), [&x, &both, &normal(4, (2, 13, 3, 4, 5))]);
    }
}
