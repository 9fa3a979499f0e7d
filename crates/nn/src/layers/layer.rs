use std::fmt::Debug;

use steer3d_so3::Irreps;

use crate::onnx::{OnnxField, OnnxGraph};
use crate::{Field, NnError, Pass};

/// A map of fields that commutes with rotations.
///
/// Weights are used as they are at each call. Fields of another type than [`irreps_in`](Self::irreps_in) are
/// refused.
pub trait FieldLayer: Debug + Send + Sync {
    /// The types of field that this layer takes and gives.
    fn irreps(&self) -> [&Irreps; 2];

    /// The type of field that this layer takes.
    fn irreps_in(&self) -> &Irreps {
        self.irreps()[0]
    }

    /// The type of field that this layer gives.
    fn irreps_out(&self) -> &Irreps {
        self.irreps()[1]
    }

    /// What this layer makes of a field in a pass, a field of the type [`irreps_out`](Self::irreps_out).
    ///
    /// # Errors
    /// [`NnError::FieldType`] for a field of another type.
    fn forward_t(&self, field: &Field, pass: Pass) -> Result<Field, NnError>;

    /// What this layer makes of a field at evaluation.
    ///
    /// # Errors
    /// As [`forward_t`](Self::forward_t).
    fn forward(&self, field: &Field) -> Result<Field, NnError> {
        self.forward_t(field, crate::Mode::Evaluate.into())
    }

    /// The layer for evaluation as it is now: training this one further does not change it, and gradients flow to
    /// the input only.
    ///
    /// # Errors
    /// Only if the device runs out of memory.
    fn folded(&self) -> Result<Box<dyn FieldLayer>, NnError>;

    /// Adds what this layer makes of a field at evaluation to an ONNX graph, in standard operators for any batch and
    /// grid.
    ///
    /// # Errors
    /// [`NnError::Onnx`] if there are no such operators, [`NnError::Memory`] if the file would be too large.
    fn export(&self, field: &OnnxField, graph: &mut OnnxGraph) -> Result<OnnxField, NnError>;

    /// Multiply-adds of convolutions for each output voxel.
    fn cost(&self) -> usize {
        0
    }

    /// What [`FieldBatchNorm::forward_then`](super::FieldBatchNorm::forward_then) needs to do the work of this layer
    /// in the same pass over memory; only a [`Gate`](super::Gate) has it.
    fn gating(&self) -> Option<Gating<'_>> {
        None
    }
}

/// What the pass of a norm needs to know of a [`Gate`](super::Gate).
#[derive(Debug, Clone, Copy)]
pub struct Gating<'a> {
    /// Number of invariant channels that pass through ReLU.
    pub scalars: usize,
    /// The fields that have gates, if there are any.
    pub gated: Option<&'a Irreps>,
}
