use candle_core::{Device, Tensor};
use steer3d_ops::field_dropout;
use steer3d_so3::{Irreps, Stream};

use crate::{Field, Mode, NnError};

/// Drops whole fields: all components of a multiplicity, everywhere in space, together
/// (a mask on single components would not commute with rotation). Kept fields are divided by the
/// share kept, so that evaluation needs no change.
#[derive(Debug)]
pub struct FieldDropout {
    name: String,
    irreps: Irreps,
    probability: f64,
}

impl FieldDropout {
    /// Dropout of fields of type `irreps` with `probability` in `0.0..1.0`.
    ///
    /// # Errors
    /// [`NnError::Config`] for a probability outside that range.
    pub fn new(name: &str, irreps: &Irreps, probability: f64) -> Result<Self, NnError> {
        if !(0.0..1.0).contains(&probability) {
            return Err(NnError::Config {
                field: "dropout".into(),
                problem: format!("expected a probability in 0..1, found {probability}"),
            });
        }
        Ok(Self { name: name.into(), irreps: irreps.clone(), probability })
    }

    /// Applies the mask of this step when training; leaves the field alone otherwise.
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type.
    pub fn forward(&self, field: &Field, mode: Mode) -> Result<Field, NnError> {
        field.expect(&self.name, &self.irreps)?;
        let Mode::Train { seed, step } = mode else { return Ok(field.clone()) };
        if self.probability == 0.0 {
            return Ok(field.clone());
        }
        let x = field.values();
        let shape = (x.dim(0)?, self.irreps.num_fields());
        let mut stream = Stream::new(seed, &format!("dropout/{}", self.name), &[step]);
        let kept = 1.0 - self.probability;
        let draw = |_| if stream.uniform() < kept { 1.0 / kept } else { 0.0 };
        let mask: Vec<f64> = (0..shape.0 * shape.1).map(draw).collect();
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let mask = mask.to_dtype(x.dtype())?.to_device(x.device())?;
        Field::new(self.irreps.clone(), field_dropout(x, &self.irreps, &mask)?)
    }
}
