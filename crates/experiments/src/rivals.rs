//! Networks of about equal size for the volumes of a dataset.

use std::fmt;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Split, Turns};
use steer3d_eval::{AnswerKind, AnswerSpec};
use steer3d_kernels::{Family, KernelGroup};
use steer3d_nn::{
    Head, ModelConfig, Network, NnError, PlainConfig, Pooling, SteerableConfig, Symmetry,
    TransformerConfig,
};
use steer3d_so3::Irreps;
use steer3d_train::TrainConfig;

use crate::error::ExperimentError;

/// A kind of network with its usual training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Architecture {
    /// Steerable under rotation
    Steerable,
    /// The same with kernels of Gaussian shells
    SteerableShells,
    /// The same with kernels of Gaussian jets
    SteerableJets,
    /// Steerable under rotation about z alone, as many parameters
    SteerableSo2,
    /// Convolution and max pooling, as many parameters as the steerable one
    Plain,
    /// The same with antialiased pooling
    Antialiased,
    /// The plain network, its training volumes turned at random
    Augmented,
    /// Group convolution over the 24 rotations of the cube, about as many parameters
    Group,
    /// Group convolution over the 60 rotations of the icosahedron, about as many parameters
    Icosahedral,
    /// The plain network behind a spatial transformer, as many parameters in all
    Transformer,
}

