use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use steer3d_ops::global_avg_pool;
use steer3d_so3::{Block as IrrepBlock, Irrep, Irreps, Parity};

use crate::field::beside;
use crate::fused::{FusedBlock, FusedHead, FusedLayer, FusedNetwork, FusedSkip, Pool, mapped};
use crate::layers::{
    Activation, FieldBatchNorm, FieldDropout, GaussianPool, Linear, SteerableConv3d, widened,
};
use crate::recompute::{Pass, recomputed};
use crate::{
    ConvolutionInfo, Field, Head, LayerField, Mode, NnError, Params, SteerableBlock,
    SteerableConfig,
};

/// Added to the variances of the pooled channels: it keeps the norm of the head from amplifying what
/// hardly differs between items, which is mostly noise of the grid.
const HEAD_EPSILON: f64 = 1e-2;

/// A steerable network (Weiler et al. 2018): blocks of steerable convolution, batch norm, nonlinearity and
/// antialiased subsampling, residual or not; up-sampling blocks where configured, which make it a U-Net; and
/// a [`Head`](crate::Head). A classifier's head is the mean of the invariant channels over space, a norm of
/// these where configured, and a linear layer.
#[derive(Debug)]
pub struct SteerableCnn {
    config: SteerableConfig,
    params: Params,
    blocks: Vec<Arc<Block>>,
    decoder: Vec<Arc<Block>>,
    recompute: bool,
    head_norm: Option<FieldBatchNorm>,
    head: Output,
}

/// One or, in a residual block, two layers.
#[derive(Debug)]
struct Block {
    /// What it is called in [`SteerableCnn::layers`].
    title: String,
    layers: Vec<Layer>,
    skip: Option<Skip>,
    stride: usize,
    /// Whether it is given the up-sampled field beside the one that a strided block was given.
    joins: bool,
    weights: Vec<Tensor>,
}

#[derive(Debug)]
struct Layer {
    title: String,
    conv: SteerableConv3d,
    norm: FieldBatchNorm,
    activation: Activation,
    pool: Option<GaussianPool>,
    dropout: FieldDropout,
}

/// What a residual block adds: its input, on the new grid, of the new type.
#[derive(Debug)]
struct Skip {
    pool: Option<GaussianPool>,
    linear: Option<(SteerableConv3d, FieldBatchNorm)>,
}

/// The last map of a network.
#[derive(Debug)]
enum Output {
    /// Of the pooled invariant channels.
    Linear(Linear),
    Field {
        map: Box<SteerableConv3d>,
        pooled: bool,
    },
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
        field = self.activation.after(&self.norm, &field, mode, pass)?;
        let activation = match self.activation {
            Activation::Gate(_) => "gate",
            _ => "nonlinearity",
        };
        seen(&format!("{} norm and {activation}", self.title), &field);
        if let Some(pool) = &self.pool {
            field = pool.forward(&field)?;
            seen(&format!("{} pooling", self.title), &field);
        }
        self.dropout.forward(&field, mode)
    }

    fn fused(&self) -> Result<FusedLayer, NnError> {
        Ok(FusedLayer {
            conv: self.conv.fused(&self.norm)?,
            activation: Some(self.activation.fused()?),
            pool: self.pool.map(Pool::Gaussian),
        })
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
        if let Some(pool) = &skip.pool {
            added = pool.forward(&added)?;
        }
        if let Some((linear, norm)) = &skip.linear {
            added = norm.normalised(&linear.forward(&added)?, mode, pass)?;
        }
        let sum = added.plus(&field)?;
        seen(&format!("{} sum", self.title), &sum);
        Ok(sum)
    }

    fn irreps_out(&self) -> Option<&Irreps> {
        self.layers.last().map(|layer| layer.activation.irreps_out())
    }

    /// The convolutions and the factors by which the grid shrinks before and after each.
    fn convolutions(&self) -> impl Iterator<Item = (String, &SteerableConv3d, usize)> {
        let layers = self.layers.iter().map(|layer| {
            let stride = layer.pool.map_or(1, |pool| pool.stride);
            (format!("{} convolution", layer.title), &layer.conv, stride)
        });
        let skip = self.skip.iter().filter_map(|skip| skip.linear.as_ref());
        layers.chain(skip.map(|(linear, _)| (format!("{} skip", self.title), linear, 1)))
    }

    fn fused(&self) -> Result<FusedBlock, NnError> {
        let skip = self.skip.as_ref().map(|skip| {
            let linear = skip.linear.as_ref();
            Ok::<_, NnError>(FusedSkip {
                pool: skip.pool.map(Pool::Gaussian),
                linear: linear.map(|(linear, norm)| linear.fused(norm)).transpose()?,
                activation: None,
            })
        });
        Ok(FusedBlock {
            layers: self.layers.iter().map(Layer::fused).collect::<Result<_, _>>()?,
            skip: skip.transpose()?,
            pool: (self.stride > 1).then(|| Pool::Gaussian(GaussianPool::new(self.stride))),
            joins: self.joins,
        })
    }
}

