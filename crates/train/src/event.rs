use std::time::Duration;

use crate::metrics::EpochMetrics;

/// What the training loop reports while it runs.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum TrainEvent {
    /// An optimiser step is done.
    Step {
        /// Epoch, counted from 1.
        epoch: usize,
        /// Optimiser steps done.
        step: usize,
        /// Optimiser steps in all.
        steps: usize,
        /// Loss of its batches.
        loss: f32,
        /// Accuracy in the epoch so far, where answers are right or wrong.
        accuracy: Option<f64>,
        /// Its learning rate.
        learning_rate: f64,
        /// Norm of the gradient of all weights, before clipping.
        gradient_norm: f64,
    },
    /// An epoch is done.
    Epoch(EpochMetrics),
}

/// How a training run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// One entry for each finished epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Whether the caller stopped it early.
    pub stopped: bool,
    /// Time spent, validation and what was before a resumption included.
    pub elapsed: Duration,
    /// Part of it in which the training waited for data.
    pub waited: Duration,
}
