use steer3d_dataset::Dataset;

use crate::error::EvalError;
use crate::predictor::{AnswerKind, AnswerSpec, Predictor};

impl AnswerSpec {
    /// Of a dataset.
    ///
    /// # Errors
    /// [`EvalError::Missing`] when it has no such answers.
    pub fn new(dataset: &Dataset, kind: AnswerKind) -> Result<Self, EvalError> {
        let names = match kind {
            AnswerKind::Classes => classes(dataset)?.to_vec(),
            AnswerKind::Voxels => voxel_classes(dataset)?.to_vec(),
            AnswerKind::Values => (0..targets(dataset)?.dim()).map(|i| i.to_string()).collect(),
        };
        Ok(Self { kind, names, ..Self::classes(dataset.meta()) })
    }

    /// Of a dataset, with these names of classes or values where it has none.
    ///
    /// # Errors
    /// [`EvalError::Missing`] when neither has some.
    pub fn or_named(
        dataset: &Dataset,
        kind: AnswerKind,
        names: &[String],
    ) -> Result<Self, EvalError> {
        let meta = dataset.meta();
        if is_labelled(dataset, kind) || (names.is_empty() && kind != AnswerKind::Classes) {
            return Self::new(dataset, kind);
        }
        if names.is_empty() {
            let what = "classes to name the answers of models of other makers by";
            let advice =
                "name them with --class-names, or evaluate a network of steer3d beside them";
            return Err(EvalError::missing(meta, what, advice));
        }
        Ok(Self { kind, names: names.to_vec(), ..Self::classes(meta) })
    }

    /// Checks that a model has the classes or values and the channels of the dataset.
    pub(crate) fn check(&self, model: &dyn Predictor) -> Result<(), EvalError> {
        let misfit = |does, what, expected, found| {
            let (model, dataset) = (model.name().into(), self.dataset.clone());
            Err(EvalError::Misfit { model, does, what, dataset, expected, found })
        };
        let (expected, found) = (self.names.len(), model.classes());
        match self.kind {
            _ if expected == found => {}
            AnswerKind::Classes => return misfit("predicts", "classes", expected, found),
            AnswerKind::Voxels => return misfit("labels voxels with", "classes", expected, found),
            AnswerKind::Values => {
                return Err(EvalError::Targets { what: "outputs of the model", expected, found });
            }
        }
        match (self.channels, model.channels()) {
            (expected, found) if expected == found => Ok(()),
            (expected, found) => misfit("takes", "input channels", expected, found),
        }
    }
}

/// Whether a dataset says what is right.
pub(crate) fn is_labelled(dataset: &Dataset, kind: AnswerKind) -> bool {
    let tasks = dataset.tasks();
    match kind {
        AnswerKind::Classes => !dataset.meta().class_names.is_empty(),
        AnswerKind::Voxels => tasks.is_some_and(|tasks| !tasks.voxel_classes.is_empty()),
        AnswerKind::Values => tasks.is_some_and(|tasks| tasks.targets.is_some()),
    }
}

/// Names of the classes of the items of a dataset.
fn classes(dataset: &Dataset) -> Result<&[String], EvalError> {
    let meta = dataset.meta();
    if meta.class_names.is_empty() {
        let advice = match is_labelled(dataset, AnswerKind::Voxels) {
            true => {
                "its voxels have classes: take a model with `head = \"voxels\"` in an experiment file"
            }
            false => "build it from a folder for each class, or from a table with the column label",
        };
        return Err(EvalError::missing(meta, "classes", advice));
    }
    Ok(&meta.class_names)
}

/// Names of the classes of the voxels of a dataset.
pub(crate) fn voxel_classes(dataset: &Dataset) -> Result<&[String], EvalError> {
    match dataset.tasks() {
        Some(tasks) if !tasks.voxel_classes.is_empty() => Ok(&tasks.voxel_classes),
        _ => {
            let advice = "import some as `voxel_labels` with `steer3d dataset import arrays`";
            Err(EvalError::missing(dataset.meta(), "labels of voxels to compare with", advice))
        }
    }
}

/// How the targets of a dataset turn.
pub(crate) fn targets(dataset: &Dataset) -> Result<&steer3d_so3::Irreps, EvalError> {
    let targets = dataset.tasks().and_then(|tasks| tasks.targets.as_ref());
    let advice = "import some with `steer3d dataset import arrays`";
    targets.ok_or_else(|| EvalError::missing(dataset.meta(), "targets to compare with", advice))
}
