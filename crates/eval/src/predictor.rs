use candle_core::Tensor;
use steer3d_nn::LayerField;

use crate::error::ModelError;

/// A model of volumes: all that the evaluation asks of it.
///
/// Batches are f32 tensors on the CPU of shape N,C,D,H,W; a model on another device moves them.
pub trait Predictor {
    /// Name of the model in reports.
    fn name(&self) -> &str;

    /// Number of classes.
    fn classes(&self) -> usize;

    /// Number of channels of the volumes that it takes.
    fn channels(&self) -> usize;

    /// Number of trained parameters, 0 where it is unknown.
    fn parameters(&self) -> usize {
        0
    }

    /// Logits of a batch, shape N,classes, or N,classes,D,H,W of a model that labels voxels. Each row depends on its own volume only.
    ///
    /// # Errors
    /// Whatever the model fails with.
    fn logits(&self, batch: &Tensor) -> Result<Tensor, ModelError>;

    /// The outputs of the layers for a batch, in order, with the way they transform, for the
    /// equivariance errors. A model that cannot show its layers returns none.
    ///
    /// # Errors
    /// Whatever the model fails with.
    fn layers(&self, _batch: &Tensor) -> Result<Vec<LayerField>, ModelError> {
        Ok(Vec::new())
    }
}