/// What all blocks of a network share.
struct Builder<'a> {
    params: &'a mut Params,
    config: &'a SteerableConfig,
    voxel_size: [f64; 3],
}

impl Builder<'_> {
    /// The blocks that entry `index` of the list `key` of the configuration describes.
    fn blocks(
        &mut self,
        key: &str,
        index: usize,
        input: &Irreps,
    ) -> Result<Vec<Arc<Block>>, NnError> {
        let (entries, title) = match key {
            "decoder" => (&self.config.decoder, "decoder block"),
            _ => (&self.config.blocks, "block"),
        };
        let entry = &entries[index];
        check_stride(&format!("{key}[{index}].stride"), entry.stride)?;
        check_repeat(&format!("{key}[{index}].repeat"), entry.repeat)?;
        if entry.hidden.is_some() && !entry.residual {
            return Err(NnError::Config {
                field: format!("{key}[{index}].hidden"),
                problem: "only a residual block has two convolutions; add residual = true".into(),
            });
        }
        let mut built: Vec<Arc<Block>> = vec![];
        for i in 0..entry.repeat {
            let (mut name, mut title) =
                (format!("{key}.{index}"), format!("{title} {}", index + 1));
            if entry.repeat > 1 {
                (name, title) = (format!("{name}.{i}"), format!("{title}.{}", i + 1));
            }
            let stride = if i == 0 { entry.stride } else { 1 };
            let input = built.last().and_then(|b| b.irreps_out()).unwrap_or(input).clone();
            let block = self.block(entry, &name, title, &input, stride)?;
            built.push(Arc::new(Block { joins: key == "decoder" && i == 0, ..block }));
        }
        Ok(built)
    }

    fn block(
        &mut self,
        entry: &SteerableBlock,
        name: &str,
        title: String,
        input: &Irreps,
        stride: usize,
    ) -> Result<Block, NnError> {
        let before = self.params.trainable().len();
        if !entry.residual {
            let layer = self.layer(entry, name, &title, [input, &entry.fields], stride)?;
            let weights = self.params.trainable_after(before);
            let layers = vec![layer];
            return Ok(Block { title, layers, skip: None, stride, joins: false, weights });
        }
        let hidden = entry.hidden.as_ref().unwrap_or(&entry.fields);
        let part = |i: usize| (format!("{name}.layers.{i}"), format!("{title} layer {}", i + 1));
        let ((name0, title0), (name1, title1)) = (part(0), part(1));
        let first = self.layer(entry, &name0, &title0, [input, hidden], stride)?;
        let middle = first.activation.irreps_out().clone();
        let second = self.layer(entry, &name1, &title1, [&middle, &entry.fields], 1)?;
        let output = second.activation.irreps_out().clone();
        let linear = (stride > 1 || *input != output)
            .then(|| {
                let name = format!("{name}.skip");
                let map = SteerableConv3d::pointwise(self.params, &name, input, &output, false)?;
                Ok::<_, NnError>((map, self.norm(&format!("{name}.norm"), &output)?))
            })
            .transpose()?;
        let skip = Skip { pool: (stride > 1).then(|| GaussianPool::new(stride)), linear };
        let weights = self.params.trainable_after(before);
        let layers = vec![first, second];
        Ok(Block { title, layers, skip: Some(skip), stride, joins: false, weights })
    }

    fn layer(
        &mut self,
        entry: &SteerableBlock,
        name: &str,
        title: &str,
        [input, output]: [&Irreps; 2],
        stride: usize,
    ) -> Result<Layer, NnError> {
        let part = |part: &str| format!("{name}.{part}");
        let kind = self.config.nonlinearity;
        let activation = Activation::new(kind, self.params, &part("nonlinearity"), output)?;
        let (kernel, voxel_size) = (&self.config.kernel, self.voxel_size);
        let middle = activation.irreps_in();
        let conv = SteerableConv3d::new(
            self.params,
            &part("conv"),
            input,
            middle,
            entry.size,
            kernel,
            voxel_size,
            false,
        )?;
        let norm = self.norm(&part("norm"), middle)?;
        let dropout = self.config.dropout;
        let dropout = FieldDropout::new(&part("dropout"), activation.irreps_out(), dropout)?;
        let pool = (stride > 1).then(|| GaussianPool::new(stride));
        Ok(Layer { title: title.into(), conv, norm, activation, pool, dropout })
    }

    fn norm(&mut self, name: &str, irreps: &Irreps) -> Result<FieldBatchNorm, NnError> {
        if self.config.keep_zero {
            FieldBatchNorm::scaling_only(self.params, name, irreps)
        } else {
            FieldBatchNorm::new(self.params, name, irreps)
        }
    }

    fn head(&mut self, input: &Irreps) -> Result<Output, NnError> {
        let classes = self.config.classes;
        let (irreps, pooled) = match &self.config.head {
            Head::Classes | Head::Scalars => {
                let linear = Linear::new(self.params, "head", input.dim(), classes)?;
                return Ok(Output::Linear(linear));
            }
            Head::Voxels => (invariants(input, classes)?, false),
            Head::Field { irreps, pooled } => (irreps.clone(), *pooled),
        };
        let unknown = |b: &IrrepBlock| input.blocks().all(|of_input| of_input.irrep != b.irrep);
        if let Some(block) = irreps.blocks().find(unknown) {
            return Err(NnError::Config {
                field: "head".into(),
                problem: format!(
                    "gives fields of type {}, but the last block gives {input} only; add some of that type there",
                    block.irrep
                ),
            });
        }
        let map = SteerableConv3d::pointwise(self.params, "head", input, &irreps, true)?;
        Ok(Output::Field { map: Box::new(map), pooled })
    }
}

