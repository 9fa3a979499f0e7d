use std::fmt::Display;
use std::path::PathBuf;

use steer3d_dataset::DatasetError;
use steer3d_nn::NnError;
use steer3d_ranks::RankError;

/// What can go wrong in a training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// Training settings that make no sense.
    #[error("training settings: {field}: {problem}")]
    Settings {
        /// The setting.
        field: &'static str,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A model and a dataset that do not fit together.
    #[error(
        "the model takes {model} but dataset {dataset} has {found}; train on this dataset, or evaluate on one like the training set"
    )]
    Mismatch {
        /// The dataset's name.
        dataset: String,
        /// What the model takes.
        model: String,
        /// What the dataset has.
        found: String,
    },
    /// The loss or a gradient stopped being a number.
    #[error(
        "{what} in epoch {epoch}, step {step}; lower the learning rate (it was {learning_rate:e}) or clip the gradients{}",
        state.as_ref().map_or_else(String::new, |path| format!("; the state before the step is in {}", path.display()))
    )]
    NotFinite {
        /// What became what, and where first: "the loss became NaN, first in block 2 convolution".
        what: String,
        /// Epoch, counted from 1.
        epoch: usize,
        /// Optimiser step, counted from 1.
        step: usize,
        /// The learning rate at that step.
        learning_rate: f64,
        /// Where the state before the step was saved.
        state: Option<PathBuf>,
    },
    /// The state of a training that cannot be read, written or gone on with.
    #[error("training state {}: {problem}", path.display())]
    State {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An error of the network.
    #[error(transparent)]
    Network(#[from] NnError),
    /// An error of a dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] RankError),
}

impl TrainError {
    /// A setting that makes no sense.
    pub(crate) fn settings(field: &'static str, problem: impl Display) -> Self {
        Self::Settings { field, problem: problem.to_string() }
    }
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        NnError::from(error).into()
    }
}
