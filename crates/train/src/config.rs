use candle_core::{DType, Device, Tensor};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use steer3d_dataset::{Distortions, RandomPatch, Turns};

use crate::error::TrainError;
use crate::loss_config::LossConfig;
use crate::optimiser::OptimiserConfig;
use crate::schedule::Schedule;

/// Settings of the training loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Passes over the training set.
    pub epochs: usize,
    /// Volumes in a batch.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Weight decay: decoupled with AdamW, a part of the gradient with SGD.
    pub weight_decay: f64,
    /// Seed of the order of the data, of the dropout masks, of the rotations and of the distortions.
    pub seed: u64,
    /// Turn every training volume by a random rotation of this set, another one in each epoch: its
    /// points where the dataset has them, else its voxels by trilinear interpolation.
    #[serde(alias = "rotate", deserialize_with = "turns")]
    pub augment: Option<Turns>,
    /// Train on boxes instead of whole volumes: one of every volume, another one in each epoch, or all that cover it.
    /// Validation and evaluation see whole volumes.
    pub patch: Option<PatchConfig>,
    /// Distort every training volume at random, after it was turned, anew in each epoch.
    #[serde(skip_serializing_if = "Distortions::is_empty")]
    pub distort: Distortions,
    /// How gradients become steps.
    pub optimiser: OptimiserConfig,
    /// The learning rate over the training.
    pub schedule: Schedule,
    /// What is minimised.
    pub loss: LossConfig,
    /// What tells the best epoch, whose weights are kept.
    pub monitor: Monitor,
    /// Largest norm of the gradient of all weights together; a longer one is shortened to it.
    pub clip_norm: Option<f64>,
    /// Decay of an exponential moving average of the weights, which then takes their place in
    /// validation and in the finished network.
    pub average: Option<f64>,
    /// Batches whose gradients are added up for a step; batch norm and dropout see each batch alone.
    pub accumulate: usize,
    /// Ends the training when so many epochs have passed since the best one.
    pub patience: Option<usize>,
    /// How the training computes.
    pub precision: Precision,
    /// How several ranks, or devices, add up their gradients.
    pub sums: GradientSums,
    /// Share of the training items that is used, at least one, drawn with the seed; a smaller share
    /// is a part of a larger one.
    pub share: f64,
}

/// Boxes that volumes are cut to for a training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PatchConfig {
    /// D, H, W in voxels.
    pub size: [usize; 3],
    /// Chance that the middle of a box is a voxel that is not background, where voxels have labels: of a class that is
    /// drawn from those of the volume. By default a third, as nnU-Net has it (Isensee et al. 2021).
    #[serde(default = "PatchConfig::third")]
    pub foreground: f64,
    /// Share of a box, from 0 to below 1, that neighbours have in common, or more, among boxes at equal distances that cover
    /// each volume: an epoch takes all of these in a random order, instead of a box of each volume at random. No volume may
    /// be smaller than a box.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<f64>,
}

impl PatchConfig {
    /// Boxes of this size, a third of them about foreground.
    pub fn new(size: [usize; 3]) -> Self {
        Self { size, foreground: Self::third(), overlap: None }
    }

    fn third() -> f64 {
        1.0 / 3.0
    }

    /// The boxes of an epoch.
    pub(crate) fn of_epoch(self, seed: u64, epoch: u64) -> RandomPatch {
        RandomPatch { seed, epoch, dims: self.size, foreground: self.foreground }
    }

    fn check(self) -> Result<(), TrainError> {
        let Self { size, foreground, overlap } = self;
        let fault = |field, problem| Err(TrainError::settings(field, problem));
        if !size.iter().all(|n| (1..=MAX_EDGE).contains(n)) {
            return fault("patch.size", format!("expected 1 to {MAX_EDGE}, found {size:?}"));
        }
        if !(0.0..=1.0).contains(&foreground) {
            return fault("patch.foreground", format!("expected 0 to 1, found {foreground}"));
        }
        let Some(overlap) = overlap else { return Ok(()) };
        if !(0.0..1.0).contains(&overlap) {
            let problem = format!("expected a share from 0 to below 1 of a box, found {overlap}");
            return fault("patch.overlap", problem);
        }
        if foreground != Self::third() {
            let problem = "is for boxes at random; leave it or overlap out";
            return fault("patch.foreground", problem.into());
        }
        Ok(())
    }
}

/// What tells the best epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Monitor {
    /// The least validation loss.
    #[default]
    Loss,
    /// The highest validation accuracy, and of equal ones the least loss. On few validation items an early
    /// epoch can win by chance.
    Accuracy,
    /// The highest mean Dice coefficient of the classes of voxels but the background, over all voxels of the validation
    /// items, and of equal ones the least loss. For networks that label voxels.
    Dice,
}

