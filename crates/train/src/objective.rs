//! What the answers of a network are compared with.

use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use steer3d_dataset::{Batch, Dataset, Tasks};

use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::loss;
use crate::loss_config::Loss;
use steer3d_nn::{Head, Network};

/// What the head of a network is trained on.
pub(crate) enum Objective {
    /// The classes of volumes.
    Classes(Loss),
    /// The labels of voxels, with a share of the Dice loss.
    Voxels { loss: Loss, dice: f64 },
    /// The target values of items: the squared error, linear beyond the given size.
    Numbers { huber: Option<f64> },
}

/// How well a batch was answered.
pub(crate) struct Score {
    /// Mean over the batch, without dimensions.
    pub(crate) loss: Tensor,
    /// What it counts for in a mean over batches.
    pub(crate) weight: f64,
    pub(crate) right: f64,
    /// How many answers can be right or wrong.
    pub(crate) answers: f64,
}

impl Objective {
    /// For a training on `items`.
    pub(crate) fn new(
        network: &Network,
        dataset: &Dataset,
        config: &TrainConfig,
        items: &[usize],
    ) -> Result<Self, TrainError> {
        check_fit(network, dataset)?;
        let settings = &config.loss;
        Ok(match network.config().head() {
            Head::Classes => {
                let mut counts = vec![0; dataset.meta().class_names.len()];
                for &item in items {
                    counts[dataset.labels()[item] as usize] += 1;
                }
                Self::Classes(Loss::new(settings, &counts)?)
            }
            Head::Voxels => {
                let mut counts = vec![0; dataset.tasks().map_or(0, |t| t.voxel_classes.len())];
                let counted = if settings.is_balanced() { items } else { &[] };
                for &item in counted {
                    for label in dataset.voxel_labels(item)? {
                        counts[usize::from(label)] += 1;
                    }
                }
                Self::Voxels { loss: Loss::new(settings, &counts)?, dice: settings.dice }
            }
            Head::Scalars | Head::Field { .. } => Self::Numbers { huber: settings.huber },
        })
    }

    /// With the loss that is minimised.
    pub(crate) fn training(&self, out: &Tensor, batch: &Batch) -> Result<Score, TrainError> {
        match self {
            Self::Classes(loss) => Ok(Score {
                loss: loss.mean(out, &batch.labels)?,
                weight: loss.weight(&batch.labels),
                ..right_answers(out, &batch.labels)?
            }),
            Self::Voxels { loss, dice } => {
                let (rows, labels) = voxels(out, batch)?;
                let mut mean = loss.mean(&rows, &labels)?;
                if *dice > 0.0 {
                    let dims = out.dims();
                    let labels = Tensor::new(&labels[..], out.device())?;
                    let labels = labels.reshape([&dims[..1], &dims[2..]].concat())?;
                    mean = (mean + loss::dice(out, &labels)?.affine(*dice, 0.0)?)?;
                }
                let weight = loss.weight(&labels);
                Ok(Score { loss: mean, weight, ..right_answers(&rows, &labels)? })
            }
            Self::Numbers { huber: None } => numbers(out, batch, loss::mean_squared_error),
            Self::Numbers { huber: Some(delta) } => {
                numbers(out, batch, |found, target| loss::huber(found, target, *delta))
            }
        }
    }

    /// With the plain cross-entropy or squared error.
    pub(crate) fn validation(&self, out: &Tensor, batch: &Batch) -> Result<Score, TrainError> {
        match self {
            Self::Classes(_) => right_answers(out, &batch.labels),
            Self::Voxels { .. } => {
                let (rows, labels) = voxels(out, batch)?;
                right_answers(&rows, &labels)
            }
            Self::Numbers { .. } => numbers(out, batch, loss::mean_squared_error),
        }
    }
}

/// The plain cross-entropy of logits M,K and how many of the labels are right.
fn right_answers(logits: &Tensor, labels: &[u32]) -> Result<Score, TrainError> {
    let count = labels.len() as f64;
    let labels = Tensor::new(labels, logits.device())?;
    let loss = cross_entropy(logits, &labels)?;
    let right = logits.argmax(1)?.eq(&labels)?.to_dtype(DType::F32)?.sum_all()?;
    let right = f64::from(right.to_scalar::<f32>()?);
    Ok(Score { loss, weight: count, right, answers: count })
}

/// Logits N,K,D,H,W as M,K, one row for each voxel, and the labels.
fn voxels(out: &Tensor, batch: &Batch) -> Result<(Tensor, Vec<u32>), TrainError> {
    let rows = out.flatten_from(2)?.transpose(1, 2)?.contiguous()?.flatten_to(1)?;
    Ok((rows, batch.voxel_labels.iter().map(|&label| label.into()).collect()))
}

/// An error of numbers, which are neither right nor wrong.
fn numbers(
    out: &Tensor,
    batch: &Batch,
    error: impl Fn(&Tensor, &Tensor) -> candle_core::Result<Tensor>,
) -> Result<Score, TrainError> {
    let target = Tensor::from_slice(&batch.targets, out.shape(), &Device::Cpu)?;
    let target = target.to_dtype(out.dtype())?.to_device(out.device())?;
    let weight = batch.items.len() as f64;
    Ok(Score { loss: error(out, &target)?, weight, right: 0.0, answers: 0.0 })
}

/// Checks that a network can read the volumes of a dataset and gives what it has.
fn check_fit(network: &Network, dataset: &Dataset) -> Result<(), TrainError> {
    let (config, meta) = (network.config(), dataset.meta());
    let same = |model: String, found: String| {
        if model == found {
            return Ok(());
        }
        Err(TrainError::Mismatch { dataset: meta.name.clone(), model, found })
    };
    same(format!("{} channels", config.channels()), format!("{} channels", meta.channels))?;
    let none = Tasks::default();
    let tasks = dataset.tasks().unwrap_or(&none);
    let targets = || tasks.targets.as_ref().map_or("no targets".into(), |t| format!("targets {t}"));
    let classes = config.classes();
    match config.head() {
        Head::Classes => {
            let found = match meta.class_names.len() {
                0 => "no classes".to_owned(),
                found => format!("{found} classes"),
            };
            same(format!("{classes} classes"), found)
        }
        Head::Voxels => same(
            format!("{classes} labels of voxels"),
            format!("{} labels of voxels", tasks.voxel_classes.len()),
        ),
        Head::Scalars => {
            let scalar = tasks.targets.as_ref().is_some_and(|t| t.blocks().all(|b| b.irrep.l == 0));
            let found = match tasks.target_len() {
                len if scalar => format!("{len} numbers as targets"),
                _ => targets(),
            };
            same(format!("{classes} numbers as targets"), found)
        }
        Head::Field { irreps, pooled: true } => same(format!("targets {irreps}"), targets()),
        Head::Field { pooled: false, .. } => {
            same("fields as targets".into(), "no fields as targets".into())
        }
    }
}
