//! Classification metrics on plain arrays, and bootstrap intervals over items.
//!
//! Every metric takes weights, so that a bootstrap resample (how often each item was drawn) and
//! the plain value (weight 1 for every item) go through the same code.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use steer3d_so3::Stream;

/// A value with the ends of its 95 % bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value on the items as they are.
    pub value: f64,
    /// 2.5 % quantile of the value over the resamples.
    pub low: f64,
    /// 97.5 % quantile of the value over the resamples.
    pub high: f64,
}

impl Estimate {
    /// A value without an interval: its ends are the value.
    pub fn exact(value: f64) -> Self {
        Self { value, low: value, high: value }
    }

    /// A value with the interval of those of resamples, without one where there are none.
    pub(crate) fn of(value: f64, mut resampled: Vec<f64>) -> Self {
        resampled.sort_by(f64::total_cmp);
        match &resampled[..] {
            [] => Self::exact(value),
            sorted => Self { value, low: quantile(sorted, 0.025), high: quantile(sorted, 0.975) },
        }
    }

    /// The image under a growing function.
    #[must_use]
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self { value: f(self.value), low: f(self.low), high: f(self.high) }
    }
}

/// Percentile bootstrap over items (Efron 1979, <https://doi.org/10.1214/aos/1176344552>).
///
/// Resample b draws as many items as there are, with replacement, from the stream
/// (seed, "bootstrap", \[b\]). All predictions of an item, one for each of its rotations, are drawn
/// together, since they are not independent.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    items: usize,
    /// For each resample, how often each item was drawn.
    draws: Vec<Vec<u32>>,
}

impl Bootstrap {
    /// Draws `resamples` resamples of `items` items.
    pub fn new(seed: u64, items: usize, resamples: usize) -> Self {
        let draw = |b: usize| {
            let mut stream = Stream::new(seed, "bootstrap", &[b as u64]);
            let mut counts = vec![0; items];
            for _ in 0..items {
                counts[stream.below(items)] += 1;
            }
            counts
        };
        Self { items, draws: (0..resamples).into_par_iter().map(draw).collect() }
    }

    /// The value of `statistic` with weight 1 for every item, and its interval over the
    /// resamples. `None` when the value is undefined; resamples on which the statistic is
    /// undefined (a class may be missing) are left out, and with none left both ends are the
    /// value.
    pub fn estimate(&self, statistic: impl Fn(&[f64]) -> Option<f64> + Sync) -> Option<Estimate> {
        let value = statistic(&vec![1.0; self.items])?;
        let resampled = |counts: &Vec<u32>| {
            statistic(&counts.iter().map(|&count| f64::from(count)).collect::<Vec<_>>())
        };
        Some(Estimate::of(value, self.draws.par_iter().filter_map(resampled).collect()))
    }

    /// Mean over items of `values`, one value for each item, with its interval.
    ///
    /// # Panics
    /// If there are no items.
    pub fn mean(&self, values: &[f64]) -> Estimate {
        self.estimate(|weights| weighted_mean(values, weights))
            .expect("a bootstrap over at least one item has a mean")
    }
}

