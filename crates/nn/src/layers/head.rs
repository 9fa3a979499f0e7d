use std::fmt::Display;
use std::iter::repeat_n;

use candle_core::Tensor;
use steer3d_ops::global_avg_pool;

use super::FieldBatchNorm;
use crate::error::fault;
use crate::onnx::{OnnxGraph, Value};
use crate::watch::used;
use crate::{Field, NnError, Scope};

/// Mean over space: N,C,D,H,W to N,C. What comes out does not change when the field rotates or (away
/// from the boundary) moves. Pseudoscalars (`0o`) are allowed: they change sign with a reflection, so
/// that a linear head can tell mirror images apart.
#[derive(Debug, Clone, Copy)]
pub struct InvariantPool;

impl InvariantPool {
    /// Pools a field of scalars and pseudoscalars.
    ///
    /// # Errors
    /// [`NnError::Config`] for a field with channels that rotate.
    pub fn forward(&self, field: &Field) -> Result<Tensor, NnError> {
        if let Some(block) = field.irreps().blocks().find(|b| b.irrep.l != 0) {
            return not_invariant(&block.irrep);
        }
        Ok(global_avg_pool(field.values())?)
    }
}

/// That the channels before a head of scalars rotate.
pub(crate) fn not_invariant<T>(found: &dyn Display) -> Result<T, NnError> {
    let problem = format!(
        "the last block must give scalars and pseudoscalars only (such as \"64x0\"), found {found}"
    );
    fault("blocks", problem)
}

/// What a [`Linear`] layer is made of.
#[derive(Debug, Clone, Copy)]
pub struct LinearConfig {
    /// Columns of the input.
    pub inputs: usize,
    /// Columns of the output.
    pub outputs: usize,
    /// Whether the weights start at zero and not as normal numbers of variance 1/inputs.
    pub zero: bool,
}

impl LinearConfig {
    /// Makes the settings of a layer whose weights start as normal numbers of variance 1/inputs.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self { inputs, outputs, zero: false }
    }
}

/// A fully connected layer, N,S to N,classes.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// Biases start at zero.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new<'a>(params: impl Into<Scope<'a>>, config: LinearConfig) -> Result<Self, NnError> {
        let mut params = params.into();
        let LinearConfig { inputs, outputs, zero } = config;
        let mut stream = params.stream();
        let std = (1.0 / inputs as f64).sqrt();
        let draw = |_| if zero { 0.0 } else { std * stream.normal() };
        let weight = (0..inputs.saturating_mul(outputs)).map(draw);
        Ok(Self {
            weight: params.weight("weight", weight, &[inputs, outputs], true)?,
            bias: params.weight("bias", repeat_n(0.0, outputs), &[outputs], false)?,
        })
    }

    /// `norm` at evaluation and this layer after it in one, as they are now; without gradients for the
    /// weights.
    pub(crate) fn folded(&self, norm: Option<&FieldBatchNorm>) -> Result<Self, NnError> {
        let Some(norm) = norm else {
            let copy = |t: &Tensor| Ok::<_, NnError>(t.copy()?.detach());
            return Ok(Self { weight: copy(&self.weight)?, bias: copy(&self.bias)? });
        };
        let (scale, shift) = norm.channel_affine()?;
        let weight = self.weight.broadcast_mul(&scale.unsqueeze(1)?)?.detach();
        let bias = self.forward(&shift.unsqueeze(0)?)?.squeeze(0)?.detach();
        Ok(Self { weight, bias })
    }

    /// Adds [`forward`](Self::forward) to a graph, its result times `factor` and then plus `shift`, one for each output.
    pub(crate) fn export(
        &self,
        x: &Value,
        (factor, shift): (f64, &[f64]),
        graph: &mut OnnxGraph,
    ) -> Result<Value, NnError> {
        let bias = (&self.bias * factor)?;
        let bias = match shift {
            [] => bias,
            shift => (&bias + Tensor::new(shift, bias.device())?.to_dtype(bias.dtype())?)?,
        };
        let weight = graph.tensor("weight", &(&self.weight * factor)?)?;
        let bias = graph.tensor("bias", &bias)?;
        Ok(graph.node("Gemm", &[x, &weight, &bias], &[]))
    }

    /// `x · W + b`, in the element type of the weights.
    ///
    /// # Errors
    /// When the number of columns is not the number of inputs.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let x = x.to_dtype(self.weight.dtype())?;
        Ok(x.matmul(&used(&self.weight)?)?.broadcast_add(&used(&self.bias)?)?)
    }
}
