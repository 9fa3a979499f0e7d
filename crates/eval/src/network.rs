use candle_core::{DType, Device, Tensor};
use steer3d_nn::{FoldedNetwork, LayerField, Network, NnError};

use crate::{ModelError, Predictor};

/// A network of this project under a name.
#[derive(Debug)]
pub struct NetworkPredictor {
    name: String,
    network: Network,
    folded: FoldedNetwork,
}

impl NetworkPredictor {
    /// Names a network. The logits are those of its present weights.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn new(name: String, network: Network) -> Result<Self, NnError> {
        Ok(Self { name, folded: network.folded()?, network })
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    fn moved(&self, batch: &Tensor) -> candle_core::Result<Tensor> {
        let params = self.network.params();
        batch.to_device(params.device())?.to_dtype(params.dtype())
    }
}

impl Predictor for NetworkPredictor {
    fn name(&self) -> &str {
        &self.name
    }

    fn classes(&self) -> usize {
        self.network.config().classes()
    }

    fn channels(&self) -> usize {
        self.network.config().channels()
    }

    fn parameters(&self) -> usize {
        self.network.params().count()
    }

    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError> {
        let logits = self.folded.forward(&self.moved(batch)?)?;
        Ok(logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?)
    }

    fn layers(&self, batch: &Tensor) -> Result<Vec<LayerField>, ModelError> {
        let mut layers = self.network.layers(&self.moved(batch)?)?;
        for layer in &mut layers {
            layer.values = layer.values.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        }
        Ok(layers)
    }
}
