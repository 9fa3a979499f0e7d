//! Classes of voxels.

use nalgebra::{Point3, Vector3};
use steer3d_dataset::Dataset;
use steer3d_volume::Grid;

use crate::answer::{Answer, Found, Given, Reference, Rows};
use crate::error::EvalError;
use crate::fields::each_voxel;
use crate::measure::{Entry, Unit};
use crate::metrics::{Bootstrap, Estimate, mean, ratio};
use crate::predictor::AnswerKind;
use crate::protocol::{Mask, Protocol, Transform};
use crate::spec::is_labelled;
use crate::surfaces::{SurfaceScores, Surfaces};

/// The measures of labels of voxels. Counts of voxels are summed over items and transformations before ratios
/// are taken; distances of surfaces ([`SurfaceScores`]) are measured in each volume.
/// The first class is the background. A ratio of nothing to nothing is not defined.
pub(crate) const MEASURES: &[Entry<Sums>] = &[
    Entry::new(
        "accuracy",
        "all voxels %",
        Unit::Share,
        "share of the voxels whose label is right",
        |s, b, _| s.right(b, |count| count.accuracy(0)),
    ),
    Entry::new(
        "foreground_accuracy",
        "accuracy %",
        Unit::Share,
        "share of the voxels of other classes than the background that are labelled right",
        |s, b, _| s.right(b, |count| count.accuracy(1)),
    ),
    Entry::new(
        "accuracy_change",
        "all voxels, change",
        Unit::Points,
        "accuracy of all voxels less that of the unrotated answers for the same voxels: what left the grid is in \
         neither",
        |s, b, _| s.right(b, |count| count.change(0, RIGHT_BEFORE)),
    ),
    Entry::new(
        "foreground_accuracy_change",
        "change, points",
        Unit::Points,
        "the same of the voxels of other classes than the background",
        |s, b, _| s.right(b, |count| count.change(1, RIGHT_BEFORE_FOREGROUND)),
    ),
    Entry::new(
        "dice",
        "Dice",
        Unit::Coefficient,
        "2 TP / (2 TP + FP + FN) of the voxels of a class, mean over the classes that are present or predicted",
        |s, b, _| s.right(b, |count| count.mean(Count::dice)),
    ),
    Entry::new(
        "iou",
        "IoU",
        Unit::Coefficient,
        "TP / (TP + FP + FN), mean over these classes",
        |s, b, _| s.right(b, |count| count.mean(Count::iou)),
    ),
    Entry::new(
        "nsd",
        "NSD",
        Unit::Coefficient,
        "normalised surface Dice: the share of the voxels of both surfaces of a class, that of the labels and that \
         of the answers, that lie within the tolerance of the other one, mean over the volumes with such a surface; \
         mean over the classes but the background",
        |s, b, _| s.right(b, |count| count.mean(Count::nsd)),
    ),
    Entry::new(
        "hd95",
        "HD95",
        Unit::Length,
        "the larger of the 95 % quantiles of the distances from one of these surfaces to the other, or the diagonal of \
         the grid where there is only one of them, mean over the same volumes and classes, in the unit of the voxel \
         size",
        |s, b, _| s.right(b, |count| count.mean(Count::hd95)),
    ),
    Entry::new(
        "consistency",
        "same label, all voxels %",
        Unit::Share,
        "share of the voxels whose label is the one that the model gives unrotated, right or wrong",
        |s, b, _| s.estimate(b, |count| ratio(count.end(SAME), count.sum(0, Count::labelled))),
    ),
    Entry::new(
        "foreground_consistency",
        "same label %",
        Unit::Share,
        "the same over the voxels that are not background both here and unrotated",
        |s, b, _| s.estimate(b, |count| ratio(count.end(SAME_FOREGROUND), count.end(FOREGROUND))),
    ),
    Entry::new(
        "compared",
        "compared %",
        Unit::Share,
        "share of all voxels that were compared: the others have their place R p + t outside the grid",
        |s: &Sums, _, _| Some(Estimate::exact(s.compared)),
    )
    .without_interval(),
    Entry::new(
        "recall",
        "accuracy %",
        Unit::Share,
        "share of the voxels of the class that are labelled right",
        |s: &Sums, b, class| {
            s.right(b, |count| ratio(count.right(class), count.labelled(class)))
        },
    )
    .of_class(),
    Entry::new(
        "dice",
        "Dice",
        Unit::Coefficient,
        "2 TP / (2 TP + FP + FN) of the voxels of the class",
        |s: &Sums, b, class| s.right(b, |count| count.dice(class)),
    )
    .of_class(),
    Entry::new(
        "iou",
        "IoU",
        Unit::Coefficient,
        "TP / (TP + FP + FN) of the voxels of the class",
        |s: &Sums, b, class| s.right(b, |count| count.iou(class)),
    )
    .of_class(),
    Entry::new(
        "nsd",
        "NSD",
        Unit::Coefficient,
        "normalised surface Dice of the class, mean over volumes",
        |s: &Sums, b, class| s.right(b, |count| count.nsd(class)),
    )
    .of_class(),
    Entry::new(
        "hd95",
        "HD95",
        Unit::Length,
        "larger 95 % quantile of the distances between the surfaces of the class, mean over volumes",
        |s: &Sums, b, class| s.right(b, |count| count.hd95(class)),
    )
    .of_class(),
];

