use std::ops::Range;

use steer3d_ops::gate;
use steer3d_so3::{Irrep, Irreps, Parity};

use crate::layers::channels::{fields_of_channels, is_invariant};
use crate::layers::{FieldLayer, Gating};
use crate::onnx::{OnnxField, OnnxGraph};
use crate::{Field, FieldType, NnError, Pass};

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
}

impl FieldLayer for Gate {
    fn irreps(&self) -> [&Irreps; 2] {
        [&self.irreps_in, &self.irreps_out]
    }

    fn forward_t(&self, field: &Field, _pass: Pass) -> Result<Field, NnError> {
        let joined = field.joined()?;
        joined.expect("gate", &self.irreps_in)?;
        let values = match &self.gated {
            Some(gated) => gate(joined.values(), self.scalars, gated)?,
            None => joined.values().relu()?,
        };
        Field::new(self.irreps_out.clone(), values)?.apart(field.kind().orientations)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        Ok(Box::new(self.clone()))
    }

    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        let (x, orientations) = (&field.value, field.kind.orientations);
        let kind = FieldType { irreps: self.irreps_out.clone(), orientations };
        let Some(gated) = &self.gated else {
            return Ok(OnnxField { value: graph.node("Relu", &[x], &[]), kind });
        };
        let channels = |range: Range<usize>| range.start * orientations..range.end * orientations;
        let (gates, fields) = (gated.num_fields(), gated.dim());
        let first = self.scalars + gates;
        let gate = graph.channels(x, channels(self.scalars..first));
        let open = graph.node("Sigmoid", &[&gate], &[]);
        let of_channel = fields_of_channels(gated).into_iter();
        let of_channel = of_channel.flat_map(|gate| channels(gate..gate + 1));
        let open = graph.channels(&open, of_channel);
        let fields = graph.channels(x, channels(first..first + fields));
        let mut value = graph.node("Mul", &[&open, &fields], &[]);
        if self.scalars > 0 {
            let scalars = graph.channels(x, channels(0..self.scalars));
            let scalars = graph.node("Relu", &[&scalars], &[]);
            value = graph.beside(&[&scalars, &value]);
        }
        Ok(OnnxField { value, kind })
    }

    fn gating(&self) -> Option<Gating<'_>> {
        Some(Gating { scalars: self.scalars, gated: self.gated.as_ref() })
    }
}
