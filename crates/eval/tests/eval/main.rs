//! Evaluation of models whose behaviour under rotation is known.

mod common;
mod equivariance;
mod evaluate;
mod grids;
mod models;
#[cfg(feature = "onnx")]
mod onnx;
mod precomputed;
#[cfg(unix)]
mod subprocess;
mod unlabelled;
mod values;
mod voxels;
