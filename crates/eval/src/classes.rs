//! Classes of whole volumes.

use steer3d_dataset::Dataset;

use crate::answer::{Answer, Found, Given, Reference, Rows};
use crate::error::EvalError;
use crate::measure::{Entry, Unit};
use crate::metrics::{
    Bootstrap, Confidence, Confusion, Estimate, Ranking, argmax, calibration_error, macro_auc,
    ratio, softmax,
};
use crate::protocol::Transform;

/// The measures of classes. Those of stability compare with the unrotated volume and are not defined for it.
pub(crate) const MEASURES: &[Entry<Classified>] = &[
    Entry::new(
        "accuracy",
        "accuracy %",
        Unit::Share,
        "share of single predictions that are right",
        |c, b, _| c.counted(b, Confusion::accuracy),
    ),
    Entry::new(
        "balanced_accuracy",
        "balanced %",
        Unit::Share,
        "mean recall of the classes that have volumes",
        |c, b, _| c.counted(b, Confusion::balanced_accuracy),
    ),
    Entry::new(
        "macro_f1",
        "macro F1 %",
        Unit::Share,
        "mean over the classes that are present or predicted of 2 TP / (2 TP + FP + FN)",
        |c, b, _| c.counted(b, Confusion::macro_f1),
    ),
    Entry::new(
        "auc",
        "AUC",
        Unit::Coefficient,
        "area under the ROC curve of the softmax probabilities, pooled over volumes and rotations: of the \
         second class for two classes, else the mean over the classes of one against the rest",
        |c, b, _| b.estimate(|weights| macro_auc(&c.rankings, weights)),
    ),
    Entry::new(
        "calibration_error",
        "calibration error %",
        Unit::Share,
        "mean over predictions of |share right − mean probability| in their bin, of 15",
        |c, b, _| b.estimate(|weights| calibration_error(&c.confidences, weights)),
    ),
    Entry::new(
        "recall",
        "accuracy %",
        Unit::Share,
        "share of the predictions for volumes of the class that are right",
        |c: &Classified, b, class| c.counted(b, |counts| counts.recall(class)),
    )
    .of_class(),
    Entry::new(
        "precision",
        "precision %",
        Unit::Share,
        "share of the predictions of the class that are right",
        |c: &Classified, b, class| c.counted(b, |counts| counts.precision(class)),
    )
    .of_class(),
    Entry::new(
        "predicted_share",
        "predicted %",
        Unit::Share,
        "share of the predictions that are of the class",
        |c: &Classified, b, class| b.estimate(|weights| c.share(class, weights)),
    )
    .of_class(),
    Entry::new(
        "accuracy_change",
        "change, points",
        Unit::Points,
        "accuracy less the accuracy unrotated, paired over volumes",
        |c, b, _| {
            c.judged(b, |label, base, turned| {
                mean(turned, |t| right(label, t)) - right(label, base)
            })
        },
    ),
    Entry::new(
        "consistency",
        "consistent %",
        Unit::Share,
        "share of volumes whose predicted class under every rotation is the unrotated one, right or wrong",
        |c, b, _| {
            c.paired(b, |base, turned| f64::from(u8::from(turned.iter().all(|t| same(base, t)))))
        },
    ),
    Entry::new(
        "agreement",
        "same prediction %",
        Unit::Share,
        "share of single predictions that equal the unrotated one of their volume",
        |c, b, _| c.paired(b, |base, turned| mean(turned, |t| f64::from(u8::from(same(base, t))))),
    ),
    Entry::new(
        "worst_case_accuracy",
        "worst case %",
        Unit::Share,
        "share of volumes classified right unrotated and under every rotation",
        |c, b, _| {
            c.judged(b, |label, base, turned| {
                turned.iter().map(|t| right(label, t)).fold(right(label, base), f64::min)
            })
        },
    ),
    Entry::new(
        "relative_deviation",
        "deviation",
        Unit::Relative,
        "mean of ‖l(Rx) − l(x)‖ of the logits l over volumes and rotations, divided by the root mean square r \
         of ‖l(x)‖ over volumes, so that a volume with logits near zero does not decide it",
        |c, b, _| c.paired(b, |base, turned| mean(turned, |t| c.relative(base, t))),
    ),
    Entry::new(
        "max_relative_deviation",
        "largest deviation",
        Unit::Relative,
        "largest value of ‖l(Rx) − l(x)‖ / r",
        |c: &Classified, _, _| {
            let largest = c.per_item(|base, turned| {
                turned.iter().map(|t| c.relative(base, t)).fold(0.0, f64::max)
            });
            Some(Estimate::exact(largest?.into_iter().fold(0.0, f64::max)))
        },
    )
    .without_interval(),
    Entry::new(
        "absolute_deviation",
        "absolute deviation",
        Unit::Output,
        "mean of ‖l(Rx) − l(x)‖, in the units of the logits",
        |c, b, _| c.paired(b, |base, turned| mean(turned, |t| distance(base, t))),
    ),
    Entry::new(
        "probability_deviation",
        "probability deviation",
        Unit::Coefficient,
        "mean of half the sum over classes of |p(Rx) − p(x)| of the softmax probabilities p: 0 where they are equal, \
         1 where they have no class in common",
        |c, b, _| c.paired(b, |base, turned| mean(turned, |t| variation(base, t))),
    ),
    Entry::new(
        "relative_spread",
        "spread",
        Unit::Relative,
        "root mean square over volumes and rotations of ‖l(Rx) − m‖ / r, m the mean of l(Rx) over the rotations of \
         the volume; of two rotations or more",
        |c, b, _| {
            let several = c.logits.iter().all(|turned| turned.len() > 1);
            let squares = c.per_item(|_, turned| {
                let centre = centre(turned);
                mean(turned, |t| c.relative(&centre, t).powi(2))
            });
            Some(b.mean(&squares.filter(|_| several)?).map(f64::sqrt))
        },
    ),
];