/// The orientations of a group network multiply the inputs of its filters by 24 (or 60), and so the effect of a step
/// by 5 (or 8); from one of three seeds it does not learn at the rate of the others.
const GROUP_LEARNING_RATE: f64 = 5e-3;

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 10] = [
        Self::Steerable,
        Self::SteerableShells,
        Self::SteerableJets,
        Self::SteerableSo2,
        Self::Plain,
        Self::Antialiased,
        Self::Augmented,
        Self::Group,
        Self::Icosahedral,
        Self::Transformer,
    ];

    /// The steerable network and what it is usually compared with.
    pub const RIVALS: [Self; 6] = [
        Self::Steerable,
        Self::Plain,
        Self::Antialiased,
        Self::Augmented,
        Self::Group,
        Self::Transformer,
    ];

    /// The name, as experiment files have it in `model.preset`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Steerable => "steerable",
            Self::SteerableShells => "steerable-shells",
            Self::SteerableJets => "steerable-jets",
            Self::SteerableSo2 => "steerable-so2",
            Self::Plain => "plain",
            Self::Antialiased => "antialiased",
            Self::Augmented => "augmented",
            Self::Group => "group",
            Self::Icosahedral => "icosahedral",
            Self::Transformer => "transformer",
        }
    }

    /// The training that suits it: [`TrainConfig::default`] but for a lower learning rate of the group networks, and
    /// training volumes turned by any rotation for the augmented one.
    pub fn training(self) -> TrainConfig {
        let standard = TrainConfig::default();
        match self {
            Self::Group | Self::Icosahedral => {
                TrainConfig { learning_rate: GROUP_LEARNING_RATE, ..standard }
            }
            Self::Augmented => {
                TrainConfig { augment: Some(Turns::So3 { fraction: 1.0 }), ..standard }
            }
            _ => standard,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What rivals have as much of as the steerable network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Trained parameters.
    Parameters,
    /// Multiply-adds of the convolutions for one volume.
    #[serde(rename = "flops")]
    MultiplyAdds,
}

/// A steerable network, and the plain one whose width is changed to make its rivals.
#[derive(Debug, Clone)]
pub struct Prototypes {
    /// The steerable network, the measure of all rivals.
    pub steerable: SteerableConfig,
    /// The plain network.
    pub plain: PlainConfig,
    /// Voxels D,H,W of a volume.
    pub dims: [usize; 3],
}

impl Prototypes {
    /// Small networks for volumes like those of a dataset, which answer with its classes, the labels of its voxels
    /// or its target values.
    ///
    /// # Errors
    /// If the dataset has no such answers, or a training volume cannot be read.
    pub fn new(dataset: &Dataset, answers: AnswerKind) -> Result<Self, ExperimentError> {
        let classes = AnswerSpec::new(dataset, answers)?.names.len();
        let (meta, input_scale) = (dataset.meta(), input_scale(dataset)?);
        let channels = meta.channels;
        let steerable = match answers {
            AnswerKind::Classes => SteerableConfig::small(channels, classes)?,
            AnswerKind::Voxels => SteerableConfig::unet(channels, classes)?,
            AnswerKind::Values => with_values(dataset)?,
        };
        let steerable = SteerableConfig {
            input: meta.irreps.clone(),
            voxel_size: meta.voxel_size,
            input_scale,
            ..steerable
        };
        let plain = match answers {
            AnswerKind::Classes => {
                PlainConfig { input_scale, ..PlainConfig::small(channels, classes) }
            }
            AnswerKind::Voxels => {
                PlainConfig { input_scale, ..PlainConfig::unet(channels, classes) }
            }
            AnswerKind::Values => PlainConfig::like(&steerable),
        };
        Ok(Self { steerable, plain, dims: meta.dims })
    }

    /// The steerable network, or a rival of the same budget.
    ///
    /// # Errors
    /// If a network of the architecture cannot be built.
    pub fn rival(
        &self,
        architecture: Architecture,
        budget: Budget,
        device: &Device,
    ) -> Result<ModelConfig, ExperimentError> {
        let Self { steerable, plain, dims } = self.clone();
        let antialiased = PlainConfig { pooling: Pooling::Antialiased, ..plain.clone() };
        let rival = match architecture {
            Architecture::Steerable => return Ok(ModelConfig::Steerable(steerable)),
            Architecture::SteerableShells => {
                let shells = SteerableConfig { kernel: Family::shells(), ..steerable };
                return self.fitted(&shells, budget, device);
            }
            Architecture::SteerableJets => {
                let jets = SteerableConfig { kernel: Family::jets(2), ..steerable };
                return self.fitted(&jets, budget, device);
            }
            Architecture::SteerableSo2 => {
                let so2 = SteerableConfig { group: KernelGroup::So2, ..steerable };
                return self.fitted(&so2, budget, device);
            }
            Architecture::Plain | Architecture::Augmented => plain,
            Architecture::Antialiased => antialiased,
            Architecture::Group => PlainConfig { symmetry: Symmetry::Octahedral, ..antialiased },
            Architecture::Icosahedral => {
                PlainConfig { symmetry: Symmetry::Icosahedral, ..antialiased }
            }
            Architecture::Transformer => {
                PlainConfig { transformer: Some(TransformerConfig::small()), ..plain }
            }
        };
        let wanted = self.cost(&ModelConfig::Steerable(steerable), budget, device)?;
        Ok(ModelConfig::Plain(match budget {
            Budget::Parameters => rival.with_parameters(wanted),
            Budget::MultiplyAdds => rival.with_multiply_adds(wanted, dims),
        }))
    }

    /// How much of the budget of the steerable network a network has: 1 for as much.
    ///
    /// # Errors
    /// If the network cannot be built.
    pub fn share(
        &self,
        model: &ModelConfig,
        budget: Budget,
        device: &Device,
    ) -> Result<f64, ExperimentError> {
        let steerable = ModelConfig::Steerable(self.steerable.clone());
        let wanted = self.cost(&steerable, budget, device)?;
        Ok(self.cost(model, budget, device)? as f64 / wanted as f64)
    }

    fn cost(
        &self,
        model: &ModelConfig,
        budget: Budget,
        device: &Device,
    ) -> Result<usize, ExperimentError> {
        let network = Network::new(model, 0, DType::F32, device)?;
        Ok(match budget {
            Budget::Parameters => network.params().count(),
            Budget::MultiplyAdds => network.multiply_adds(self.dims),
        })
    }

    /// A steerable network with other kernels, as wide as the budget allows.
    fn fitted(
        &self,
        steerable: &SteerableConfig,
        budget: Budget,
        device: &Device,
    ) -> Result<ModelConfig, ExperimentError> {
        let own = ModelConfig::Steerable(self.steerable.clone());
        if self.steerable == *steerable {
            return Ok(own);
        }
        let wanted = self.cost(&own, budget, device)?;
        let at_width = |width| -> Result<_, ExperimentError> {
            let model = ModelConfig::Steerable(steerable.with_width(width)?);
            let cost = self.cost(&model, budget, device)?;
            Ok((model, cost))
        };
        let (mut low, mut high) = (0.0, 8.0);
        for _ in 0..10 {
            let width = 0.5 * (low + high);
            if at_width(width)?.1 <= wanted {
                low = width;
            } else {
                high = width;
            }
        }
        let (low, high) = (at_width(low)?, at_width(high)?);
        let low_is_nearer = low.1.abs_diff(wanted) <= high.1.abs_diff(wanted);
        Ok(if low_is_nearer { low.0 } else { high.0 })
    }
}

/// A network that gives the target values of a dataset, from 16 fields of each type.
fn with_values(dataset: &Dataset) -> Result<SteerableConfig, NnError> {
    let mut config = SteerableConfig::small(dataset.meta().channels, 0)?;
    let targets = dataset.tasks().and_then(|tasks| tasks.targets.clone());
    if let (Some(irreps), Some(last)) = (targets, config.blocks.last_mut()) {
        last.fields = Irreps::new(irreps.blocks().map(|block| (16, block.irrep)))?;
        config.head = Head::Field { irreps, pooled: true };
    }
    Ok(config)
}

/// One over the root mean square of some training volumes.
///
/// # Errors
/// If one of them cannot be read.
pub fn input_scale(dataset: &Dataset) -> Result<f64, ExperimentError> {
    const ENOUGH: usize = 64;
    let (mut squares, mut count) = (0.0, 0);
    for &item in dataset.indices(Split::Train).iter().take(ENOUGH) {
        let volume = dataset.read(item)?;
        squares += volume.data().iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
        count += volume.data().len();
    }
    Ok(if squares > 0.0 { (count as f64 / squares).sqrt() } else { 1.0 })
}
