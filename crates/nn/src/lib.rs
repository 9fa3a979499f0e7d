//! Steerable and plain 3D convolutional networks on candle.
//!
//! A *feature field* is a tensor of shape N,C,D,H,W whose channels transform under rotation as
//! stated by its [`Irreps`](steer3d_so3::Irreps): `(R f)(p) = ρ(R) f(R⁻¹ p)`. Layers map fields
//! to fields and commute with rotations (Weiler, Geiger, Welling, Boomsma, Cohen 2018,
//! *3D Steerable CNNs*, eq. 3), up to the discretisation of the voxel grid.
//!
//! * [`Field`]: a tensor together with its irreps.
//! * [`layers`]: steerable convolution, also with learned radial functions, gate and norm
//!   nonlinearities, batch norm, field dropout, antialiased pooling, linear head.
//! * [`SteerableCnn`] and [`PlainCnn`], described by a [`ModelConfig`] and joined in [`Network`].
//! * [`train`]: the AdamW training loop; [`checkpoint`]: weights on disk.

mod adamw;
pub mod checkpoint;
mod config;
mod error;
mod field;
mod fused;
pub mod layers;
mod network;
mod params;
mod plain;
mod recompute;
mod steerable;
mod train;
mod transformer;

pub use adamw::AdamW;
pub use config::{
    Head, ModelConfig, Nonlinearity, PlainBlock, PlainConfig, Pooling, SteerableBlock,
    SteerableConfig, Symmetry, TransformerConfig,
};
pub use error::NnError;
pub use field::{Field, LayerField};
pub use fused::FusedNetwork;
pub use network::{ConvolutionInfo, Network};
pub use params::{Mode, Params};
pub use plain::PlainCnn;
pub use steerable::SteerableCnn;
pub use train::{EpochMetrics, TrainConfig, TrainEvent, Trained, train};
