//! From the logits of the items under one condition to its scores.

use serde::{Deserialize, Serialize};

use crate::metrics::{
    Bootstrap, Confidence, Confusion, Estimate, Ranking, argmax, calibration_error, macro_auc,
    softmax,
};

/// How often a model is right under one condition, over all predictions of all items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Share of predictions that are right.
    pub accuracy: Estimate,
    /// Mean recall of the classes that have items.
    pub balanced_accuracy: Estimate,
    /// Mean F1 of the classes that are present or predicted.
    pub macro_f1: Estimate,
    /// Area under the ROC curve of the softmax probabilities, pooled over items and rotations: of
    /// class 1 for two classes, else the mean of one against the rest. `None` when undefined.
    pub auc: Option<Estimate>,
    /// Expected calibration error of the softmax probabilities, 15 bins.
    pub calibration_error: Estimate,
    /// Scores of each class, in the order of the class names.
    pub per_class: Vec<ClassScores>,
    /// Number of predictions, \[true class\]\[predicted class\].
    pub confusion: Vec<Vec<u64>>,
}

/// How often a model is right for one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Share of the predictions for items of this class that are right, the per-class accuracy;
    /// `None` without such items.
    pub recall: Option<Estimate>,
    /// Share of the predictions of this class that are right; `None` when it is never predicted.
    pub precision: Option<Estimate>,
}

/// How much predictions change from the unrotated volume to the condition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// Accuracy minus the accuracy unrotated, paired over items.
    pub accuracy_change: Estimate,
    /// Share of items whose predicted class is the unrotated one under all transformations.
    pub consistency: Estimate,
    /// Share of single predictions that equal the unrotated one of their item.
    pub agreement: Estimate,
    /// Share of items predicted right unrotated and under every transformation.
    pub worst_case_accuracy: Estimate,
    /// Mean over items and transformations of ‖l(Rx) - l(x)‖ / r, with l the logits, the Euclidean norm and r
    /// the root mean square of ‖l(x)‖ over items, so that an item with logits near zero does not decide it.
    pub relative_deviation: Estimate,
    /// Largest value of ‖l(Rx) - l(x)‖ / r.
    pub max_relative_deviation: f64,
    /// Mean over items and transformations of ‖l(Rx) - l(x)‖, in the units of the logits.
    pub absolute_deviation: Estimate,
}

/// The logits of every item under one condition: \[item\]\[transformation\]\[class\], at least one
/// item, one transformation for each, and two classes.
pub(crate) type Logits = Vec<Vec<Vec<f32>>>;

/// A value of one item, from its label, its logits unrotated and those of its transformations.
type PerItem<'a> = &'a dyn Fn(usize, &[f32], &[Vec<f32>]) -> f64;

impl Scores {
    pub(crate) fn new(
        labels: &[usize],
        logits: &Logits,
        classes: usize,
        bootstrap: &Bootstrap,
    ) -> Self {
        let predicted = predictions(logits);
        let confusion = |weights: &[f64]| Confusion::new(labels, &predicted, weights, classes);
        let estimate = |statistic: &(dyn Fn(&Confusion) -> Option<f64> + Sync)| {
            bootstrap.estimate(|weights| statistic(&confusion(weights)))
        };
        let defined = |estimate: Option<Estimate>| {
            estimate.expect("a score over at least one item is defined")
        };
        let rankings = rankings(labels, logits, classes);
        let confidences = confidences(labels, logits);
        let per_class = (0..classes).map(|class| ClassScores {
            recall: estimate(&|c| c.recall(class)),
            precision: estimate(&|c| c.precision(class)),
        });
        let counts = confusion(&vec![1.0; labels.len()]);
        Self {
            accuracy: defined(estimate(&Confusion::accuracy)),
            balanced_accuracy: defined(estimate(&Confusion::balanced_accuracy)),
            macro_f1: defined(estimate(&Confusion::macro_f1)),
            auc: bootstrap.estimate(|weights| macro_auc(&rankings, weights)),
            calibration_error: defined(
                bootstrap.estimate(|weights| calibration_error(&confidences, weights)),
            ),
            per_class: per_class.collect(),
            confusion: counts
                .counts()
                .iter()
                .map(|row| row.iter().map(|&count| count as u64).collect())
                .collect(),
        }
    }
}