/// Quantile of sorted values with linear interpolation between them (NumPy's default).
pub(crate) fn quantile(sorted: &[f64], level: f64) -> f64 {
    let position = level * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

fn weighted_mean(values: &[f64], weights: &[f64]) -> Option<f64> {
    let total: f64 = weights.iter().sum();
    let sum: f64 = values.iter().zip(weights).map(|(value, weight)| value * weight).sum();
    (total > 0.0).then(|| sum / total)
}

/// Weighted counts of predictions: entry \[true class\]\[predicted class\].
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion(Vec<Vec<f64>>);

impl Confusion {
    /// Counts the predictions of every item, each with its item's weight.
    ///
    /// `labels` and `weights` have one entry for each item, `predictions` one list for each item.
    pub fn new(
        labels: &[usize],
        predictions: &[Vec<usize>],
        weights: &[f64],
        classes: usize,
    ) -> Self {
        let mut counts = vec![vec![0.0; classes]; classes];
        for ((&label, predicted), weight) in labels.iter().zip(predictions).zip(weights) {
            for &class in predicted {
                counts[label][class] += weight;
            }
        }
        Self(counts)
    }

    /// The counts, \[true class\]\[predicted class\].
    pub fn counts(&self) -> &[Vec<f64>] {
        &self.0
    }

    fn actual(&self, class: usize) -> f64 {
        self.0[class].iter().sum()
    }

    fn predicted(&self, class: usize) -> f64 {
        self.0.iter().map(|row| row[class]).sum()
    }

    /// Share of predictions that are right; `None` without predictions.
    pub fn accuracy(&self) -> Option<f64> {
        let right = (0..self.0.len()).map(|class| self.0[class][class]).sum();
        ratio(right, self.0.iter().flatten().sum())
    }

    /// Share of the predictions for items of `class` that are right (the per-class accuracy);
    /// `None` when there is no such item.
    pub fn recall(&self, class: usize) -> Option<f64> {
        ratio(self.0[class][class], self.actual(class))
    }

    /// Share of the predictions of `class` that are right; `None` when it is never predicted.
    pub fn precision(&self, class: usize) -> Option<f64> {
        ratio(self.0[class][class], self.predicted(class))
    }

    /// Mean recall of the classes that have items; `None` when none has.
    pub fn balanced_accuracy(&self) -> Option<f64> {
        mean((0..self.0.len()).filter_map(|class| self.recall(class)))
    }

    /// F1 of one class, 2 TP / (2 TP + FP + FN); `None` for a class that is neither present nor
    /// predicted.
    pub fn f1(&self, class: usize) -> Option<f64> {
        ratio(2.0 * self.0[class][class], self.actual(class) + self.predicted(class))
    }

    /// Mean F1 of the classes that are present or predicted.
    pub fn macro_f1(&self) -> Option<f64> {
        mean((0..self.0.len()).filter_map(|class| self.f1(class)))
    }
}

pub(crate) fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

pub(crate) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    ratio(values.iter().sum(), values.len() as f64)
}

/// Scores in ascending order, ready for the area under the ROC curve under any item weights.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// (item, positive) of groups of equal score, in ascending order.
    ties: Vec<Vec<(usize, bool)>>,
}

impl Ranking {
    /// Sorts samples of (score, item, whether the item is of the positive class).
    pub fn new(mut samples: Vec<(f64, usize, bool)>) -> Self {
        samples.sort_by(|a, b| a.0.total_cmp(&b.0));
        let ties = samples
            .chunk_by(|a, b| a.0 == b.0)
            .map(|group| group.iter().map(|&(_, item, positive)| (item, positive)).collect())
            .collect();
        Self { ties }
    }

    /// Area under the ROC curve: the probability that a positive sample scores above a negative
    /// one, ties counted half (Hanley and McNeil 1982,
    /// <https://doi.org/10.1148/radiology.143.1.7063747>). `None` unless both kinds are present.
    pub fn auc(&self, weights: &[f64]) -> Option<f64> {
        let (mut positives, mut negatives, mut ordered) = (0.0, 0.0, 0.0);
        for group in &self.ties {
            let (mut up, mut down) = (0.0, 0.0);
            for &(item, positive) in group {
                *(if positive { &mut up } else { &mut down }) += weights[item];
            }
            ordered += up * (negatives + 0.5 * down);
            positives += up;
            negatives += down;
        }
        ratio(ordered, positives * negatives)
    }
}

/// AUC of a classifier: of class 1 for two classes, else the mean over the classes of one against
/// the rest, classes without an item left out.
pub fn macro_auc(rankings: &[Ranking], weights: &[f64]) -> Option<f64> {
    match rankings {
        [_, one] => one.auc(weights),
        _ => mean(rankings.iter().filter_map(|ranking| ranking.auc(weights))),
    }
}

