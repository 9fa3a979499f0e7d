use serde::{Deserialize, Serialize};

use crate::config::Monitor;

/// What one epoch came to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// Epoch, counted from 1.
    pub epoch: usize,
    /// Mean loss over the training set, with dropout, as the weights moved.
    pub train_loss: f64,
    /// Accuracy over the training set, likewise, where answers are right or wrong.
    pub train_accuracy: Option<f64>,
    /// Mean cross-entropy over the validation set, squared error of target values; the largest number if it
    /// is none; `None` without a validation set.
    pub validation_loss: Option<f64>,
    /// Accuracy over the validation set, if there is one and answers are right or wrong.
    pub validation_accuracy: Option<f64>,
    /// Mean Dice coefficient over the validation set, if there is one, of labels of voxels: 2 TP / (2 TP + FP + FN) of all
    /// voxels that count, mean over the classes but the background and an ignored one that are present or predicted.
    #[serde(default)]
    pub validation_dice: Option<f64>,
    /// Whether this epoch's weights are the best so far.
    pub best: bool,
    /// Learning rate of its last step.
    #[serde(default)]
    pub learning_rate: f64,
    /// Seconds of training up to its end, validation included.
    #[serde(default)]
    pub seconds: f64,
}

impl EpochMetrics {
    /// Whether the epoch is better than an earlier one.
    pub(crate) fn is_better_than(&self, other: &Self, monitor: Monitor) -> bool {
        let less_loss = || match (self.validation_loss, other.validation_loss) {
            (Some(x), Some(y)) => x < y,
            _ => true,
        };
        let score = |epoch: &Self| match monitor {
            Monitor::Loss => None,
            Monitor::Accuracy => epoch.validation_accuracy,
            Monitor::Dice => epoch.validation_dice,
        };
        match (score(self), score(other)) {
            (Some(x), Some(y)) if x != y => x > y,
            _ => less_loss(),
        }
    }
}

/// Sums over batches; four numbers on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 4]", into = "[f64; 4]")]
pub(crate) struct Sums {
    /// Of mean losses times their weights.
    loss: f64,
    weight: f64,
    right: f64,
    /// Of the numbers of answers that can be right or wrong.
    answers: f64,
}

impl Sums {
    /// Adds a batch of a mean loss with its weight, and of so many right ones of so many answers.
    pub(crate) fn add(&mut self, loss: f64, weight: f64, right: f64, answers: f64) {
        self.loss += loss * weight;
        self.weight += weight;
        self.right += right;
        self.answers += answers;
    }

    pub(crate) fn mean_loss(&self) -> f64 {
        self.loss / self.weight
    }

    /// The share of right answers, if answers can be right or wrong.
    pub(crate) fn accuracy(&self) -> Option<f64> {
        (self.answers > 0.0).then_some(self.right / self.answers)
    }
}

impl From<[f64; 4]> for Sums {
    fn from([loss, weight, right, answers]: [f64; 4]) -> Self {
        Self { loss, weight, right, answers }
    }
}

impl From<Sums> for [f64; 4] {
    fn from(sums: Sums) -> Self {
        [sums.loss, sums.weight, sums.right, sums.answers]
    }
}
