use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use steer3d_so3::Irreps;

use crate::field::scalars;
use crate::fused::{
    FusedBlock, FusedHead, FusedLayer, FusedNetwork, FusedSkip, Pool, mean, pooled,
};
use crate::layers::{
    ConvolutionPath, FieldBatchNorm, FieldDropout, FusedActivation, Gate, GaussianPool, GroupConv,
    Linear, SteerableConv3d,
};
use crate::recompute::{Pass, recomputed};
use crate::steerable::{check_outputs, check_repeat, check_scale, check_stride, too_many_decoders};
use crate::transformer::Transformer;
use crate::{
    ConvolutionInfo, Field, Head, LayerField, Mode, NnError, Params, PlainBlock, PlainConfig,
    Pooling, Symmetry,
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
    decoder: Vec<Arc<Block>>,
    recompute: bool,
    head: Output,
}

/// The last map of a network.
#[derive(Debug)]
enum Output {
    /// Of the pooled channels.
    Linear(Linear),
    /// Of every voxel.
    Voxels(Box<SteerableConv3d>),
}

/// Hears of the field that each layer gives, and how many orientations its channels have.
pub(crate) type Seen<'a> = dyn FnMut(String, &Field, usize) + 'a;

/// One or, in a residual block, two layers.
#[derive(Debug)]
pub(crate) struct Block {
    title: String,
    layers: Vec<Layer>,
    skip: Option<Skip>,
    pool: Option<Pool>,
    /// Whether it is given the up-sampled field beside the one that a pooling block was given.
    joins: bool,
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
            pool: self.pool,
            joins: self.joins,
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
        check_outputs(&config.head, config.classes)?;
        check_scale(config.input_scale)?;
        let mut params = Params::new(seed, dtype, device);
        let transformer = match &config.transformer {
            Some(transformer) => Some(Transformer::new(&mut params, transformer, &config)?),
            None => None,
        };
        let blocks = stack(&mut params, ["blocks", "block"], &config.blocks, &config)?;
        let decoder = decoder(&mut params, &blocks, &config)?;
        let last = decoder.last().or(blocks.last());
        let inputs = last.map_or(config.channels, |last| last.channels());
        let outputs = config.head.outputs(config.classes);
        let head = match config.head {
            Head::Voxels | Head::Field { pooled: false, .. } => {
                let [from, to] = [scalars(inputs)?, scalars(outputs)?];
                let map = SteerableConv3d::pointwise(&mut params, "head", &from, &to, true)?;
                Output::Voxels(Box::new(map))
            }
            _ => Output::Linear(Linear::new(&mut params, "head", inputs, outputs)?),
        };
        Ok(Self { config, params, transformer, blocks, decoder, recompute: false, head })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &PlainConfig {
        &self.config
    }

    /// Its weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What the [`Head`] says of volumes of shape N,C,D,H,W, as
    /// [`SteerableCnn::forward`](crate::SteerableCnn::forward).
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, NnError> {
        self.output(&self.features(x, mode, &mut |_, _, _| ())?)
    }

    /// What the head makes of [`features`](Self::features).
    fn output(&self, features: &Tensor) -> Result<Tensor, NnError> {
        match &self.head {
            Output::Linear(linear) => linear.forward(features),
            Output::Voxels(map) => {
                let field = Field::new(scalars(features.dim(1)?)?, features.clone())?;
                Ok(map.forward(&field)?.values().to_dtype(self.params.dtype())?)
            }
        }
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
        let mut output = LayerField::logits(self.output(&features)?)?;
        if let Head::Field { irreps, .. } = &self.config.head {
            output = LayerField { name: "output".into(), irreps: irreps.clone(), ..output };
        }
        layers.push(output);
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
        let blocks = self.blocks.iter().chain(&self.decoder);
        transformer.chain(blocks).flat_map(|b| b.convolutions()).map(info).collect()
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
            decoder: self.decoder.iter().map(|b| b.fused()).collect::<Result<_, _>>()?,
            head: self.fused_head()?,
        })
    }

    fn fused_head(&self) -> Result<FusedHead, NnError> {
        let orientations = self.config.symmetry.order();
        Ok(match &self.head {
            Output::Linear(linear) => {
                FusedHead::Linear { linear: linear.fused(None)?, orientations }
            }
            Output::Voxels(map) => {
                FusedHead::Field { map: map.frozen()?, pooled: false, orientations }
            }
        })
    }

    /// What the head is given, N,C or N,C,D,H,W.
    fn features(&self, x: &Tensor, mode: Mode, seen: &mut Seen<'_>) -> Result<Tensor, NnError> {
        let x = x.affine(self.config.input_scale, 0.0)?;
        let mut field = Field::new(scalars(self.config.channels)?, x)?;
        if let Some(transformer) = &self.transformer {
            field = transformer.forward(&field, mode, self.recompute, seen)?;
        }
        let mut kept = vec![];
        for block in &self.blocks {
            if let Some(pool) = block.pool.filter(|_| !self.decoder.is_empty()) {
                kept.push((field.clone(), pool));
            }
            field = through(std::slice::from_ref(block), &field, mode, self.recompute, seen)?;
        }
        for block in &self.decoder {
            if block.joins
                && let Some((before, pool)) = kept.pop()
            {
                field = pool.upsample(&field, before.size())?.beside(&before)?;
            }
            field = through(std::slice::from_ref(block), &field, mode, self.recompute, seen)?;
        }
        let orientations = self.config.symmetry.order();
        match self.head {
            Output::Linear(_) => pooled(&field, orientations),
            Output::Voxels(_) => Ok(mean(&field, orientations)?.values().clone()),
        }
    }
}