impl Stability {
    /// Compares the logits of a condition with those unrotated, \[item\]\[0\]\[class\].
    pub(crate) fn new(
        labels: &[usize],
        unrotated: &Logits,
        logits: &Logits,
        bootstrap: &Bootstrap,
    ) -> Self {
        let items = || labels.iter().zip(unrotated).zip(logits);
        let per_item = |value: PerItem<'_>| -> Vec<f64> {
            items().map(|((&label, base), turned)| value(label, &base[0], turned)).collect()
        };
        let right = |label, logits: &[f32]| f64::from(u8::from(argmax(logits) == label));
        let same = |base: &[f32], turned: &[f32]| argmax(base) == argmax(turned);
        let squares: f64 = unrotated.iter().map(|base| norm(&base[0]).powi(2)).sum();
        let size = (squares / unrotated.len() as f64).sqrt().max(f64::from(f32::MIN_POSITIVE));
        let relative = |base: &[f32], turned: &[f32]| distance(base, turned) / size;
        let estimate = |value: PerItem<'_>| bootstrap.mean(&per_item(value));
        Self {
            accuracy_change: estimate(&|label, base, turned| {
                mean(turned, |t| right(label, t)) - right(label, base)
            }),
            consistency: estimate(&|_, base, turned| {
                f64::from(u8::from(turned.iter().all(|t| same(base, t))))
            }),
            agreement: estimate(&|_, base, turned| {
                mean(turned, |t| f64::from(u8::from(same(base, t))))
            }),
            worst_case_accuracy: estimate(&|label, base, turned| {
                turned.iter().map(|t| right(label, t)).fold(right(label, base), f64::min)
            }),
            relative_deviation: estimate(&|_, base, turned| mean(turned, |t| relative(base, t))),
            max_relative_deviation: per_item(&|_, base, turned| {
                turned.iter().map(|t| relative(base, t)).fold(0.0, f64::max)
            })
            .into_iter()
            .fold(0.0, f64::max),
            absolute_deviation: estimate(&|_, base, turned| mean(turned, |t| distance(base, t))),
        }
    }
}

fn predictions(logits: &Logits) -> Vec<Vec<usize>> {
    logits.iter().map(|item| item.iter().map(|row| argmax(row)).collect()).collect()
}

fn confidences(labels: &[usize], logits: &Logits) -> Vec<Confidence> {
    let rows =
        logits.iter().enumerate().flat_map(|(item, rows)| rows.iter().map(move |r| (item, r)));
    rows.map(|(item, row)| {
        let class = argmax(row);
        Confidence { item, probability: softmax(row)[class], right: class == labels[item] }
    })
    .collect()
}

/// For each class the samples ranked by the probability of that class.
fn rankings(labels: &[usize], logits: &Logits, classes: usize) -> Vec<Ranking> {
    let probabilities: Vec<(usize, Vec<f64>)> = logits
        .iter()
        .enumerate()
        .flat_map(|(item, rows)| rows.iter().map(move |row| (item, softmax(row))))
        .collect();
    let samples = |class: usize| {
        probabilities.iter().map(|(item, p)| (p[class], *item, labels[*item] == class)).collect()
    };
    (0..classes).map(|class| Ranking::new(samples(class))).collect()
}

fn mean(rows: &[Vec<f32>], value: impl Fn(&[f32]) -> f64) -> f64 {
    rows.iter().map(|row| value(row)).sum::<f64>() / rows.len() as f64
}

