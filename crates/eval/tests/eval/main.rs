//! Evaluation and report of models whose behaviour under rotation is known.

mod browser;
mod common;
mod equivariance;
mod evaluate;
#[cfg(feature = "onnx")]
mod onnx;
mod outputs;
mod precomputed;
mod report;
#[cfg(unix)]
mod subprocess;
mod voxels;
