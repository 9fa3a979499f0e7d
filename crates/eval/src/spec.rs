use steer3d_dataset::{Dataset, DatasetMeta};

use crate::error::EvalError;
use crate::predictor::AnswerKind;

/// What a dataset asks of a model of another maker.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerSpec {
    /// Name of the dataset.
    pub dataset: String,
    /// What is asked for.
    pub kind: AnswerKind,
    /// Names of the classes; of values their numbers, from 0.
    pub names: Vec<String>,
    /// Channels of a volume.
    pub channels: usize,
    /// Grid D,H,W of a volume.
    pub dims: [usize; 3],
}

impl AnswerSpec {
    /// Of a dataset.
    ///
    /// # Errors
    /// [`EvalError::NoVoxelLabels`] or [`EvalError::NoTargets`] when it has no such answers.
    pub fn new(dataset: &Dataset, kind: AnswerKind) -> Result<Self, EvalError> {
        let names = match kind {
            AnswerKind::Classes => dataset.meta().class_names.clone(),
            AnswerKind::Voxels => voxel_classes(dataset)?.to_vec(),
            AnswerKind::Values => (0..targets(dataset)?.dim()).map(|i| i.to_string()).collect(),
        };
        Ok(Self { kind, names, ..Self::classes(dataset.meta()) })
    }

    /// The classes of the volumes of a dataset.
    pub fn classes(meta: &DatasetMeta) -> Self {
        Self {
            dataset: meta.name.clone(),
            kind: AnswerKind::Classes,
            names: meta.class_names.clone(),
            channels: meta.channels,
            dims: meta.dims,
        }
    }

    /// Shape of the answers to `n` volumes: N,K, or N,K,D,H,W for labels of voxels.
    pub fn shape(&self, n: usize) -> Vec<usize> {
        let dims: &[usize] = if self.kind == AnswerKind::Voxels { &self.dims } else { &[] };
        [&[n, self.names.len()], dims].concat()
    }
}

/// Names of the classes of the voxels of a dataset.
pub(crate) fn voxel_classes(dataset: &Dataset) -> Result<&[String], EvalError> {
    match dataset.tasks() {
        Some(tasks) if !tasks.voxel_classes.is_empty() => Ok(&tasks.voxel_classes),
        _ => Err(EvalError::NoVoxelLabels { dataset: dataset.meta().name.clone() }),
    }
}

/// How the targets of a dataset turn.
pub(crate) fn targets(dataset: &Dataset) -> Result<&steer3d_so3::Irreps, EvalError> {
    let targets = dataset.tasks().and_then(|tasks| tasks.targets.as_ref());
    targets.ok_or_else(|| EvalError::NoTargets { dataset: dataset.meta().name.clone() })
}
