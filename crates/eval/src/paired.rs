//! Whether one model is right more often than another on the same volumes.

use serde::{Deserialize, Serialize};

use crate::metrics::{Bootstrap, Estimate, argmax, sign_flip_test};
use crate::protocol::{Condition, Protocol, Source};
use crate::report::{ModelReport, Prediction};

/// Choices of signs of the test.
const FLIPS: usize = 9999;

/// The difference of two models' accuracies under one condition, paired over items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// Names of the models.
    pub models: [String; 2],
    /// What was transformed.
    pub source: Source,
    /// The condition.
    pub condition: Condition,
    /// Accuracy of the first less that of the second.
    pub difference: Estimate,
    /// Two-sided p value of the sign-flip test over items, each with the mean over its
    /// transformations; not corrected for the number of tests.
    pub p_value: f64,
}

/// Tests every pair of models that keep their predictions, with the first source: unrotated, at random
/// rotations and at the worst rotations found.
pub fn paired_tests(models: &[ModelReport], protocol: &Protocol) -> Vec<PairedTest> {
    let Some(&source) = protocol.sources.first() else { return vec![] };
    let conditions = [Condition::Unrotated, Condition::Random, Condition::Worst];
    let mut tests = vec![];
    for condition in conditions {
        let shares: Vec<(&str, Vec<f64>)> = models
            .iter()
            .map(|model| (model.name.as_str(), item_accuracies(model, source, condition)))
            .filter(|(_, shares)| !shares.is_empty())
            .collect();
        for (i, (first, a)) in shares.iter().enumerate() {
            for (second, b) in &shares[i + 1..] {
                let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
                let bootstrap = Bootstrap::new(protocol.seed, a.len(), protocol.resamples);
                tests.push(PairedTest {
                    models: [first, second].map(|name| (*name).to_owned()),
                    source,
                    condition,
                    difference: bootstrap.mean(&differences),
                    p_value: sign_flip_test(&differences, protocol.seed, FLIPS),
                });
            }
        }
    }
    tests
}

/// For each item, in the order of the split, the share of its predictions that are right.
pub(crate) fn item_accuracies(
    model: &ModelReport,
    source: Source,
    condition: Condition,
) -> Vec<f64> {
    let chosen =
        model.predictions.iter().filter(|p| p.source == source && p.condition == condition);
    let chosen: Vec<_> = chosen.collect();
    let items = chosen.chunk_by(|a, b| a.item == b.item);
    let share = |predictions: &[&Prediction]| {
        let right = predictions.iter().filter(|p| argmax(&p.logits) == p.label).count();
        right as f64 / predictions.len() as f64
    };
    items.map(share).collect()
}
