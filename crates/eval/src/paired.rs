//! Whether one model is better than another on the same volumes.

use serde::{Deserialize, Serialize};

use crate::metrics::{Bootstrap, Estimate, sign_flip_test};
use crate::protocol::{Condition, Protocol, Source};
use crate::results::{ModelReport, Prediction};

/// Choices of signs of the test.
const FLIPS: usize = 9999;

/// The difference of two models' scores under one condition, paired over items.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedTest {
    /// Names of the models.
    pub models: [String; 2],
    /// What was transformed.
    pub source: Source,
    /// The condition.
    pub condition: Condition,
    /// Mean over items of the score ([`AnswerKind::score`](crate::AnswerKind::score)) of the first less that of
    /// the second.
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
        let scores: Vec<(&str, Vec<f64>)> = models
            .iter()
            .map(|model| (model.name.as_str(), item_scores(model, source, condition)))
            .filter(|(_, scores)| !scores.is_empty())
            .collect();
        for (i, (first, a)) in scores.iter().enumerate() {
            for (second, b) in &scores[i + 1..] {
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

/// For each item, in the order of the split, the mean score of its predictions.
pub(crate) fn item_scores(model: &ModelReport, source: Source, condition: Condition) -> Vec<f64> {
    let chosen =
        model.predictions.iter().filter(|p| p.source == source && p.condition == condition);
    let chosen: Vec<_> = chosen.collect();
    let mean = |predictions: &[&Prediction]| {
        predictions.iter().map(|p| p.score).sum::<f64>() / predictions.len() as f64
    };
    chosen.chunk_by(|a, b| a.item == b.item).map(mean).collect()
}
