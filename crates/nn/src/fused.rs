use candle_core::Tensor;
use steer3d_ops::{gaussian_pool3d, global_avg_pool, max_pool3d};
use steer3d_so3::Irreps;

use crate::field::scalars;
use crate::layers::{FusedActivation, FusedConv3d, GaussianPool, InvariantPool, Linear, widened};
use crate::transformer::FusedTransformer;
use crate::{Field, NnError};

/// A network ready for evaluation: every batch norm is folded into the convolution before it
/// ([`FusedConv3d`]), the one of the head into the linear layer, and dense filters are expanded.
///
/// It gives what the network that it was made of ([`Network::fused`](crate::Network::fused)) gave at
/// that moment in [`Mode::Evaluate`](crate::Mode::Evaluate), up to rounding, and keeps no field longer
/// than the next layer needs it. Training that network further does not change it.
#[derive(Debug)]
pub struct FusedNetwork {
    pub(crate) input: Irreps,
    pub(crate) input_scale: f64,
    pub(crate) transformer: Option<FusedTransformer>,
    pub(crate) blocks: Vec<FusedBlock>,
    /// Blocks that up-sample first.
    pub(crate) decoder: Vec<FusedBlock>,
    pub(crate) head: FusedHead,
}

#[derive(Debug)]
pub(crate) struct FusedBlock {
    pub(crate) layers: Vec<FusedLayer>,
    pub(crate) skip: Option<FusedSkip>,
    /// How the grid shrinks, if it does.
    pub(crate) pool: Option<Pool>,
    /// Whether it up-samples and joins what a strided block was given.
    pub(crate) joins: bool,
}

#[derive(Debug)]
pub(crate) struct FusedLayer {
    pub(crate) conv: FusedConv3d,
    pub(crate) activation: Option<FusedActivation>,
    pub(crate) pool: Option<Pool>,
}

/// What is added to the output of the layers, and the activation of the sum.
#[derive(Debug)]
pub(crate) struct FusedSkip {
    pub(crate) pool: Option<Pool>,
    pub(crate) linear: Option<FusedConv3d>,
    pub(crate) activation: Option<FusedActivation>,
}