/// The classes of the items of a split.
pub(crate) struct Classes {
    names: Vec<String>,
    /// None where the dataset has none: the class predicted unrotated stands in their place.
    labels: Option<Vec<usize>>,
}

impl Classes {
    /// For answers with classes of these names.
    pub(crate) fn new(dataset: &Dataset, items: &[usize], names: Vec<String>) -> Self {
        let labels = || items.iter().map(|&item| dataset.labels()[item] as usize).collect();
        let labels = (!dataset.meta().class_names.is_empty()).then(labels);
        Self { names, labels }
    }

    /// The class that an answer is compared with.
    fn expected(&self, place: usize, unrotated: &[f64]) -> usize {
        self.class(place).unwrap_or_else(|| argmax(&logits(unrotated)))
    }
}

impl Answer for Classes {
    fn row_len(&self) -> usize {
        self.names.len()
    }

    /// The logits.
    fn row(
        &self,
        _place: usize,
        _transform: &Transform,
        answer: &Given,
        _reference: Option<&Reference>,
    ) -> Result<Vec<f64>, EvalError> {
        Ok(answer.numbers().iter().map(|&logit| logit.into()).collect())
    }

    /// Logit of the right class less the largest other: negative where the model is wrong.
    fn margin(&self, place: usize, row: &[f64], unrotated: &[f64]) -> f64 {
        let label = self.expected(place, unrotated);
        let others = row.iter().enumerate().filter(|(class, _)| *class != label);
        let other = others.map(|(_, &logit)| logit as f32).fold(f32::NEG_INFINITY, f32::max);
        (row[label] as f32 - other).into()
    }

    fn least_margin(&self) -> f64 {
        0.0
    }

    fn class(&self, place: usize) -> Option<usize> {
        Some(self.labels.as_ref()?[place])
    }

    fn score(&self, place: usize, row: &[f64], unrotated: &[f64]) -> f64 {
        right(self.expected(place, unrotated), &logits(row))
    }