/// One prediction for the calibration error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Confidence {
    /// Index of the item.
    pub item: usize,
    /// Probability that the model gives to the class that it predicts.
    pub probability: f64,
    /// Whether that class is right.
    pub right: bool,
}

/// Expected calibration error: the mean over predictions of |share of right ones - mean probability|
/// in their bin, of 15 of equal width (Guo, Pleiss, Sun and Weinberger 2017,
/// <https://arxiv.org/abs/1706.04599>, eq. 3). `None` without predictions.
pub fn calibration_error(predictions: &[Confidence], weights: &[f64]) -> Option<f64> {
    const BINS: usize = 15;
    let (mut gaps, mut total) = ([0.0; BINS], 0.0);
    for p in predictions {
        let bin = ((p.probability * BINS as f64) as usize).min(BINS - 1);
        gaps[bin] += weights[p.item] * (f64::from(u8::from(p.right)) - p.probability);
        total += weights[p.item];
    }
    ratio(gaps.iter().map(|gap| gap.abs()).sum(), total)
}

/// p value of the two-sided sign-flip test that the mean of paired `differences` is 0 (Fisher 1935):
/// the share of `flips` random choices of signs, and the one observed, whose mean is as far from 0.
/// Choice b draws from the stream (seed, "sign flips", \[b\]).
pub fn sign_flip_test(differences: &[f64], seed: u64, flips: usize) -> f64 {
    let observed = differences.iter().sum::<f64>().abs();
    let as_far = |b: &usize| {
        let mut stream = Stream::new(seed, "sign flips", &[*b as u64]);
        let flip = |d: &f64| if stream.below(2) == 0 { *d } else { -d };
        let sum: f64 = differences.iter().map(flip).sum();
        // Differences are shares with few values: equal sums may differ in their last bits.
        sum.abs() >= observed - 1e-9
    };
    let count = (0..flips).into_par_iter().filter(as_far).count();
    (1 + count) as f64 / (1 + flips) as f64
}

/// Softmax of one row of logits, whose differences are taken in f64.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let powers: Vec<f64> = logits.iter().map(|&l| (f64::from(l) - largest).exp()).collect();
    let total: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / total).collect()
}

/// For each voxel what `label` makes of the class with the largest of the values, class by class, the first of equal
/// ones.
pub fn largest<L: Send>(
    values: &[f32],
    classes: usize,
    label: impl Fn(usize) -> L + Sync,
) -> Vec<L> {
    let voxels = values.len() / classes;
    let best = |voxel: usize| {
        let value = |class: usize| values[class * voxels + voxel];
        (1..classes).fold(0, |best, class| if value(class) > value(best) { class } else { best })
    };
    (0..voxels).into_par_iter().map(|voxel| label(best(voxel))).collect()
}

