use std::fmt::Display;

use steer3d_dataset::{BuildError, DatasetError};
use steer3d_eval::EvalError;
use steer3d_nn::NnError;
use steer3d_ranks::RankError;
use steer3d_report::ReportError;
use steer3d_train::TrainError;

/// Why an experiment failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExperimentError {
    /// A setting, or a folder, that cannot be used.
    #[error("{}{problem}", if place.is_empty() { String::new() } else { format!("{place}: ") })]
    Invalid {
        /// The path of the setting, such as `training.epochs`, or the folder; empty for a whole file.
        place: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An error of a file or of a part of an experiment.
    #[error("{place}: {source}")]
    At {
        /// The file or the part.
        place: String,
        /// What went wrong there.
        source: Box<ExperimentError>,
    },
    /// A file that cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A file or folder that cannot be read.
    #[error(transparent)]
    File(#[from] steer3d_files::FileError),
    /// Another process writes to the folder.
    #[error("{0}")]
    Busy(#[from] steer3d_files::lock::Busy),
    /// A text that is no TOML.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Settings that cannot be written as TOML.
    #[error("{0}")]
    ToToml(#[from] toml::ser::Error),
    /// A record that cannot be written as JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// An error of a dataset.
    #[error("{0}")]
    Dataset(#[from] DatasetError),
    /// An error of the import of a dataset.
    #[error("{0}")]
    Import(#[from] BuildError),
    /// An error of a network.
    #[error("{0}")]
    Network(#[from] NnError),
    /// An error of a training.
    #[error("{0}")]
    Train(#[from] TrainError),
    /// An error of an evaluation.
    #[error("{0}")]
    Eval(#[from] EvalError),
    /// The ranks cannot go on together.
    #[error("{0}")]
    Ranks(#[from] RankError),
    /// An error of a report.
    #[error("{0}")]
    Report(#[from] ReportError),
}

impl ExperimentError {
    /// Whether it is not an error but the session's stop of an evaluation.
    pub(crate) fn is_stop(&self) -> bool {
        match self {
            Self::Eval(error) => matches!(error, EvalError::Stopped),
            Self::Report(error) => error.is_stop(),
            _ => false,
        }
    }

    /// The `problem` of a setting or a folder.
    pub(crate) fn invalid(place: impl Display, problem: impl Display) -> Self {
        Self::Invalid { place: place.to_string(), problem: problem.to_string() }
    }
}

/// Says where an error arose.
pub(crate) trait At<T> {
    fn at(self, place: impl Display) -> Result<T, ExperimentError>;
}

impl<T, E: Into<ExperimentError>> At<T> for Result<T, E> {
    fn at(self, place: impl Display) -> Result<T, ExperimentError> {
        self.map_err(|error| ExperimentError::At {
            place: place.to_string(),
            source: Box::new(error.into()),
        })
    }
}
