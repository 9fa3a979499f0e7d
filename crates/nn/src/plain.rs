use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use steer3d_ops::{Conv3dConfig, conv3d, max_pool3d};
use steer3d_so3::Irreps;

use crate::field::scalars;
use crate::fused::{FusedBlock, FusedNetwork, Pool};
use crate::layers::{
    ConvolutionPath, FieldBatchNorm, FieldDropout, FusedConv3d, Gate, InvariantPool, Linear,
};
use crate::recompute::{Pass, recomputed};
use crate::steerable::{check_classes, check_scale, check_stride};
use crate::{ConvolutionInfo, Field, LayerField, Mode, NnError, Params, PlainConfig};

/// The rival: convolution, batch norm, ReLU and max pooling, mean over space, linear head.
///
/// Its channels are ordinary numbers; for the measurement of equivariance they count as scalars.
#[derive(Debug)]
pub struct PlainCnn {
    config: PlainConfig,
    params: Params,
    blocks: Vec<Arc<Block>>,
    recompute: bool,
    head: Linear,
}

#[derive(Debug)]
struct Block {
    weight: Tensor,
    size: usize,
    pool: usize,
    norm: FieldBatchNorm,
    /// ReLU: nothing but scalars.
    relu: Gate,
    dropout: FieldDropout,
    irreps_in: Irreps,
    irreps: Irreps,
    weights: Vec<Tensor>,
}

impl Block {
    fn forward(
        &self,
        field: &Field,
        mode: Mode,
        pass: Pass,
        seen: &mut dyn FnMut(&str, &Field),
    ) -> Result<Field, NnError> {
        let typed = |values| Field::new(self.irreps.clone(), values);
        let config = Conv3dConfig::same(self.size);
        let mut field = typed(conv3d(field.values(), &self.weight, None, &config)?)?;
        seen("convolution", &field);
        field = self.norm.gated(&self.relu, &field, mode, pass)?;
        seen("norm and ReLU", &field);
        if self.pool > 1 {
            field = typed(max_pool3d(field.values(), self.pool, self.pool, 0)?)?;
            seen("pooling", &field);
        }
        self.dropout.forward(&field, mode)
    }

    fn fused(&self) -> Result<FusedBlock, NnError> {
        let irreps = [&self.irreps_in, &self.irreps];
        let config = Conv3dConfig::same(self.size);
        Ok(FusedBlock {
            conv: FusedConv3d::dense("conv", irreps, &self.weight, None, config, &self.norm)?,
            gate: self.relu.clone(),
            pool: (self.pool > 1).then_some(Pool::Max(self.pool)),
        })
    }
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
            let before = params.trainable().len();
            blocks.push(Arc::new(Block {
                weight: filter(&mut params, &name("conv"), block.channels, inputs, block.size)?,
                size: block.size,
                pool: block.pool,
                norm: FieldBatchNorm::new(&mut params, &name("norm"), &irreps)?,
                relu: Gate::new(&irreps)?,
                dropout: FieldDropout::new(&name("dropout"), &irreps, config.dropout)?,
                irreps_in: scalars(inputs)?,
                irreps,
                weights: params.trainable_after(before),
            }));
            inputs = block.channels;
        }
        let head = Linear::new(&mut params, "head", inputs, config.classes)?;
        Ok(Self { config, params, blocks, recompute: false, head })
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
        let info = |(i, block): (usize, &Arc<Block>)| ConvolutionInfo {
            layer: format!("block {} convolution", i + 1),
            path: ConvolutionPath::Dense,
            cost: block.weight.elem_count(),
        };
        self.blocks.iter().enumerate().map(info).collect()
    }

    /// As [`SteerableCnn::with_recomputation`](crate::SteerableCnn::with_recomputation).
    #[must_use]
    pub fn with_recomputation(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

    /// The network at evaluation, as it is now.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    pub fn fused(&self) -> Result<FusedNetwork, NnError> {
        Ok(FusedNetwork {
            input: scalars(self.config.channels)?,
            input_scale: self.config.input_scale,
            blocks: self.blocks.iter().map(|b| b.fused()).collect::<Result<_, _>>()?,
            head: self.head.fused(None)?,
        })
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
            field = if self.recompute && mode != Mode::Evaluate {
                let again = Arc::clone(block);
                recomputed(&field, &block.weights, move |field, pass| {
                    again.forward(field, mode, pass, &mut |_, _| ())
                })?
            } else {
                let seen = &mut |part: &str, field: &Field| {
                    seen(format!("block {} {part}", i + 1), field);
                };
                block.forward(&field, mode, Pass::First, seen)?
            };
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
