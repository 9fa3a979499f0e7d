use candle_core::{DType, Tensor};
use steer3d_so3::{Irrep, Irreps};

use crate::{FieldType, NnError};

impl FieldType {
    /// The channels of this type and then those of `other`: the last and the first block are one if they are of the
    /// same irrep.
    pub(crate) fn beside(&self, other: &Self) -> Result<Self, NnError> {
        let expected = Self { irreps: other.irreps.clone(), ..*self };
        expect("a join of fields", &expected, other)?;
        let of = |irreps: &Irreps| irreps.blocks().map(|b| (b.mul, b.irrep)).collect::<Vec<_>>();
        let (mut blocks, mut rest) = (of(&self.irreps), of(&other.irreps));
        if let (Some(last), Some(next)) = (blocks.last_mut(), rest.first())
            && last.1 == next.1
        {
            last.0 += rest.remove(0).0;
        }
        blocks.extend(rest);
        Ok(Self { irreps: Irreps::new(blocks)?, orientations: self.orientations })
    }
}

/// Checks that `layer`, which takes fields of type `expected`, is given such.
pub(crate) fn expect(layer: &str, expected: &FieldType, found: &FieldType) -> Result<(), NnError> {
    if expected == found {
        return Ok(());
    }
    Err(NnError::FieldType {
        layer: layer.into(),
        expected: expected.clone(),
        found: found.clone(),
    })
}

/// A feature field: values of shape N,C,D,H,W and the representation under which they rotate.
#[derive(Debug, Clone)]
pub struct Field {
    kind: FieldType,
    values: Tensor,
}

impl Field {
    /// Pairs values with their representation.
    ///
    /// # Errors
    /// [`NnError::Channels`] unless `values` has five dimensions with `irreps.dim()` channels.
    pub fn new(irreps: Irreps, values: Tensor) -> Result<Self, NnError> {
        Self::of(irreps.into(), values)
    }

    /// Pairs values with their type.
    ///
    /// # Errors
    /// [`NnError::Channels`] unless `values` has five dimensions with [`FieldType::dim`] channels.
    pub fn of(kind: FieldType, values: Tensor) -> Result<Self, NnError> {
        let dims = values.dims();
        if dims.len() != 5 || dims[1] != kind.dim() {
            return Err(NnError::Channels { kind, shape: dims.to_vec() });
        }
        Ok(Self { kind, values })
    }

    /// Returns the type of the field, which says how its channels transform.
    pub fn kind(&self) -> &FieldType {
        &self.kind
    }

    /// Returns the representation by which the channels transform, one set for each orientation.
    pub fn irreps(&self) -> &Irreps {
        &self.kind.irreps
    }

    /// The values, shape N,C,D,H,W.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// Makes a field of the same type with other values, shape N,C,D,H,W.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn with(&self, values: Tensor) -> Result<Self, NnError> {
        Self::of(self.kind.clone(), values)
    }

    /// The sum of two fields of the same type.
    pub(crate) fn plus(&self, other: &Self) -> Result<Self, NnError> {
        other.expect_type("sum of fields", &self.kind)?;
        self.with((&self.values + &other.values)?)
    }

    /// The channels of this field and then those of `other`.
    pub(crate) fn beside(&self, other: &Self) -> Result<Self, NnError> {
        let kind = self.kind.beside(&other.kind)?;
        Self::of(kind, Tensor::cat(&[&self.values, &other.values], 1)?)
    }

    /// D,H,W.
    pub(crate) fn size(&self) -> [usize; 3] {
        let dims = self.values.dims();
        [dims[2], dims[3], dims[4]]
    }

    /// The orientations of a channel as planes of one volume, so that they share norm and dropout.
    pub(crate) fn joined(&self) -> Result<Self, NnError> {
        let FieldType { irreps, orientations } = &self.kind;
        if *orientations == 1 {
            return Ok(self.clone());
        }
        let (n, _, d, h, w) = self.values.dims5()?;
        let values = self.values.reshape((n, irreps.dim(), orientations * d, h, w))?;
        Self::new(irreps.clone(), values)
    }

    /// The field of which this one is [`joined`](Self::joined), where that has `orientations`.
    pub(crate) fn apart(self, orientations: usize) -> Result<Self, NnError> {
        if orientations == 1 {
            return Ok(self);
        }
        let (n, _, d, h, w) = self.values.dims5()?;
        let kind = FieldType { irreps: self.kind.irreps, orientations };
        let values = self.values.reshape((n, kind.dim(), d / orientations, h, w))?;
        Self::of(kind, values)
    }

    /// The mean over the orientations of each channel, which rotates as its irreps say.
    pub(crate) fn mean_over_orientations(&self) -> Result<Self, NnError> {
        let FieldType { irreps, orientations } = &self.kind;
        if *orientations == 1 {
            return Ok(self.clone());
        }
        let (n, _, d, h, w) = self.values.dims5()?;
        let c = irreps.dim();
        let values = widened(&self.values)?.reshape((n, c, *orientations, d * h * w))?.mean(2)?;
        Self::new(irreps.clone(), values.reshape((n, c, d, h, w))?)
    }

    /// Checks that this is a field of `irreps` without orientations, which is what `layer` takes.
    pub(crate) fn expect(&self, layer: &str, irreps: &Irreps) -> Result<(), NnError> {
        self.expect_type(layer, &irreps.into())
    }

    pub(crate) fn expect_type(&self, layer: &str, expected: &FieldType) -> Result<(), NnError> {
        expect(layer, expected, &self.kind)
    }
}

/// bf16 as f32, in which sums are taken; other types as they are.
pub(crate) fn widened(x: &Tensor) -> candle_core::Result<Tensor> {
    if x.dtype() == DType::BF16 { x.to_dtype(DType::F32) } else { Ok(x.clone()) }
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

/// `count` invariant channels of SO(3).
pub(crate) fn scalars(count: usize) -> Result<Irreps, NnError> {
    Ok(Irreps::new([(count, Irrep::so3(0))])?)
}
