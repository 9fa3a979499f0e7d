use serde::{Deserialize, Serialize};
use steer3d_kernels::{AngularCutoff, Family, KernelGroup};
use steer3d_so3::{Block, Irrep, Irreps, IrrepsError, Parity};

use crate::error::fault;
use crate::field::scalars;
use crate::{NnError, Nonlinearity, Symmetry};

/// Everything needed to build a network; stored beside its weights as TOML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelConfig {
    /// A steerable network.
    Steerable(SteerableConfig),
    /// An ordinary or group-convolutional network.
    Plain(PlainConfig),
}

/// A steerable network (Weiler et al. 2018): blocks of steerable convolution, norm, nonlinearity and
/// antialiased subsampling, and a [`Head`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SteerableConfig {
    /// Type of the input field, `"1x0"` for a density.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub input: Irreps,
    /// Number of classes, or of the numbers that a [`Head::Scalars`] gives; left out for a [`Head::Field`].
    #[serde(default)]
    pub classes: usize,
    /// Factor applied to the volumes first, so that their root mean square is about 1.
    #[serde(default = "unit")]
    pub input_scale: f64,
    /// Edges of the voxels (x, y, z) that the network is made for, in any unit: kernels and strides are in units of
    /// the shortest. [`Network::at_spacing`](crate::Network::at_spacing) gives the network for volumes of others.
    #[serde(default = "cubes")]
    pub voxel_size: [f64; 3],
    /// Probability of dropping a whole field after each block.
    #[serde(default)]
    pub dropout: f64,
    /// The norm after every convolution; `batch` if it is left out.
    #[serde(default, skip_serializing_if = "is_batch")]
    pub norm: Normalisation,
    /// Whether the norms only scale ([`NormConfig::scaling_only`](crate::layers::NormConfig::scaling_only)),
    /// so that empty space stays zero.
    #[serde(default)]
    pub keep_zero: bool,
    /// Whether the pooled channels are batch-normalised before the linear head.
    #[serde(default)]
    pub head_norm: bool,
    /// What follows every convolution and its norm.
    #[serde(default)]
    pub nonlinearity: Nonlinearity,
    /// What the network gives; `classes` if it is left out.
    #[serde(default, skip_serializing_if = "Head::is_classes")]
    pub head: Head,
    /// The rotations with which every convolution commutes; `so3` if it is left out. Networks of the group `so2` tell up
    /// from down, so their answers stay under rotations about z only.
    #[serde(default, skip_serializing_if = "is_so3")]
    pub group: KernelGroup,
    /// Kernel family of every convolution.
    pub kernel: Family,
    /// The blocks, first to last. For a pooled head of scalars the last gives scalars, and with parity
    /// maybe pseudoscalars, only.
    pub blocks: Vec<SteerableBlock>,
    /// The way up of a U-Net (Ronneberger et al. 2015, <https://arxiv.org/abs/1505.04597>): each of these
    /// is given the field so far, up-sampled to the grid that the last strided block before it was given,
    /// together with what that block was given. At most as many as there are strides; with as many the
    /// result has the grid of the input.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decoder: Vec<SteerableBlock>,
    /// Whether in training the blocks of the decoder but the last are given heads of their own, whose answers are up-sampled
    /// to the grid of the volume and take part in the loss (deep supervision, Lee et al. 2015,
    /// <https://arxiv.org/abs/1409.5185>). At evaluation they are not computed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub deep_supervision: bool,
}

/// What follows every convolution: in a model file `norm = "instance"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Normalisation {
    /// By the statistics of a batch in training and running ones at evaluation
    /// ([`FieldBatchNorm`](crate::layers::FieldBatchNorm)), which are folded into the convolutions.
    #[default]
    Batch,
    /// By the statistics of each item ([`FieldInstanceNorm`](crate::layers::FieldInstanceNorm)): the same for a batch of
    /// one, and at evaluation as in training. Answers for a voxel then depend on the whole volume.
    Instance,
}

