//! Models that label voxels.

use std::collections::HashMap;

use nalgebra::{Affine3, Point3, Translation3, Vector3};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use steer3d_dataset::{Dataset, Split};
use steer3d_so3::{Irrep, Irreps};
use steer3d_volume::{Grid, Interpolation, Volume, VolumeError, resample_to};

use crate::EvalError;
use crate::evaluate::{Job, Progress, Run};
use crate::metrics::{Bootstrap, Estimate, argmax, mean, ratio};
use crate::predictor::Predictor;
use crate::protocol::{Condition, Mask, Protocol, Source, Transform};

/// What was measured of a model that labels voxels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoxelModel {
    /// Name of the model.
    pub name: String,
    /// Number of trained parameters.
    pub parameters: usize,
    /// The scores with each source under each condition, in the order of the protocol.
    pub scores: Vec<VoxelScores>,
    /// Every single volume, in the order of the items; not part of the JSON form.
    #[serde(skip)]
    pub volumes: Vec<VoxelVolume>,
}

/// How well voxels are labelled with one source under one condition.
///
/// Logits are turned and moved back first, y(p) = f(R x)(R p + t) by cubic splines, and the label of
/// a voxel is the largest of y, so that labels and answers are compared on the stored grid. Voxels whose place
/// R p + t lies outside the grid (or, with [`Mask::Ball`], outside the ball) are left out. Counts of voxels are
/// summed over items and transformations before ratios are taken. The first class is the background. `None`
/// stands for a ratio of nothing to nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoxelScores {
    /// What was transformed.
    pub source: Source,
    /// The condition.
    pub condition: Condition,
    /// Share of the voxels whose label is right.
    pub accuracy: Option<Estimate>,
    /// Share of the voxels of other classes than the background whose label is right.
    pub foreground_accuracy: Option<Estimate>,
    /// `accuracy` less that of the unrotated answers for the same voxels: what left the grid is in neither.
    pub accuracy_change: Option<Estimate>,
    /// The same of `foreground_accuracy`.
    pub foreground_accuracy_change: Option<Estimate>,
    /// Mean of Dice, 2 TP / (2 TP + FP + FN), over the classes that are present or predicted.
    pub dice: Option<Estimate>,
    /// Mean of the intersection over union, TP / (TP + FP + FN), over these classes.
    pub iou: Option<Estimate>,
    /// Share of the voxels whose label is the unrotated one, right or wrong.
    pub consistency: Option<Estimate>,
    /// The same over the voxels that are not background both here and unrotated.
    pub foreground_consistency: Option<Estimate>,
    /// Scores of each class, in the order of the class names.
    pub per_class: Vec<VoxelClassScores>,
    /// Number of voxels, \[true class\]\[predicted class\].
    pub confusion: Vec<Vec<u64>>,
    /// Share of all voxels that were compared.
    pub compared: f64,
}

/// How well the voxels of one class are labelled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoxelClassScores {
    /// Share of its voxels whose label is right.
    pub recall: Option<Estimate>,
    /// 2 TP / (2 TP + FP + FN).
    pub dice: Option<Estimate>,
    /// TP / (TP + FP + FN).
    pub iou: Option<Estimate>,
}

/// How well the voxels of one transformed item are labelled, as in [`VoxelScores`].
#[derive(Clone, Debug, PartialEq)]
pub struct VoxelVolume {
    /// What was transformed.
    pub source: Source,
    /// The condition.
    pub condition: Condition,
    /// Index of the item in the dataset.
    pub item: usize,
    /// Identifier of the item.
    pub id: String,
    /// What was done to it.
    pub transform: Transform,
    /// Share of the voxels whose label is right.
    pub accuracy: Option<f64>,
    /// Share of the voxels of other classes than the background whose label is right.
    pub foreground_accuracy: Option<f64>,
    /// Share of the voxels whose label is the unrotated one.
    pub consistency: Option<f64>,
    /// The same over the voxels that are not background both here and unrotated.
    pub foreground_consistency: Option<f64>,
}

