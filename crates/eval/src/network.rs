use candle_core::{DType, Device, Tensor};
use steer3d_nn::{LayerField, Mode, Network};

use crate::{ModelError, Predictor};

/// A network of this project under a name.
#[derive(Debug)]
pub struct NetworkPredictor {
    name: String,
    network: Network,
}

impl NetworkPredictor {
    /// Names a network.
    pub fn new(name: String, network: Network) -> Self {
        Self { name, network }
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
        let logits = self.network.forward(&self.moved(batch)?, Mode::Evaluate)?;
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
