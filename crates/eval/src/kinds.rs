//! The kinds of answers: where each is defined.

use steer3d_dataset::Dataset;

use crate::answer::Answer;
use crate::classes::{self, Classes};
use crate::error::EvalError;
use crate::measure::{Definition, Entry};
use crate::predictor::AnswerKind;
use crate::protocol::Protocol;
use crate::spec::AnswerSpec;
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
        let name = match self {
            Self::Classes if !labelled => "agreement",
            Self::Classes => "accuracy",
            Self::Voxels => "foreground_accuracy",
            Self::Values => "mean_absolute_error",
        };
        let found = self.definitions().into_iter().find(|definition| definition.name == name);
        found.expect("the measures of a kind have its score")
    }

    /// What is right for the items of a split.
    pub(crate) fn of<'a>(
        self,
        dataset: &'a Dataset,
        items: &'a [usize],
        protocol: &Protocol,
        spec: &AnswerSpec,
    ) -> Result<Box<dyn Answer + 'a>, EvalError> {
        Ok(match self {
            Self::Classes => Box::new(Classes::new(dataset, items, spec.names.clone())),
            Self::Voxels => Box::new(Voxels::new(dataset, items, protocol.mask)?),
            Self::Values => Box::new(Values::new(dataset, items)?),
        })
    }
}
