use candle_core::Tensor;
use steer3d_ops::{gate, norm_relu};
use steer3d_so3::{Irrep, Irreps, Parity};

use super::is_invariant;
use crate::{Field, NnError, Params};

/// Gated nonlinearity (Weiler et al. 2018, section 4.3): invariant channels pass through ReLU,
/// every other field is multiplied by the sigmoid of a scalar of its own.
///
/// Input type: invariant channels, then one gate scalar for each gated field, then the gated
/// fields. Output type: the invariant channels, then the gated fields.
#[derive(Debug, Clone)]
pub struct Gate {
    irreps_in: Irreps,
    irreps_out: Irreps,
    /// The fields that have gates, if there are any.
    gated: Option<Irreps>,
    scalars: usize,
}

impl Gate {
    /// The gate that gives fields of type `fields`, its invariant blocks moved to the front.
    ///
    /// # Errors
    /// [`NnError::Irreps`] when there are too many fields.
    pub fn new(fields: &Irreps) -> Result<Self, NnError> {
        let blocks = fields.blocks().map(|b| (b.mul, b.irrep));
        let (invariant, gated): (Vec<_>, Vec<_>) = blocks.partition(|b| is_invariant(b.1));
        let count = |blocks: &[(usize, Irrep)]| blocks.iter().map(|b| b.0).sum::<usize>();
        let scalars = count(&invariant);
        let scalar = if fields.has_parity() { Irrep::o3(0, Parity::Even) } else { Irrep::so3(0) };
        let with_gates = [(scalars + count(&gated), scalar)].into_iter().filter(|b| b.0 > 0);
        Ok(Self {
            irreps_in: Irreps::new(with_gates.chain(gated.iter().copied()))?,
            irreps_out: Irreps::new(invariant.into_iter().chain(gated.iter().copied()))?,
            gated: (!gated.is_empty()).then(|| Irreps::new(gated)).transpose()?,
            scalars,
        })
    }

    /// The type of field that this layer takes.
    pub fn irreps_in(&self) -> &Irreps {
        &self.irreps_in
    }

    /// The type of field that this layer gives.
    pub fn irreps_out(&self) -> &Irreps {
        &self.irreps_out
    }

    /// Number of invariant channels that pass through ReLU.
    pub(crate) fn scalars(&self) -> usize {
        self.scalars
    }

    /// The fields that have gates, if there are any.
    pub(crate) fn gated(&self) -> Option<&Irreps> {
        self.gated.as_ref()
    }

    /// Applies the nonlinearity.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type than [`irreps_in`](Self::irreps_in).
    pub fn forward(&self, field: &Field) -> Result<Field, NnError> {
        field.expect("gate", &self.irreps_in)?;
        let values = match &self.gated {
            Some(gated) => gate(field.values(), self.scalars, gated)?,
            None => field.values().relu()?,
        };
        Field::new(self.irreps_out.clone(), values)
    }
}

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
    pub fn new(params: &mut Params, name: &str, irreps: &Irreps) -> Result<Self, NnError> {
        let count = irreps.num_fields();
        let bias = params.weight(&format!("{name}.bias"), vec![0.0; count], &[count], false)?;
        Ok(Self { irreps: irreps.clone(), bias })
    }

    /// A copy without gradients for its biases.
    pub(crate) fn fused(&self) -> Result<Self, NnError> {
        Ok(Self { irreps: self.irreps.clone(), bias: self.bias.copy()?.detach() })
    }

    /// The type of field that this layer takes and gives.
    pub fn irreps(&self) -> &Irreps {
        &self.irreps
    }

    /// Applies the nonlinearity.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type.
    pub fn forward(&self, field: &Field) -> Result<Field, NnError> {
        field.expect("norm nonlinearity", &self.irreps)?;
        let x = field.values();
        let bias = self.bias.to_dtype(x.dtype())?;
        Field::new(self.irreps.clone(), norm_relu(x, &self.irreps, &bias)?)
    }
}
