use candle_core::Tensor;
use steer3d_ops::norm_relu;
use steer3d_so3::Irreps;

use crate::layers::FieldLayer;
use crate::{Field, NnError, Pass, Scope};

/// Norm nonlinearity (Worrall et al. 2017, eq. 9): every field `f` becomes
/// `f · relu(|f| + b) / |f|` with a learned `b` for each field.
#[derive(Debug)]
pub struct NormNonlinearity {
    irreps: Irreps,
    bias: Tensor,
}

impl NormNonlinearity {
    /// A nonlinearity on fields of type `irreps`; the biases start at zero.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new<'a>(params: impl Into<Scope<'a>>, irreps: &Irreps) -> Result<Self, NnError> {
        let count = irreps.num_fields();
        let bias = params.into().weight("bias", vec![0.0; count], &[count], false)?;
        Ok(Self { irreps: irreps.clone(), bias })
    }
}

impl FieldLayer for NormNonlinearity {
    fn irreps(&self) -> [&Irreps; 2] {
        [&self.irreps; 2]
    }

    fn forward_t(&self, field: &Field, _pass: Pass) -> Result<Field, NnError> {
        field.expect("norm nonlinearity", &self.irreps)?;
        let x = field.values();
        let bias = self.bias.to_dtype(x.dtype())?;
        field.with(norm_relu(x, &self.irreps, &bias)?)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        Ok(Box::new(Self { irreps: self.irreps.clone(), bias: self.bias.copy()?.detach() }))
    }
}
