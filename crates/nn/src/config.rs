use serde::{Deserialize, Serialize};
use steer3d_kernels::Family;
use steer3d_so3::{Block, Irreps};

use crate::NnError;
use crate::field::scalars;
use crate::transformer::POSE;

/// Everything needed to build a network; stored beside its weights as TOML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelConfig {
    /// A steerable network.
    Steerable(SteerableConfig),
    /// An ordinary or group-convolutional network.
    Plain(PlainConfig),
}

/// A [`SteerableCnn`](crate::SteerableCnn).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SteerableConfig {
    /// Type of the input field, `"1x0"` for a density.
    pub input: Irreps,
    /// Number of classes.
    pub classes: usize,
    /// Factor applied to the volumes first, so that their root mean square is about 1.
    #[serde(default = "unit")]
    pub input_scale: f64,
    /// Shape of the voxels (x, y, z); only ratios count.
    #[serde(default = "cubes")]
    pub voxel_size: [f64; 3],
    /// Probability of dropping a whole field after each block.
    #[serde(default)]
    pub dropout: f64,
    /// Whether batch norm only scales ([`FieldBatchNorm::scaling_only`](crate::layers::FieldBatchNorm::scaling_only)),
    /// so that empty space stays zero.
    #[serde(default)]
    pub keep_zero: bool,
    /// Whether the pooled channels are batch-normalised before the linear head.
    #[serde(default)]
    pub head_norm: bool,
    /// Kernel family of every convolution.
    pub kernel: Family,
    /// The blocks, first to last; the last gives scalars, and with parity maybe pseudoscalars, only.
    pub blocks: Vec<SteerableBlock>,
}

/// Convolution, batch norm, gate, antialiased subsampling where `stride > 1`, dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SteerableBlock {
    /// Type of the block's output.
    pub fields: Irreps,
    /// Kernel size in voxels, odd.
    pub size: usize,
    /// Factor by which the grid shrinks.
    #[serde(default = "one")]
    pub stride: usize,
}

/// A [`PlainCnn`](crate::PlainCnn).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainConfig {
    /// Channels of the input.
    pub channels: usize,
    /// Number of classes.
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
    /// The group with whose rotations the layers commute.
    #[serde(default)]
    pub symmetry: Symmetry,
    /// A spatial transformer in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transformer: Option<TransformerConfig>,
    /// The blocks, first to last.
    pub blocks: Vec<PlainBlock>,
}

/// How a [`PlainCnn`](crate::PlainCnn) shrinks the grid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Maximum over cubes of `pool` voxels.
    #[default]
    Max,
    /// Maximum over the 27 voxels around each, blur, subsampling (Zhang 2019, *Making Convolutional
    /// Networks Shift-Invariant Again*, <https://arxiv.org/abs/1904.11486>).
    Antialiased,
}

/// The group with whose rotations the layers of a [`PlainCnn`](crate::PlainCnn) commute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Symmetry {
    /// None.
    #[default]
    None,
    /// The 24 rotations of the cube: convolutions over the group and space (Cohen and Welling 2016,
    /// <https://arxiv.org/abs/1602.07576>; in 3-D Worrall and Brostow 2018,
    /// <https://arxiv.org/abs/1804.04458>). Each channel of a block has 24 orientations.
    Octahedral,
}

impl Symmetry {
    /// Orientations of a channel.
    pub fn order(self) -> usize {
        match self {
            Self::None => 1,
            Self::Octahedral => 24,
        }
    }
}

/// Convolution, batch norm, ReLU, pooling where `pool > 1`, dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainBlock {
    /// Channels of the block's output.
    pub channels: usize,
    /// Kernel size in voxels, odd.
    pub size: usize,
    /// Factor by which the grid shrinks.
    #[serde(default = "one")]
    pub pool: usize,
}

/// A spatial transformer (Jaderberg et al. 2015, <https://arxiv.org/abs/1506.02025>) that turns and
/// moves each volume as a whole: a localisation network of plain blocks, whose last field is averaged
/// over cells and taken linearly to a rotation in the six numbers of Zhou et al. 2019
/// (<https://arxiv.org/abs/1812.07035>) and a shift of at most a quarter of the grid. The untrained one
/// leaves every volume as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        let block = |channels, size| PlainBlock { channels, size, pool: 2 };
        Self { cells: three(), blocks: vec![block(8, 5), block(8, 3)] }
    }
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

impl ModelConfig {
    /// The kind of network in a word: `steerable`, `plain`, `antialiased`, `group` or
    /// `transformer`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Steerable(_) => "steerable",
            Self::Plain(PlainConfig { transformer: Some(_), .. }) => "transformer",
            Self::Plain(c) => match (c.symmetry, c.pooling) {
                (Symmetry::Octahedral, _) => "group",
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

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Self::Steerable(c) => c.classes,
            Self::Plain(c) => c.classes,
        }
    }

    /// Reads a configuration from TOML text.
    ///
    /// # Errors
    /// [`NnError::Config`] with the position and the offending key.
    pub fn from_toml(text: &str) -> Result<Self, NnError> {
        toml::from_str(text)
            .map_err(|e| NnError::Config { field: "toml".into(), problem: e.to_string() })
    }

    /// The configuration as TOML text.
    ///
    /// # Errors
    /// [`NnError::Config`] if a value has no TOML form.
    pub fn to_toml(&self) -> Result<String, NnError> {
        toml::to_string_pretty(self)
            .map_err(|e| NnError::Config { field: "toml".into(), problem: e.to_string() })
    }
}

