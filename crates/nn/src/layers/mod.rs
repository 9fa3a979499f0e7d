//! The pieces of which networks are made.
//!
//! Every layer states the irreps it takes and gives, and refuses a field of another type.

mod conv;
mod dropout;
mod gate;
mod group;
mod head;
mod norm;
mod pool;
mod radial;

pub use conv::{ConvolutionPath, SteerableConv3d};
pub use dropout::FieldDropout;
pub use gate::{Gate, NormNonlinearity};
pub use group::GroupConv;
pub use head::{InvariantPool, Linear};
pub use norm::FieldBatchNorm;
pub use pool::GaussianPool;
pub use radial::{RadialConv3d, RadialPerceptron};

use steer3d_so3::{Irrep, Parity};

/// Whether an irrep is left unchanged by every rotation and reflection, so that a bias, a mean or
/// a pointwise nonlinearity is allowed on it.
pub(crate) fn is_invariant(irrep: Irrep) -> bool {
    irrep.l == 0 && irrep.parity != Some(Parity::Odd)
}
