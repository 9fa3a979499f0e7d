use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use steer3d_so3::Irreps;

use crate::field::scalars;
use crate::fused::{FusedBlock, FusedHead, FusedLayer, FusedNetwork, FusedSkip, Pool, pooled};
use crate::layers::{
    ConvolutionPath, FieldBatchNorm, FieldDropout, FusedActivation, Gate, GaussianPool, GroupConv,
    Linear,
};
use crate::recompute::{Pass, recomputed};
use crate::steerable::{check_classes, check_repeat, check_scale, check_stride};
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

/// One or, in a residual block, two layers.
#[derive(Debug)]
pub(crate) struct Block {
    title: String,
    layers: Vec<Layer>,
    skip: Option<Skip>,
    weights: Vec<Tensor>,
}

/// What a residual block adds before its last ReLU: its input, on the new grid, in the new channels.
#[derive(Debug)]
struct Skip {
    pool: Option<Pool>,
    linear: Option<Layer>,
}

#[derive(Debug)]
struct Layer {
    title: String,
    conv: GroupConv,
    pool: Option<Pool>,
    norm: FieldBatchNorm,
    /// Nothing but scalars; the last layer of a residual block has none.
    relu: Option<Gate>,
    dropout: FieldDropout,
    /// Channels, each with all its orientations.
    irreps: Irreps,
}

