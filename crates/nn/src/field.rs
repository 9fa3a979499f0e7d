use candle_core::Tensor;
use steer3d_so3::{Irrep, Irreps};

use crate::NnError;

/// A feature field: values of shape N,C,D,H,W and the representation under which they rotate.
#[derive(Debug, Clone)]
pub struct Field {
    irreps: Irreps,
    values: Tensor,
}

impl Field {
    /// Pairs values with their type.
    ///
    /// # Errors
    /// [`NnError::Channels`] unless `values` has five dimensions with `irreps.dim()` channels.
    pub fn new(irreps: Irreps, values: Tensor) -> Result<Self, NnError> {
        let dims = values.dims();
        if dims.len() != 5 || dims[1] != irreps.dim() {
            return Err(NnError::Channels { irreps, shape: dims.to_vec() });
        }
        Ok(Self { irreps, values })
    }

    /// How the channels transform.
    pub fn irreps(&self) -> &Irreps {
        &self.irreps
    }

    /// The values, shape N,C,D,H,W.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The sum of two fields of the same type.
    pub(crate) fn plus(&self, other: &Self) -> Result<Self, NnError> {
        other.expect("sum of fields", &self.irreps)?;
        Self::new(self.irreps.clone(), (&self.values + &other.values)?)
    }

    /// The channels of this field and then those of `other`.
    pub(crate) fn beside(&self, other: &Self) -> Result<Self, NnError> {
        let irreps = beside(&self.irreps, &other.irreps)?;
        Self::new(irreps, Tensor::cat(&[&self.values, &other.values], 1)?)
    }

    /// D,H,W.
    pub(crate) fn size(&self) -> [usize; 3] {
        let dims = self.values.dims();
        [dims[2], dims[3], dims[4]]
    }

    pub(crate) fn expect(&self, layer: &str, irreps: &Irreps) -> Result<(), NnError> {
        expect(layer, irreps, &self.irreps)
    }
}

/// The type of [`Field::beside`]: the last and the first block are one if they are of the same irrep.
pub(crate) fn beside(first: &Irreps, second: &Irreps) -> Result<Irreps, NnError> {
    let of = |irreps: &Irreps| irreps.blocks().map(|b| (b.mul, b.irrep)).collect::<Vec<_>>();
    let (mut blocks, mut rest) = (of(first), of(second));
    if let (Some(last), Some(next)) = (blocks.last_mut(), rest.first())
        && last.1 == next.1
    {
        last.0 += rest.remove(0).0;
    }
    blocks.extend(rest);
    Ok(Irreps::new(blocks)?)
}

/// Checks that `layer`, which takes fields of type `expected`, is given such.
pub(crate) fn expect(layer: &str, expected: &Irreps, found: &Irreps) -> Result<(), NnError> {
    if expected == found {
        return Ok(());
    }
    Err(NnError::FieldType {
        layer: layer.into(),
        expected: expected.clone(),
        found: found.clone(),
    })
}

/// The output of one layer of a network, with the way it transforms under rotation.
#[derive(Debug, Clone)]
pub struct LayerField {
    /// Name of the layer, unique in its network.
    pub name: String,
    /// How the channels transform; ordinary channels are scalars (`"32x0"`).
    pub irreps: Irreps,
    /// Values, shape N,C,D,H,W, or N,C once space has been pooled away.
    pub values: Tensor,
}

impl LayerField {
    pub(crate) fn of(name: String, field: &Field) -> Self {
        Self { name, irreps: field.irreps.clone(), values: field.values.clone() }
    }

    /// What the head is given, N,C.
    pub(crate) fn features(irreps: Irreps, values: Tensor) -> Self {
        Self { name: "features".into(), irreps, values }
    }

    pub(crate) fn logits(values: Tensor) -> Result<Self, NnError> {
        let classes = values.dim(1)?;
        Ok(Self { name: "logits".into(), irreps: scalars(classes)?, values })
    }
}

/// `count` invariant channels of SO(3).
pub(crate) fn scalars(count: usize) -> Result<Irreps, NnError> {
    Ok(Irreps::new([(count, Irrep::so3(0))])?)
}