impl SteerableConfig {
    /// A network of four blocks for volumes of `channels` scalar channels, about 24 to 40 voxels
    /// wide: two halve the grid, the last gives invariant channels.
    ///
    /// # Errors
    /// [`NnError::Irreps`] for more channels than [`Irreps`] can have.
    pub fn small(channels: usize, classes: usize) -> Result<Self, NnError> {
        let block = |fields: &str, size, stride| {
            Ok::<_, NnError>(SteerableBlock { fields: fields.parse()?, size, stride })
        };
        Ok(Self {
            input: scalars(channels)?,
            classes,
            input_scale: 1.0,
            voxel_size: cubes(),
            dropout: 0.0,
            keep_zero: false,
            head_norm: false,
            kernel: Family::shells(),
            blocks: vec![
                block("4x0+3x1+1x2", 5, 2)?,
                block("8x0+4x1+2x2", 3, 2)?,
                block("16x0+6x1+3x2", 3, 1)?,
                block("48x0", 3, 1)?,
            ],
        })
    }
}

impl SteerableConfig {
    /// The same network with the multiplicity of every field of every block times `width`, at least 1.
    ///
    /// # Errors
    /// [`NnError::Irreps`] for more channels than [`Irreps`] can have.
    pub fn with_width(&self, width: f64) -> Result<Self, NnError> {
        let mut config = self.clone();
        for block in &mut config.blocks {
            let scaled = |b: Block| (((width * b.mul as f64).round() as usize).max(1), b.irrep);
            block.fields = Irreps::new(block.fields.blocks().map(scaled))?;
        }
        Ok(config)
    }
}

impl PlainConfig {
    /// The plain counterpart of `steerable`: the same blocks, kernel sizes and strides (as max
    /// pooling), a channel for each field.
    pub fn like(steerable: &SteerableConfig) -> Self {
        let block = |b: &SteerableBlock| PlainBlock {
            channels: b.fields.num_fields(),
            size: b.size,
            pool: b.stride,
        };
        Self {
            channels: steerable.input.dim(),
            classes: steerable.classes,
            input_scale: steerable.input_scale,
            dropout: steerable.dropout,
            pooling: Pooling::Max,
            symmetry: Symmetry::None,
            transformer: None,
            blocks: steerable.blocks.iter().map(block).collect(),
        }
    }

    /// The same network with all widths scaled so that the number of parameters comes closest to
    /// `parameters`.
    #[must_use]
    pub fn with_parameters(&self, parameters: usize) -> Self {
        self.closest(parameters, Self::parameter_count)
    }

    /// The same network with all widths scaled so that its [`multiply_adds`](Self::multiply_adds) for a
    /// volume of D, H, W voxels come closest to `wanted`.
    #[must_use]
    pub fn with_multiply_adds(&self, wanted: usize, dims: [usize; 3]) -> Self {
        self.closest(wanted, |c| c.multiply_adds(dims))
    }

    fn closest(&self, wanted: usize, measure: impl Fn(&Self) -> usize) -> Self {
        let with_width = |width: f64| {
            let mut config = self.clone();
            let localisation = config.transformer.iter_mut().flat_map(|t| &mut t.blocks);
            for block in config.blocks.iter_mut().chain(localisation) {
                block.channels = ((width * block.channels as f64).round() as usize).max(1);
            }
            config
        };
        let widths = (1..=800).map(|i| with_width(f64::from(i) / 100.0));
        widths.min_by_key(|c| measure(c).abs_diff(wanted)).unwrap_or_else(|| self.clone())
    }

    /// Number of trainable values.
    pub fn parameter_count(&self) -> usize {
        let of_blocks = |blocks: &[PlainBlock], order: usize| {
            let (mut inputs, mut count) = (self.channels, 0);
            for block in blocks {
                // Filter, and scale and shift of the batch norm.
                count += block.channels * (inputs * block.size.pow(3) + 2);
                inputs = block.channels * order;
            }
            count
        };
        let width = |blocks: &[PlainBlock]| blocks.last().map_or(self.channels, |b| b.channels);
        let localisation = self.transformer.as_ref().map_or(0, |t| {
            of_blocks(&t.blocks, 1) + (width(&t.blocks) * t.cells.pow(3) + 1) * POSE
        });
        localisation
            + of_blocks(&self.blocks, self.symmetry.order())
            + (width(&self.blocks) + 1) * self.classes
    }

    /// Multiply-adds of the convolutions for one volume of D, H, W voxels.
    pub fn multiply_adds(&self, dims: [usize; 3]) -> usize {
        let of_blocks = |blocks: &[PlainBlock], order: usize| {
            let (mut inputs, mut dims, mut count) = (self.channels, dims, 0);
            for block in blocks {
                let outputs = block.channels * order;
                count += inputs * outputs * block.size.pow(3) * dims.iter().product::<usize>();
                inputs = outputs;
                dims = dims.map(|n| match self.pooling {
                    Pooling::Max => n / block.pool,
                    Pooling::Antialiased => n.div_ceil(block.pool),
                });
            }
            count
        };
        let localisation = self.transformer.as_ref().map_or(0, |t| of_blocks(&t.blocks, 1));
        localisation + of_blocks(&self.blocks, self.symmetry.order())
    }
}