#[derive(Debug)]
pub(crate) enum FusedHead {
    Linear {
        linear: Linear,
        /// Neighbouring channels over which the mean is taken.
        orientations: usize,
    },
    Field {
        map: FusedConv3d,
        pooled: bool,
        /// As of the linear head.
        orientations: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Pool {
    Gaussian(GaussianPool),
    Max(usize),
    /// The maximum over 27 voxels before a Gaussian.
    Antialiased(GaussianPool),
}

impl Pool {
    pub(crate) fn forward(self, field: &Field) -> Result<Field, NnError> {
        let values = field.values();
        let values = match self {
            Self::Gaussian(pool) => return pool.forward(field),
            Self::Max(n) => max_pool3d(values, n, n, 0)?,
            Self::Antialiased(GaussianPool { stride, sigma }) => {
                gaussian_pool3d(&max_pool3d(values, 3, 1, 1)?, stride, sigma)?
            }
        };
        Field::new(field.irreps().clone(), values)
    }

    /// A field on the pooled grid of a grid of `size` = D,H,W, on that grid.
    pub(crate) fn upsample(self, field: &Field, size: [usize; 3]) -> Result<Field, NnError> {
        match self {
            Self::Gaussian(pool) | Self::Antialiased(pool) => pool.upsample(field, size),
            Self::Max(n) => repeated(field, size, n),
        }
    }
}

/// Every voxel `n` times along each axis, the last ones once more where the pooling left some out.
fn repeated(field: &Field, size: [usize; 3], n: usize) -> Result<Field, NnError> {
    let mut values = field.values().clone();
    for (axis, size) in (2..5).zip(size) {
        let last = values.dim(axis)? - 1;
        let source: Vec<u32> = (0..size).map(|i| (i / n).min(last) as u32).collect();
        let source = Tensor::new(source, values.device())?;
        values = values.contiguous()?.index_select(&source, axis)?;
    }
    Field::new(field.irreps().clone(), values)
}

/// The mean over space and the orientations of each channel, N,C.
pub(crate) fn pooled(field: &Field, orientations: usize) -> Result<Tensor, NnError> {
    let values = widened(&InvariantPool.forward(field)?)?;
    let (n, channels) = values.dims2()?;
    Ok(values.reshape((n, channels / orientations, orientations))?.mean(2)?)
}

impl FusedNetwork {
    /// What the network gives for volumes of shape N,C,D,H,W; logits of shape N,classes of a classifier.
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let mut field = Field::new(self.input.clone(), x.affine(self.input_scale, 0.0)?)?;
        if let Some(transformer) = &self.transformer {
            field = transformer.forward(&field)?;
        }
        let mut kept = vec![];
        for block in &self.blocks {
            if let Some(pool) = block.pool.filter(|_| !self.decoder.is_empty()) {
                kept.push((field.clone(), pool));
            }
            field = block.forward(&field)?;
        }
        for block in &self.decoder {
            if block.joins
                && let Some((before, pool)) = kept.pop()
            {
                field = pool.upsample(&field, before.size())?.beside(&before)?;
            }
            field = block.forward(&field)?;
        }
        match &self.head {
            FusedHead::Linear { linear, orientations } => {
                linear.forward(&pooled(&field, *orientations)?)
            }
            FusedHead::Field { map, pooled: true, .. } => {
                let mean = global_avg_pool(field.values())?;
                mapped(|f| map.forward(f), field.irreps(), &mean)
            }
            FusedHead::Field { map, pooled: false, orientations } => {
                Ok(map.forward(&mean(&field, *orientations)?)?.values().clone())
            }
        }
    }
}

/// The mean over the orientations of each channel, which rotates as a scalar does where there are several.
pub(crate) fn mean(field: &Field, orientations: usize) -> Result<Field, NnError> {
    if orientations == 1 {
        return Ok(field.clone());
    }
    let (n, channels, d, h, w) = field.values().dims5()?;
    let c = channels / orientations;
    let values = widened(field.values())?.reshape((n, c, orientations, d * h * w))?.mean(2)?;
    Field::new(scalars(c)?, values.reshape((n, c, d, h, w))?)
}

/// What `map`, which is for fields, makes of a field N,C,D,H,W or of its mean N,C.
pub(crate) fn mapped(
    map: impl Fn(&Field) -> Result<Field, NnError>,
    irreps: &Irreps,
    values: &Tensor,
) -> Result<Tensor, NnError> {
    if values.dims().len() == 5 {
        return Ok(map(&Field::new(irreps.clone(), values.clone())?)?.values().clone());
    }
    let (n, channels) = values.dims2()?;
    let voxel = Field::new(irreps.clone(), values.reshape((n, channels, 1, 1, 1))?)?;
    Ok(map(&voxel)?.values().flatten_from(1)?)
}

impl FusedBlock {
    pub(crate) fn forward(&self, input: &Field) -> Result<Field, NnError> {
        let mut field = input.clone();
        for layer in &self.layers {
            field = layer.forward(&field)?;
        }
        let Some(skip) = &self.skip else { return Ok(field) };
        let mut added = input.clone();
        if let Some(pool) = &skip.pool {
            added = pool.forward(&added)?;
        }
        if let Some(linear) = &skip.linear {
            added = linear.forward(&added)?;
        }
        let sum = added.plus(&field)?;
        skip.activation.as_ref().map_or(Ok(sum.clone()), |activation| activation.forward(&sum))
    }
}

impl FusedLayer {
    fn forward(&self, field: &Field) -> Result<Field, NnError> {
        let mut field = self.conv.forward(field)?;
        if let Some(activation) = &self.activation {
            field = activation.forward(&field)?;
        }
        match self.pool {
            Some(pool) => pool.forward(&field),
            None => Ok(field),
        }
    }
}
