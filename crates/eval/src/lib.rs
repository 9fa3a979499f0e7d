//! Rotated-volume evaluation: what does a model answer when the object turns or moves?
//!
//! * [`Predictor`]: all that a model must offer; [`NetworkPredictor`] of this project, ONNX models with the
//!   feature `onnx`, [`SubprocessPredictor`] for everything else (`docs/src/guide/predictors.md`). [`Models`] opens what a user
//!   names.
//! * [`AnswerKind`]: what it answers, classes of volumes, labels of voxels, or values (numbers, vectors, tensors),
//!   and so what is measured of it.
//! * [`Protocol`]: the rotations, translations and sources (stored voxels by interpolation, or
//!   points exactly), all seeded.
//! * [`evaluate`]: runs a model over the transformed items of a dataset; the result is a
//!   [`ModelReport`] of [`Measure`]s.
//! * [`Report`]: the data of a report, which the crate `steer3d-report` writes. [`Comparison`]: models over seeds.
//! * [`equivariance`]: how far any layer or network is from commuting with rotations.
//! * [`metrics`]: accuracy, F1, AUC and bootstrap intervals on plain arrays.

mod answer;
mod axes;
mod classes;
mod comparison;
mod earlier;
pub mod equivariance;
mod error;
mod evaluate;
mod fields;
mod fit;
mod journal;
mod kinds;
mod labels;
mod layers;
mod material;
mod measure;
pub mod metrics;
mod models;
mod network;
#[cfg(feature = "onnx")]
mod onnx;
mod paired;
mod precomputed;
mod predictor;
mod protocol;
mod report;
mod results;
mod search;
mod spec;
mod subprocess;
mod surfaces;
mod values;
mod voxels;

/// What fuzz targets read.
#[doc(hidden)]
pub mod streams {
    pub use crate::journal::Blocks;
    pub use crate::subprocess::Reply;
}

pub use axes::{axis_rings, failures_by_axis};
pub use comparison::{Comparison, ComparisonRow, SeedScore, Spread, Trial};
pub use error::EvalError;
pub use evaluate::{Progress, evaluate};
pub use fit::check_volumes;
pub use labels::{largest_classes, transformed_labels};
pub use material::transformed;
pub use measure::{Definition, Measure, Unit};
pub use models::Models;
pub use network::{NetworkPredictor, Windows};
#[cfg(feature = "onnx")]
pub use onnx::{AxisOrder, Layout, OnnxOptions, OnnxPredictor, Values};
pub use paired::{PairedTest, paired_tests};
pub use precomputed::{Exporter, Precomputed};
pub use predictor::{AnswerKind, AnswerSpec, ModelError, PlaneSink, Predictor};
pub use protocol::{Condition, Mask, PointGroup, Protocol, Search, Source, Transform, axis_name};
pub use report::{
    DatasetSummary, GalleryItem, Picture, Report, SCHEMA_VERSION, Section, Turning, TurningAnswer,
    Verdict, View, same_classes, summarise,
};
pub use results::{AxisCell, ConditionReport, LayerError, ModelReport, Prediction, SourceReport};
pub use subprocess::{SubprocessError, SubprocessPredictor, end_programs};
