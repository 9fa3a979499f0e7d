//! What the answers of a network are compared with.

use candle_core::{DType, Device, Tensor};
use candle_nn::loss::cross_entropy;
use steer3d_dataset::{Batch, Dataset, Tasks};

use crate::config::{Monitor, TrainConfig};
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

/// Cross-entropy and Dice loss, each with its share, of the voxels that have another label than an ignored one.
pub(crate) struct VoxelLoss {
    loss: Loss,
    classes: usize,
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
        let objective = match head {
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
        };
        if config.monitor == Monitor::Dice {
            objective.check_dice()?;
        }
        Ok(objective)
    }

    /// Checks that there are classes for [`dice`](Self::dice).
    fn check_dice(&self) -> Result<(), TrainError> {
        let problem = match self {
            Self::Voxels(loss) if loss.foreground().next().is_some() => return Ok(()),
            Self::Voxels(_) => "needs a class beside the background and the ignored one",
            Self::Classes(_) | Self::Numbers { .. } => {
                "is for networks that label voxels (head = \"voxels\")"
            }
        };
        Err(TrainError::settings("monitor", format!("\"dice\" {problem}; take \"loss\"")))
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
            Self::Voxels(loss) => loss.score(out, &batch.voxel_labels),
            Self::Numbers { huber: None } => numbers(out, batch, loss::mean_squared_error),
            Self::Numbers { huber: Some(delta) } => {
                numbers(out, batch, |found, target| loss::huber(found, target, *delta))
            }
        }
    }

    /// With the plain cross-entropy or squared error, and for labels of voxels the counts that [`dice`](Self::dice) takes
    /// the sums of.
    pub(crate) fn validation(
        &self,
        out: &Tensor,
        batch: &Batch,
    ) -> Result<(Score, Vec<f64>), TrainError> {
        let score = match self {
            Self::Classes(_) => right_answers(out, &batch.labels),
            Self::Voxels(loss) => match loss.counted(out, &batch.voxel_labels)? {
                Some((rows, labels)) => {
                    return Ok((right_answers(&rows, &labels)?, class_counts(&rows, &labels)?));
                }
                None => nothing(out),
            },
            Self::Numbers { .. } => numbers(out, batch, loss::mean_squared_error),
        };
        Ok((score?, vec![]))
    }

    /// The mean Dice coefficient of the classes of voxels that are foreground, of those that are present or predicted.
    pub(crate) fn dice(&self, counts: &[f64]) -> Option<f64> {
        match self {
            Self::Voxels(loss) => loss.mean_dice(counts),
            Self::Classes(_) | Self::Numbers { .. } => None,
        }
    }
}

/// For each class of logits M,K the rows that are of it and taken for it, that are of it, and that are taken for it.
fn class_counts(logits: &Tensor, labels: &[u32]) -> Result<Vec<f64>, TrainError> {
    let mut counts = vec![[0.0; 3]; logits.dim(1)?];
    for (&label, found) in labels.iter().zip(logits.argmax(1)?.to_vec1::<u32>()?) {
        counts[label as usize][0] += f64::from(u8::from(label == found));
        counts[label as usize][1] += 1.0;
        counts[found as usize][2] += 1.0;
    }
    Ok(counts.concat())
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
        Ok(Self { loss: Loss::new(config, &counts)?, classes, cross_entropy, dice, form, ignored })
    }

    /// The class of a voxel, if it counts.
    fn class(&self, label: Option<u8>) -> Option<u32> {
        label.map(u32::from).filter(|label| Some(*label) != self.ignored)
    }

    /// The classes but the background and the ignored one.
    fn foreground(&self) -> impl Iterator<Item = usize> {
        (1..self.classes).filter(|class| Some(*class as u32) != self.ignored)
    }

    fn mean_dice(&self, counts: &[f64]) -> Option<f64> {
        let of_class = |class: usize| {
            let &[right, labelled, found] = counts.get(3 * class..)?.first_chunk()?;
            (labelled + found > 0.0).then(|| 2.0 * right / (labelled + found))
        };
        let all: Vec<f64> = self.foreground().filter_map(of_class).collect();
        (!all.is_empty()).then(|| all.iter().sum::<f64>() / all.len() as f64)
    }

    /// Of logits N,K,D,H,W and as many labels as voxels.
    fn score(&self, out: &Tensor, labels: &[Option<u8>]) -> Result<Score, TrainError> {
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
            let classes = labels.iter().map(|label| self.class(*label).unwrap_or(NO_CLASS));
            let labels = Tensor::from_iter(classes, out.device())?;
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
        labels: &[Option<u8>],
    ) -> Result<Option<(Tensor, Vec<u32>)>, TrainError> {
        let rows = out.flatten_from(2)?.transpose(1, 2)?.contiguous()?.flatten_to(1)?;
        let counts = |(voxel, label): (u32, &Option<u8>)| Some((voxel, self.class(*label)?));
        let (kept, classes): (Vec<u32>, Vec<u32>) = (0..).zip(labels).filter_map(counts).unzip();
        match kept.len() {
            0 => Ok(None),
            all if all == labels.len() => Ok(Some((rows, classes))),
            _ => {
                let kept = Tensor::new(kept, rows.device())?;
                Ok(Some((rows.index_select(&kept, 0)?, classes)))
            }
        }
    }
}