impl SteerableCnn {
    /// Builds the network with initial weights drawn from `seed`.
    ///
    /// # Errors
    /// [`NnError::Config`] naming the key that is wrong, [`NnError::Kernel`] when the fields of two
    /// neighbouring blocks have no kernel between them.
    pub fn new(
        config: SteerableConfig,
        seed: u64,
        dtype: DType,
        device: &Device,
    ) -> Result<Self, NnError> {
        check_head(&config)?;
        check_scale(config.input_scale)?;
        let voxel_size = relative(config.voxel_size)?;
        let mut params = Params::new(seed, dtype, device);
        let mut builder = Builder { params: &mut params, config: &config, voxel_size };
        let mut irreps = config.input.clone();
        let (mut blocks, mut decoder): (Vec<Arc<Block>>, Vec<Arc<Block>>) = (vec![], vec![]);
        // Types of what the strided blocks are given.
        let mut kept = vec![];
        for i in 0..config.blocks.len() {
            let built = builder.blocks("blocks", i, &irreps)?;
            if config.blocks[i].stride > 1 {
                kept.push(irreps);
            }
            irreps = last_irreps(&built)?;
            blocks.extend(built);
        }
        for i in 0..config.decoder.len() {
            let Some(skipped) = kept.pop() else {
                return Err(too_many_decoders(config.decoder.len()));
            };
            let built = builder.blocks("decoder", i, &beside(&irreps, &skipped)?)?;
            irreps = last_irreps(&built)?;
            decoder.extend(built);
        }
        check_last(&config, &irreps)?;
        let head_norm = config
            .head_norm
            .then(|| FieldBatchNorm::new(builder.params, "head_norm", &irreps))
            .transpose()?
            .map(|norm| norm.with_epsilon(HEAD_EPSILON));
        let head = builder.head(&irreps)?;
        Ok(Self { config, params, blocks, decoder, recompute: false, head_norm, head })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &SteerableConfig {
        &self.config
    }

    /// Its weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// What the [`Head`] says of volumes of shape N,C,D,H,W: logits or numbers N,classes, or a field
    /// N,C,D,H,W or N,C.
    ///
    /// # Errors
    /// [`NnError::Channels`] for another number of channels.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor, NnError> {
        Ok(self.output(&self.features(x, mode, |_, _| ())?)?.values)
    }

    /// The output of every layer at evaluation, first to last, ending with what the head is given and what
    /// it gives (`logits`, or `output` for a [`Head::Field`]).
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn layers(&self, x: &Tensor) -> Result<Vec<LayerField>, NnError> {
        let mut layers = vec![];
        let keep = |name: &str, field: &Field| layers.push(LayerField::of(name.into(), field));
        let features = self.features(x, Mode::Evaluate, keep)?;
        let output = self.output(&features)?;
        layers.extend([features, output]);
        Ok(layers)
    }

