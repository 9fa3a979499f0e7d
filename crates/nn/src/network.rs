use candle_core::{DType, Device, Tensor};

use crate::layers::ConvolutionPath;
use crate::{FusedNetwork, LayerField, Mode, ModelConfig, NnError, Params, PlainCnn, SteerableCnn};

/// Any network that a [`ModelConfig`] describes.
#[derive(Debug)]
pub enum Network {
    /// A steerable network.
    Steerable(SteerableCnn),
    /// A plain network.
    Plain(PlainCnn),
}

impl Network {
    /// Builds the network with initial weights drawn from `seed`.
    ///
    /// # Errors
    /// [`NnError::Config`] naming the key that is wrong.
    pub fn new(
        config: &ModelConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, NnError> {
        Ok(match config {
            ModelConfig::Steerable(c) => {
                Self::Steerable(SteerableCnn::new(c.clone(), seed, dtype, device)?)
            }
            ModelConfig::Plain(c) => Self::Plain(PlainCnn::new(c.clone(), seed, dtype, device)?),
        })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> ModelConfig {
        match self {
            Self::Steerable(n) => ModelConfig::Steerable(n.config().clone()),
            Self::Plain(n) => ModelConfig::Plain(n.config().clone()),
        }
    }

    /// Its weights.
    pub fn params(&self) -> &Params {
        match self {
            Self::Steerable(n) => n.params(),
            Self::Plain(n) => n.params(),
        }
    }

    /// Logits, shape N,classes, of volumes of shape N,C,D,H,W; with another [`Head`](crate::Head) what that
    /// says.
    ///
    /// Volumes are of the type of the weights or bf16. Then fields are bf16 as well, sums are taken in f32, and
    /// running statistics, answers and the gradients of the weights are of the type of the weights.
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, NnError> {
        match self {
            Self::Steerable(n) => n.forward(x, mode),
            Self::Plain(n) => n.forward(x, mode),
        }
    }

    /// The output of every layer at evaluation, first to last, ending with what the head gives.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn layers(&self, x: &Tensor) -> Result<Vec<LayerField>, NnError> {
        match self {
            Self::Steerable(n) => n.layers(x),
            Self::Plain(n) => n.layers(x),
        }
    }

    /// As [`SteerableCnn::with_recomputation`].
    #[must_use]
    pub fn with_recomputation(self, recompute: bool) -> Self {
        match self {
            Self::Steerable(n) => Self::Steerable(n.with_recomputation(recompute)),
            Self::Plain(n) => Self::Plain(n.with_recomputation(recompute)),
        }
    }

    /// The network at evaluation, as it is now; it takes less memory than [`forward`](Self::forward) in
    /// [`Mode::Evaluate`], which keeps every field for a backward pass.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn fused(&self) -> Result<FusedNetwork, NnError> {
        match self {
            Self::Steerable(n) => n.fused(),
            Self::Plain(n) => n.fused(),
        }
    }

    /// The convolutions, first to last.
    pub fn convolutions(&self) -> Vec<ConvolutionInfo> {
        match self {
            Self::Steerable(n) => n.convolutions(),
            Self::Plain(n) => n.convolutions(),
        }
    }

    /// Multiply-adds of the convolutions for one volume of D, H, W voxels, each on the path that is taken.
    pub fn multiply_adds(&self, dims: [usize; 3]) -> usize {
        match self {
            Self::Steerable(n) => n.multiply_adds(dims),
            Self::Plain(n) => n.config().multiply_adds(dims),
        }
    }
}

/// What a convolution of a network costs.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvolutionInfo {
    /// The name that it has in [`Network::layers`].
    pub layer: String,
    /// How it is computed.
    pub path: ConvolutionPath,
    /// Multiply-adds for each output voxel.
    pub cost: usize,
}