/// Index of the largest logit, the first of equal ones.
pub fn argmax<T: PartialOrd>(values: &[T]) -> usize {
    (1..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn confusion(labels: &[usize], predicted: &[usize], classes: usize) -> Confusion {
        let predictions: Vec<Vec<usize>> = predicted.iter().map(|&p| vec![p]).collect();
        Confusion::new(labels, &predictions, &vec![1.0; labels.len()], classes)
    }

    #[test]
    fn hand_computed_scores() {
        // Class 0: 3 of 4 right; class 1: 1 of 2; class 2: no items, predicted once.
        let c = confusion(&[0, 0, 0, 0, 1, 1], &[0, 0, 0, 1, 1, 2], 3);
        assert_eq!(c.counts(), [[3.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]);
        assert_eq!(c.accuracy(), Some(4.0 / 6.0));
        assert_eq!(c.recall(0), Some(0.75));
        assert_eq!(c.recall(2), None);
        assert_eq!(c.precision(1), Some(0.5));
        assert_eq!(c.balanced_accuracy(), Some(0.625));
        let f1 = [6.0 / 7.0, 2.0 / 4.0, 0.0];
        assert_eq!(c.f1(2), Some(0.0));
        assert!((c.macro_f1().unwrap() - f1.iter().sum::<f64>() / 3.0).abs() < 1e-15);
    }

    #[test]
    fn f1_leaves_out_a_class_that_never_occurs() {
        let c = confusion(&[0, 1], &[0, 1], 3);
        assert_eq!(c.f1(2), None);
        assert_eq!(c.macro_f1(), Some(1.0));
    }

    #[test]
    fn nothing_to_count_is_undefined() {
        let c = confusion(&[], &[], 2);
        assert_eq!(c.accuracy(), None);
        assert_eq!(c.balanced_accuracy(), None);
        assert_eq!(c.macro_f1(), None);
    }

    fn auc(scores: &[f64], positive: &[bool]) -> Option<f64> {
        let samples = scores.iter().zip(positive).enumerate();
        let ranking = Ranking::new(samples.map(|(i, (&s, &p))| (s, i, p)).collect());
        ranking.auc(&vec![1.0; scores.len()])
    }

    #[test]
    fn auc_closed_forms() {
        assert_eq!(auc(&[0.1, 0.2, 0.8, 0.9], &[false, false, true, true]), Some(1.0));
        assert_eq!(auc(&[0.9, 0.8, 0.2, 0.1], &[false, false, true, true]), Some(0.0));
        assert_eq!(auc(&[0.5; 4], &[false, true, true, false]), Some(0.5));
        // Pairs (positive, negative): 0.4 > 0.1, 0.4 = 0.4, 0.7 > 0.1, 0.7 > 0.4.
        assert_eq!(auc(&[0.1, 0.4, 0.4, 0.7], &[false, false, true, true]), Some(3.5 / 4.0));
        assert_eq!(auc(&[0.1, 0.2], &[true, true]), None);
    }

    #[test]
    fn macro_auc_of_two_classes_is_that_of_the_second() {
        let perfect = Ranking::new(vec![(0.0, 0, false), (1.0, 1, true)]);
        let wrong = Ranking::new(vec![(1.0, 0, false), (0.0, 1, true)]);
        let pair = [wrong.clone(), perfect.clone()];
        assert_eq!(macro_auc(&pair, &[1.0, 1.0]), Some(1.0));
        let three = [wrong, perfect.clone(), perfect];
        assert_eq!(macro_auc(&three, &[1.0, 1.0]), Some(2.0 / 3.0));
    }

    proptest! {
        #[test]
        fn auc_counts_ordered_pairs(
            samples in prop::collection::vec((0u8..6, any::<bool>(), 0u8..3), 1..30)
        ) {
            let ranking = Ranking::new(
                samples.iter().enumerate().map(|(i, s)| (f64::from(s.0), i, s.1)).collect(),
            );
            let weights: Vec<f64> = samples.iter().map(|s| f64::from(s.2)).collect();
            let (mut ordered, mut pairs) = (0.0, 0.0);
            for a in samples.iter().filter(|s| s.1) {
                for b in samples.iter().filter(|s| !s.1) {
                    let weight = f64::from(a.2) * f64::from(b.2);
                    pairs += weight;
                    ordered += weight * match a.0.cmp(&b.0) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
                }
            }
            prop_assert_eq!(ranking.auc(&weights), (pairs > 0.0).then(|| ordered / pairs));
        }

        #[test]
        fn weights_repeat_items(
            items in prop::collection::vec((0usize..3, 0usize..3, 0u8..4), 1..20)
        ) {
            let labels: Vec<usize> = items.iter().map(|i| i.0).collect();
            let predictions: Vec<Vec<usize>> = items.iter().map(|i| vec![i.1]).collect();
            let weights: Vec<f64> = items.iter().map(|i| f64::from(i.2)).collect();
            let weighted = Confusion::new(&labels, &predictions, &weights, 3);
            let repeated: Vec<_> =
                items.iter().flat_map(|i| std::iter::repeat_n(i, i.2 as usize)).collect();
            let labels: Vec<usize> = repeated.iter().map(|i| i.0).collect();
            let predicted: Vec<usize> = repeated.iter().map(|i| i.1).collect();
            prop_assert_eq!(weighted, confusion(&labels, &predicted, 3));
        }
    }

    #[test]
    fn bootstrap_interval_of_a_proportion() {
        // 400 items, half right: the standard error is 0.5 / 20 = 0.025, so the 95 % interval
        // is 0.5 -+ 0.049. With 2000 resamples its ends are good to about 0.005.
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let e = Bootstrap::new(1, 400, 2000).mean(&values);
        assert_eq!(e.value, 0.5);
        assert!((e.low - 0.451).abs() < 0.008 && (e.high - 0.549).abs() < 0.008, "{e:?}");
    }

    #[test]
    fn bootstrap_of_a_constant_has_no_width() {
        let e = Bootstrap::new(1, 7, 50).mean(&[0.25; 7]);
        assert_eq!(e, Estimate { value: 0.25, low: 0.25, high: 0.25 });
    }

    #[test]
    fn bootstrap_leaves_out_undefined_resamples() {
        let bootstrap = Bootstrap::new(3, 2, 100);
        let first_drawn = |w: &[f64]| (w[0] > 0.0).then_some(2.0);
        let e = bootstrap.estimate(first_drawn).unwrap();
        assert_eq!(e, Estimate { value: 2.0, low: 2.0, high: 2.0 });
        assert_eq!(bootstrap.estimate(|_| None), None);
    }

    #[test]
    fn bootstrap_depends_on_its_seed_only() {
        assert_eq!(Bootstrap::new(5, 9, 4).draws, Bootstrap::new(5, 9, 4).draws);
        assert_ne!(Bootstrap::new(5, 9, 4).draws, Bootstrap::new(6, 9, 4).draws);
        assert!(Bootstrap::new(5, 9, 4).draws.iter().all(|d| d.iter().sum::<u32>() == 9));
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[3.0], 0.975), 3.0);
    }

    #[test]
    fn calibration_of_known_confidences() {
        let p = |item, probability, right| Confidence { item, probability, right };
        // Nine of ten right at 0.9: calibrated. Half right at 0.98: wrong by 0.48.
        let mut all: Vec<Confidence> = (0..10).map(|i| p(0, 0.9, i > 0)).collect();
        assert!(calibration_error(&all, &[1.0]).unwrap().abs() < 1e-12);
        all.extend([p(1, 0.98, true), p(1, 0.98, false)]);
        let error = calibration_error(&all, &[1.0, 1.0]).unwrap();
        assert!((error - 0.48 * 2.0 / 12.0).abs() < 1e-12, "{error}");
        assert!((calibration_error(&all, &[0.0, 3.0]).unwrap() - 0.48).abs() < 1e-12);
        assert_eq!(calibration_error(&[p(0, 1.0, true)], &[1.0]), Some(0.0));
        assert_eq!(calibration_error(&[], &[]), None);
    }

    #[test]
    fn sign_flips_agree_with_the_binomial_distribution() {
        // 8 of 8 pairs in favour: 2 of 256 choices of signs are as far from 0.
        let p = sign_flip_test(&[1.0; 8], 0, 20_000);
        assert!((p - 2.0 / 256.0).abs() < 0.003, "{p}");
        assert_eq!(sign_flip_test(&[0.0; 5], 0, 100), 1.0);
        let balanced: Vec<f64> = (0..40).map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        assert_eq!(sign_flip_test(&balanced, 0, 100), 1.0);
    }

    #[test]
    fn softmax_and_argmax() {
        let p = softmax(&[1000.0, 1000.0 + 3f32.ln()]);
        assert!((p[1] - 0.75).abs() < 1e-4, "f32 spacing at 1000 is 6e-5: {p:?}");
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
