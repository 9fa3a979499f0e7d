//! Networks as ONNX models (`docs/src/guide/export.md`): [`export`] writes one, [`check`] compares it with its network, and
//! [`OnnxModel`] reads one and computes the operators that our networks are written in.

mod builder;
mod file;
mod metadata;
mod proto;
mod run;

pub use builder::{Attribute, OnnxField, OnnxGraph, Value};
pub use file::{Agreement, check, export};
pub use metadata::OnnxCard;
pub use run::OnnxModel;
