use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;
use steer3d_eval::{AnswerKind, Windows};

use crate::error::PredictError;
use crate::model::Model;

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

impl Default for Options {
    fn default() -> Self {
        Self { rotations: 1, features: false, maps: None, probabilities: false, windows: None }
    }
}

impl Options {
    /// Whether the model can be asked so.
    pub(crate) fn check(&self, model: &Model) -> Result<(), PredictError> {
        let voxels = model.answers() == AnswerKind::Voxels;
        let refused = |problem: &str| {
            Err(PredictError::Model { model: model.name.clone(), problem: problem.to_owned() })
        };
        if let Some(windows) = &self.windows {
            windows.check().or_else(|problem| refused(&problem))?;
        }
        match &self.windows {
            Some(_) if !voxels => refused(
                "windows are for models that label voxels; this one answers for whole volumes",
            ),
            Some(_) if self.rotations > 1 => {
                refused("windows and several rotations do not go together; ask for one of them")
            }
            _ if self.features && voxels => {
                refused("features are not written for models that label voxels; ask for none")
            }
            _ => Ok(()),
        }
    }
}

/// Is told which share of a map is labelled, and may stop the run.
pub type Watch<'a> = &'a (dyn Fn(f64) -> ControlFlow<()> + Sync);