    /// The convolutions, first to last.
    pub fn convolutions(&self) -> Vec<ConvolutionInfo> {
        let info = |(layer, conv, _): (String, &SteerableConv3d, usize)| ConvolutionInfo {
            layer,
            path: conv.path(),
            cost: conv.cost(),
        };
        let blocks = self.blocks.iter().chain(&self.decoder);
        blocks.flat_map(|block| block.convolutions()).map(info).collect()
    }

    /// Multiply-adds of the convolutions for one volume of D, H, W voxels, each on the path that is taken.
    pub fn multiply_adds(&self, dims: [usize; 3]) -> usize {
        let (mut dims, mut total, mut kept) = (dims, 0, vec![]);
        for block in &self.blocks {
            if block.stride > 1 {
                kept.push(dims);
            }
            for (_, conv, stride) in block.convolutions() {
                total += conv.cost() * dims.iter().product::<usize>();
                dims = dims.map(|n| n.div_ceil(stride));
            }
        }
        for block in &self.decoder {
            dims = if block.joins { kept.pop().unwrap_or(dims) } else { dims };
            let cost: usize = block.convolutions().map(|(_, conv, _)| conv.cost()).sum();
            total += cost * dims.iter().product::<usize>();
        }
        total
    }

    /// Keeps only the inputs of the blocks for the backward pass, which runs each block again: the same
    /// gradients, and with many blocks less memory. A step takes half as long again.
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
        let fused = |blocks: &[Arc<Block>]| -> Result<Vec<FusedBlock>, NnError> {
            blocks.iter().map(|b| b.fused()).collect()
        };
        let head = match &self.head {
            Output::Linear(linear) => FusedHead::Linear {
                linear: linear.fused(self.head_norm.as_ref())?,
                orientations: 1,
            },
            Output::Field { map, pooled } => {
                FusedHead::Field { map: map.frozen()?, pooled: *pooled, orientations: 1 }
            }
        };
        Ok(FusedNetwork {
            input: self.config.input.clone(),
            input_scale: self.config.input_scale,
            transformer: None,
            blocks: fused(&self.blocks)?,
            decoder: fused(&self.decoder)?,
            head,
        })
    }

    /// What the head is given.
    fn features(
        &self,
        x: &Tensor,
        mode: Mode,
        mut seen: impl FnMut(&str, &Field),
    ) -> Result<LayerField, NnError> {
        let x = x.affine(self.config.input_scale, 0.0)?;
        let mut field = Field::new(self.config.input.clone(), x)?;
        let mut kept = vec![];
        for block in &self.blocks {
            if block.stride > 1 && !self.decoder.is_empty() {
                kept.push((field.clone(), block.stride));
            }
            field = self.through(block, &field, mode, &mut seen)?;
        }
        for block in &self.decoder {
            if block.joins
                && let Some((before, stride)) = kept.pop()
            {
                field = GaussianPool::new(stride).upsample(&field, before.size())?;
                field = field.beside(&before)?;
            }
            field = self.through(block, &field, mode, &mut seen)?;
        }
        if !self.is_pooled() {
            return Ok(LayerField::features(field.irreps().clone(), field.values().clone()));
        }
        let pooled = widened(&global_avg_pool(field.values())?)?;
        let irreps = field.irreps().clone();
        let Some(norm) = &self.head_norm else { return Ok(LayerField::features(irreps, pooled)) };
        let (items, channels) = pooled.dims2()?;
        let pooled = Field::new(irreps.clone(), pooled.reshape((items, channels, 1, 1, 1))?)?;
        let normalised = norm.forward(&pooled, mode)?.values().reshape((items, channels))?;
        Ok(LayerField::features(irreps, normalised))
    }

    fn through(
        &self,
        block: &Arc<Block>,
        field: &Field,
        mode: Mode,
        seen: &mut impl FnMut(&str, &Field),
    ) -> Result<Field, NnError> {
        if !self.recompute || mode == Mode::Evaluate {
            return block.forward(field, mode, Pass::First, seen);
        }
        let again = Arc::clone(block);
        recomputed(field, &block.weights, move |field, pass| {
            again.forward(field, mode, pass, &mut |_, _| ())
        })
    }

    fn is_pooled(&self) -> bool {
        match &self.head {
            Output::Linear(_) => true,
            Output::Field { pooled, .. } => *pooled,
        }
    }

    /// What the head gives.
    fn output(&self, features: &LayerField) -> Result<LayerField, NnError> {
        match &self.head {
            Output::Linear(linear) => LayerField::logits(linear.forward(&features.values)?),
            Output::Field { map, .. } => {
                let values = mapped(|f| map.forward(f), &features.irreps, &features.values)?;
                let name = if self.config.head == Head::Voxels { "logits" } else { "output" };
                let values = values.to_dtype(self.params.dtype())?;
                let irreps = map.irreps_out().clone();
                Ok(LayerField { name: name.into(), irreps, values })
            }
        }
    }
}
/// Voxel edges in units of the shortest, since kernels are as wide as their taps.
fn relative(voxel_size: [f64; 3]) -> Result<[f64; 3], NnError> {
    let shortest = voxel_size.into_iter().fold(f64::INFINITY, f64::min);
    if voxel_size.iter().all(|v| v.is_finite() && *v > 0.0) {
        return Ok(voxel_size.map(|v| v / shortest));
    }
    Err(NnError::Config {
        field: "voxel_size".into(),
        problem: format!("expected three positive numbers, found {voxel_size:?}"),
    })
}