    fn found(&self, rows: &Rows<'_>, unrotated: Option<&Rows<'_>>, bootstrap: &Bootstrap) -> Found {
        let all = |rows: &Rows<'_>| -> Logits {
            rows.iter().map(|item| item.iter().map(|row| logits(row)).collect()).collect()
        };
        let labels = self.labels.clone();
        let scored = Classified::new(labels, all(rows), unrotated.map(all), self.names.len());
        let counts = scored.confusion(&vec![1.0; rows.len()]);
        let whole =
            |row: &Vec<f64>| -> Vec<u64> { row.iter().map(|&count| count as u64).collect() };
        let counts = counts.map(|counts| counts.counts().iter().map(whole).collect());
        (Entry::all(MEASURES, &scored, bootstrap, &self.names), counts)
    }
}

/// The logits of a row, which were f32.
fn logits(row: &[f64]) -> Vec<f32> {
    row.iter().map(|&logit| logit as f32).collect()
}

/// The logits of every item under one condition: \[item\]\[transformation\]\[class\], at least one
/// item, one transformation for each, and two classes.
type Logits = Vec<Vec<Vec<f32>>>;

/// The logits under one condition and what all measures take from them.
pub(crate) struct Classified {
    labels: Option<Vec<usize>>,
    logits: Logits,
    /// \[item\]\[0\]\[class\], but for the unrotated condition itself.
    unrotated: Option<Logits>,
    classes: usize,
    predicted: Vec<Vec<usize>>,
    /// Of each class; none without labels.
    rankings: Vec<Ranking>,
    /// None without labels.
    confidences: Vec<Confidence>,
    /// Root mean square of ‖l(x)‖ over items.
    size: f64,
}

impl Classified {
    fn new(
        labels: Option<Vec<usize>>,
        logits: Logits,
        unrotated: Option<Logits>,
        classes: usize,
    ) -> Self {
        let base = unrotated.as_ref().unwrap_or(&logits);
        let squares: f64 = base.iter().map(|base| norm(&base[0]).powi(2)).sum();
        let size = (squares / base.len() as f64).sqrt().max(f64::from(f32::MIN_POSITIVE));
        let rows = logits.iter().enumerate();
        let rows = rows.flat_map(|(item, rows)| rows.iter().map(move |row| (item, row)));
        let rows: Vec<_> = rows.map(|(item, row)| (item, argmax(row), softmax(row))).collect();
        let (mut rankings, mut confidences) = (vec![], vec![]);
        if let Some(labels) = &labels {
            let confidence = |(item, class, p): &(usize, usize, Vec<f64>)| {
                let (item, right) = (*item, *class == labels[*item]);
                Confidence { item, probability: p[*class], right }
            };
            // The samples by the probability of a class.
            let ranking = |class: usize| {
                let sample = |(item, _, p): &(usize, usize, Vec<f64>)| {
                    (p[class], *item, labels[*item] == class)
                };
                Ranking::new(rows.iter().map(sample).collect())
            };
            rankings = (0..classes).map(ranking).collect();
            confidences = rows.iter().map(confidence).collect();
        }
        let predicted = |item: &Vec<Vec<f32>>| item.iter().map(|row| argmax(row)).collect();
        Self {
            predicted: logits.iter().map(predicted).collect(),
            rankings,
            confidences,
            labels,
            logits,
            unrotated,
            classes,
            size,
        }
    }

    /// None without labels.
    fn confusion(&self, weights: &[f64]) -> Option<Confusion> {
        let labels = self.labels.as_ref()?;
        Some(Confusion::new(labels, &self.predicted, weights, self.classes))
    }

    /// The share of the predictions that are of a class.
    fn share(&self, class: usize, weights: &[f64]) -> Option<f64> {
        let (mut of_class, mut all) = (0.0, 0.0);
        for (predicted, weight) in self.predicted.iter().zip(weights) {
            let count = predicted.iter().filter(|&&found| found == class).count();
            of_class += weight * count as f64;
            all += weight * predicted.len() as f64;
        }
        ratio(of_class, all)
    }

    fn counted(
        &self,
        bootstrap: &Bootstrap,
        statistic: impl Fn(&Confusion) -> Option<f64> + Sync,
    ) -> Option<Estimate> {
        bootstrap.estimate(|weights| statistic(&self.confusion(weights)?))
    }

