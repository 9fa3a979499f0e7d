//! The files of reports of models whose behaviour under rotation is known.

mod browser;
mod classes;
#[path = "../../../eval/tests/eval/common.rs"]
mod common;
mod earlier;
mod survey;
mod turning;
mod unlabelled;
mod values;
mod voxels;
