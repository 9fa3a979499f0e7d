use std::path::PathBuf;

use candle_core::Tensor;
use steer3d_dataset::DatasetMeta;

use crate::predictor::{ModelError, Predictor};

/// Why an evaluation or a report failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The model was made for other data.
    #[error(
        "model `{model}` {does} {found} {what} but dataset `{dataset}` has {expected}; evaluate the model on the \
         dataset it was trained for"
    )]
    Misfit {
        /// Name of the model.
        model: String,
        /// What the model does with them, such as "predicts".
        does: &'static str,
        /// What is counted: classes, input channels or values.
        what: &'static str,
        /// Name of the dataset.
        dataset: String,
        /// How many the dataset has.
        expected: usize,
        /// How many the model has.
        found: usize,
    },
    /// The dataset lacks what is to be rotated or compared with.
    #[error("dataset `{dataset}` has no {what}; {advice}")]
    Missing {
        /// Name of the dataset.
        dataset: String,
        /// What it lacks.
        what: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// What a model should predict does not fit it or the data.
    #[error("expected {expected} {what}, found {found}")]
    Targets {
        /// What there should be.
        what: &'static str,
        /// How many.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The models of one report answer differently.
    #[error(
        "models of classes, of labels of voxels and of numbers are measured differently: evaluate them apart"
    )]
    MixedAnswers,
    /// The models of one report have other classes, and the dataset has none.
    #[error(
        "models `{first}` and `{other}` have other classes, and the dataset has none to compare them by: evaluate them \
         apart"
    )]
    OtherClasses {
        /// Name of the first model.
        first: String,
        /// Name of the other.
        other: String,
    },
    /// A program could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// The command.
        command: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// There is nothing to evaluate.
    #[error("dataset `{dataset}` has no items in its {split} split; choose another split")]
    EmptySplit {
        /// Name of the dataset.
        dataset: String,
        /// Name of the split.
        split: String,
    },
    /// A field of the protocol is out of its range.
    #[error("protocol field `{field}` must be {expected}, found {found}")]
    Protocol {
        /// Name of the field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// More volumes than an evaluation can have.
    #[error(
        "the protocol asks for {found} volumes of the {items} items, expected at most {limit}; take fewer rotations, \
         angles or translations, or a smaller split"
    )]
    Volumes {
        /// Items of the split.
        items: usize,
        /// How many volumes are asked for.
        found: u128,
        /// The most.
        limit: usize,
    },
    /// The callback stopped the evaluation; its journal has what was done.
    #[error("the evaluation was stopped")]
    Stopped,
    /// A file of a model, or the settings beside it, that cannot be used.
    #[error("{}: {problem}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A model, or a layer whose equivariance is measured, failed.
    #[error("{what} failed on a batch of shape {shape:?}")]
    Forward {
        /// The model or layer.
        what: String,
        /// Shape of the batch, N,C,D,H,W.
        shape: Vec<usize>,
        /// Its error.
        source: ModelError,
    },
    /// A model answers what cannot be evaluated.
    #[error("model `{model}` {problem}")]
    Answer {
        /// Name of the model.
        model: String,
        /// What it does, what was expected and what to do.
        problem: String,
    },
    /// A layer gives what its error cannot be taken of.
    #[error("layer {layer} {problem}")]
    Layer {
        /// The layer, and the model it belongs to.
        layer: String,
        /// What it gives, what was expected and what to do.
        problem: String,
    },
    /// A report was written by another version of the schema.
    #[error("report schema version {found} is not supported, expected {expected}; evaluate again")]
    SchemaVersion {
        /// The version that this crate reads.
        expected: u32,
        /// The version found.
        found: u64,
    },
    /// A JSON document is not a report.
    #[error("this JSON is not a steer3d report")]
    Json(#[from] serde_json::Error),
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Logits could not be kept on disk until all planes of a volume were there.
    #[error(
        "cannot keep the logits of a volume in a temporary file in {}; free some space there, or name another folder \
         in the variable TMPDIR",
        folder.display()
    )]
    Temporary {
        /// The folder of temporary files.
        folder: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A volume could not be rotated or voxelised.
    #[error(transparent)]
    Volume(#[from] steer3d_volume::VolumeError),
    /// An item of the dataset could not be read.
    #[error(transparent)]
    Dataset(#[from] steer3d_dataset::DatasetError),
    /// A matrix is not a rotation, or is a reflection of fields without parity.
    #[error(transparent)]
    Rotation(#[from] steer3d_so3::RotationError),
    /// The kernels of a layer could not be made.
    #[error(transparent)]
    Kernel(#[from] steer3d_kernels::KernelError),
    /// A layer could not be built.
    #[error(transparent)]
    Network(#[from] steer3d_nn::NnError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The ranks cannot go on together.
    #[error(transparent)]
    Ranks(#[from] steer3d_ranks::RankError),
}

impl EvalError {
    /// The failure of `model` on `batch`.
    pub fn model(model: &dyn Predictor, batch: &Tensor, source: ModelError) -> Self {
        let what = format!("model `{}`", model.name());
        Self::Forward { what, shape: batch.dims().to_vec(), source }
    }

    pub(crate) fn answer(model: &str, problem: String) -> Self {
        Self::Answer { model: model.into(), problem }
    }

    /// The first setting, of its field, what it may be and what else it is, that is something else.
    pub(crate) fn check_settings(
        settings: impl IntoIterator<Item = (&'static str, &'static str, Option<String>)>,
    ) -> Result<(), Self> {
        let error = |(field, expected, found): (_, _, Option<String>)| {
            Some(Self::Protocol { field, expected, found: found? })
        };
        settings.into_iter().find_map(error).map_or(Ok(()), Err)
    }

    pub(crate) fn missing(data: &DatasetMeta, what: &'static str, advice: &'static str) -> Self {
        Self::Missing { dataset: data.name.clone(), what, advice }
    }

    pub(crate) fn no_points(data: &DatasetMeta) -> Self {
        let what = "points or meshes with a voxeliser, so none can be rotated";
        Self::missing(data, what, "rotate its voxels instead (source `voxels`)")
    }
}
