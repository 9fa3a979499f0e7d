//! Rotated-volume evaluation: what does a model answer when the object turns or moves?
//!
//! * [`Predictor`]: all that a model must offer; [`NetworkPredictor`] of this project, ONNX models with the
//!   feature `onnx`, [`SubprocessPredictor`] for everything else (`PREDICTORS.md`).
//! * [`Protocol`]: the rotations, translations and sources (stored voxels by interpolation, or
//!   points exactly), all seeded.
//! * [`evaluate`]: runs a model over the transformed items of a dataset; the result is a
//!   [`ModelReport`].
//! * [`evaluate_outputs`]: the same for models that predict numbers, vectors or tensors.
//! * [`evaluate_voxels`]: the same for models that label voxels.
//! * [`report`]: the data of a report, and its HTML, JSON, CSV, SVG and terminal forms.
//! * [`equivariance`]: how far any layer or network is from commuting with rotations.
//! * [`metrics`]: accuracy, F1, AUC and bootstrap intervals on plain arrays.

pub mod equivariance;
mod error;
mod evaluate;
mod journal;
mod layers;
mod material;
pub mod metrics;
mod network;
#[cfg(feature = "onnx")]
mod onnx;
mod outputs;
mod paired;
mod precomputed;
mod predictor;
mod protocol;
pub mod report;
mod scores;
mod search;
mod subprocess;
mod values;
mod voxels;

pub use error::{EvalError, ModelError};
pub use evaluate::{Progress, evaluate, summarise};
pub use network::NetworkPredictor;
#[cfg(feature = "onnx")]
pub use onnx::{AxisOrder, Layout, OnnxOptions, OnnxPredictor, Values};
pub use outputs::{OutputScores, Targets, evaluate_outputs};
pub use paired::{PairedTest, paired_tests};
pub use precomputed::{Exporter, Precomputed};
pub use predictor::Predictor;
pub use protocol::{Condition, Mask, PointGroup, Protocol, Search, Source, Transform};
pub use report::{ModelReport, Report, Section, gallery, write_report};
pub use scores::{ClassScores, Scores, Stability};
pub use subprocess::{SubprocessError, SubprocessPredictor};
pub use voxels::{VoxelClassScores, VoxelModel, VoxelScores, VoxelVolume, evaluate_voxels};