/// Measures a model that labels voxels on one split of a dataset under `protocol`: the logits of
/// [`Predictor::logits`] are N,classes,D,H,W, with the classes of the voxel labels of the dataset. The search for
/// worst rotations is left out. No more than the logits of one batch is kept.
///
/// # Errors
/// As [`evaluate`](crate::evaluate), and [`EvalError::NoVoxelLabels`] or [`EvalError::VoxelClasses`] when the
/// dataset has no such labels or others than the model.
pub fn evaluate_voxels(
    model: &dyn Predictor,
    dataset: &Dataset,
    split: Split,
    protocol: &Protocol,
    progress: &dyn Fn(Progress),
) -> Result<VoxelModel, EvalError> {
    let protocol = Protocol { search: None, ..protocol.clone() };
    let run = Run { model, dataset, protocol: &protocol, items: dataset.indices(split) };
    check_classes(model, dataset)?;
    run.check_data(split)?;
    let (jobs, conditions) = (run.jobs(), protocol.conditions());
    let bootstrap = Bootstrap::new(protocol.seed, run.items.len(), protocol.resamples);
    let (mut done, total) = (0, protocol.sources.len() * jobs.len());
    let (mut scores, mut volumes) = (vec![], vec![]);
    for &source in &protocol.sources {
        let mut sums: Vec<Sums> =
            conditions.iter().map(|_| Sums::new(model.classes(), run.items.len())).collect();
        let (mut materials, mut references) = (HashMap::new(), HashMap::new());
        for jobs in jobs.chunks(protocol.batch) {
            let batch = run.volumes(source, jobs, &mut materials)?;
            let logits = run.logits(jobs, &batch, &dataset.meta().dims)?;
            for (job, count) in jobs.iter().zip(count(&run, jobs, &logits, &mut references)?) {
                volumes.push(count.volume(source, job, dataset));
                let condition = conditions.iter().position(|c| *c == job.condition);
                sums[condition.expect("a job has a condition of the protocol")]
                    .add(job.place, &count);
            }
            done += jobs.len();
            progress(Progress { done, total });
        }
        let results = conditions.iter().zip(&sums);
        scores.extend(results.map(|(&condition, s)| s.scores(source, condition, &bootstrap)));
    }
    Ok(VoxelModel { name: model.name().into(), parameters: model.parameters(), scores, volumes })
}

/// Names of the classes of the voxels of a dataset.
pub(crate) fn voxel_classes(dataset: &Dataset) -> Result<&[String], EvalError> {
    match dataset.tasks() {
        Some(tasks) if !tasks.voxel_classes.is_empty() => Ok(&tasks.voxel_classes),
        _ => Err(EvalError::NoVoxelLabels { dataset: dataset.meta().name.clone() }),
    }
}

fn check_classes(model: &dyn Predictor, dataset: &Dataset) -> Result<(), EvalError> {
    let (expected, found) = (voxel_classes(dataset)?.len(), model.classes());
    if expected == found {
        return Ok(());
    }
    let (model, dataset) = (model.name().to_owned(), dataset.meta().name.clone());
    Err(EvalError::VoxelClasses { model, dataset, expected, found })
}

/// The labels of an item: the right ones, and those that the model gives unrotated.
struct Reference {
    labels: Vec<u8>,
    unrotated: Vec<u8>,
}

/// Compares the answers of a batch. `references` keeps those of the items of the last batch; the unrotated
/// volume of an item comes first.
fn count(
    run: &Run<'_>,
    jobs: &[Job],
    logits: &[Vec<f32>],
    references: &mut HashMap<usize, Reference>,
) -> Result<Vec<Count>, EvalError> {
    references.retain(|item, _| jobs.iter().any(|job| job.item == *item));
    let (grid, classes) = (run.dataset.meta().grid()?, run.model.classes());
    for (job, logits) in jobs.iter().zip(logits) {
        if job.condition == Condition::Unrotated {
            let labels = run.dataset.voxel_labels(job.item)?;
            references.insert(job.item, Reference { labels, unrotated: largest(logits, classes) });
        }
    }
    let compare = |(job, logits): (&Job, &Vec<f32>)| {
        let back = moved(logits, classes, grid, &job.transform.map(grid).inverse(), BACK)?;
        let compared = compared(grid, &job.transform, run.protocol.mask);
        let (answers, reference) = (largest(&back, classes), &references[&job.item]);
        let mut count = Count::new(classes, answers.len());
        for (i, answer) in answers.into_iter().enumerate().filter(|(i, _)| compared[*i]) {
            count.add(reference.labels[i], answer, reference.unrotated[i]);
        }
        Ok(count)
    };
    jobs.par_iter().zip(logits).map(compare).collect()
}

/// Trilinear interpolation would blur what is as thin as a few voxels, and that is not the model's failure.
const BACK: Interpolation = Interpolation::Cubic;

