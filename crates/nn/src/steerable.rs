use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::fused::{FusedBlock, FusedNetwork, Pool};
use crate::layers::{
    FieldBatchNorm, FieldDropout, Gate, GaussianPool, InvariantPool, Linear, SteerableConv3d,
};
use crate::recompute::{Pass, recomputed};
use crate::{
    ConvolutionInfo, Field, LayerField, Mode, NnError, Params, SteerableBlock, SteerableConfig,
};

/// Added to the variances of the pooled channels: it keeps the norm of the head from amplifying what
/// hardly differs between items, which is mostly noise of the grid.
const HEAD_EPSILON: f64 = 1e-2;

/// A steerable classifier (Weiler et al. 2018): blocks of steerable convolution, batch norm, gate
/// and antialiased subsampling; mean of the invariant channels over space;
/// norm of these where configured; linear head.
#[derive(Debug)]
pub struct SteerableCnn {
    config: SteerableConfig,
    params: Params,
    blocks: Vec<Arc<Block>>,
    recompute: bool,
    head_norm: Option<FieldBatchNorm>,
    head: Linear,
}

#[derive(Debug)]
struct Block {
    conv: SteerableConv3d,
    norm: FieldBatchNorm,
    gate: Gate,
    pool: Option<GaussianPool>,
    dropout: FieldDropout,
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
        field = self.norm.gated(&self.gate, &field, mode, pass)?;
        seen("norm and gate", &field);
        if let Some(pool) = &self.pool {
            field = pool.forward(&field)?;
            seen("pooling", &field);
        }
        self.dropout.forward(&field, mode)
    }

    fn fused(&self) -> Result<FusedBlock, NnError> {
        Ok(FusedBlock {
            conv: self.conv.fused(&self.norm)?,
            gate: self.gate.clone(),
            pool: self.pool.map(Pool::Gaussian),
        })
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
        check_classes(config.classes)?;
        check_scale(config.input_scale)?;
        let voxel_size = relative(config.voxel_size)?;
        let mut params = Params::new(seed, dtype, device);
        let norm =
            if config.keep_zero { FieldBatchNorm::scaling_only } else { FieldBatchNorm::new };
        let mut irreps = config.input.clone();
        let mut blocks: Vec<Arc<Block>> = vec![];
        for (i, block) in config.blocks.iter().enumerate() {
            let gate = Gate::new(&block.fields)?;
            check_stride(&format!("blocks[{i}].stride"), block.stride)?;
            let name = |part: &str| format!("blocks.{i}.{part}");
            let before = params.trainable().len();
            let conv = SteerableConv3d::new(
                &mut params,
                &name("conv"),
                &irreps,
                gate.irreps_in(),
                block.size,
                &config.kernel,
                voxel_size,
                false,
            )?;
            let norm = norm(&mut params, &name("norm"), gate.irreps_in())?;
            blocks.push(Arc::new(Block {
                conv,
                norm,
                pool: (block.stride > 1).then(|| GaussianPool::new(block.stride)),
                dropout: FieldDropout::new(&name("dropout"), gate.irreps_out(), config.dropout)?,
                gate,
                weights: params.trainable_after(before),
            }));
            irreps = blocks[i].gate.irreps_out().clone();
        }
        check_last_is_invariant(&config)?;
        let head_norm = config
            .head_norm
            .then(|| FieldBatchNorm::new(&mut params, "head_norm", &irreps))
            .transpose()?
            .map(|norm| norm.with_epsilon(HEAD_EPSILON));
        let head = Linear::new(&mut params, "head", irreps.dim(), config.classes)?;
        Ok(Self { config, params, blocks, recompute: false, head_norm, head })
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &SteerableConfig {
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
        self.head.forward(&self.features(x, mode, |_, _| ())?.values)
    }

    /// The output of every layer at evaluation, first to last, ending with the pooled features and the
    /// logits.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn layers(&self, x: &Tensor) -> Result<Vec<LayerField>, NnError> {
        let mut layers = vec![];
        let keep = |name, field: &Field| layers.push(LayerField::of(name, field));
        let features = self.features(x, Mode::Evaluate, keep)?;
        let logits = LayerField::logits(self.head.forward(&features.values)?)?;
        layers.extend([features, logits]);
        Ok(layers)
    }

    /// The convolutions, first to last.
    pub fn convolutions(&self) -> Vec<ConvolutionInfo> {
        let info = |(i, block): (usize, &Arc<Block>)| ConvolutionInfo {
            layer: format!("block {} convolution", i + 1),
            path: block.conv.path(),
            cost: block.conv.cost(),
        };
        self.blocks.iter().enumerate().map(info).collect()
    }

    /// Multiply-adds of the convolutions for one volume of D, H, W voxels, each on the path that is taken.
    pub fn multiply_adds(&self, dims: [usize; 3]) -> usize {
        let mut dims = dims;
        let of_block = |(conv, block): (&SteerableConv3d, &SteerableBlock)| {
            let cost = conv.cost() * dims.iter().product::<usize>();
            dims = dims.map(|n| n.div_ceil(block.stride));
            cost
        };
        self.blocks.iter().map(|b| &b.conv).zip(&self.config.blocks).map(of_block).sum()
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
        Ok(FusedNetwork {
            input: self.config.input.clone(),
            input_scale: self.config.input_scale,
            transformer: None,
            blocks: self.blocks.iter().map(|b| b.fused()).collect::<Result<_, _>>()?,
            orientations: 1,
            head: self.head.fused(self.head_norm.as_ref())?,
        })
    }

    /// What the head is given.
    fn features(
        &self,
        x: &Tensor,
        mode: Mode,
        mut seen: impl FnMut(String, &Field),
    ) -> Result<LayerField, NnError> {
        let x = x.affine(self.config.input_scale, 0.0)?;
        let mut field = Field::new(self.config.input.clone(), x)?;
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
        let pooled = InvariantPool.forward(&field)?;
        let irreps = field.irreps().clone();
        let Some(norm) = &self.head_norm else { return Ok(LayerField::features(irreps, pooled)) };
        let (items, channels) = pooled.dims2()?;
        let pooled = Field::new(irreps.clone(), pooled.reshape((items, channels, 1, 1, 1))?)?;
        let normalised = norm.forward(&pooled, mode)?.values().reshape((items, channels))?;
        Ok(LayerField::features(irreps, normalised))
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

fn check_last_is_invariant(config: &SteerableConfig) -> Result<(), NnError> {
    let last = config.blocks.last().map(|b| &b.fields);
    if last.is_some_and(|f| f.blocks().all(|b| b.irrep.l == 0)) {
        return Ok(());
    }
    Err(NnError::Config {
        field: "blocks".into(),
        problem: format!(
            "the last block must give scalars and pseudoscalars only (such as \"64x0\"), found {}",
            last.map_or_else(|| "no block".into(), ToString::to_string)
        ),
    })
}

pub(crate) fn check_classes(classes: usize) -> Result<(), NnError> {
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
