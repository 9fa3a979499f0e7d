use candle_core::Tensor;
use steer3d_ops::max_pool3d;
use steer3d_so3::Irreps;

use crate::layers::{FusedConv3d, Gate, GaussianPool, InvariantPool, Linear};
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
    pub(crate) blocks: Vec<FusedBlock>,
    pub(crate) head: Linear,
}

#[derive(Debug)]
pub(crate) struct FusedBlock {
    pub(crate) conv: FusedConv3d,
    pub(crate) gate: Gate,
    pub(crate) pool: Option<Pool>,
}

#[derive(Debug)]
pub(crate) enum Pool {
    Gaussian(GaussianPool),
    Max(usize),
}

impl FusedNetwork {
    /// Logits, shape N,classes, of volumes of shape N,C,D,H,W.
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, NnError> {
        let mut field = Field::new(self.input.clone(), x.affine(self.input_scale, 0.0)?)?;
        for block in &self.blocks {
            field = block.forward(&field)?;
        }
        self.head.forward(&InvariantPool.forward(&field)?)
    }
}

impl FusedBlock {
    fn forward(&self, field: &Field) -> Result<Field, NnError> {
        let field = self.gate.forward(&self.conv.forward(field)?)?;
        match self.pool {
            Some(Pool::Gaussian(pool)) => pool.forward(&field),
            Some(Pool::Max(n)) => {
                Field::new(field.irreps().clone(), max_pool3d(field.values(), n, n, 0)?)
            }
            None => Ok(field),
        }
    }
}