/// The type that the last of some blocks gives.
fn last_irreps(blocks: &[Arc<Block>]) -> Result<Irreps, NnError> {
    let last = blocks.last().and_then(|block| block.irreps_out());
    last.cloned().ok_or_else(|| not_invariant("none"))
}

fn not_invariant(found: &str) -> NnError {
    NnError::Config {
        field: "blocks".into(),
        problem: format!(
            "the last block must give scalars and pseudoscalars only (such as \"64x0\"), found {found}"
        ),
    }
}

fn check_last(config: &SteerableConfig, last: &Irreps) -> Result<(), NnError> {
    if config.blocks.is_empty() {
        return Err(not_invariant("no block"));
    }
    let scalars = matches!(config.head, Head::Classes | Head::Scalars);
    if scalars && last.blocks().any(|b| b.irrep.l > 0) {
        return Err(not_invariant(&last.to_string()));
    }
    Ok(())
}

pub(crate) fn too_many_decoders(found: usize) -> NnError {
    NnError::Config {
        field: "decoder".into(),
        problem: format!("expected at most one block for each strided block, found {found}"),
    }
}

fn check_head(config: &SteerableConfig) -> Result<(), NnError> {
    let fault = |field: &str, problem| Err(NnError::Config { field: field.into(), problem });
    let pooled = matches!(config.head, Head::Classes | Head::Scalars);
    if config.head_norm && !pooled {
        return fault("head_norm", "is for heads of scalars of whole volumes only".into());
    }
    if let Some(i) = config.decoder.iter().position(|b| b.stride != 1) {
        let problem = format!("expected 1, found {}", config.decoder[i].stride);
        return fault(&format!("decoder[{i}].stride"), problem);
    }
    check_outputs(&config.head, config.classes)
}

pub(crate) fn check_outputs(head: &Head, classes: usize) -> Result<(), NnError> {
    let fault = |field: &str, problem| Err(NnError::Config { field: field.into(), problem });
    match head {
        Head::Classes | Head::Voxels => check_classes(classes),
        Head::Scalars if classes == 0 => {
            fault("classes", "expected at least 1 number to predict, found 0".into())
        }
        Head::Field { .. } if classes > 0 => {
            fault("classes", "a field head has irreps and no classes: leave it out".into())
        }
        Head::Scalars | Head::Field { .. } => Ok(()),
    }
}

/// `count` invariant channels of the group that `irreps` are of.
fn invariants(irreps: &Irreps, count: usize) -> Result<Irreps, NnError> {
    let scalar = if irreps.has_parity() { Irrep::o3(0, Parity::Even) } else { Irrep::so3(0) };
    Ok(Irreps::new([(count, scalar)])?)
}

fn check_classes(classes: usize) -> Result<(), NnError> {
    if classes >= 2 {
        return Ok(());
    }
    Err(NnError::Config {
        field: "classes".into(),
        problem: format!("expected at least 2, found {classes}"),
    })
}

pub(crate) fn check_scale(scale: f64) -> Result<(), NnError> {
    if scale.is_finite() && scale > 0.0 {
        return Ok(());
    }
    Err(NnError::Config {
        field: "input_scale".into(),
        problem: format!("expected a positive number, found {scale}"),
    })
}

pub(crate) fn check_stride(field: &str, stride: usize) -> Result<(), NnError> {
    if (1..=8).contains(&stride) {
        return Ok(());
    }
    Err(NnError::Config {
        field: field.into(),
        problem: format!("expected 1 to 8, found {stride}"),
    })
}

pub(crate) fn check_repeat(field: &str, repeat: usize) -> Result<(), NnError> {
    if (1..=1000).contains(&repeat) {
        return Ok(());
    }
    Err(NnError::Config {
        field: field.into(),
        problem: format!("expected 1 to 1000, found {repeat}"),
    })
}