/// In which order several ranks, or the devices of one process, add up their gradients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum GradientSums {
    /// In that of the ranks: the same bits in every run on as many of them, whatever connects them.
    #[default]
    Ordered,
    /// In that of what connects them, NCCL between GPUs (feature `nccl`) or MPI, which may depend on the machines and the
    /// version of the library. Without NCCL the devices of one process keep their order, and processes over TCP are refused.
    Fast,
}

/// How a training computes. Whatever the type of the fields, weights, their gradients, the optimiser, averages and
/// running statistics keep the type of the weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Fields have the type of the weights, which is f32 in the program.
    #[default]
    Float32,
    /// bf16, with sums in f32: half the memory for the fields. Validation has the type of the weights. A CPU takes
    /// longer, for comparisons.
    Bfloat16,
    /// So, with [TF32](steer3d_ops::Tf32Permit) permitted during the training: on a GPU convolutions
    /// multiply f32 rounded to 10 bits on tensor cores, in validation too. A CPU computes as with [`Float32`](Self::Float32).
    Tf32,
}

impl Precision {
    /// The volumes of a batch in this type.
    pub(crate) fn of(self, x: Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Float32 | Self::Tf32 => Ok(x),
            Self::Bfloat16 => x.to_dtype(DType::BF16),
        }
    }

    /// Checks that a device has it.
    pub(crate) fn check(self, device: &Device) -> Result<(), TrainError> {
        if self != Self::Bfloat16 {
            return Ok(());
        }
        let one = Tensor::ones(1, DType::F32, device)?;
        let tried = self.of(one).and_then(|one| (&one + &one)?.to_dtype(DType::F32));
        tried.map(|_| ()).map_err(|error| {
            // What follows the first line is a trace of calls.
            let error = error.to_string();
            let error = error.lines().next().unwrap_or_default();
            let problem = format!("this device has no bfloat16, use \"float32\": {error}");
            TrainError::settings("precision", problem)
        })
    }
}

/// A set, or whether to take all rotations, as older versions wrote it.
fn turns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Turns>, D::Error> {
    use serde_json::Value;
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Bool(all) => Ok(all.then_some(Turns::So3 { fraction: 1.0 })),
        set => serde_json::from_value(set).map(Some).map_err(D::Error::custom),
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 30,
            batch_size: 8,
            learning_rate: 1e-2,
            weight_decay: 1e-3,
            seed: 0,
            augment: None,
            patch: None,
            distort: Distortions::default(),
            optimiser: OptimiserConfig::default(),
            schedule: Schedule::default(),
            loss: LossConfig::default(),
            monitor: Monitor::default(),
            clip_norm: None,
            average: None,
            accumulate: 1,
            patience: None,
            precision: Precision::default(),
            sums: GradientSums::default(),
            share: 1.0,
        }
    }
}

/// Most epochs, items of a batch and batches of a step: products of two, and of one with items, stay below 2^63.
const MAX_COUNT: usize = 1 << 20;

/// Longest edge of a box, in voxels.
const MAX_EDGE: usize = 1024;

impl TrainConfig {
    /// Checks every setting that does not depend on the data.
    ///
    /// # Errors
    /// [`TrainError::Settings`] for the first setting out of its range.
    pub fn check(&self) -> Result<(), TrainError> {
        let fault = |field, problem| Err(TrainError::settings(field, problem));
        let counts = [
            ("epochs", self.epochs),
            ("batch size", self.batch_size),
            ("accumulate", self.accumulate),
        ];
        let outside = |(_, count): &(_, usize)| !(1..=MAX_COUNT).contains(count);
        if let Some((field, count)) = counts.into_iter().find(outside) {
            return fault(field, format!("expected 1 to {MAX_COUNT}, found {count}"));
        }
        if self.patience == Some(0) {
            return fault("patience", "expected at least 1, found 0".into());
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return fault("learning rate", format!("must be positive: {}", self.learning_rate));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return fault("weight decay", format!("must not be negative: {}", self.weight_decay));
        }
        let fraction = self.augment.map_or(1.0, Turns::fraction);
        if !(fraction > 0.0 && fraction <= 1.0) {
            return fault("augment", format!("fraction must be above 0, at most 1: {fraction}"));
        }
        self.patch.map_or(Ok(()), PatchConfig::check)?;
        self.distort.check().map_err(|error| TrainError::settings("distort", error))?;
        if let Some(norm) = self.clip_norm.filter(|norm| norm.is_nan() || *norm <= 0.0) {
            return fault("clip_norm", format!("must be positive: {norm}"));
        }
        if let Some(decay) = self.average.filter(|decay| !(0.0..1.0).contains(decay)) {
            return fault("average", format!("expected a decay in 0..1, found {decay}"));
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return fault("share", format!("must be above 0, at most 1: {}", self.share));
        }
        if let Some(delta) = self.loss.huber.filter(|delta| delta.is_nan() || *delta <= 0.0) {
            return fault("huber", format!("must be positive: {delta}"));
        }
        self.optimiser.check()?;
        self.schedule.check()
    }
}
