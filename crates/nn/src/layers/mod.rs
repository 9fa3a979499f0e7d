//! The pieces of which networks are made.
//!
//! A [`FieldLayer`] states the irreps it takes and gives, and refuses a field of another type.

mod channels;
mod conv;
mod convolution;
mod dropout;
mod group;
mod head;
mod instance_norm;
mod layer;
mod nonlinearity;
mod norm;
mod pool;
mod radial;

pub use conv::{ConvConfig, SteerableConv3d};
pub use convolution::{ConvPlan, ConvSite, Convolution, ConvolutionPath, FoldedConv3d};
pub use dropout::FieldDropout;
pub use group::{GroupConv, GroupConvConfig, Symmetry};
pub(crate) use head::not_invariant;
pub use head::{InvariantPool, Linear, LinearConfig};
pub use instance_norm::FieldInstanceNorm;
pub use layer::{FieldLayer, Gating};
pub use nonlinearity::*;
pub use norm::{FieldBatchNorm, NormConfig};
pub use pool::GaussianPool;
pub(crate) use pool::{Pool, Slab};
pub use radial::{RadialConv3d, RadialConvConfig, RadialPerceptron};