/// What a network gives: in a model file `head = "voxels"`, or a table
/// `[head.field]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Head {
    /// Logits of `classes` for each volume, N,classes.
    #[default]
    Classes,
    /// `classes` numbers for each volume, N,classes: regression.
    Scalars,
    /// Logits of `classes` for each voxel, N,classes,D,H,W: segmentation.
    Voxels,
    /// A field of another type, N,C,D,H,W: vectors or tensors at every voxel; with `pooled` its mean over
    /// space, N,C.
    Field {
        /// Type of the output.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        irreps: Irreps,
        /// Whether the mean over space is taken.
        #[serde(default)]
        pooled: bool,
    },
}

impl Head {
    fn is_classes(&self) -> bool {
        *self == Self::Classes
    }

    /// Channels of the output of a network with `classes`.
    pub(crate) fn outputs(&self, classes: usize) -> usize {
        match self {
            Self::Classes | Self::Scalars | Self::Voxels => classes,
            Self::Field { irreps, .. } => irreps.dim(),
        }
    }
}

/// Convolution, norm, nonlinearity, antialiased subsampling where `stride > 1`, dropout. With
/// `residual` two of these, of which the first subsamples, and what the block was given is added: through a
/// 1x1x1 intertwiner and norm where type or grid change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SteerableBlock {
    /// Type of the block's output.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub fields: Irreps,
    /// Kernel size in voxels, odd.
    pub size: usize,
    /// Factor by which the grid shrinks.
    #[serde(default = "one")]
    pub stride: usize,
    /// Whether the block is residual (He et al. 2016, <https://arxiv.org/abs/1512.03385>).
    #[serde(default, skip_serializing_if = "is_false")]
    pub residual: bool,
    /// Type between the two convolutions of a residual block; `fields` if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub hidden: Option<Irreps>,
    /// How many such blocks follow one another; only the first subsamples. 1 if it is left out.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub repeat: usize,
}

impl SteerableBlock {
    /// A block that is not residual.
    pub fn new(fields: Irreps, size: usize, stride: usize) -> Self {
        Self { fields, size, stride, residual: false, hidden: None, repeat: 1 }
    }

    /// `repeat` residual blocks.
    pub fn residual(fields: Irreps, size: usize, stride: usize, repeat: usize) -> Self {
        Self { residual: true, repeat, ..Self::new(fields, size, stride) }
    }

    /// Blocks with kernels of 5³ voxels, of fields and stride each.
    fn list(blocks: &[(&str, usize)]) -> Result<Vec<Self>, NnError> {
        let block = |&(fields, stride): &(&str, usize)| Ok(Self::new(fields.parse()?, 5, stride));
        blocks.iter().map(block).collect()
    }
}

/// The rivals: convolution, norm, ReLU and pooling, mean over space, linear head; with
/// [`Symmetry::Octahedral`] a group-convolutional network, whose channels
/// have 24 orientations each and whose answer does not change under the 24 rotations of the cube
/// (exactly where pooling is antialiased; max pooling has no centre on odd grids), or with [`Symmetry::Icosahedral`] one
/// of 60 orientations. A [`TransformerConfig`] puts a spatial transformer in front.
///
/// Channels are ordinary numbers; for the measurement of equivariance they, or their means over
/// orientations, count as scalars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PlainConfig {
    /// Channels of the input.
    pub channels: usize,
    /// Number of classes, or of the numbers that a [`Head::Scalars`] gives; left out for a [`Head::Field`].
    #[serde(default)]
    pub classes: usize,
    /// Factor applied to the volumes first, so that their root mean square is about 1.
    #[serde(default = "unit")]
    pub input_scale: f64,
    /// Probability of dropping a whole channel after each block.
    #[serde(default)]
    pub dropout: f64,
    /// How the grid shrinks.
    #[serde(default)]
    pub pooling: Pooling,
    /// The norm after every convolution; `batch` if it is left out.
    #[serde(default, skip_serializing_if = "is_batch")]
    pub norm: Normalisation,
    /// The group with whose rotations the layers commute.
    #[serde(default)]
    pub symmetry: Symmetry,
    /// What the network gives; the channels of a [`Head::Field`] are ordinary numbers, as many as its
    /// irreps have.
    #[serde(default, skip_serializing_if = "Head::is_classes")]
    pub head: Head,
    /// A spatial transformer in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformer: Option<TransformerConfig>,
    /// The blocks, first to last.
    pub blocks: Vec<PlainBlock>,
    /// The way up of a U-Net, as [`SteerableConfig::decoder`]; max pooling is undone by repeating voxels,
    /// antialiased pooling by its adjoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decoder: Vec<PlainBlock>,
    /// As [`SteerableConfig::deep_supervision`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub deep_supervision: bool,
}

