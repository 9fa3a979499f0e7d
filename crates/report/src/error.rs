use std::path::PathBuf;

use steer3d_eval::EvalError;

/// Why a report could not be made or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A file of the report could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A table could not be formatted.
    #[error("cannot format a table of the report")]
    Csv(#[from] csv::Error),
    /// A number of a table is not finite.
    #[error("cannot write a table of the report as JSON")]
    Json(#[from] serde_json::Error),
    /// The page could not be made.
    #[error("cannot fill in the page of the report")]
    Page(#[from] minijinja::Error),
    /// A picture of a volume could not be made.
    #[error("cannot encode a picture of a volume")]
    Picture(#[from] png::EncodingError),
    /// The data of a volume that turns are not those of a report.
    #[error("volume `{id}` cannot be shown turning: {problem}; evaluate the models again")]
    Turning {
        /// Identifier of the item.
        id: String,
        /// What is wrong.
        problem: String,
    },
    /// Another process writes its report there.
    #[error(transparent)]
    Busy(#[from] steer3d_files::lock::Busy),
    /// The evaluation failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
}

impl ReportError {
    /// Whether it is not an error but the stop of an evaluation.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Eval(EvalError::Stopped))
    }
}
