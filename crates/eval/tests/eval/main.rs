//! Evaluation and report of models whose behaviour under rotation is known.

mod browser;
mod common;
mod equivariance;
mod evaluate;
mod outputs;
mod report;
