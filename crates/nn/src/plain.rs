use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use steer3d_so3::Irreps;

use crate::field::scalars;
use crate::fused::{FusedBlock, FusedNetwork, Pool, pooled};
use crate::layers::{
    ConvolutionPath, FieldBatchNorm, FieldDropout, Gate, GaussianPool, GroupConv, Linear,
};
use crate::recompute::{Pass, recomputed};
use crate::steerable::{check_classes, check_scale, check_stride};
use crate::transformer::Transformer;
use crate::{
    ConvolutionInfo, Field, LayerField, Mode, NnError, Params, PlainBlock, PlainConfig, Pooling,
};

/// The rivals: convolution, batch norm, ReLU and pooling, mean over space, linear head; with
/// [`Symmetry::Octahedral`](crate::Symmetry::Octahedral) a group-convolutional network, whose channels
/// have 24 orientations each and whose answer does not change under the 24 rotations of the cube
/// (exactly where pooling is antialiased; max pooling has no centre on odd grids). A
/// [`TransformerConfig`](crate::TransformerConfig) puts a spatial transformer in front.
///
/// Channels are ordinary numbers; for the measurement of equivariance they, or their means over
/// orientations, count as scalars.
#[derive(Debug)]
pub struct PlainCnn {
    config: PlainConfig,
    params: Params,
    transformer: Option<Transformer>,
    blocks: Vec<Arc<Block>>,
    recompute: bool,
    head: Linear,
}

/// Hears of the field that each layer gives, and how many orientations its channels have.
pub(crate) type Seen<'a> = dyn FnMut(String, &Field, usize) + 'a;

#[derive(Debug)]
pub(crate) struct Block {
    conv: GroupConv,
    pool: Option<Pool>,
    norm: FieldBatchNorm,
    /// ReLU: nothing but scalars.
    relu: Gate,
    dropout: FieldDropout,
    /// Channels, each with all its orientations.
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
        let mut field = self.conv.forward(field)?;
        seen("convolution", &field);
        field = self.apart(&self.norm.gated(&self.relu, &self.joined(&field)?, mode, pass)?)?;
        seen("norm and ReLU", &field);
        if let Some(pool) = self.pool {
            field = pool.forward(&field)?;
            seen("pooling", &field);
        }
        self.apart(&self.dropout.forward(&self.joined(&field)?, mode)?)
    }

    fn orientations(&self) -> usize {
        self.conv.irreps_out().dim() / self.irreps.dim()
    }

    /// The orientations of a channel as planes of one volume, so that they share norm and dropout.
    fn joined(&self, field: &Field) -> Result<Field, NnError> {
        let (n, _, d, h, w) = field.values().dims5()?;
        let shape = (n, self.irreps.dim(), self.orientations() * d, h, w);
        Field::new(self.irreps.clone(), field.values().reshape(shape)?)
    }

    fn apart(&self, field: &Field) -> Result<Field, NnError> {
        let (n, _, d, h, w) = field.values().dims5()?;
        let whole = self.conv.irreps_out();
        let values = field.values().reshape((n, whole.dim(), d / self.orientations(), h, w))?;
        Field::new(whole.clone(), values)
    }

    pub(crate) fn channels(&self) -> usize {
        self.irreps.dim()
    }

    pub(crate) fn fused(&self) -> Result<FusedBlock, NnError> {
        let conv = self.conv.fused(&self.norm)?;
        Ok(FusedBlock { gate: Gate::new(conv.irreps_out())?, conv, pool: self.pool })
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
        let transformer = match &config.transformer {
            Some(transformer) => Some(Transformer::new(&mut params, transformer, &config)?),
            None => None,
        };
        let blocks = stack(&mut params, "blocks", &config.blocks, &config)?;
        let inputs = blocks.last().map_or(config.channels, |last| last.irreps.dim());
        let head = Linear::new(&mut params, "head", inputs, config.classes)?;
        Ok(Self { config, params, transformer, blocks, recompute: false, head })
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
        self.head.forward(&self.features(x, mode, &mut |_, _, _| ())?)
    }

    /// The output of every layer at evaluation, first to last, ending with the pooled features and the
    /// logits.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn layers(&self, x: &Tensor) -> Result<Vec<LayerField>, NnError> {
        let mut fields = vec![];
        let features = self.features(x, Mode::Evaluate, &mut |name, field, orientations| {
            fields.push((name, field.clone(), orientations));
        })?;
        let scalar =
            |(name, field, orientations)| Ok(LayerField::of(name, &mean(&field, orientations)?));
        let mut layers: Vec<_> = fields.into_iter().map(scalar).collect::<Result<_, NnError>>()?;
        layers.push(LayerField::features(scalars(features.dim(1)?)?, features.clone()));
        layers.push(LayerField::logits(self.head.forward(&features)?)?);
        Ok(layers)
    }

    /// The convolutions, first to last.
    pub fn convolutions(&self) -> Vec<ConvolutionInfo> {
        let of = |title: &str, blocks: &[Arc<Block>]| -> Vec<ConvolutionInfo> {
            let info = |(i, block): (usize, &Arc<Block>)| ConvolutionInfo {
                layer: format!("{title} {} convolution", i + 1),
                path: ConvolutionPath::Dense,
                cost: block.conv.cost(),
            };
            blocks.iter().enumerate().map(info).collect()
        };
        let mut all =
            self.transformer.as_ref().map_or_else(Vec::new, |t| of(Transformer::TITLE, t.blocks()));
        all.extend(of("block", &self.blocks));
        all
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
            transformer: self.transformer.as_ref().map(Transformer::fused).transpose()?,
            blocks: self.blocks.iter().map(|b| b.fused()).collect::<Result<_, _>>()?,
            orientations: self.config.symmetry.order(),
            head: self.head.fused(None)?,
        })
    }

    /// What the head is given, N,C.
    fn features(&self, x: &Tensor, mode: Mode, seen: &mut Seen<'_>) -> Result<Tensor, NnError> {
        let x = x.affine(self.config.input_scale, 0.0)?;
        let mut field = Field::new(scalars(self.config.channels)?, x)?;
        if let Some(transformer) = &self.transformer {
            field = transformer.forward(&field, mode, self.recompute, seen)?;
        }
        let field = through("block", &self.blocks, &field, mode, self.recompute, seen)?;
        pooled(&field, self.config.symmetry.order())
    }
}

