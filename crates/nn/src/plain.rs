use candle_core::{DType, Device, Tensor};
use steer3d_ops::{Conv3dConfig, conv3d, max_pool3d};
use steer3d_so3::Irreps;

use crate::field::scalars;
use crate::layers::{ConvolutionPath, FieldBatchNorm, FieldDropout, InvariantPool, Linear};
use crate::steerable::{check_classes, check_scale, check_stride};
use crate::{ConvolutionInfo, Field, LayerField, Mode, NnError, Params, PlainConfig};

/// The rival: convolution, batch norm, ReLU and max pooling, mean over space, linear head.
///
/// Its channels are ordinary numbers; for the measurement of equivariance they count as scalars.
#[derive(Debug)]
pub struct PlainCnn {
    config: PlainConfig,
    params: Params,
    blocks: Vec<Block>,
    head: Linear,
}

#[derive(Debug)]
struct Block {
    weight: Tensor,
    size: usize,
    pool: usize,
    norm: FieldBatchNorm,
    dropout: FieldDropout,
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
        let mut inputs = config.channels;
        let mut blocks = vec![];
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
            blocks.push(Block {
                weight: filter(&mut params, &name("conv"), block.channels, inputs, block.size)?,
                size: block.size,
                pool: block.pool,
                norm: FieldBatchNorm::new(&mut params, &name("norm"), &irreps)?,
                dropout: FieldDropout::new(&name("dropout"), &irreps, config.dropout)?,
                irreps,
            });
            inputs = block.channels;
        }
        let head = Linear::new(&mut params, "head", inputs, config.classes)?;
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
            cost: block.weight.elem_count(),
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
        for (i, block) in self.blocks.iter().enumerate() {
            let typed = |values| Field::new(block.irreps.clone(), values);
            let config = Conv3dConfig::same(block.size);
            field = typed(conv3d(field.values(), &block.weight, None, &config)?)?;
            seen(format!("block {} convolution", i + 1), &field);
            field = block.norm.forward(&field, mode)?;
            field = typed(field.values().relu()?)?;
            seen(format!("block {} norm and ReLU", i + 1), &field);
            if block.pool > 1 {
                field = typed(max_pool3d(field.values(), block.pool, block.pool, 0)?)?;
                seen(format!("block {} pooling", i + 1), &field);
            }
            field = block.dropout.forward(&field, mode, &self.params)?;
        }
        self.head.forward(&InvariantPool.forward(&field)?)
    }
}

fn filter(
    params: &mut Params,
    name: &str,
    outputs: usize,
    inputs: usize,
    size: usize,
) -> Result<Tensor, NnError> {
    let mut stream = params.stream(name);
    let fan_in = inputs * size.pow(3);
    let std = (2.0 / fan_in as f64).sqrt();
    let values = (0..outputs * fan_in).map(|_| std * stream.normal()).collect();
    params.weight(&format!("{name}.weight"), values, &[outputs, inputs, size, size, size], true)
}