    /// A value of each item, from its logits unrotated and those of its transformations.
    fn per_item(&self, value: impl Fn(&[f32], &[Vec<f32>]) -> f64) -> Option<Vec<f64>> {
        let items = self.unrotated.as_ref()?.iter().zip(&self.logits);
        Some(items.map(|(base, turned)| value(&base[0], turned)).collect())
    }

    fn paired(
        &self,
        bootstrap: &Bootstrap,
        value: impl Fn(&[f32], &[Vec<f32>]) -> f64,
    ) -> Option<Estimate> {
        Some(bootstrap.mean(&self.per_item(value)?))
    }

    /// As [`paired`](Self::paired), from the label too.
    fn judged(
        &self,
        bootstrap: &Bootstrap,
        value: impl Fn(usize, &[f32], &[Vec<f32>]) -> f64,
    ) -> Option<Estimate> {
        let items = self.unrotated.as_ref()?.iter().zip(&self.logits);
        let items = self.labels.as_ref()?.iter().zip(items);
        let values = items.map(|(&label, (base, turned))| value(label, &base[0], turned));
        Some(bootstrap.mean(&values.collect::<Vec<_>>()))
    }

    fn relative(&self, base: &[f32], turned: &[f32]) -> f64 {
        distance(base, turned) / self.size
    }
}

fn right(label: usize, logits: &[f32]) -> f64 {
    f64::from(u8::from(argmax(logits) == label))
}

