use std::path::{Path, PathBuf};

use steer3d_dataset::{BuildError, DatasetError};
use steer3d_files::FileError;
use steer3d_nn::NnError;
use steer3d_ranks::RankError;
use steer3d_volume::VolumeError;

/// Why nothing, or nothing more, can be predicted. What is wrong with one item is in its record instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// There is no such model.
    #[error("{name}: no such file, and no model that comes with the program; {advice}")]
    NoModel {
        /// What was asked for.
        name: String,
        /// What there is.
        advice: String,
    },
    /// A model that cannot be read or run.
    #[error(transparent)]
    Network(#[from] NnError),
    /// A model that cannot be used here.
    #[error("{model}: {problem}")]
    Model {
        /// The model.
        model: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A recipe that cannot be used.
    #[error("{place}: {problem}")]
    Recipe {
        /// The file, or the model.
        place: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Inputs that cannot be listed.
    #[error(transparent)]
    Inputs(Box<BuildError>),
    /// A dataset that cannot be opened.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// An input that the model is not for.
    #[error("{input}: {problem}")]
    Input {
        /// The input.
        input: String,
        /// What is wrong.
        problem: String,
    },
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A result that cannot be written.
    #[error("{path}: {problem}", path = path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Whoever watches has stopped the run within a map.
    #[error("stopped")]
    Stopped,
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// A volume that cannot be turned.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

impl PredictError {
    pub(crate) fn output(path: &Path, problem: &dyn std::fmt::Display) -> Self {
        Self::Output { path: path.to_owned(), problem: problem.to_string() }
    }
}

impl From<BuildError> for PredictError {
    fn from(error: BuildError) -> Self {
        Self::Inputs(Box::new(error))
    }
}

impl From<candle_core::Error> for PredictError {
    fn from(error: candle_core::Error) -> Self {
        Self::Network(error.into())
    }
}