impl Layer {
    fn forward(
        &self,
        field: &Field,
        mode: Mode,
        pass: Pass,
        seen: &mut dyn FnMut(&str, &Field),
    ) -> Result<Field, NnError> {
        let mut field = self.conv.forward(field)?;
        seen(&format!("{} convolution", self.title), &field);
        let joined = self.joined(&field)?;
        field = self.apart(&match &self.relu {
            Some(relu) => self.norm.gated(relu, &joined, mode, pass)?,
            None => self.norm.normalised(&joined, mode, pass)?,
        })?;
        let relu = if self.relu.is_some() { " and ReLU" } else { "" };
        seen(&format!("{} norm{relu}", self.title), &field);
        if let Some(pool) = self.pool {
            field = pool.forward(&field)?;
            seen(&format!("{} pooling", self.title), &field);
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

    fn fused(&self) -> Result<FusedLayer, NnError> {
        let conv = self.conv.fused(&self.norm)?;
        let relu = || Ok::<_, NnError>(FusedActivation::Gate(Gate::new(conv.irreps_out())?));
        let activation = self.relu.as_ref().map(|_| relu()).transpose()?;
        Ok(FusedLayer { conv, activation, pool: self.pool })
    }
}

impl Block {
    fn forward(
        &self,
        input: &Field,
        mode: Mode,
        pass: Pass,
        seen: &mut dyn FnMut(&str, &Field),
    ) -> Result<Field, NnError> {
        let mut field = input.clone();
        for layer in &self.layers {
            field = layer.forward(&field, mode, pass, seen)?;
        }
        let Some(skip) = &self.skip else { return Ok(field) };
        let mut added = input.clone();
        if let Some(pool) = skip.pool {
            added = pool.forward(&added)?;
        }
        if let Some(linear) = &skip.linear {
            added = linear.forward(&added, mode, pass, seen)?;
        }
        let sum = added.plus(&field)?;
        let sum = Field::new(sum.irreps().clone(), sum.values().relu()?)?;
        seen(&format!("{} sum and ReLU", self.title), &sum);
        Ok(sum)
    }

    fn last(&self) -> &Layer {
        self.layers.last().expect("a block has a layer")
    }

    fn orientations(&self) -> usize {
        self.last().orientations()
    }

    pub(crate) fn channels(&self) -> usize {
        self.last().irreps.dim()
    }

    fn convolutions(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().chain(self.skip.iter().filter_map(|skip| skip.linear.as_ref()))
    }

    pub(crate) fn fused(&self) -> Result<FusedBlock, NnError> {
        let skip = self.skip.as_ref().map(|skip| {
            let linear = skip.linear.as_ref().map(Layer::fused).transpose()?;
            let relu = Gate::new(self.last().conv.irreps_out())?;
            Ok::<_, NnError>(FusedSkip {
                pool: skip.pool,
                linear: linear.map(|layer| layer.conv),
                activation: Some(FusedActivation::Gate(relu)),
            })
        });
        Ok(FusedBlock {
            layers: self.layers.iter().map(Layer::fused).collect::<Result<_, _>>()?,
            skip: skip.transpose()?,
            stride: 1,
            joins: false,
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
        let transformer = match &config.transformer {
            Some(transformer) => Some(Transformer::new(&mut params, transformer, &config)?),
            None => None,
        };
        let blocks = stack(&mut params, ["blocks", "block"], &config.blocks, &config)?;
        let inputs = blocks.last().map_or(config.channels, |last| last.channels());
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
        let info = |layer: &Layer| ConvolutionInfo {
            layer: format!("{} convolution", layer.title),
            path: ConvolutionPath::Dense,
            cost: layer.conv.cost(),
        };
        let transformer = self.transformer.iter().flat_map(Transformer::blocks);
        transformer.chain(&self.blocks).flat_map(|b| b.convolutions()).map(info).collect()
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
            decoder: vec![],
            head: FusedHead::Linear {
                linear: self.head.fused(None)?,
                orientations: self.config.symmetry.order(),
            },
        })
    }

    /// What the head is given, N,C.
    fn features(&self, x: &Tensor, mode: Mode, seen: &mut Seen<'_>) -> Result<Tensor, NnError> {
        let x = x.affine(self.config.input_scale, 0.0)?;
        let mut field = Field::new(scalars(self.config.channels)?, x)?;
        if let Some(transformer) = &self.transformer {
            field = transformer.forward(&field, mode, self.recompute, seen)?;
        }
        let field = through(&self.blocks, &field, mode, self.recompute, seen)?;
        pooled(&field, self.config.symmetry.order())
    }
}

/// The blocks that `blocks` describes, whose key in the configuration and the checkpoint is `key` and which
/// `title` names in [`PlainCnn::layers`]; all else is as in `config`.
pub(crate) fn stack(
    params: &mut Params,
    [key, title]: [&str; 2],
    blocks: &[PlainBlock],
    config: &PlainConfig,
) -> Result<Vec<Arc<Block>>, NnError> {
    let mut built: Vec<Arc<Block>> = vec![];
    for (i, block) in blocks.iter().enumerate() {
        check_stride(&format!("{key}[{i}].pool"), block.pool)?;
        check_repeat(&format!("{key}[{i}].repeat"), block.repeat)?;
        if block.size % 2 == 0 || block.size > 15 || block.channels == 0 {
            return Err(NnError::Config {
                field: format!("{key}[{i}]"),
                problem: format!(
                    "expected an odd size up to 15 and at least one channel, found size {} and {} channels",
                    block.size, block.channels
                ),
            });
        }
        for j in 0..block.repeat {
            let (mut name, mut title) = (format!("{key}.{i}"), format!("{title} {}", i + 1));
            if block.repeat > 1 {
                (name, title) = (format!("{name}.{j}"), format!("{title}.{}", j + 1));
            }
            let inputs = match built.last() {
                None => [config.channels, 1],
                Some(last) => [last.channels(), config.symmetry.order()],
            };
            let block = PlainBlock { pool: if j == 0 { block.pool } else { 1 }, ..block.clone() };
            built.push(Arc::new(build(params, &name, title, &block, inputs, config)?));
        }
    }
    Ok(built)
}

/// One block for `[channels, orientations]`.
fn build(
    params: &mut Params,
    name: &str,
    title: String,
    block: &PlainBlock,
    inputs: [usize; 2],
    config: &PlainConfig,
) -> Result<Block, NnError> {
    let before = params.trainable().len();
    let pool = match config.pooling {
        Pooling::Max => Pool::Max(block.pool),
        Pooling::Antialiased => Pool::Antialiased(GaussianPool::new(block.pool)),
    };
    let pool = (block.pool > 1).then_some(pool);
    let mut layer = |name: String, title: String, inputs, size, pool, relu| {
        Layer::new(params, &name, title, block.channels, inputs, size, pool, relu, config)
    };
    let (layers, skip) = if block.residual {
        let between = [block.channels, config.symmetry.order()];
        let mut part = |i: usize, inputs, pool| {
            let (name, title) = (format!("{name}.layers.{i}"), format!("{title} layer {}", i + 1));
            layer(name, title, inputs, block.size, pool, i == 0)
        };
        let layers = vec![part(0, inputs, pool)?, part(1, between, None)?];
        let skip = (format!("{name}.skip"), format!("{title} skip"));
        let linear = (pool.is_some() || inputs != between)
            .then(|| layer(skip.0, skip.1, inputs, 1, None, false))
            .transpose()?;
        (layers, Some(Skip { pool, linear }))
    } else {
        (vec![layer(name.into(), title.clone(), inputs, block.size, pool, true)?], None)
    };
    Ok(Block { title, layers, skip, weights: params.trainable_after(before) })
}

impl Layer {
    fn new(
        params: &mut Params,
        name: &str,
        title: String,
        channels: usize,
        [inputs, orientations]: [usize; 2],
        size: usize,
        pool: Option<Pool>,
        relu: bool,
        config: &PlainConfig,
    ) -> Result<Self, NnError> {
        let part = |part: &str| format!("{name}.{part}");
        let irreps = scalars(channels)?;
        let counts = [channels, inputs, orientations];
        Ok(Self {
            title,
            conv: GroupConv::new(params, &part("conv"), config.symmetry, counts, size)?,
            pool,
            norm: FieldBatchNorm::new(params, &part("norm"), &irreps)?,
            relu: relu.then(|| Gate::new(&irreps)).transpose()?,
            dropout: FieldDropout::new(&part("dropout"), &irreps, config.dropout)?,
            irreps,
        })
    }
}

/// The output of the last of `blocks`.
pub(crate) fn through(
    blocks: &[Arc<Block>],
    field: &Field,
    mode: Mode,
    recompute: bool,
    seen: &mut Seen<'_>,
) -> Result<Field, NnError> {
    let mut field = field.clone();
    for block in blocks {
        field = if recompute && mode != Mode::Evaluate {
            let again = Arc::clone(block);
            recomputed(&field, &block.weights, move |field, pass| {
                again.forward(field, mode, pass, &mut |_, _| ())
            })?
        } else {
            let seen = &mut |name: &str, field: &Field| {
                seen(name.into(), field, block.orientations());
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
