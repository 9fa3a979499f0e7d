use candle_core::{Device, Tensor};
use steer3d_ops::field_dropout;
use steer3d_ranks::Rank;
use steer3d_so3::{Irreps, Stream};

use super::FieldLayer;
use crate::error::fault;
use crate::onnx::{OnnxField, OnnxGraph};
use crate::{Field, Mode, NnError, Pass, Scope};

/// Drops whole fields: all components of a multiplicity, everywhere in space, together
/// (a mask on single components would not commute with rotation). Kept fields are divided by the
/// share kept, so that evaluation needs no change.
#[derive(Debug, Clone)]
pub struct FieldDropout {
    name: String,
    irreps: Irreps,
    probability: f64,
}

impl FieldDropout {
    /// Makes the dropout of fields of type `irreps` with `probability` in `0.0..1.0`; its place in `params` keys the masks.
    ///
    /// # Errors
    /// [`NnError::Config`] for a probability outside that range.
    pub fn new<'a>(
        params: impl Into<Scope<'a>>,
        irreps: &Irreps,
        probability: f64,
    ) -> Result<Self, NnError> {
        if !(0.0..1.0).contains(&probability) {
            let problem = format!("expected a probability in 0..1, found {probability}");
            return fault("dropout", problem);
        }
        Ok(Self { name: params.into().path().into(), irreps: irreps.clone(), probability })
    }
}

impl FieldLayer for FieldDropout {
    fn irreps(&self) -> [&Irreps; 2] {
        [&self.irreps; 2]
    }

    /// Applies the mask of this step when training; leaves the field alone otherwise.
    fn forward_t(&self, field: &Field, pass: Pass) -> Result<Field, NnError> {
        let joined = field.joined()?;
        joined.expect(&self.name, &self.irreps)?;
        let Mode::Train { seed, step } = pass.mode else { return Ok(field.clone()) };
        if self.probability == 0.0 {
            return Ok(field.clone());
        }
        let x = joined.values();
        let shape = (x.dim(0)?, self.irreps.num_fields());
        let mut stream = Stream::new(seed, &format!("dropout/{}", self.name), &[step]);
        // The masks of a batch are the same, however many ranks share it.
        for _ in 0..Rank::current().items_before() * shape.1 {
            stream.uniform();
        }
        let kept = 1.0 - self.probability;
        let draw = |_| if stream.uniform() < kept { 1.0 / kept } else { 0.0 };
        let mask: Vec<f64> = (0..shape.0 * shape.1).map(draw).collect();
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let mask = mask.to_dtype(x.dtype())?.to_device(x.device())?;
        let dropped = joined.with(field_dropout(x, &self.irreps, &mask)?)?;
        dropped.apart(field.kind().orientations)
    }

    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError> {
        Ok(Box::new(Self { probability: 0.0, ..self.clone() }))
    }

    fn export(&self, field: &OnnxField, _graph: &mut OnnxGraph) -> Result<OnnxField, NnError> {
        Ok(field.clone())
    }
}