/// The labels of the voxels of the items of a split.
///
/// Answers are turned and moved [`Back`](crate::labels::Back) first, so that they are compared with labels on the stored
/// grid. Voxels whose place R p + t lies outside the grid (or, with [`Mask::Ball`], outside the ball) are left out.
pub(crate) struct Voxels<'a> {
    dataset: &'a Dataset,
    items: &'a [usize],
    names: Vec<String>,
    /// Whether the dataset has labels: else those unrotated stand in their place.
    labelled: bool,
    /// Of the surface Dice.
    tolerance: Option<f64>,
    mask: Mask,
}

impl<'a> Voxels<'a> {
    pub(crate) fn new(
        dataset: &'a Dataset,
        items: &'a [usize],
        names: Vec<String>,
        protocol: &Protocol,
    ) -> Self {
        let labelled = is_labelled(dataset, AnswerKind::Voxels);
        let (mask, tolerance) = (protocol.mask, protocol.surface_tolerance);
        Self { dataset, items, names, labelled, tolerance, mask }
    }

    fn grid(&self, place: usize) -> Grid {
        self.dataset.grid(self.items[place])
    }

    fn count<'b>(&self, row: &'b [f64]) -> Count<'b> {
        Count { classes: self.names.len(), row }
    }
}

impl Answer for Voxels<'_> {
    fn row_len(&self) -> usize {
        let classes = self.names.len();
        classes.pow(2) + ENDS + SURFACES * classes.saturating_sub(1)
    }

    fn has_reference(&self) -> bool {
        true
    }

    fn reference(&self, place: usize, unrotated: &[u8]) -> Result<Reference, EvalError> {
        let unrotated = unrotated.to_vec();
        let labels = match self.labelled {
            true => self.dataset.voxel_labels(self.items[place])?,
            false => unrotated.clone(),
        };
        Ok(Reference { labels, unrotated })
    }

    /// The counts of a [`Count`].
    fn row(
        &self,
        place: usize,
        transform: &Transform,
        answer: &Given,
        reference: Option<&Reference>,
    ) -> Result<Vec<f64>, EvalError> {
        let Some(reference) = reference else { return Ok(vec![0.0; self.row_len()]) };
        let classes = self.names.len();
        let (grid, answers) = (self.grid(place), answer.labels());
        let compared = compared(grid, transform, self.mask);
        let mut counts = vec![0; classes * classes + ENDS];
        let (confusion, ends) = counts.split_at_mut(classes * classes);
        for (i, &answer) in answers.iter().enumerate().filter(|(i, _)| compared[*i]) {
            let (label, unrotated) = (reference.labels[i], reference.unrotated[i]);
            confusion[usize::from(label) * classes + usize::from(answer)] += 1;
            let (same, foreground) = (answer == unrotated, answer > 0 || unrotated > 0);
            let right_before = unrotated == label;
            let counted =
                [same, same && foreground, foreground, right_before, right_before && label > 0];
            ends.iter_mut().zip(counted).for_each(|(sum, one)| *sum += u64::from(one));
        }
        // Whole numbers far below 2^53 are exact.
        let mut row: Vec<f64> = counts.into_iter().map(|count| count as f64).collect();
        if self.labelled {
            let surfaces = Surfaces::new(grid, self.tolerance);
            let scores = surfaces.scores(&reference.labels, answers, &compared, classes)?;
            let kept = |s: SurfaceScores| [1.0, s.dice, s.hd95];
            row.extend(scores.into_iter().flat_map(|s| s.map_or([0.0; SURFACES], kept)));
        }
        row.resize(self.row_len(), 0.0);
        Ok(row)
    }

    /// The mean of Dice over the classes that are present or predicted.
    fn margin(&self, _place: usize, row: &[f64], _unrotated: &[f64]) -> f64 {
        self.count(row).mean(Count::dice).unwrap_or(1.0)
    }

    /// The share of the voxels of other classes than the background that are labelled right, of all where there
    /// are none; without labels of those that are not background both times, as unrotated.
    fn score(&self, _place: usize, row: &[f64], _unrotated: &[f64]) -> f64 {
        let count = self.count(row);
        if !self.labelled {
            return ratio(count.end(SAME_FOREGROUND), count.end(FOREGROUND)).unwrap_or(1.0);
        }
        count.accuracy(1).or(count.accuracy(0)).unwrap_or(1.0)
    }

    fn found(&self, rows: &Rows<'_>, _: Option<&Rows<'_>>, bootstrap: &Bootstrap) -> Found {
        let classes = self.names.len();
        let of_item = |rows: &Vec<&[f64]>| sum(rows.iter().map(|row| (*row, 1.0)));
        let items: Vec<Vec<f64>> = rows.iter().map(of_item).collect();
        let whole = sum(items.iter().map(|item| (&item[..], 1.0)));
        let counts = &whole[..classes * classes];
        let of_place =
            |(place, rows): (usize, &Vec<&[f64]>)| rows.len() * self.grid(place).voxels();
        let voxels: usize = rows.iter().enumerate().map(of_place).sum();
        let compared = counts.iter().sum::<f64>() / voxels as f64;
        let sums = Sums { classes, labelled: self.labelled, items, compared };
        let of_class = |row: &[f64]| row.iter().map(|count| *count as u64).collect();
        let confusion = counts.chunks(classes).map(of_class).collect();
        let measures = Entry::all(MEASURES, &sums, bootstrap, &self.names);
        (measures, self.labelled.then_some(confusion))
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
    each_voxel(grid.dims(), |voxel| {
        let place = map * Point3::from(voxel.component_mul(&size));
        kept(&voxel) && kept(&place.coords.component_div(&size))
    })
}

