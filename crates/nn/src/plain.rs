use candle_core::{DType, Device, Tensor};
use steer3d_ops::{gaussian_pool3d, max_pool3d};
use steer3d_so3::Irreps;

use crate::field::scalars;
use crate::layers::{
    ConvolutionPath, FieldBatchNorm, FieldDropout, GaussianPool, GroupConv, InvariantPool, Linear,
};
use crate::steerable::{check_classes, check_scale, check_stride};
use crate::{ConvolutionInfo, Field, LayerField, Mode, NnError, Params, PlainConfig, Pooling};

/// The rivals: convolution, batch norm, ReLU and pooling, mean over space, linear head; with
/// [`Symmetry::Octahedral`](crate::Symmetry::Octahedral) a group-convolutional network, whose channels have an orientation each
/// and whose answer does not change under the 24 rotations of the cube (exactly where pooling is
/// antialiased; max pooling has no centre on odd grids).
///
/// Channels are ordinary numbers; for the measurement of equivariance they, or their means over
/// orientations, count as scalars.
#[derive(Debug)]
pub struct PlainCnn {
    config: PlainConfig,
    params: Params,
    blocks: Vec<Block>,
    head: Linear,
}

#[derive(Debug)]
struct Block {
    conv: GroupConv,
    pool: usize,
    norm: FieldBatchNorm,
    dropout: FieldDropout,
    /// Channels, without their orientations.
    irreps: Irreps,
}

impl PlainCnn {
    /// Builds the network with initial weights (He et al. 2015) drawn from `seed`.
    ///
    /// # Errors
    /// [`NnError::Config`] naming the key that is wrong.
    pub fn new(
        config: PlainConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, NnError> {
        check_classes(config.classes)?;
        check_scale(config.input_scale)?;
        let mut params = Params::new(seed, dtype, device);
        let mut blocks: Vec<Block> = vec![];
        for (i, block) in config.blocks.iter().enumerate() {
            check_stride(i, "pool", block.pool)?;
            if block.size % 2 == 0 || block.size > 15 || block.channels == 0 {
                return Err(NnError::Config {
                    field: format!("blocks[{i}]"),
                    problem: format!(
                        "expected an odd size up to 15 and at least one channel, found size {} and {} channels",
                        block.size, block.channels
                    ),
                });
            }
            let name = |part: &str| format!("blocks.{i}.{part}");
            let irreps = scalars(block.channels)?;
            let (inputs, orientations) = match blocks.last() {
                None => (config.channels, 1),
                Some(last) => (last.irreps.dim(), config.symmetry.order()),
            };
            blocks.push(Block {
                conv: GroupConv::new(
                    &mut params,
                    &name("conv"),
                    config.symmetry,
                    [block.channels, inputs, orientations],
                    block.size,
                )?,
                pool: block.pool,
                norm: FieldBatchNorm::new(&mut params, &name("norm"), &irreps)?,
                dropout: FieldDropout::new(&name("dropout"), &irreps, config.dropout)?,
                irreps,
            });
        }
        let pooled = blocks.last().map_or(config.channels, |last| last.irreps.dim());
        let head = Linear::new(&mut params, "head", pooled, config.classes)?;
        Ok(Self { config, params, blocks, head })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &PlainConfig {
        &self.config
    }

    /// Its weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Logits, shape N,classes, of volumes of shape N,C,D,H,W.
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, NnError> {
        self.run(x, mode, |_, _| ())
    }

    /// The output of every layer at evaluation, first to last, ending with the logits.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn layers(&self, x: &Tensor) -> Result<Vec<LayerField>, NnError> {
        let mut layers = vec![];
        let logits =
            self.run(x, Mode::Evaluate, |name, field| layers.push(LayerField::of(name, field)))?;
        layers.push(LayerField::logits(logits)?);
        Ok(layers)
    }

    /// The convolutions, first to last.
    pub fn convolutions(&self) -> Vec<ConvolutionInfo> {
        let info = |(i, block): (usize, &Block)| ConvolutionInfo {
            layer: format!("block {} convolution", i + 1),
            path: ConvolutionPath::Dense,
            cost: block.conv.cost(),
        };
        self.blocks.iter().enumerate().map(info).collect()
    }

    fn run(
        &self,
        x: &Tensor,
        mode: Mode,
        mut seen: impl FnMut(String, &Field),
    ) -> Result<Tensor, NnError> {
        let x = x.affine(self.config.input_scale, 0.0)?;
        let mut field = Field::new(scalars(self.config.channels)?, x)?;
        let order = self.config.symmetry.order();
        for (i, block) in self.blocks.iter().enumerate() {
            let grid = |values: &Tensor| values.dims5().map(|(_, _, d, h, w)| [d / order, h, w]);
            // Orientations are planes before those of space where they share norm and dropout.
            let joined = |values: &Tensor| -> Result<Field, NnError> {
                let (n, _, d, h, w) = values.dims5()?;
                let values = values.reshape((n, block.irreps.dim(), order * d, h, w))?;
                Field::new(block.irreps.clone(), values)
            };
            let apart = |field: &Field| -> Result<Tensor, NnError> {
                let (n, c, ..) = field.values().dims5()?;
                let [d, h, w] = grid(field.values())?;
                Ok(field.values().reshape((n, c * order, d, h, w))?)
            };
            let mut show = |part: &str, field: &Field| -> Result<(), NnError> {
                let (n, c, ..) = field.values().dims5()?;
                let [d, h, w] = grid(field.values())?;
                let mean = field.values().reshape((n, c, order, d * h * w))?.mean(2)?;
                let mean = Field::new(block.irreps.clone(), mean.reshape((n, c, d, h, w))?)?;
                seen(format!("block {} {part}", i + 1), &mean);
                Ok(())
            };
            let x = if i == 0 { field.values().clone() } else { apart(&field)? };
            field = joined(&block.conv.forward(&x)?)?;
            show("convolution", &field)?;
            field = block.norm.forward(&field, mode)?;
            field = Field::new(block.irreps.clone(), field.values().relu()?)?;
            show("norm and ReLU", &field)?;
            if block.pool > 1 {
                field = joined(&self.pool(&apart(&field)?, block.pool)?)?;
                show("pooling", &field)?;
            }
            field = block.dropout.forward(&field, mode, &self.params)?;
        }
        self.head.forward(&InvariantPool.forward(&field)?)
    }

    fn pool(&self, values: &Tensor, stride: usize) -> Result<Tensor, NnError> {
        Ok(match self.config.pooling {
            Pooling::Max => max_pool3d(values, stride, stride, 0)?,
            Pooling::Antialiased => {
                let sigma = GaussianPool::new(stride).sigma;
                gaussian_pool3d(&max_pool3d(values, 3, 1, 1)?, stride, sigma)?
            }
        })
    }
}
