use serde::{Deserialize, Serialize};
use steer3d_kernels::Family;
use steer3d_so3::Irreps;

use crate::NnError;
use crate::field::scalars;

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

fn one() -> usize {
    1
}

fn unit() -> f64 {
    1.0
}

fn cubes() -> [f64; 3] {
    [1.0; 3]
}

impl ModelConfig {
    /// The kind of network in a word: `steerable`, `plain`, `antialiased` or `group`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Steerable(_) => "steerable",
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
            blocks: steerable.blocks.iter().map(block).collect(),
        }
    }

    /// The same network with all widths scaled so that the number of parameters comes closest to
    /// `parameters`.
    #[must_use]
    pub fn with_parameters(&self, parameters: usize) -> Self {
        let with_width = |width: f64| {
            let mut config = self.clone();
            for block in &mut config.blocks {
                block.channels = ((width * block.channels as f64).round() as usize).max(1);
            }
            config
        };
        let gap = |c: &Self| c.parameter_count().abs_diff(parameters);
        let widths = (1..=800).map(|i| with_width(f64::from(i) / 100.0));
        widths.min_by_key(gap).unwrap_or_else(|| self.clone())
    }

    /// Number of trainable values.
    pub fn parameter_count(&self) -> usize {
        let (mut inputs, mut pooled) = (self.channels, self.channels);
        let mut count = 0;
        for block in &self.blocks {
            // Filter, and scale and shift of the batch norm.
            count += block.channels * (inputs * block.size.pow(3) + 2);
            pooled = block.channels;
            inputs = pooled * self.symmetry.order();
        }
        count + (pooled + 1) * self.classes
    }
}
