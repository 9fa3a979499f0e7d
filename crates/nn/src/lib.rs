//! Steerable and plain 3D convolutional networks on candle.

use candle_core::Tensor;
use steer3d_so3::Irreps;

/// The output of one layer of a network, with the way it transforms under rotation.
#[derive(Debug, Clone)]
pub struct LayerField {
    /// Name of the layer, unique in its network.
    pub name: String,
    /// How the channels transform; ordinary channels are scalars (`"32x0"`).
    pub irreps: Irreps,
    /// Values, shape N,C,D,H,W, or N,C once space has been pooled away.
    pub values: Tensor,
}
