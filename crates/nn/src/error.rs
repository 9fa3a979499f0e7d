use std::path::PathBuf;

use steer3d_kernels::KernelError;
use steer3d_so3::{Irreps, IrrepsError};
use steer3d_volume::DatasetError;

/// What can go wrong when building, running, training, saving or loading a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NnError {
    /// A field does not have the irreps that a layer was built for.
    #[error("{layer} expects a field of type {expected}, found {found}")]
    FieldType {
        /// The layer.
        layer: String,
        /// The irreps it was built for.
        expected: Irreps,
        /// The irreps of the field it was given.
        found: Irreps,
    },
    /// A tensor's channel count contradicts its irreps.
    #[error("a field of type {irreps} has {} channels, but the tensor has shape {shape:?}", irreps.dim())]
    Channels {
        /// The irreps of the field.
        irreps: Irreps,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// A model configuration that cannot be built.
    #[error("model configuration: {field}: {problem}")]
    Config {
        /// The key in the configuration.
        field: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// Training settings that make no sense.
    #[error("training settings: {field}: {problem}")]
    Train {
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
    /// A checkpoint that cannot be read or written.
    #[error("checkpoint {}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An error of the tensor library.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// An irreps string or sum that is not one.
    #[error(transparent)]
    Irreps(#[from] IrrepsError),
    /// An error of the kernel basis.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// An error of a dataset.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}
