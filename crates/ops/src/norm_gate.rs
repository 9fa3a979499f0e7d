//! Batch normalisation and gate in one operation.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use steer3d_so3::Irreps;

use crate::batch_norm::{Normalize, batch_normalize, present};
use crate::float::cuda_fwd;
use crate::float::{dispatch, elements, storage};
use crate::gate::Gate;
#[cfg(any(test, feature = "cuda"))]
use crate::gpu::{Element, Limits, OnGpu, Routine};

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
    let op = NormGate { norm, gate };
    let bias = present(bias, weight)?;
    let out = x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?;
    Ok((out, mean, var))
}

#[derive(Clone)]
struct NormGate {
    norm: Normalize,
    gate: Gate,
}

/// Input, norm (weights and then biases) and output gradient to the gradient of the normalised input.
struct GateGradient(NormGate);

impl CustomOp3 for NormGate {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        dispatch!((x, weight, bias), OP, T => {
            let weight = elements::<T>(weight, weight_layout, OP)?;
            let affine = self.norm.affine(weight, elements(bias, bias_layout, OP)?);
            let out = self.gate.forward(elements(x, x_layout, OP)?, &affine);
            Ok((storage(out), self.gate.shape(self.gate.out_channels())))
        })
    }

    cuda_fwd!(3);

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let norm = Tensor::cat(&[weight, bias], 0)?;
        let op = GateGradient(self.clone());
        let of_normalised = x.apply_op3_no_bwd(&norm, &grad.contiguous()?, &op)?;
        self.norm.bwd(x, weight, bias, out, &of_normalised)
    }
}

impl CustomOp3 for GateGradient {
    fn name(&self) -> &'static str {
        "field_batch_norm_gate gradient"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        norm: &CpuStorage,
        norm_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let NormGate { norm: normalize, gate } = &self.0;
        dispatch!((x, norm, grad), OP, T => {
            let norm = elements::<T>(norm, norm_layout, OP)?;
            let (weight, bias) = norm.split_at(normalize.num_fields());
            let affine = normalize.affine(weight, bias);
            let (x, grad) = (elements(x, x_layout, OP)?, elements(grad, grad_layout, OP)?);
            let shape = gate.shape(gate.in_channels());
            Ok((storage(gate.gradient(x, &affine, grad)), shape))
        })
    }

    cuda_fwd!(3);
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for NormGate {
    const OP: &'static str = OP;

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let (mut routine, inputs) = Routine::new(element, 3);
        let table = self.norm.add_table(&mut routine, inputs[1], (inputs[2], 0));
        self.gate.add_forward(&mut routine, inputs[0], Some(table));
        Ok((routine, self.gate.shape(self.gate.out_channels())))
    }
}

#[cfg(any(test, feature = "cuda"))]
impl OnGpu for GateGradient {
    const OP: &'static str = "field_batch_norm_gate gradient";

    fn routine(
        &self,
        _shapes: &[&Shape],
        element: Element,
        _limits: Limits,
    ) -> Result<(Routine, Shape)> {
        let NormGate { norm, gate } = &self.0;
        let (mut routine, inputs) = Routine::new(element, 3);
        let table = norm.add_table(&mut routine, inputs[1], (inputs[1], norm.num_fields()));
        gate.add_gradient(&mut routine, inputs[0], inputs[2], Some(table));
        Ok((routine, gate.shape(gate.in_channels())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::host::{check3, normal};

    #[test]
    fn kernels_agree_with_the_cpu() {
        let irreps: Irreps = "5x0+2x1+1x2".parse().unwrap();
        let gated: Irreps = "2x1+1x2".parse().unwrap();
        let x = normal(1, (2, 16, 3, 4, 5));
        let (weight, bias) = (normal(2, 8), normal(3, 5));
        let gate = Gate::new(&x, 2, Some(&gated)).unwrap();
        let (norm, ..) = batch_normalize(&x, &irreps, &weight, &bias, 1e-5).unwrap();
        let op = NormGate { norm, gate };
        check3(&op, &x, &weight, &bias);
        let both = Tensor::cat(&[&weight, &bias], 0).unwrap();
        check3(&GateGradient(op), &x, &both, &normal(4, (2, 13, 3, 4, 5)));
    }
}