/// The blocks on the way up.
fn decoder(
    params: &mut Params,
    blocks: &[Arc<Block>],
    config: &PlainConfig,
) -> Result<Vec<Arc<Block>>, NnError> {
    let fault = |field: String, problem: &str| NnError::Config { field, problem: problem.into() };
    // Channels of what the pooling blocks are given.
    let mut kept: Vec<usize> = vec![];
    for (i, block) in blocks.iter().enumerate() {
        let inputs = i.checked_sub(1).map_or(config.channels, |before| blocks[before].channels());
        kept.extend(block.pool.is_some().then_some(inputs));
        let raw = i == 0 && block.pool.is_some() && config.symmetry != Symmetry::None;
        if raw && !config.decoder.is_empty() {
            let problem = "the first block of a group network with a decoder must not pool";
            return Err(fault("blocks[0].pool".into(), problem));
        }
    }
    let mut built: Vec<Arc<Block>> = vec![];
    for (i, entry) in config.decoder.iter().enumerate() {
        if entry.pool != 1 {
            return Err(fault(format!("decoder[{i}].pool"), "expected 1"));
        }
        let Some(skipped) = kept.pop() else {
            return Err(too_many_decoders(config.decoder.len()));
        };
        let before = built.last().or(blocks.last()).map_or(0, |last| last.channels());
        let inputs = [before + skipped, config.symmetry.order()];
        built.extend(entry_blocks(params, ["decoder", "decoder block"], i, entry, inputs, config)?);
    }
    Ok(built)
}

/// The blocks that `blocks` describes, whose key in the configuration and the checkpoint is `key` and which
/// `title` names in [`PlainCnn::layers`]; all else is as in `config`.
pub(crate) fn stack(
    params: &mut Params,
    names: [&str; 2],
    blocks: &[PlainBlock],
    config: &PlainConfig,
) -> Result<Vec<Arc<Block>>, NnError> {
    let mut built: Vec<Arc<Block>> = vec![];
    for (i, entry) in blocks.iter().enumerate() {
        let inputs = match built.last() {
            None => [config.channels, 1],
            Some(last) => [last.channels(), config.symmetry.order()],
        };
        built.extend(entry_blocks(params, names, i, entry, inputs, config)?);
    }
    Ok(built)
}

/// The blocks of entry `i` of a list, for an input of `[channels, orientations]`.
fn entry_blocks(
    params: &mut Params,
    [key, title]: [&str; 2],
    i: usize,
    entry: &PlainBlock,
    mut inputs: [usize; 2],
    config: &PlainConfig,
) -> Result<Vec<Arc<Block>>, NnError> {
    check_stride(&format!("{key}[{i}].pool"), entry.pool)?;
    check_repeat(&format!("{key}[{i}].repeat"), entry.repeat)?;
    if entry.size.is_multiple_of(2) || entry.size > 15 || entry.channels == 0 {
        return Err(NnError::Config {
            field: format!("{key}[{i}]"),
            problem: format!(
                "expected an odd size up to 15 and at least one channel, found size {} and {} channels",
                entry.size, entry.channels
            ),
        });
    }
    let mut built = vec![];
    for j in 0..entry.repeat {
        let (mut name, mut title) = (format!("{key}.{i}"), format!("{title} {}", i + 1));
        if entry.repeat > 1 {
            (name, title) = (format!("{name}.{j}"), format!("{title}.{}", j + 1));
        }
        let entry = PlainBlock { pool: if j == 0 { entry.pool } else { 1 }, ..entry.clone() };
        let block = build(params, &name, title, &entry, inputs, config)?;
        built.push(Arc::new(Block { joins: key == "decoder" && j == 0, ..block }));
        inputs = [entry.channels, config.symmetry.order()];
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
    let weights = params.trainable_after(before);
    Ok(Block { title, layers, skip, pool, joins: false, weights })
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