fn same(base: &[f32], turned: &[f32]) -> bool {
    argmax(base) == argmax(turned)
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

/// Half the sum of the absolute differences of the softmax probabilities.
fn variation(a: &[f32], b: &[f32]) -> f64 {
    softmax(a).iter().zip(softmax(b)).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
}

/// The mean of rows.
fn centre(rows: &[Vec<f32>]) -> Vec<f32> {
    let of_class = |class: usize| mean(rows, |row| row[class].into()) as f32;
    (0..rows[0].len()).map(of_class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measure;

    /// The measures of two classes.
    struct Values(Classified);

    impl Values {
        fn new(labels: &[usize], logits: &Logits, unrotated: Option<&Logits>) -> Self {
            Self(Classified::new(Some(labels.to_vec()), logits.clone(), unrotated.cloned(), 2))
        }

        fn measured(&self) -> Vec<Measure> {
            let classes = ["a", "b"].map(String::from);
            let bootstrap = Bootstrap::new(0, self.0.logits.len(), 10);
            Entry::all(MEASURES, &self.0, &bootstrap, &classes)
        }

        fn of(&self, name: &str) -> f64 {
            self.of_class(name, None)
        }

        fn of_class(&self, name: &str, class: Option<&str>) -> f64 {
            let all = self.measured();
            let found = all.iter().find(|m| m.name == name && m.class.as_deref() == class);
            found.unwrap().estimate.value
        }
    }

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
        let s = Values::new(&labels, &turned, Some(&unrotated));
        assert_eq!(s.of("accuracy_change"), (0.0 - 0.5 + 0.0 + 1.0) / 4.0);
        assert_eq!(s.of("consistency"), 0.5);
        assert_eq!(s.of("agreement"), 5.0 / 8.0);
        assert_eq!(s.of("worst_case_accuracy"), 0.25);
        let sqrt_2 = 2f64.sqrt();
        assert!((s.of("relative_deviation") - sqrt_2 * 3.0 / 8.0).abs() < 1e-12);
        assert!((s.of("absolute_deviation") - sqrt_2 * 3.0 / 8.0).abs() < 1e-12);
        assert!((s.of("max_relative_deviation") - sqrt_2).abs() < 1e-12);
    }

    #[test]
    fn hand_computed_scores() {
        let labels = [0, 1];
        let logits = votes(&[&[0, 0, 0, 1], &[1, 1, 0, 0]]);
        let s = Values::new(&labels, &logits, None);
        assert_eq!(s.0.confusion(&[1.0; 2]).unwrap().counts(), [[3.0, 1.0], [2.0, 2.0]]);
        assert_eq!(s.of("accuracy"), 5.0 / 8.0);
        // All logits are 1 and 0: probability e / (1 + e) of the class predicted.
        let gap = 1.0 / (1.0 + (-1f64).exp()) - 5.0 / 8.0;
        assert!((s.of("calibration_error") - gap).abs() < 1e-7);
        assert_eq!(s.of_class("recall", Some("a")), 0.75);
        assert_eq!(s.of_class("precision", Some("b")), 2.0 / 3.0);
        assert_eq!(s.of_class("predicted_share", Some("a")), 5.0 / 8.0);
        assert_eq!(s.of_class("predicted_share", Some("b")), 3.0 / 8.0);
        // Scores of class 1: item 0 has one high of four, item 1 two of four. Pairs: 16, of which
        // 2*3 ordered, 2*1 + 2*3 tied.
        assert_eq!(s.of("auc"), (6.0 + 8.0 / 2.0) / 16.0);
    }

    #[test]
    fn without_labels_stability_alone_is_measured() {
        let unrotated = votes(&[&[0], &[1]]);
        let turned = votes(&[&[0, 0], &[1, 0]]);
        let labelled = Values::new(&[0, 0], &turned, Some(&unrotated));
        let s = Values(Classified::new(None, turned.clone(), Some(unrotated), 2));
        let stable = [
            "predicted_share",
            "predicted_share",
            "consistency",
            "agreement",
            "relative_deviation",
            "max_relative_deviation",
            "absolute_deviation",
            "probability_deviation",
            "relative_spread",
        ];
        let measured = s.measured();
        assert_eq!(measured.iter().map(|m| &m.name[..]).collect::<Vec<_>>(), stable);
        // Labels change nothing in them.
        let same = labelled.measured().into_iter().filter(|m| stable.contains(&&m.name[..]));
        assert_eq!(same.collect::<Vec<_>>(), measured);
        assert!(s.0.confusion(&[1.0; 2]).is_none());
        assert_eq!((s.of("consistency"), s.of("agreement")), (0.5, 0.75));
        assert_eq!(s.of_class("predicted_share", Some("b")), 0.25);
        // One answer of four moves by √2, and its probabilities from (1, e) / (1 + e) to (e, 1) / (1 + e).
        let e = 1f64.exp();
        assert!((s.of("absolute_deviation") - 2f64.sqrt() / 4.0).abs() < 1e-12);
        assert!((s.of("probability_deviation") - (e - 1.0) / (e + 1.0) / 4.0).abs() < 1e-7);
        // Both answers for the second volume are √2 / 2 from their mean; ‖l(x)‖ is 1.
        assert!((s.of("relative_spread") - 0.5).abs() < 1e-12);
        let single = Values(Classified::new(None, votes(&[&[0]]), Some(votes(&[&[1]])), 2));
        assert!(single.measured().iter().all(|m| m.name != "relative_spread"));
        let base = Values(Classified::new(None, votes(&[&[0], &[0]]), None, 2));
        let names: Vec<String> = base.measured().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["predicted_share"; 2]);
    }

    #[test]
    fn zero_logits_deviate_by_nothing_from_themselves() {
        let zeros: Logits = vec![vec![vec![0.0, 0.0]]];
        let s = Values::new(&[0], &zeros, Some(&zeros));
        assert_eq!(s.of("relative_deviation"), 0.0);
        let other: Logits = vec![vec![vec![1.0, 0.0]]];
        let s = Values::new(&[0], &other, Some(&zeros));
        assert!(s.of("relative_deviation").is_finite() && s.of("relative_deviation") > 1e30);
    }

    #[test]
    fn one_item_of_small_logits_does_not_decide_the_deviation() {
        let unrotated: Logits = vec![vec![vec![0.0, 0.0]], vec![vec![3.0, 4.0]]];
        let turned: Logits = vec![vec![vec![1.0, 0.0]], vec![vec![3.0, 5.0]]];
        let s = Values::new(&[0, 1], &turned, Some(&unrotated));
        let size = (25f64 / 2.0).sqrt();
        assert!((s.of("relative_deviation") - 1.0 / size).abs() < 1e-12);
        assert!((s.of("max_relative_deviation") - 1.0 / size).abs() < 1e-12);
    }
}
