use std::path::PathBuf;

use candle_core::Tensor;

use crate::predictor::{AnswerKind, ModelError, Predictor};

/// Why an evaluation or a report failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The model was made for another number of classes.
    #[error(
        "model `{model}` predicts {found} classes but dataset `{dataset}` has {expected}; \
         evaluate the model on the dataset it was trained for"
    )]
    Classes {
        /// Name of the model.
        model: String,
        /// Name of the dataset.
        dataset: String,
        /// Classes of the dataset.
        expected: usize,
        /// Classes of the model.
        found: usize,
    },
    /// The model was made for labels of voxels of another number of classes.
    #[error(
        "model `{model}` labels voxels with {found} classes but those of dataset `{dataset}` have {expected}; \
         evaluate the model on the dataset it was trained for"
    )]
    VoxelClasses {
        /// Name of the model.
        model: String,
        /// Name of the dataset.
        dataset: String,
        /// Classes of the voxels of the dataset.
        expected: usize,
        /// Classes of the model.
        found: usize,
    },
    /// There are no labels of voxels to compare with.
    #[error(
        "dataset `{dataset}` has no labels of voxels to compare with; import some as `voxel_labels` with \
         `steer3d dataset import arrays`"
    )]
    NoVoxelLabels {
        /// Name of the dataset.
        dataset: String,
    },
    /// There are no targets to compare with.
    #[error(
        "dataset `{dataset}` has no targets to compare with; import some with `steer3d dataset import arrays`"
    )]
    NoTargets {
        /// Name of the dataset.
        dataset: String,
    },
    /// The model gives a field.
    #[error(
        "model `{model}` gives a field; classes, labels of voxels and values of whole volumes are evaluated"
    )]
    FieldOutput {
        /// Name of the model.
        model: String,
    },
    /// The models of one report answer differently.
    #[error(
        "models of classes, of labels of voxels and of numbers are measured differently: evaluate them apart"
    )]
    MixedAnswers,
    /// A program could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// The command.
        command: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The model was made for another number of channels.
    #[error(
        "model `{model}` takes {found} input channels but the volumes of dataset `{dataset}` have \
         {expected}; evaluate the model on the dataset it was trained for"
    )]
    Channels {
        /// Name of the model.
        model: String,
        /// Name of the dataset.
        dataset: String,
        /// Channels of the dataset.
        expected: usize,
        /// Channels of the model.
        found: usize,
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
    /// There is nothing to evaluate.
    #[error("dataset `{dataset}` has no items in its {split} split; choose another split")]
    EmptySplit {
        /// Name of the dataset.
        dataset: String,
        /// Name of the split.
        split: String,
    },
    /// Points or meshes should be rotated but the dataset has none with a voxeliser.
    #[error(
        "dataset `{dataset}` stores no points or meshes with a voxeliser, so none can be rotated; \
         rotate its voxels instead (source `voxels`)"
    )]
    NoPoints {
        /// Name of the dataset.
        dataset: String,
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
    /// A file of a model, or the settings beside it, that cannot be used.
    #[error("{}: {problem}", path.display())]
    ModelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The model failed on a batch.
    #[error("model `{model}` failed on a batch of shape {shape:?}")]
    Model {
        /// Name of the model.
        model: String,
        /// Shape of the batch, N,C,D,H,W.
        shape: Vec<usize>,
        /// The model's error.
        source: ModelError,
    },
    /// The model returned logits of a wrong shape.
    #[error(
        "model `{model}` returned logits of shape {found:?}, expected {expected:?} (N, classes, and D, H, W \
         for labels of voxels)"
    )]
    LogitsShape {
        /// Name of the model.
        model: String,
        /// N, classes, or N, classes, D, H, W.
        expected: Vec<usize>,
        /// Shape of the logits.
        found: Vec<usize>,
    },
    /// The model returned a NaN or infinite logit.
    #[error(
        "model `{model}` returned a logit that is not finite for item `{item}`; check its weights"
    )]
    NonFinite {
        /// Name of the model.
        model: String,
        /// Identifier of the item.
        item: String,
    },
    /// A layer's values do not fit its stated irreps.
    #[error(
        "layer {layer} has values of shape {found:?}, expected (1, {channels}) \
         or (1, {channels}, D, H, W) for irreps {irreps}"
    )]
    LayerShape {
        /// The layer, and the model it belongs to.
        layer: String,
        /// Its irreps.
        irreps: String,
        /// Their dimension.
        channels: usize,
        /// Shape of the values.
        found: Vec<usize>,
    },
    /// A layer whose equivariance is measured failed.
    #[error("layer `{layer}` failed on a field of shape {shape:?}")]
    Layer {
        /// The layer.
        layer: String,
        /// Shape of the field, N,C,D,H,W.
        shape: Vec<usize>,
        /// The layer's error.
        source: ModelError,
    },
    /// A layer's error relative to its output is not defined, since that is zero.
    #[error(
        "layer `{layer}` gives zeros for a random field, so it has no relative error; check its weights"
    )]
    ZeroOutput {
        /// The layer.
        layer: String,
    },
    /// A layer's output has no central voxel.
    #[error(
        "layer `{layer}` gives a grid of {found:?} (D, H, W), which has no central voxel; choose a size of the input that leads to odd ones"
    )]
    NoCentre {
        /// The layer.
        layer: String,
        /// D,H,W of its output.
        found: [usize; 3],
    },
    /// The layers of one model differ from one volume to the next.
    #[error("model `{model}` returned {found} layers for one volume and {expected} for another")]
    LayerCount {
        /// Name of the model.
        model: String,
        /// Layers for the first volume.
        expected: usize,
        /// Layers for the other volume.
        found: usize,
    },
    /// The answers of an unfinished evaluation could not be kept.
    #[error("cannot keep the answers of the evaluation in {}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
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
    /// A file of the report could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
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
}

impl EvalError {
    /// The failure of `model` on `batch`.
    pub fn model(model: &dyn Predictor, batch: &Tensor, source: ModelError) -> Self {
        Self::Model { model: model.name().into(), shape: batch.dims().to_vec(), source }
    }

    /// Checks that a model has as many classes as its dataset.
    pub(crate) fn check_classes(
        model: &dyn Predictor,
        answers: AnswerKind,
        dataset: &str,
        expected: usize,
    ) -> Result<(), Self> {
        let (found, model, dataset) =
            (model.classes(), model.name().to_owned(), dataset.to_owned());
        match answers {
            _ if expected == found => Ok(()),
            AnswerKind::Voxels => Err(Self::VoxelClasses { model, dataset, expected, found }),
            _ => Err(Self::Classes { model, dataset, expected, found }),
        }
    }
}
