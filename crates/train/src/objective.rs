//! What the answers of a network are compared with.

use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use steer3d_dataset::{Batch, Dataset, Tasks};

use crate::config::TrainConfig;
use crate::error::TrainError;
use crate::loss::{self, SoftDice};
use crate::loss_config::{Loss, LossConfig};
use steer3d_nn::{Head, Network};

/// What the head of a network is trained on.
pub(crate) enum Objective {
    /// The classes of volumes.
    Classes(Loss),
    /// The labels of voxels.
    Voxels(VoxelLoss),
    /// The target values of items: the squared error, linear beyond the given size.
    Numbers { huber: Option<f64> },
}

/// Cross-entropy and Dice loss, each with its share, of the voxels of other labels than an ignored one.
pub(crate) struct VoxelLoss {
    loss: Loss,
    cross_entropy: f64,
    dice: f64,
    form: SoftDice,
    ignored: Option<u32>,
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
        let head = network.config().head();
        if *head != Head::Voxels {
            settings.check_without_voxels()?;
        }
        Ok(match head {
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
                Self::Voxels(VoxelLoss::new(settings, counts)?)
            }
            Head::Scalars | Head::Field { .. } => Self::Numbers { huber: settings.huber },
        })
    }

    /// With the loss that is minimised: of the first of `outs`, and of the others with half the share of the one before
    /// (Isensee et al. 2021, <https://doi.org/10.1038/s41592-020-01008-z>).
    pub(crate) fn training(&self, outs: &[Tensor], batch: &Batch) -> Result<Score, TrainError> {
        let mut score = self.of_level(&outs[0], batch)?;
        let (mut share, mut sum) = (1.0, 1.0);
        for level in &outs[1..] {
            share *= 0.5;
            sum += share;
            score.loss = (score.loss + self.of_level(level, batch)?.loss.affine(share, 0.0)?)?;
        }
        if sum > 1.0 {
            score.loss = score.loss.affine(1.0 / sum, 0.0)?;
        }
        Ok(score)
    }

    fn of_level(&self, out: &Tensor, batch: &Batch) -> Result<Score, TrainError> {
        match self {
            Self::Classes(loss) => Ok(Score {
                loss: loss.mean(out, &batch.labels)?,
                weight: loss.weight(&batch.labels),
                ..right_answers(out, &batch.labels)?
            }),
            Self::Voxels(loss) => loss.score(out, &labels_of(batch)),
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
            Self::Voxels(loss) => match loss.counted(out, &labels_of(batch))? {
                Some((rows, labels)) => right_answers(&rows, &labels),
                None => nothing(out),
            },
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

impl VoxelLoss {
    /// Where `counts` are the training voxels of each class.
    fn new(config: &LossConfig, mut counts: Vec<usize>) -> Result<Self, TrainError> {
        let &LossConfig { cross_entropy, dice, soft_dice: form, ignore: ignored, .. } = config;
        let fault = |field, problem| Err(TrainError::settings(field, problem));
        let classes = counts.len();
        if let Some(label) = ignored {
            let Some(count) = counts.get_mut(label as usize) else {
                let problem =
                    format!("expected the index of one of {classes} classes, found {label}");
                return fault("ignore", problem);
            };
            *count = 0;
        }
        if cross_entropy == 0.0 && dice == 0.0 {
            return fault(
                "dice",
                "expected a share of it or of cross_entropy, found 0 of both".into(),
            );
        }
        let background = form.background && ignored != Some(0);
        let left =
            classes - usize::from(ignored.is_some_and(|i| i > 0)) - 1 + usize::from(background);
        if dice > 0.0 && left == 0 {
            let problem = "leaves out every class but the ignored one; set background = true";
            return fault("soft_dice", problem.into());
        }
        Ok(Self { loss: Loss::new(config, &counts)?, cross_entropy, dice, form, ignored })
    }

    /// Of logits N,K,D,H,W and as many labels as voxels.
    fn score(&self, out: &Tensor, labels: &[u32]) -> Result<Score, TrainError> {
        let mut score = match self.counted(out, labels)? {
            None => nothing(out)?,
            Some((rows, counted)) => Score {
                loss: self.loss.mean(&rows, &counted)?.affine(self.cross_entropy, 0.0)?,
                weight: self.loss.weight(&counted),
                ..right_answers(&rows, &counted)?
            },
        };
        // Other ranks wait for the sums of a part of which no voxel counts, too.
        if self.dice > 0.0 {
            let dims = out.dims();
            let labels = Tensor::new(labels, out.device())?;
            let labels = labels.reshape([&dims[..1], &dims[2..]].concat())?;
            let dice = loss::dice(out, &labels, self.form, self.ignored)?;
            score.loss = (score.loss + dice.affine(self.dice, 0.0)?)?;
        }
        Ok(score)
    }

    /// Logits N,K,D,H,W as M,K, one row for each voxel that counts, and their labels; None if there is none.
    fn counted(
        &self,
        out: &Tensor,
        labels: &[u32],
    ) -> Result<Option<(Tensor, Vec<u32>)>, TrainError> {
        let rows = out.flatten_from(2)?.transpose(1, 2)?.contiguous()?.flatten_to(1)?;
        if !labels.iter().any(|label| Some(*label) == self.ignored) {
            return Ok(Some((rows, labels.to_vec())));
        }
        let counts = |(_, label): &(u32, &u32)| Some(**label) != self.ignored;
        let (kept, labels): (Vec<u32>, Vec<u32>) =
            (0..).zip(labels).filter(counts).map(|(voxel, label)| (voxel, *label)).unzip();
        if kept.is_empty() {
            return Ok(None);
        }
        let kept = Tensor::new(kept, rows.device())?;
        Ok(Some((rows.index_select(&kept, 0)?, labels)))
    }
}

fn labels_of(batch: &Batch) -> Vec<u32> {
    batch.voxel_labels.iter().map(|&label| label.into()).collect()
}

/// The score of a batch of which no voxel counts. Its weight is not quite 0, by which means are divided.
fn nothing(out: &Tensor) -> Result<Score, TrainError> {
    let loss = (out * out.zeros_like()?)?.sum_all()?;
    Ok(Score { loss, weight: 1e-6, right: 0.0, answers: 0.0 })
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

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    const LABELS: [u32; 8] = [0, 1, 2, 2, 1, 0, 2, 1];

    fn config() -> LossConfig {
        let soft_dice = SoftDice { background: false, squares: false, per_item: true };
        LossConfig {
            dice: 0.7,
            cross_entropy: 0.5,
            soft_dice,
            ignore: Some(2),
            ..LossConfig::default()
        }
    }

    /// Logits of three classes for two items of 1 × 2 × 2 voxels; those of one voxel are moved.
    fn logits(voxel: usize, by: f64) -> Var {
        let value = |i: usize| {
            let (item, place) = (i / 12, i % 4);
            (i as f64 * 1.3).sin() + if item * 4 + place == voxel { by } else { 0.0 }
        };
        let values: Vec<f64> = (0..24).map(value).collect();
        // The classes of a voxel are not moved alike.
        let values = values.iter().enumerate().map(|(i, v)| v * (1.0 + (i / 4 % 3) as f64));
        let values = Tensor::from_iter(values, &Device::Cpu).unwrap();
        Var::from_tensor(&values.reshape((2, 3, 1, 2, 2)).unwrap()).unwrap()
    }

    fn value(score: &Score) -> f64 {
        score.loss.to_scalar().unwrap()
    }

    #[test]
    fn ignored_voxels_count_in_nothing() {
        let loss = VoxelLoss::new(&config(), vec![2, 3, 3]).unwrap();
        let score = |voxel, by| loss.score(logits(voxel, by).as_tensor(), &LABELS).unwrap();
        let still = score(0, 0.0);
        assert_eq!((still.weight, still.answers), (5.0, 5.0));
        for (voxel, label) in LABELS.into_iter().enumerate() {
            let moved = score(voxel, 0.8);
            assert_eq!(value(&moved) == value(&still), label == 2, "{voxel}");
        }
        let var = logits(0, 0.0);
        let found = loss.score(var.as_tensor(), &LABELS).unwrap();
        let gradients = found.loss.backward().unwrap();
        let gradients = gradients.get(&var).unwrap().flatten_all().unwrap();
        for (i, gradient) in gradients.to_vec1::<f64>().unwrap().into_iter().enumerate() {
            assert_eq!(gradient == 0.0, LABELS[i / 12 * 4 + i % 4] == 2, "{i}");
        }
        // The shares of both losses are those of the settings.
        let of = |cross_entropy, dice| {
            let config = LossConfig { cross_entropy, dice, ..config() };
            let loss = VoxelLoss::new(&config, vec![2, 3, 3]).unwrap();
            value(&loss.score(logits(0, 0.0).as_tensor(), &LABELS).unwrap())
        };
        let sum = 0.5 * of(1.0, 0.0) + 0.7 * of(0.0, 1.0);
        assert!((value(&still) - sum).abs() < 1e-12, "{} {sum}", value(&still));
    }

    #[test]
    fn coarser_levels_count_half() {
        let loss = VoxelLoss::new(&LossConfig { ignore: None, ..config() }, vec![2, 3, 3]).unwrap();
        let levels = [0.0, 0.8, -1.1].map(|by| logits(1, by).as_tensor().clone());
        let [a, b, c] = [0, 1, 2].map(|i| value(&loss.score(&levels[i], &LABELS).unwrap()));
        let batch = Batch {
            items: vec![0, 1],
            dims: [1, 2, 2],
            values: vec![],
            labels: vec![],
            targets: vec![],
            voxel_labels: LABELS.map(|label| label as u8).to_vec(),
        };
        let objective = Objective::Voxels(loss);
        let found = objective.training(&levels, &batch).unwrap();
        let expected = (a + 0.5 * b + 0.25 * c) / 1.75;
        assert!((value(&found) - expected).abs() < 1e-12 && a != b);
        let alone = objective.training(&levels[..1], &batch).unwrap();
        assert_eq!((value(&alone), alone.right), (a, found.right));
    }

    #[test]
    fn a_batch_of_ignored_voxels_changes_nothing() {
        let loss = VoxelLoss::new(&config(), vec![2, 3, 3]).unwrap();
        let var = logits(0, 0.0);
        let score = loss.score(var.as_tensor(), &[2; 8]).unwrap();
        assert!(value(&score) == 0.0 && score.weight > 0.0 && score.answers == 0.0);
        let gradients = score.loss.backward().unwrap();
        let gradients = gradients.get(&var).unwrap().flatten_all().unwrap();
        assert!(gradients.to_vec1::<f64>().unwrap().iter().all(|g| *g == 0.0));
    }

    #[test]
    fn settings_that_leave_nothing_are_refused() {
        let message = |config: LossConfig, classes: usize| {
            VoxelLoss::new(&config, vec![1; classes]).err().unwrap().to_string()
        };
        assert!(message(config(), 2).contains("one of 2 classes, found 2"));
        let none = LossConfig { cross_entropy: 0.0, dice: 0.0, ..config() };
        assert!(message(none, 3).contains("0 of both"));
        let alone = LossConfig { ignore: Some(1), ..config() };
        assert!(message(alone, 2).contains("background = true"));
        let negative = LossConfig { cross_entropy: -1.0, ..config() };
        assert!(message(negative, 3).contains("cross_entropy"));
        assert!(config().check_without_voxels().unwrap_err().to_string().contains("voxels"));
        assert!(LossConfig::default().check_without_voxels().is_ok());
    }
}
