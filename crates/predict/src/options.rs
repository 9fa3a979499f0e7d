use std::ops::ControlFlow;
use std::path::PathBuf;

/// How to predict.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rotations of each item, at least 1: the first leaves it as it is, and the others are spread evenly.
    pub rotations: usize,
    /// Whether the features before the head are given.
    pub features: bool,
    /// Folder for the labels of voxels.
    pub maps: Option<PathBuf>,
    /// Whether the probability of every class of voxels is written there, too.
    pub probabilities: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { rotations: 1, features: false, maps: None, probabilities: false }
    }
}

/// Is told which share of a map is labelled, and may stop the run.
pub type Watch<'a> = &'a (dyn Fn(f64) -> ControlFlow<()> + Sync);