/// How a plain network shrinks the grid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Maximum over cubes of `pool` voxels.
    #[default]
    Max,
    /// Maximum over the 27 voxels around each, blur, subsampling (Zhang 2019, *Making Convolutional
    /// Networks Shift-Invariant Again*, <https://arxiv.org/abs/1904.11486>).
    Antialiased,
}

/// Convolution, norm, ReLU, pooling where `pool > 1`, dropout. With `residual` (He et al. 2016,
/// figure 2, with pooling instead of strides) another convolution and norm, and before the last ReLU
/// what the block was given is added: through a 1x1x1 convolution and norm where channels or grid
/// change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PlainBlock {
    /// Channels of the block's output.
    pub channels: usize,
    /// Kernel size in voxels, odd.
    pub size: usize,
    /// Factor by which the grid shrinks.
    #[serde(default = "one")]
    pub pool: usize,
    /// Whether the block is residual.
    #[serde(default, skip_serializing_if = "is_false")]
    pub residual: bool,
    /// How many such blocks follow one another; only the first pools. 1 if it is left out.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub repeat: usize,
}

impl PlainBlock {
    /// A block that is not residual.
    pub fn new(channels: usize, size: usize, pool: usize) -> Self {
        Self { channels, size, pool, residual: false, repeat: 1 }
    }

    /// `repeat` residual blocks.
    pub fn residual(channels: usize, size: usize, pool: usize, repeat: usize) -> Self {
        Self { residual: true, repeat, ..Self::new(channels, size, pool) }
    }
}

/// A spatial transformer (Jaderberg et al. 2015, <https://arxiv.org/abs/1506.02025>) that turns and
/// moves each volume as a whole: a localisation network of plain blocks, whose last field is averaged
/// over cells and taken linearly to a rotation in the six numbers of Zhou et al. 2019
/// (<https://arxiv.org/abs/1812.07035>) and a shift of at most a quarter of the grid. The untrained one
/// leaves every volume as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TransformerConfig {
    /// Cells along each axis over which the last field is averaged.
    #[serde(default = "three")]
    pub cells: usize,
    /// The blocks of the localisation network, first to last; they pool as the classifier does.
    pub blocks: Vec<PlainBlock>,
}

