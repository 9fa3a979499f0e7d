use serde::{Deserialize, Serialize};

use crate::metrics::{EpochMetrics, Sums};
use crate::schedule::Plateau;

/// How far a training has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The epoch it is in, counted from 1.
    pub epoch: usize,
    /// Batches of this epoch that are done.
    pub batch: usize,
    /// Optimiser steps done in all.
    pub step: usize,
    /// One entry for each finished epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Whether it is over.
    pub finished: bool,
    /// Batches done in all: the key of dropout masks.
    pub(crate) batches: u64,
    pub(crate) optimiser_step: i32,
    pub(crate) plateau: Plateau,
    /// Over the batches of this epoch.
    pub(crate) sums: Sums,
    pub(crate) learning_rate: f64,
    pub(crate) seconds: f64,
    pub(crate) waited: f64,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { epoch: 1, ..Self::default() }
    }
}
