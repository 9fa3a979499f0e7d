use std::path::PathBuf;

use steer3d_files::memory::NoRoom;
use steer3d_kernels::KernelError;
use steer3d_so3::IrrepsError;

use crate::FieldType;

/// What can go wrong when building, running, saving or loading a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NnError {
    /// A field is not of the type that a layer was built for.
    #[error("{layer} expects a field of type {expected}, found {found}")]
    FieldType {
        /// The layer.
        layer: String,
        /// The type it was built for.
        expected: FieldType,
        /// The type of the field it was given.
        found: FieldType,
    },
    /// A tensor's channel count contradicts its type.
    #[error("a field of type {kind} has {} channels, but the tensor has shape {shape:?}", kind.dim())]
    Channels {
        /// The type of the field.
        kind: FieldType,
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
    /// A checkpoint that cannot be read or written.
    #[error("checkpoint {}: {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A volume that the layers of a network shrink to nothing.
    #[error(
        "a volume of {dims:?} voxels (D, H, W) is too small for the network, which needs {least} along each axis"
    )]
    Grid {
        /// D, H, W.
        dims: [usize; 3],
        /// The fewest voxels along an axis for which something is left.
        least: usize,
    },
    /// A layer, or the fields of a network, larger than the memory for input.
    #[error("{layer} of the model needs too much memory: {source}")]
    Memory {
        /// The layer.
        layer: String,
        /// What is needed and what there is.
        source: NoRoom,
    },
    /// A network that cannot be written as ONNX, or an ONNX model that cannot be read or run.
    #[error("ONNX: {part}: {problem}")]
    Onnx {
        /// The layer or operator.
        part: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// An exported model that gives something else than its network.
    #[error(
        "the exported model differs from the network by {found:.1e} of the root mean square of its answers, expected at most {most:.0e}; nothing is written"
    )]
    Differs {
        /// Root mean square of the differences over that of the answers.
        found: f64,
        /// What rounding explains.
        most: f64,
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
}

/// That a key of a configuration is wrong.
pub(crate) fn fault<T>(field: impl Into<String>, problem: impl Into<String>) -> Result<T, NnError> {
    Err(NnError::Config { field: field.into(), problem: problem.into() })
}

/// That a part of an ONNX model is wrong.
pub(crate) fn onnx_fault<T>(
    part: impl Into<String>,
    problem: impl Into<String>,
) -> Result<T, NnError> {
    Err(NnError::Onnx { part: part.into(), problem: problem.into() })
}
