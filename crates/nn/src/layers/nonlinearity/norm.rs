use candle_core::Tensor;
use steer3d_ops::{NORM_EPSILON, norm_relu};
use steer3d_so3::Irreps;

use crate::layers::FieldLayer;
use crate::layers::channels::fields_of_channels;
use crate::onnx::{OnnxField, OnnxGraph};
use crate::watch::used;
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
        let bias = used(&self.bias)?.to_dtype(x.dtype())?;
        field.with(norm_relu(x, &self.irreps, &bias)?)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        Ok(Box::new(Self { irreps: self.irreps.clone(), bias: self.bias.copy()?.detach() }))
    }

    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        let (x, fields) = (&field.value, fields_of_channels(&self.irreps));
        let entries = fields.iter().enumerate().map(|(channel, &field)| (field, channel, 1.0));
        let sums = graph.matrix([self.irreps.num_fields(), self.irreps.dim()], entries)?;
        let squares = graph.node("Mul", &[x, x], &[]);
        let squares = graph.mixed(&squares, "sums", &sums)?;
        let norm = graph.node("Sqrt", &[&squares], &[]);
        let bias = graph.tensor("bias", &self.bias.reshape((self.bias.elem_count(), 1, 1, 1))?)?;
        let factor = graph.node("Add", &[&norm, &bias], &[]);
        let factor = graph.node("Relu", &[&factor], &[]);
        let epsilon = graph.number(NORM_EPSILON);
        let norm = graph.node("Add", &[&norm, &epsilon], &[]);
        let factor = graph.node("Div", &[&factor, &norm], &[]);
        let factor = graph.channels(&factor, fields);
        Ok(OnnxField { value: graph.node("Mul", &[x, &factor], &[]), kind: field.kind.clone() })
    }
}