/// What stands for the class of a voxel that does not count.
const NO_CLASS: u32 = u32::MAX;

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
    use crate::loss_config::ClassWeights;

    const LABELS: [Option<u8>; 8] =
        [Some(0), Some(1), Some(2), Some(2), Some(1), Some(0), Some(2), Some(1)];

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
            assert_eq!(value(&moved) == value(&still), label == Some(2), "{voxel}");
        }
        let var = logits(0, 0.0);
        let found = loss.score(var.as_tensor(), &LABELS).unwrap();
        let gradients = found.loss.backward().unwrap();
        let gradients = gradients.get(&var).unwrap().flatten_all().unwrap();
        for (i, gradient) in gradients.to_vec1::<f64>().unwrap().into_iter().enumerate() {
            assert_eq!(gradient == 0.0, LABELS[i / 12 * 4 + i % 4] == Some(2), "{i}");
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

    /// Two items of 1 × 2 × 2 voxels.
    fn batch(voxel_labels: &[Option<u8>]) -> Batch {
        Batch {
            items: vec![0, 1],
            dims: [1, 2, 2],
            values: vec![],
            labels: vec![],
            targets: vec![],
            voxel_labels: voxel_labels.to_vec(),
        }
    }

    #[test]
    fn coarser_levels_count_half() {
        let loss = VoxelLoss::new(&LossConfig { ignore: None, ..config() }, vec![2, 3, 3]).unwrap();
        let levels = [0.0, 0.8, -1.1].map(|by| logits(1, by).as_tensor().clone());
        let [a, b, c] = [0, 1, 2].map(|i| value(&loss.score(&levels[i], &LABELS).unwrap()));
        let batch = batch(&LABELS);
        let objective = Objective::Voxels(loss);
        let found = objective.training(&levels, &batch).unwrap();
        let expected = (a + 0.5 * b + 0.25 * c) / 1.75;
        assert!((value(&found) - expected).abs() < 1e-12 && a != b);
        let alone = objective.training(&levels[..1], &batch).unwrap();
        assert_eq!((value(&alone), alone.right), (a, found.right));
    }

    /// Edges H, W of two items of 1 × H × W voxels.
    const EDGES: [[usize; 2]; 2] = [[2, 2], [1, 3]];

    /// Logits and labels of these items in volumes of 1 × h × w voxels.
    fn padded(items: &[usize], [h, w]: [usize; 2]) -> (Var, Vec<Option<u8>>) {
        let (mut logits, mut labels) = (vec![], vec![]);
        for &item in items {
            for i in 0..3 * h * w {
                let (class, y, x) = (i / (h * w), i / w % h, i % w);
                logits.push(((31 * item + 7 * class + 3 * y + x) as f64 * 1.3).sin());
            }
            for (y, x) in (0..h * w).map(|i| (i / w, i % w)) {
                let inside = y < EDGES[item][0] && x < EDGES[item][1];
                labels.push(inside.then_some(((item + y + 2 * x) % 3) as u8));
            }
        }
        let logits = Tensor::from_vec(logits, (items.len(), 3, 1, h, w), &Device::Cpu).unwrap();
        (Var::from_tensor(&logits).unwrap(), labels)
    }

    fn gradient(loss: &Tensor, logits: &Var) -> Vec<f64> {
        let gradients = loss.backward().unwrap();
        gradients.get(logits).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The loss of a padded batch is that of its items one by one: with the weights of their voxels for the cross-entropy,
    /// as they are for the Dice loss of each item, and for that of a batch as of one volume with all voxels.
    #[test]
    fn padded_voxels_count_in_nothing() {
        let [(a, of_a), (b, of_b)] = [0, 1].map(|item| padded(&[item], EDGES[item]));
        let (both, of_both) = padded(&[0, 1], [2, 3]);
        let class_weights = Some(ClassWeights::Given(vec![0.5, 1.0, 3.0]));
        let entropy = LossConfig { class_weights, label_smoothing: 0.1, ..LossConfig::default() };
        let dice = |per_item| LossConfig {
            cross_entropy: 0.0,
            dice: 1.0,
            soft_dice: SoftDice { per_item, ..SoftDice::default() },
            ..LossConfig::default()
        };
        for (name, config) in [("entropy", entropy), ("items", dice(true)), ("batch", dice(false))]
        {
            let loss = VoxelLoss::new(&config, vec![1; 3]).unwrap();
            let score = |out: &Tensor, labels: &[Option<u8>]| loss.score(out, labels).unwrap();
            let [first, second] = [score(a.as_tensor(), &of_a), score(b.as_tensor(), &of_b)];
            let mean = |[v, w]: [f64; 2]| {
                let parts =
                    [first.loss.affine(v / (v + w), 0.0), second.loss.affine(w / (v + w), 0.0)];
                let [first, second] = parts.map(Result::unwrap);
                (first + second).unwrap()
            };
            let expected = match name {
                "entropy" => mean([first.weight, second.weight]),
                "items" => mean([1.0, 1.0]),
                _ => {
                    let row = |x: &Var, n: usize| x.as_tensor().reshape((1, 3, 1, 1, n)).unwrap();
                    let all = Tensor::cat(&[row(&a, 4), row(&b, 3)], 4).unwrap();
                    score(&all, &[&of_a[..], &of_b].concat()).loss
                }
            };
            let found = score(both.as_tensor(), &of_both);
            let difference = (&found.loss - &expected).unwrap().to_scalar::<f64>().unwrap();
            assert!(difference.abs() < 1e-12, "{name}: {difference}");
            assert!((found.weight - first.weight - second.weight).abs() < 1e-12);
            assert_eq!((found.answers, found.right), (7.0, first.right + second.right));
            let alone = [gradient(&expected, &a), gradient(&expected, &b)];
            for (i, gradient) in gradient(&found.loss, &both).into_iter().enumerate() {
                let (item, class, y, x) = (i / 18, i / 6 % 3, i / 3 % 2, i % 3);
                let [h, w] = EDGES[item];
                if y < h && x < w {
                    let expected = alone[item][(class * h + y) * w + x];
                    assert!((gradient - expected).abs() < 1e-12, "{name}: {gradient} {expected}");
                } else {
                    assert_eq!(gradient, 0.0, "{name}");
                }
            }
        }
    }

    #[test]
    fn the_dice_of_a_validation_is_that_of_the_voxels_of_foreground_that_count() {
        let found = [0, 1, 1, 2, 1, 0, 2, 2];
        let labels = [0, 1, 2, 2, 1, 1, 0, 0].map(Some);
        let logits = (0..24).map(|i| f64::from(u8::from(found[i / 12 * 4 + i % 4] == i / 4 % 3)));
        let logits = Tensor::from_iter(logits, &Device::Cpu).unwrap();
        let logits = logits.reshape((2, 3, 1, 2, 2)).unwrap();
        let dice = |ignore, labels: &[Option<u8>]| {
            let config = LossConfig { ignore, ..LossConfig::default() };
            let objective = Objective::Voxels(VoxelLoss::new(&config, vec![1; 3]).unwrap());
            let (_, counts) = objective.validation(&logits, &batch(labels)).unwrap();
            objective.dice(&counts)
        };
        let mut partly = labels;
        partly[6] = None;
        let close = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-12;
        // 2 · 2 / (3 + 3), and 2 · 1 / (2 + 3), or 2 · 1 / (2 + 2) without the voxel that has no label.
        assert!(close(dice(None, &labels), (2.0 / 3.0 + 2.0 / 5.0) / 2.0));
        assert!(close(dice(None, &partly), (2.0 / 3.0 + 1.0 / 2.0) / 2.0));
        // Without the two voxels of the ignored class 2 · 2 / (3 + 2).
        assert!(close(dice(Some(2), &labels), 4.0 / 5.0));
        assert_eq!(dice(None, &[None; 8]), None);
    }

    #[test]
    fn a_batch_of_ignored_voxels_changes_nothing() {
        let loss = VoxelLoss::new(&config(), vec![2, 3, 3]).unwrap();
        let var = logits(0, 0.0);
        let score = loss.score(var.as_tensor(), &[Some(2), None].repeat(4)).unwrap();
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