/// Scalar fields, `channels` × D × H × W values, turned and moved.
pub(crate) fn moved(
    values: &[f32],
    channels: usize,
    grid: Grid,
    map: &Affine3<f64>,
    interpolation: Interpolation,
) -> Result<Vec<f32>, VolumeError> {
    let volume = Volume::centred(values.to_vec(), channels, grid)?;
    let scalars = Irreps::new([(channels, Irrep::so3(0))]).expect("scalars are irreps");
    let moved = resample_to(&volume, &scalars, grid, volume.origin(), map, interpolation)?;
    Ok(moved.into_data())
}

/// For each voxel the class with the largest logit, the first of equal ones.
pub(crate) fn largest(logits: &[f32], classes: usize) -> Vec<u8> {
    let voxels = logits.len() / classes;
    let mut row = vec![0.0; classes];
    let class = |voxel: usize| {
        row.iter_mut().enumerate().for_each(|(class, l)| *l = logits[class * voxels + voxel]);
        // The dataset has as many classes, and its labels are bytes.
        argmax(&row) as u8
    };
    (0..voxels).map(class).collect()
}

impl Transform {
    /// The map of positions x,y,z about the centre of a grid, in the unit of its voxel size.
    pub(crate) fn map(&self, grid: Grid) -> Affine3<f64> {
        let size = Vector3::from(grid.voxel_size());
        let shift = Translation3::from(Vector3::from(self.shift).component_mul(&size));
        Affine3::from_matrix_unchecked(shift.to_homogeneous() * self.rotation.to_homogeneous())
    }
}

/// For each voxel of the stored grid, whether its place after a transformation lies among the voxels of the
/// grid, and both in the ball that is kept, if only that is.
fn compared(grid: Grid, transform: &Transform, mask: Mask) -> Vec<bool> {
    // Places are exact to rounding.
    const SLACK: f64 = 1e-6;
    let (map, centre) = (transform.map(grid), Vector3::from(grid.centre()));
    let size = Vector3::from(grid.voxel_size());
    let radius = grid.dims().into_iter().min().unwrap_or(0) as f64 / 2.0;
    let kept = |p: &Vector3<f64>| match mask {
        Mask::None => (0..3).all(|i| p[i].abs() <= centre[i] + SLACK),
        Mask::Ball => p.norm() <= radius + SLACK,
    };
    let [depth, height, width] = grid.dims();
    let mut all = Vec::with_capacity(depth * height * width);
    for z in 0..depth {
        for y in 0..height {
            for x in 0..width {
                let voxel = Vector3::new(x as f64, y as f64, z as f64) - centre;
                let place = map * Point3::from(voxel.component_mul(&size));
                all.push(kept(&voxel) && kept(&place.coords.component_div(&size)));
            }
        }
    }
    all
}

/// Counts of the voxels of one volume.
struct Count {
    classes: usize,
    /// All of them, compared or not.
    voxels: usize,
    /// classes × classes: true, predicted.
    confusion: Vec<u64>,
    /// [`SAME`] and so on.
    ends: [u64; ENDS],
}

/// Voxels whose label is the unrotated one.
const SAME: usize = 0;
/// Those of them that are not background.
const SAME_FOREGROUND: usize = 1;
/// Voxels that are not background both times.
const FOREGROUND: usize = 2;
/// Voxels that are labelled right unrotated.
const RIGHT_BEFORE: usize = 3;
/// Those of them that are not background.
const RIGHT_BEFORE_FOREGROUND: usize = 4;
/// How many such counts there are.
const ENDS: usize = 5;

impl Count {
    fn new(classes: usize, voxels: usize) -> Self {
        let confusion = vec![0; classes * classes];
        Self { classes, voxels, confusion, ends: [0; ENDS] }
    }

    fn add(&mut self, label: u8, answer: u8, unrotated: u8) {
        self.confusion[usize::from(label) * self.classes + usize::from(answer)] += 1;
        let (same, foreground) = (answer == unrotated, answer > 0 || unrotated > 0);
        let right_before = unrotated == label;
        let counted =
            [same, same && foreground, foreground, right_before, right_before && label > 0];
        self.ends.iter_mut().zip(counted).for_each(|(sum, one)| *sum += u64::from(one));
    }

    fn right(&self, class: usize) -> u64 {
        self.confusion[class * (self.classes + 1)]
    }

    fn labelled(&self, class: usize) -> u64 {
        self.confusion[class * self.classes..][..self.classes].iter().sum()
    }

    fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|label| self.confusion[label * self.classes + class]).sum()
    }

    fn volume(&self, source: Source, job: &Job, dataset: &Dataset) -> VoxelVolume {
        let share = |part: u64, whole: u64| ratio(part as f64, whole as f64);
        let accuracy = |first: usize| {
            let classes = first..self.classes;
            let right = classes.clone().map(|class| self.right(class)).sum();
            share(right, classes.map(|class| self.labelled(class)).sum())
        };
        VoxelVolume {
            source,
            condition: job.condition,
            item: job.item,
            id: dataset.ids()[job.item].clone(),
            transform: job.transform,
            accuracy: accuracy(0),
            foreground_accuracy: accuracy(1),
            consistency: share(self.ends[SAME], self.confusion.iter().sum()),
            foreground_consistency: share(self.ends[SAME_FOREGROUND], self.ends[FOREGROUND]),
        }
    }
}

/// Counts under one condition, summed over the transformations of an item.
struct Sums {
    classes: usize,
    /// Voxels of all volumes.
    voxels: usize,
    confusion: Vec<u64>,
    /// For each item the columns [`RIGHT`], [`LABELLED`] and [`PREDICTED`] of each class, and then the
    /// [`ENDS`] others.
    items: Vec<Vec<f64>>,
}

const RIGHT: usize = 0;
const LABELLED: usize = 1;
const PREDICTED: usize = 2;

impl Sums {
    fn new(classes: usize, items: usize) -> Self {
        let confusion = vec![0; classes * classes];
        Self { classes, voxels: 0, confusion, items: vec![vec![0.0; 3 * classes + ENDS]; items] }
    }

    fn add(&mut self, place: usize, count: &Count) {
        self.voxels += count.voxels;
        self.confusion.iter_mut().zip(&count.confusion).for_each(|(sum, n)| *sum += n);
        let of_class = |k| [count.right(k), count.labelled(k), count.predicted(k)];
        let columns = (0..self.classes).flat_map(of_class);
        let columns = columns.chain(count.ends);
        // Whole numbers far below 2^53 are exact.
        self.items[place].iter_mut().zip(columns).for_each(|(sum, n)| *sum += n as f64);
    }

    fn scores(&self, source: Source, condition: Condition, bootstrap: &Bootstrap) -> VoxelScores {
        let classes = self.classes;
        let column = |weights: &[f64], i: usize| -> f64 {
            self.items.iter().zip(weights).map(|(item, weight)| weight * item[i]).sum()
        };
        let of = |weights: &[f64], class: usize, what: usize| column(weights, 3 * class + what);
        let all = |weights: &[f64], first: usize, what: usize| -> f64 {
            (first..classes).map(|class| of(weights, class, what)).sum()
        };
        let end = |weights: &[f64], what: usize| column(weights, 3 * classes + what);
        let dice = |w: &[f64], class: usize| {
            ratio(2.0 * of(w, class, RIGHT), of(w, class, LABELLED) + of(w, class, PREDICTED))
        };
        let iou = |w: &[f64], class: usize| {
            let right = of(w, class, RIGHT);
            ratio(right, of(w, class, LABELLED) + of(w, class, PREDICTED) - right)
        };
        let per_class = (0..classes).map(|class| VoxelClassScores {
            recall: bootstrap.estimate(|w| ratio(of(w, class, RIGHT), of(w, class, LABELLED))),
            dice: bootstrap.estimate(|w| dice(w, class)),
            iou: bootstrap.estimate(|w| iou(w, class)),
        });
        let change = |first: usize, before: usize| {
            bootstrap
                .estimate(|w| ratio(all(w, first, RIGHT) - end(w, before), all(w, first, LABELLED)))
        };
        let compared: u64 = self.confusion.iter().sum();
        let confusion = self.confusion.chunks(classes).map(<[u64]>::to_vec).collect();
        VoxelScores {
            source,
            condition,
            accuracy: bootstrap.estimate(|w| ratio(all(w, 0, RIGHT), all(w, 0, LABELLED))),
            foreground_accuracy: bootstrap
                .estimate(|w| ratio(all(w, 1, RIGHT), all(w, 1, LABELLED))),
            accuracy_change: change(0, RIGHT_BEFORE),
            foreground_accuracy_change: change(1, RIGHT_BEFORE_FOREGROUND),
            dice: bootstrap.estimate(|w| mean((0..classes).filter_map(|class| dice(w, class)))),
            iou: bootstrap.estimate(|w| mean((0..classes).filter_map(|class| iou(w, class)))),
            consistency: bootstrap.estimate(|w| ratio(end(w, SAME), all(w, 0, LABELLED))),
            foreground_consistency: bootstrap
                .estimate(|w| ratio(end(w, SAME_FOREGROUND), end(w, FOREGROUND))),
            per_class: per_class.collect(),
            confusion,
            compared: compared as f64 / self.voxels as f64,
        }
    }
}
