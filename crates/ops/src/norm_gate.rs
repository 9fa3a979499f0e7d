//! Batch normalisation and gate in one operation.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use steer3d_so3::Irreps;

use crate::batch_norm::{Normalize, batch_normalize};
use crate::gate::{Gate, GateGradient};

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
    let out = x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op)?;
    Ok((out, mean, var))
}

struct NormGate {
    norm: Normalize,
    gate: Gate,
}

impl CustomOp3 for NormGate {
    fn name(&self) -> &'static str {
        "field_batch_norm_gate"
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
        let (normalised, shape) =
            self.norm.cpu_fwd(x, x_layout, weight, weight_layout, bias, bias_layout)?;
        self.gate.cpu_fwd(&normalised, &Layout::contiguous(shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let normalised = x.apply_op3_no_bwd(weight, bias, &self.norm)?;
        let of_normalised =
            normalised.apply_op2_no_bwd(&grad.contiguous()?, &GateGradient(self.gate.clone()))?;
        drop(normalised);
        self.norm.bwd(x, weight, bias, out, &of_normalised)
    }
}