/// Counts of the voxels of one volume: classes × classes, true and predicted, then [`SAME`] and so on; for each class
/// but the background the number of volumes with a surface of it, and the sums of its scores over them.
struct Count<'a> {
    classes: usize,
    row: &'a [f64],
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
/// How many numbers of surfaces a class has.
const SURFACES: usize = 3;

impl Count<'_> {
    fn right(&self, class: usize) -> f64 {
        self.row[class * (self.classes + 1)]
    }

    fn labelled(&self, class: usize) -> f64 {
        self.row[class * self.classes..][..self.classes].iter().sum()
    }

    fn predicted(&self, class: usize) -> f64 {
        (0..self.classes).map(|label| self.row[label * self.classes + class]).sum()
    }

    fn end(&self, what: usize) -> f64 {
        self.row[self.classes * self.classes + what]
    }

    /// The sum of a count over the classes from `first` on.
    fn sum(&self, first: usize, count: impl Fn(&Self, usize) -> f64) -> f64 {
        (first..self.classes).map(|class| count(self, class)).sum()
    }

    /// Share of the voxels of the classes from `first` on that are labelled right.
    fn accuracy(&self, first: usize) -> Option<f64> {
        ratio(self.sum(first, Self::right), self.sum(first, Self::labelled))
    }

    /// That share less the one of the unrotated answers, `before` of which are right.
    fn change(&self, first: usize, before: usize) -> Option<f64> {
        let right = self.sum(first, Self::right) - self.end(before);
        ratio(right, self.sum(first, Self::labelled))
    }

    fn dice(&self, class: usize) -> Option<f64> {
        ratio(2.0 * self.right(class), self.labelled(class) + self.predicted(class))
    }

    /// The mean over the classes that are present or predicted.
    fn mean(&self, value: impl Fn(&Self, usize) -> Option<f64>) -> Option<f64> {
        mean((0..self.classes).filter_map(|class| value(self, class)))
    }

    fn nsd(&self, class: usize) -> Option<f64> {
        let [volumes, dice, _] = self.surfaces(class)?;
        ratio(dice, volumes)
    }

    fn hd95(&self, class: usize) -> Option<f64> {
        let [volumes, _, hd95] = self.surfaces(class)?;
        ratio(hd95, volumes)
    }

    fn surfaces(&self, class: usize) -> Option<[f64; SURFACES]> {
        let first = self.classes * self.classes + ENDS + SURFACES * class.checked_sub(1)?;
        self.row[first..][..SURFACES].try_into().ok()
    }

    fn iou(&self, class: usize) -> Option<f64> {
        let right = self.right(class);
        ratio(right, self.labelled(class) + self.predicted(class) - right)
    }
}

/// Counts under one condition.
pub(crate) struct Sums {
    classes: usize,
    labelled: bool,
    /// For each item the counts of a [`Count`], summed over its transformations.
    items: Vec<Vec<f64>>,
    /// Share of all voxels that were compared.
    compared: f64,
}

impl Sums {
    /// An estimate that labels are needed for.
    fn right(
        &self,
        bootstrap: &Bootstrap,
        value: impl Fn(&Count<'_>) -> Option<f64> + Sync,
    ) -> Option<Estimate> {
        self.estimate(bootstrap, value).filter(|_| self.labelled)
    }

    fn estimate(
        &self,
        bootstrap: &Bootstrap,
        value: impl Fn(&Count<'_>) -> Option<f64> + Sync,
    ) -> Option<Estimate> {
        bootstrap.estimate(|weights| {
            let row = sum(self.items.iter().map(Vec::as_slice).zip(weights.iter().copied()));
            value(&Count { classes: self.classes, row: &row })
        })
    }
}

/// The sum of rows, each with its weight; that of counts is exact, since they and weights are whole.
fn sum<'a>(rows: impl Iterator<Item = (&'a [f64], f64)>) -> Vec<f64> {
    let mut sum = vec![];
    for (row, weight) in rows {
        sum.resize(row.len(), 0.0);
        sum.iter_mut().zip(row).for_each(|(sum, count)| *sum += weight * count);
    }
    sum
}