/// The blocks that `blocks` describes, whose key in the configuration and the checkpoint is `key`; all
/// else is as in `config`.
pub(crate) fn stack(
    params: &mut Params,
    key: &str,
    blocks: &[PlainBlock],
    config: &PlainConfig,
) -> Result<Vec<Arc<Block>>, NnError> {
    let mut built: Vec<Arc<Block>> = vec![];
    for (i, block) in blocks.iter().enumerate() {
        check_stride(&format!("{key}[{i}].pool"), block.pool)?;
        if block.size % 2 == 0 || block.size > 15 || block.channels == 0 {
            return Err(NnError::Config {
                field: format!("{key}[{i}]"),
                problem: format!(
                    "expected an odd size up to 15 and at least one channel, found size {} and {} channels",
                    block.size, block.channels
                ),
            });
        }
        let name = |part: &str| format!("{key}.{i}.{part}");
        let irreps = scalars(block.channels)?;
        let (inputs, orientations) = match built.last() {
            None => (config.channels, 1),
            Some(last) => (last.channels(), config.symmetry.order()),
        };
        let before = params.trainable().len();
        let conv = GroupConv::new(
            params,
            &name("conv"),
            config.symmetry,
            [block.channels, inputs, orientations],
            block.size,
        )?;
        let pool = match config.pooling {
            Pooling::Max => Pool::Max(block.pool),
            Pooling::Antialiased => Pool::Antialiased(GaussianPool::new(block.pool)),
        };
        built.push(Arc::new(Block {
            conv,
            pool: (block.pool > 1).then_some(pool),
            norm: FieldBatchNorm::new(params, &name("norm"), &irreps)?,
            relu: Gate::new(&irreps)?,
            dropout: FieldDropout::new(&name("dropout"), &irreps, config.dropout)?,
            irreps,
            weights: params.trainable_after(before),
        }));
    }
    Ok(built)
}

/// The output of the last of `blocks`, which `title` names in [`PlainCnn::layers`].
pub(crate) fn through(
    title: &str,
    blocks: &[Arc<Block>],
    field: &Field,
    mode: Mode,
    recompute: bool,
    seen: &mut Seen<'_>,
) -> Result<Field, NnError> {
    let mut field = field.clone();
    for (i, block) in blocks.iter().enumerate() {
        field = if recompute && mode != Mode::Evaluate {
            let again = Arc::clone(block);
            recomputed(&field, &block.weights, move |field, pass| {
                again.forward(field, mode, pass, &mut |_, _| ())
            })?
        } else {
            let seen = &mut |part: &str, field: &Field| {
                seen(format!("{title} {} {part}", i + 1), field, block.orientations());
            };
            block.forward(&field, mode, Pass::First, seen)?
        };
    }
    Ok(field)
}

/// The mean over the orientations of each channel, which rotates as a scalar does.
fn mean(field: &Field, orientations: usize) -> Result<Field, NnError> {
    let (n, channels, d, h, w) = field.values().dims5()?;
    let c = channels / orientations;
    let values = field.values().reshape((n, c, orientations, d * h * w))?.mean(2)?;
    Field::new(scalars(c)?, values.reshape((n, c, d, h, w))?)
}