fn norm(v: &[f32]) -> f64 {
    v.iter().map(|&c| f64::from(c) * f64::from(c)).sum::<f64>().sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits (1, 0) for class 0, (0, 1) for class 1.
    fn vote(class: usize) -> Vec<f32> {
        if class == 0 { vec![1.0, 0.0] } else { vec![0.0, 1.0] }
    }

    fn votes(classes: &[&[usize]]) -> Logits {
        classes.iter().map(|item| item.iter().map(|&class| vote(class)).collect()).collect()
    }

    #[test]
    fn hand_computed_stability() {
        // Item 0 (class 0) stays right; item 1 (class 0) turns wrong once in two; item 2
        // (class 1) is always wrong; item 3 (class 1) turns right under both.
        let labels = [0, 0, 1, 1];
        let unrotated = votes(&[&[0], &[0], &[0], &[0]]);
        let turned = votes(&[&[0, 0], &[0, 1], &[0, 0], &[1, 1]]);
        let s = Stability::new(&labels, &unrotated, &turned, &Bootstrap::new(0, 4, 10));
        assert_eq!(s.accuracy_change.value, (0.0 - 0.5 + 0.0 + 1.0) / 4.0);
        assert_eq!(s.consistency.value, 0.5);
        assert_eq!(s.agreement.value, 5.0 / 8.0);
        assert_eq!(s.worst_case_accuracy.value, 0.25);
        let sqrt_2 = 2f64.sqrt();
        assert!((s.relative_deviation.value - sqrt_2 * 3.0 / 8.0).abs() < 1e-12);
        assert!((s.absolute_deviation.value - sqrt_2 * 3.0 / 8.0).abs() < 1e-12);
        assert!((s.max_relative_deviation - sqrt_2).abs() < 1e-12);
    }

    #[test]
    fn hand_computed_scores() {
        let labels = [0, 1];
        let logits = votes(&[&[0, 0, 0, 1], &[1, 1, 0, 0]]);
        let s = Scores::new(&labels, &logits, 2, &Bootstrap::new(0, 2, 10));
        assert_eq!(s.confusion, [[3, 1], [2, 2]]);
        assert_eq!(s.accuracy.value, 5.0 / 8.0);
        // All logits are 1 and 0: probability e / (1 + e) of the class predicted.
        let gap = 1.0 / (1.0 + (-1f64).exp()) - 5.0 / 8.0;
        assert!((s.calibration_error.value - gap).abs() < 1e-7);
        assert_eq!(s.per_class[0].recall.unwrap().value, 0.75);
        assert_eq!(s.per_class[1].precision.unwrap().value, 2.0 / 3.0);
        // Scores of class 1: item 0 has one high of four, item 1 two of four. Pairs: 16, of which
        // 2*3 ordered, 2*1 + 2*3 tied.
        assert_eq!(s.auc.unwrap().value, (6.0 + 8.0 / 2.0) / 16.0);
    }

    #[test]
    fn zero_logits_deviate_by_nothing_from_themselves() {
        let zeros: Logits = vec![vec![vec![0.0, 0.0]]];
        let s = Stability::new(&[0], &zeros, &zeros, &Bootstrap::new(0, 1, 10));
        assert_eq!(s.relative_deviation.value, 0.0);
        let other: Logits = vec![vec![vec![1.0, 0.0]]];
        let s = Stability::new(&[0], &zeros, &other, &Bootstrap::new(0, 1, 10));
        assert!(s.relative_deviation.value.is_finite() && s.relative_deviation.value > 1e30);
    }

    #[test]
    fn one_item_of_small_logits_does_not_decide_the_deviation() {
        let unrotated: Logits = vec![vec![vec![0.0, 0.0]], vec![vec![3.0, 4.0]]];
        let turned: Logits = vec![vec![vec![1.0, 0.0]], vec![vec![3.0, 5.0]]];
        let s = Stability::new(&[0, 1], &unrotated, &turned, &Bootstrap::new(0, 2, 10));
        let size = (25f64 / 2.0).sqrt();
        assert!((s.relative_deviation.value - 1.0 / size).abs() < 1e-12);
        assert!((s.max_relative_deviation - 1.0 / size).abs() < 1e-12);
    }
}