impl TransformerConfig {
    /// Two blocks that halve the grid and 3³ cells.
    pub fn small() -> Self {
        let block = |channels, size| PlainBlock::new(channels, size, 2);
        Self { cells: three(), blocks: vec![block(8, 5), block(8, 3)] }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_one(value: &usize) -> bool {
    *value == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_batch(norm: &Normalisation) -> bool {
    *norm == Normalisation::Batch
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_so3(group: &KernelGroup) -> bool {
    *group == KernelGroup::So3
}

fn one() -> usize {
    1
}

fn three() -> usize {
    3
}

fn unit() -> f64 {
    1.0
}

fn cubes() -> [f64; 3] {
    [1.0; 3]
}

impl From<SteerableConfig> for ModelConfig {
    fn from(config: SteerableConfig) -> Self {
        Self::Steerable(config)
    }
}

impl From<PlainConfig> for ModelConfig {
    fn from(config: PlainConfig) -> Self {
        Self::Plain(config)
    }
}

impl ModelConfig {
    /// The kind of network in a word: `steerable`, `plain`, `antialiased`, `group`, `icosahedral` or
    /// `transformer`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Steerable(_) => "steerable",
            Self::Plain(PlainConfig { transformer: Some(_), .. }) => "transformer",
            Self::Plain(c) => match (c.symmetry, c.pooling) {
                (Symmetry::Octahedral, _) => "group",
                (Symmetry::Icosahedral, _) => "icosahedral",
                (Symmetry::None, Pooling::Antialiased) => "antialiased",
                (Symmetry::None, Pooling::Max) => "plain",
            },
        }
    }

    /// Channels of the input.
    pub fn channels(&self) -> usize {
        match self {
            Self::Steerable(c) => c.input.dim(),
            Self::Plain(c) => c.channels,
        }
    }

    /// Edges of the voxels (x, y, z) that the network is made for; cubes of edge 1 for one that is not steerable.
    pub fn voxel_size(&self) -> [f64; 3] {
        match self {
            Self::Steerable(c) => c.voxel_size,
            Self::Plain(_) => cubes(),
        }
    }

    /// What the network gives.
    pub fn head(&self) -> &Head {
        match self {
            Self::Steerable(c) => &c.head,
            Self::Plain(c) => &c.head,
        }
    }

    /// Number of classes, or of the channels of the output.
    pub fn classes(&self) -> usize {
        match self {
            Self::Steerable(c) => c.head.outputs(c.classes),
            Self::Plain(c) => c.head.outputs(c.classes),
        }
    }

    /// Reads a configuration from TOML text.
    ///
    /// # Errors
    /// [`NnError::Config`] with the position and the offending key.
    pub fn from_toml(text: &str) -> Result<Self, NnError> {
        toml::from_str(text).or_else(|e| fault("toml", e.to_string()))
    }

    /// The configuration as TOML text.
    ///
    /// # Errors
    /// [`NnError::Config`] if a value has no TOML form.
    pub fn to_toml(&self) -> Result<String, NnError> {
        toml::to_string_pretty(self).or_else(|e| fault("toml", e.to_string()))
    }
}

impl SteerableConfig {
    /// A network of four blocks of Gaussian jets of order 2 for volumes of `channels` scalar channels, about
    /// 24 to 40 voxels wide: the first halves the grid, the last gives invariant channels. Kernels of 5³
    /// voxels on every grid and one halving keep it much closer to invariance than kernels of 3³ and two.
    ///
    /// # Errors
    /// [`NnError::Irreps`] for more channels than [`Irreps`] can have.
    pub fn small(channels: usize, classes: usize) -> Result<Self, NnError> {
        let blocks = [("4x0+3x1+1x2", 2), ("8x0+4x1+2x2", 1), ("16x0+6x1+3x2", 1), ("48x0", 1)];
        let blocks = SteerableBlock::list(&blocks)?;
        Ok(Self::new(scalars(channels)?, classes, Family::jets(2), blocks))
    }

    /// A network of these blocks with the default of everything else.
    pub fn new(input: Irreps, classes: usize, kernel: Family, blocks: Vec<SteerableBlock>) -> Self {
        Self {
            input,
            classes,
            input_scale: 1.0,
            voxel_size: cubes(),
            dropout: 0.0,
            norm: Normalisation::Batch,
            keep_zero: false,
            head_norm: false,
            nonlinearity: Nonlinearity::Gate,
            head: Head::Classes,
            group: KernelGroup::So3,
            kernel,
            blocks,
            decoder: vec![],
            deep_supervision: false,
        }
    }

    /// The residual network of the CATH experiment of Weiler et al. 2018 (SE3ResNet34Small): a convolution
    /// of 7³ voxels and 16 residual blocks of two convolutions of 3³; orders 0 to 3 with multiplicities 2,
    /// 2, 4, 8 and 16, and 256 scalars at the end; shells with the angular cutoff of the published code.
    /// 139,170 parameters for one channel and ten classes (the paper has 143,560). The paper drops a tenth
    /// of the fields; here `dropout`, which acts after each of the 33 convolutions, is 0, since with a tenth
    /// the network learns much more slowly. Peak learning rates of 5e-3 suit it better than the default.
    ///
    /// # Errors
    /// [`NnError::Irreps`] for more channels than [`Irreps`] can have.
    pub fn resnet34_small(channels: usize, classes: usize) -> Result<Self, NnError> {
        let fields = |m: usize| Irreps::new((0..4).map(|l| (m, Irrep::so3(l))));
        let last = SteerableBlock {
            hidden: Some(fields(16)?),
            ..SteerableBlock::residual(scalars(256)?, 3, 1, 1)
        };
        let blocks = vec![
            SteerableBlock::new(fields(2)?, 7, 1),
            SteerableBlock::residual(fields(2)?, 3, 1, 3),
            SteerableBlock::residual(fields(4)?, 3, 2, 4),
            SteerableBlock::residual(fields(8)?, 3, 2, 6),
            SteerableBlock::residual(fields(16)?, 3, 2, 2),
            last,
        ];
        let kernel =
            Family::GaussianShells { sigma: 0.6, cutoff: AngularCutoff::TwiceRadiusPlusOne };
        Ok(Self::new(scalars(channels)?, classes, kernel, blocks))
    }

    /// A small U-Net for labels of voxels: three grids, each half as fine as the one before.
    ///
    /// # Errors
    /// [`NnError::Irreps`] for more channels than [`Irreps`] can have.
    pub fn unet(channels: usize, classes: usize) -> Result<Self, NnError> {
        let last = "16x0+6x1+3x2";
        let blocks = [("4x0+2x1+1x2", 1), ("8x0+4x1+2x2", 2), (last, 2), (last, 1)];
        let blocks = SteerableBlock::list(&blocks)?;
        let config = Self::new(scalars(channels)?, classes, Family::jets(2), blocks);
        let decoder = SteerableBlock::list(&[("8x0+4x1+2x2", 1), ("8x0+2x1+1x2", 1)])?;
        Ok(Self { head: Head::Voxels, decoder, ..config })
    }

    /// The same network with a mirror symmetry: every irrep l is that of O(3) with the parity of the
    /// harmonics, (-1)^l, so that only kernels of even parity remain. Its fields are those of the mirror
    /// image of a mirrored volume; what it makes of scalars cannot tell mirror images apart.
    ///
    /// # Errors
    /// [`NnError::Irreps`] where irreps have a parity already.
    pub fn with_mirror_symmetry(&self) -> Result<Self, NnError> {
        let mirrored = |irreps: &Irreps| {
            let natural = |b: Block| match b.irrep.parity {
                None => (b.mul, Irrep::o3(b.irrep.l, Parity::of_harmonics(b.irrep.l))),
                Some(_) => (b.mul, b.irrep),
            };
            Irreps::new(irreps.blocks().map(natural))
        };
        let mut config = self.with_block_irreps(&mirrored)?;
        config.input = mirrored(&config.input)?;
        if let Head::Field { irreps, .. } = &mut config.head {
            *irreps = mirrored(irreps)?;
        }
        Ok(config)
    }

    /// The same network with other irreps in its blocks.
    fn with_block_irreps(
        &self,
        change: &impl Fn(&Irreps) -> Result<Irreps, IrrepsError>,
    ) -> Result<Self, NnError> {
        let mut config = self.clone();
        for block in config.blocks.iter_mut().chain(&mut config.decoder) {
            block.fields = change(&block.fields)?;
            block.hidden = block.hidden.as_ref().map(change).transpose()?;
        }
        Ok(config)
    }

    /// The same network with the multiplicity of every field of every block times `width`, at least 1.
    ///
    /// # Errors
    /// [`NnError::Irreps`] for more channels than [`Irreps`] can have.
    pub fn with_width(&self, width: f64) -> Result<Self, NnError> {
        let scaled = |b: Block| (((width * b.mul as f64).round() as usize).max(1), b.irrep);
        self.with_block_irreps(&|irreps: &Irreps| Irreps::new(irreps.blocks().map(scaled)))
    }
}

impl PlainConfig {
    /// A network of four blocks for volumes of `channels` channels, about 24 to 40 voxels wide, the rival of
    /// [`SteerableConfig::small`] at [as many parameters](Self::with_parameters). A kernel of 5³ voxels costs a
    /// plain network five times the parameters of one of 3³, so only the first is that large, and
    /// two blocks halve the grid.
    pub fn small(channels: usize, classes: usize) -> Self {
        let blocks = vec![
            PlainBlock::new(8, 5, 2),
            PlainBlock::new(14, 3, 2),
            PlainBlock::new(25, 3, 1),
            PlainBlock::new(48, 3, 1),
        ];
        Self::new(channels, classes, blocks)
    }

    /// A small U-Net for labels of voxels, the rival of [`SteerableConfig::unet`] at [as many
    /// parameters](Self::with_parameters): three grids, each half as fine as the one before, with kernels of 3³ voxels, since
    /// those of 5³ would leave one or two channels.
    pub fn unet(channels: usize, classes: usize) -> Self {
        let blocks = vec![
            PlainBlock::new(4, 3, 1),
            PlainBlock::new(6, 3, 2),
            PlainBlock::new(8, 3, 2),
            PlainBlock::new(8, 3, 1),
        ];
        let decoder = vec![PlainBlock::new(6, 3, 1), PlainBlock::new(4, 3, 1)];
        Self { head: Head::Voxels, decoder, ..Self::new(channels, classes, blocks) }
    }

    /// The plain counterpart of `steerable`: the same head, blocks, kernel sizes and strides (as max
    /// pooling), a channel for each field.
    pub fn like(steerable: &SteerableConfig) -> Self {
        let block = |b: &SteerableBlock| PlainBlock {
            channels: b.fields.num_fields(),
            size: b.size,
            pool: b.stride,
            residual: b.residual,
            repeat: b.repeat,
        };
        let blocks = steerable.blocks.iter().map(block).collect();
        Self {
            input_scale: steerable.input_scale,
            dropout: steerable.dropout,
            norm: steerable.norm,
            head: steerable.head.clone(),
            decoder: steerable.decoder.iter().map(block).collect(),
            deep_supervision: steerable.deep_supervision,
            ..Self::new(steerable.input.dim(), steerable.classes, blocks)
        }
    }

    /// ResNet34 in three dimensions: a convolution of 7³ voxels and 16 residual blocks of 32, 64, 128 and
    /// 256 channels, the rival of [`SteerableConfig::resnet34_small`], with max pooling in place of strides.
    /// 15,879,722 parameters for one channel and ten classes (the paper has 15,878,764).
    pub fn resnet34(channels: usize, classes: usize) -> Self {
        let blocks = vec![
            PlainBlock::new(32, 7, 1),
            PlainBlock::residual(32, 3, 1, 3),
            PlainBlock::residual(64, 3, 2, 4),
            PlainBlock::residual(128, 3, 2, 6),
            PlainBlock::residual(256, 3, 2, 3),
        ];
        Self::new(channels, classes, blocks)
    }

    /// A network of these blocks with the default of everything else.
    pub fn new(channels: usize, classes: usize, blocks: Vec<PlainBlock>) -> Self {
        Self {
            channels,
            classes,
            input_scale: 1.0,
            dropout: 0.0,
            pooling: Pooling::Max,
            norm: Normalisation::Batch,
            symmetry: Symmetry::None,
            head: Head::Classes,
            transformer: None,
            blocks,
            decoder: vec![],
            deep_supervision: false,
        }
    }
}
