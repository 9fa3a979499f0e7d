use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;

/// How to predict.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// Rotations of each item, at least 1: the first leaves it as it is, and the others are spread evenly.
    pub rotations: usize,
    /// Whether the features before the head are given.
    pub features: bool,
    /// Folder for the labels of voxels.
    pub maps: Option<PathBuf>,
    /// Whether the probability of every class of voxels is written there, too.
    pub probabilities: bool,
    /// For labels of voxels: the windows that volumes are taken in. Without them a network whose answers are local takes
    /// planes, to the same answers as for the whole, and any other the whole.
    pub windows: Option<Windows>,
}

/// Windows that overlap, weighed by Gaussians.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Windows {
    /// D, H, W in voxels.
    pub size: [usize; 3],
    /// The share of a window that it has in common with the next, from 0 to below 1.
    pub overlap: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { rotations: 1, features: false, maps: None, probabilities: false, windows: None }
    }
}

/// Is told which share of a map is labelled, and may stop the run.
pub type Watch<'a> = &'a (dyn Fn(f64) -> ControlFlow<()> + Sync);
