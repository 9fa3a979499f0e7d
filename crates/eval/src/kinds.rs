//! The kinds of answers: where each is defined.

use steer3d_dataset::Dataset;

use crate::answer::Answer;
use crate::classes::{self, Classes};
use crate::error::EvalError;
use crate::measure::{Definition, Entry};
use crate::predictor::AnswerSpec;
use crate::predictor::{AnswerKind, Predictor};
use crate::protocol::Protocol;
use crate::values::{self, Values};
use crate::voxels::{self, Voxels};

impl AnswerKind {
    /// What is measured of such answers, in the order of tables.
    pub fn definitions(self) -> Vec<Definition> {
        fn all<S>(entries: &[Entry<S>]) -> Vec<Definition> {
            entries.iter().map(|entry| entry.definition).collect()
        }
        match self {
            Self::Classes => all(classes::MEASURES),
            Self::Voxels => all(voxels::MEASURES),
            Self::Values => all(values::MEASURES),
        }
    }

    /// The measure that models are compared by, on data with labels or without: its value for single volumes is the
    /// score of a [`Prediction`](crate::Prediction).
    pub fn score(self, labelled: bool) -> Definition {
        let name = match (self, labelled) {
            (Self::Classes, true) => "accuracy",
            (Self::Classes, false) => "agreement",
            (Self::Voxels, true) => "foreground_accuracy",
            (Self::Voxels, false) => "foreground_consistency",
            (Self::Values, true) => "mean_absolute_error",
            (Self::Values, false) => "deviation",
        };
        let found = self.definitions().into_iter().find(|definition| definition.name == name);
        found.expect("the measures of a kind have its score")
    }

    /// What is right for the items of a split, where the dataset says it.
    pub(crate) fn of<'a>(
        dataset: &'a Dataset,
        items: &'a [usize],
        protocol: &Protocol,
        model: &dyn Predictor,
        spec: &AnswerSpec,
    ) -> Result<Box<dyn Answer + 'a>, EvalError> {
        let names = spec.names.clone();
        Ok(match spec.kind {
            Self::Classes => Box::new(Classes::new(dataset, items, names)),
            Self::Voxels => Box::new(Voxels::new(dataset, items, names, protocol)),
            Self::Values => Box::new(Values::new(dataset, items, model)?),
        })
    }
}
