//! Evaluation and report of models whose behaviour under rotation is known.

mod common;
mod equivariance;
mod evaluate;
#[cfg(feature = "onnx")]
mod onnx;
mod precomputed;
mod report;
#[cfg(unix)]
mod subprocess;
