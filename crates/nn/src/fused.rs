use candle_core::Tensor;
use steer3d_ops::{gaussian_pool3d, max_pool3d};
use steer3d_so3::Irreps;

use crate::layers::{FusedConv3d, Gate, GaussianPool, InvariantPool, Linear};
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
    /// Neighbouring channels over which the head takes the mean.
    pub(crate) orientations: usize,
    pub(crate) head: Linear,
}

#[derive(Debug)]
pub(crate) struct FusedBlock {
    pub(crate) conv: FusedConv3d,
    pub(crate) gate: Gate,
    pub(crate) pool: Option<Pool>,
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
}

/// The mean over space and the orientations of each channel, N,C.
pub(crate) fn pooled(field: &Field, orientations: usize) -> Result<Tensor, NnError> {
    let values = InvariantPool.forward(field)?;
    let (n, channels) = values.dims2()?;
    Ok(values.reshape((n, channels / orientations, orientations))?.mean(2)?)
}

impl FusedNetwork {
    /// Logits, shape N,classes, of volumes of shape N,C,D,H,W.
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let mut field = Field::new(self.input.clone(), x.affine(self.input_scale, 0.0)?)?;
        if let Some(transformer) = &self.transformer {
            field = transformer.forward(&field)?;
        }
        for block in &self.blocks {
            field = block.forward(&field)?;
        }
        self.head.forward(&pooled(&field, self.orientations)?)
    }
}

impl FusedBlock {
    pub(crate) fn forward(&self, field: &Field) -> Result<Field, NnError> {
        let field = self.gate.forward(&self.conv.forward(field)?)?;
        match self.pool {
            Some(pool) => pool.forward(&field),
            None => Ok(field),
        }
    }
}
